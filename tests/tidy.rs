//! What the compiler does not hold us to: layers, lengths, names, and what may not be in the sources.
//!
//! Each rule walks the files of the repository and reports every place at once. Where a rule makes some code worse,
//! change the rule here and say why; there are no exemption comments.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file. At this length a file is split along a concept.
const LONGEST_FILE: usize = 500;

/// A layer may use itself and those of a lower rank; layers of one rank do not know each other.
const LAYERS: [(&str, u8); 11] = [
    ("kernel", 0),
    ("settings", 1),
    ("telemetry", 2),
    ("storage", 3),
    ("providers", 3),
    ("actors", 4),
    ("cluster", 5),
    ("gateway", 6),
    ("node", 7),
    ("cli", 8),
    ("main", 8),
];

/// Where nothing but `Context` may say what time it is.
const DOMAIN: [&str; 5] = [
    "src/kernel/",
    "src/actors/identity/",
    "src/actors/billing/",
    "src/actors/notifications/",
    "src/actors/compliance/",
];

struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// Lines of the product with their numbers: no comments, no tests.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.split().into_iter().filter(|(_, line, test)| !test && !is_comment(line));
        lines.map(|(number, line, _)| (number, line))
    }

    /// Lines of tests, without comments.
    fn tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.split().into_iter().filter(|(_, line, test)| *test && !is_comment(line));
        lines.map(|(number, line, _)| (number, line))
    }

    /// Each line, and whether it belongs to an item under `#[cfg(test)]` or to a file of tests.
    fn split(&self) -> Vec<(usize, &str, bool)> {
        let mut item_is_test = false;
        let mut split = Vec::new();
        for (number, line) in self.lines() {
            item_is_test |= line == "#[cfg(test)]";
            split.push((number, line, self.is_test() || item_is_test));
            // rustfmt closes an item of the top level in the first column.
            let ends = line.starts_with('}') || (line.ends_with(';') && !line.starts_with(' '));
            item_is_test &= !ends;
        }
        split
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directories: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = directories.iter().map(|directory| root().join(directory)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(&path).expect("a readable directory").map(|entry| entry.expect("an entry").path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root()).expect("under the root").to_string_lossy().into_owned();
            found.push(Source { path: relative, text: fs::read_to_string(&path).expect("readable UTF-8") });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "there are sources");
    found
}

/// Fails with all findings of a rule.
#[track_caller]
fn none(findings: &[String], rule: &str) {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "  {finding}");
    }
    assert!(findings.is_empty(), "{rule}:\n{text}");
}

fn layer_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
    (name != "lib").then_some(name)
}

fn rank(layer: &str) -> u8 {
    let found = LAYERS.iter().find(|(name, _)| *name == layer);
    found.unwrap_or_else(|| panic!("layer `{layer}` has no place in LAYERS of tests/tidy.rs")).1
}

/// The first path segments after `crate::` in a line, also in `crate::{a, b}`.
fn layers_used(line: &str) -> Vec<&str> {
    let mut used = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim_start();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            used.push(&name[..end]);
        }
    }
    used
}

#[test]
fn dependencies_point_one_way() {
    let mut findings = Vec::new();
    for source in sources(&["src"]) {
        let Some(own) = layer_of(&source.path) else { continue };
        let own_rank = rank(own);
        for (number, line) in source.product() {
            for used in layers_used(line) {
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                // The binary's own modules are its layer.
                if known && used != own && own_rank < 8 && rank(used) >= own_rank {
                    findings.push(format!("{}:{number}: {own} uses {used}", source.path));
                }
            }
        }
    }
    none(
        &findings,
        "kernel <- settings, telemetry <- storage, providers <- actors <- cluster <- gateway <- node <- main",
    );
}

#[test]
fn files_are_short() {
    let long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > LONGEST_FILE).then(|| format!("{}: {lines} lines", source.path))
    };
    none(&sources(&["src", "tests"]).iter().filter_map(long).collect::<Vec<_>>(), "split it along a concept");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |source: &Source| {
        let documented = source.text.starts_with("//!") || source.path.ends_with("tests.rs");
        (!documented).then(|| source.path.clone())
    };
    none(&sources(&["src", "tests"]).iter().filter_map(silent).collect::<Vec<_>>(), "a file opens with a module doc");
}

#[test]
fn names_say_something() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests"]) {
        let stem = Path::new(&source.path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let folder =
            Path::new(&source.path).parent().and_then(Path::file_name).map(|f| f.to_string_lossy().into_owned());
        for name in [stem, folder].into_iter().flatten() {
            if is_empty_word(&name) {
                findings.push(format!("{}: `{name}`", source.path));
            }
        }
        for (number, line) in source.lines().filter(|(_, line)| !is_comment(line)) {
            for keyword in ["struct ", "enum ", "trait ", "mod ", "type "] {
                let Some((before, after)) = line.split_once(keyword) else { continue };
                if !before.trim().is_empty() && !before.trim_start().starts_with("pub") {
                    continue;
                }
                let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
                if is_empty_word(&after[..end]) {
                    findings.push(format!("{}:{number}: `{}`", source.path, &after[..end]));
                }
            }
        }
    }
    none(&findings, "name it after what it does");
}

/// Whether a name is, or has as a part, a word that says nothing.
fn is_empty_word(name: &str) -> bool {
    let parts = ["Manager", "Helper", "Util"];
    let whole = ["common", "misc", "util", "utils", "helper", "helpers", "manager"];
    parts.iter().any(|part| name.contains(part)) || name.split('_').any(|part| whole.contains(&part))
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["TODO", "FIXME", "XXX", "HACK", "todo!(", "unimplemented!("].map(|word| word.to_owned());
    let mut findings = Vec::new();
    for source in sources(&["src", "tests"]).iter().filter(|source| source.path != "tests/tidy.rs") {
        for (number, line) in source.lines() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    none(&findings, "finish it, or open an issue");
}

#[test]
fn the_product_does_not_unwrap() {
    let mut findings = Vec::new();
    for source in sources(&["src"]) {
        let lines = source.product().filter(|(_, line)| line.contains(".unwrap()"));
        findings.extend(lines.map(|(number, _)| format!("{}:{number}", source.path)));
    }
    none(&findings, "handle it, or expect(\"the invariant\")");
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let mut findings = Vec::new();
    for source in sources(&["src", "tests"]).iter().filter(|source| source.path != "tests/tidy.rs") {
        for (number, line) in source.tests() {
            if ["sleep(", "sleep_until("].iter().any(|call| line.contains(call)) {
                findings.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none(&findings, "wait for the condition itself, with a deadline");
}

#[test]
fn the_domain_takes_its_time_from_the_context() {
    let mut findings = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| DOMAIN.iter().any(|path| source.path.starts_with(path))) {
        for (number, line) in source.product() {
            // How old something remembered is, is no domain time: tokio's monotonic instant may say so.
            let line = &line.replace("tokio::time::Instant::now", "");
            if ["Instant::now", "SystemTime::now", "Timestamp::now", "rand::rng"].iter().any(|call| line.contains(call))
            {
                findings.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none(&findings, "time and randomness come from Context");
}

#[test]
fn unsafe_code_is_in_one_file() {
    let mut files = Vec::new();
    for source in sources(&["src", "tests"]).iter().filter(|source| source.path != "tests/tidy.rs") {
        let lines = source.lines().filter(|(_, line)| !is_comment(line));
        if lines
            .into_iter()
            .any(|(_, line)| line.contains("unsafe {") || line.contains("unsafe extern") || line.contains("#[unsafe("))
        {
            files.push(source.path.clone());
        }
    }
    assert!(files.len() <= 1, "only the replacement of sync_file_range may be unsafe: {files:?}");
}

#[test]
fn every_advisory_ignored_has_a_dated_reason() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let table: toml::Table = deny.parse().expect("deny.toml is TOML");
    let ignored = table["advisories"]["ignore"].as_array().expect("a list of ignored advisories");
    for entry in ignored {
        let reason = entry.get("reason").and_then(toml::Value::as_str).unwrap_or("");
        let date = reason.get(..10).unwrap_or("");
        let dated = date.len() == 10
            && date.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
        assert!(dated, "{entry}: a reason starts with the date it was given");
    }
}
