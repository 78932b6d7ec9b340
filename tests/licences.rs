//! What `cargo deny check licenses bans sources` looks at, for those who do not have it: see deny.toml.

use std::path::Path;
use std::process::Command;

#[test]
fn dependencies_have_allowed_licences_and_come_from_the_registry() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let deny = std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml");
    let deny: toml::Table = deny.parse().expect("deny.toml is TOML");
    let words = |value: &toml::Value| -> Vec<String> {
        let list = value.as_array().expect("a list");
        list.iter().map(|word| word.get("crate").unwrap_or(word).as_str().expect("a word").to_owned()).collect()
    };
    let (allowed, banned) = (words(&deny["licenses"]["allow"]), words(&deny["bans"]["deny"]));
    let mut findings = Vec::new();
    for target in words(&deny["graph"]["targets"]) {
        let metadata = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--all-features", "--filter-platform", &target])
            .current_dir(root)
            .output()
            .expect("cargo runs");
        assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
        let resolved = metadata["resolve"]["nodes"].as_array().expect("a graph");
        let resolved: Vec<_> = resolved.iter().map(|node| &node["id"]).collect();
        for package in metadata["packages"].as_array().expect("packages") {
            let (name, licence) = (package["name"].as_str().unwrap_or(""), package["license"].as_str().unwrap_or(""));
            let source = package["source"].as_str();
            if !resolved.contains(&&package["id"]) || source.is_none() {
                continue;
            }
            if !licence_is_allowed(licence, &allowed) {
                findings.push(format!("{name}: licence {licence:?}"));
            }
            if banned.iter().any(|banned| banned == name) {
                findings.push(format!("{name} is banned"));
            }
            if source != Some("registry+https://github.com/rust-lang/crates.io-index") {
                findings.push(format!("{name} comes from {source:?}"));
            }
        }
    }
    assert!(findings.is_empty(), "see deny.toml: {findings:#?}");
    assert!(licence_is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed) && !licence_is_allowed("", &allowed));
    assert!(!licence_is_allowed("GPL-3.0", &allowed) && !licence_is_allowed("MIT AND GPL-3.0", &allowed));
}

/// Of each part of an SPDX expression one alternative has to be allowed. An OR of ANDs is refused: none is in use.
fn licence_is_allowed(expression: &str, allowed: &[String]) -> bool {
    expression.split(" AND ").all(|part| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ").flat_map(|word| word.split('/')).any(|word| allowed.iter().any(|known| known == word.trim()))
    })
}
