//! The tour in README.md, typed as it stands there.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::node::Plan;

const WITHIN: Duration = Duration::from_secs(180);

/// The blocks fenced as `sh`, in order: what a reader types.
fn typed(readme: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                script.push_str(line);
                script.push('\n');
            }
            _ => {}
        }
    }
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_works_as_it_is_written() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let node = Plan::sandbox().start().await;
    // The reader's node has the default ports and directory; this one has its own.
    let admin = format!("http://{}", node.admin);
    let script = typed(&readme)
        .replace("http://127.0.0.1:8080", &format!("http://{}", node.gateway))
        .replace("http://127.0.0.1:8081", &admin)
        .replace("./target/release/construct", "construct");
    assert!(script.contains("/v1/signup") && script.contains("audit verify"), "the tour is in README.md");
    let binary = env!("CARGO_BIN_EXE_construct");
    let prelude = format!(
        "set -euo pipefail\nconstruct() {{ case \"$1 $2\" in \
         'cluster '*|'audit export') {binary} \"$@\" --admin {admin} ;; *) {binary} \"$@\" ;; esac; }}\n"
    );
    let mut command = Command::new("bash");
    command.args(["-c", &(prelude + &script)]).current_dir(node.data().parent().expect("a parent"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let done = timeout(WITHIN, command.output()).await.expect("the tour ends in time").expect("bash runs");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "the tour failed: {}\n--- printed:\n{out}\n--- complained:\n{err}", done.status);
    for shown in ["ada@example.com", "Verified: the audit log", "All 9 shards have a leader."] {
        assert!(out.contains(shown), "{shown:?} was not shown:\n{out}");
    }
    assert_eq!(out.matches("\"paid\"").count(), 3, "one invoice after the first charge, two after a month:\n{out}");
}
