//! The command line as its users meet it: what it prints, and how it ends.

use std::process::{Output, Stdio};

use crate::node::{Node, Plan};

async fn run(node: &Node, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = node.command(arguments);
    command.envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().await.expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_on_its_data_tells_operators_how_it_is() {
    let node = Plan::sandbox().start().await;
    let data = node.data().display().to_string();
    let (code, _, said) = run(&node, &["serve", "--data-dir", &data], &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is in use by"), "a second process on the data is refused: {said}");

    let admin = format!("http://{}", node.admin);
    let token = node.data().join("admin-token").display().to_string();
    let at = ["--admin", &admin, "--token-file", &token];
    for (command, shown) in [
        (["cluster", "status"], "All 9 shards have a leader."),
        (["cluster", "members"], "up"),
        (["cluster", "shards"], "1:leader@"),
        (["ledger", "verify"], "Checked 0 transactions"),
        (["cluster", "keys"], "Version 1 is in use."),
        (["cluster", "rotate-keys"], "Version 2 is in use; 0 data keys were wrapped anew."),
        (["cluster", "keys"], "1     2         ok"),
    ] {
        let (code, out, err) = run(&node, &[command.as_slice(), &at].concat(), &[]).await;
        assert_eq!(code, 0, "{command:?}: {err}");
        assert!(out.contains(shown), "{command:?} shows {shown:?}: {out}");
    }
    let (_, out, _) = run(&node, &[["cluster", "shards", "--json"].as_slice(), &at].concat(), &[]).await;
    let shards: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(shards.as_array().map(Vec::len), Some(9));

    let wrong = node.data().join("wrong-token");
    std::fs::write(&wrong, "not the token").expect("a file");
    let wrong = wrong.display().to_string();
    let (code, _, err) = run(&node, &["cluster", "status", "--admin", &admin, "--token-file", &wrong], &[]).await;
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("answered 401"), "{err}");
    for (text, arguments) in [("Connection refused", ["--admin", "http://127.0.0.1:9", "--token-file", &token])] {
        let (code, _, err) = run(&node, &[["cluster", "status"].as_slice(), &arguments].concat(), &[]).await;
        assert_eq!(code, 3, "{err}");
        assert!(err.contains(text), "{err}");
    }

    let forged = node.data().join("forged.jsonl");
    std::fs::write(&forged, "{}\n").expect("a file");
    let (code, _, err) = run(&node, &["audit", "verify", &forged.display().to_string()], &[]).await;
    assert_eq!(code, 4, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_and_configuration_end_at_once_and_say_why() {
    let node = Plan::sandbox().start().await;
    let wrong = node.data().join("wrong.toml");
    std::fs::write(&wrong, "[gateway]\nlisten = \"nowhere\"\n").expect("a file");
    let wrong = wrong.display().to_string();
    for (arguments, environment, expected) in [
        (vec!["serve", "--config", &wrong], vec![], "gateway.listen: expected IP:PORT, such as 127.0.0.1:8080"),
        (vec!["serve", "--config", &wrong], vec![], "wrong.toml"),
        (vec!["--node-id", "zero"], vec![], "node.id: expected an integer, got \"zero\" (set by flag --node-id)"),
        (vec!["serve"], vec![("CONSTRUCT__NODE__ZONES", "a")], "node.zones: unknown key"),
        (vec!["serve", "--config", "/nowhere.toml"], vec![], "cannot read the configuration file /nowhere.toml"),
        (vec!["launch"], vec![], "unrecognized subcommand 'launch'"),
    ] {
        let (code, _, said) = run(&node, &arguments, &environment).await;
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: expected {expected:?} in {said}");
    }
    let secret = [("CONSTRUCT__PAYMENTS__STRIPE__SECRET_KEY", "sk_test_hunter2")];
    let (code, printed, _) = run(&node, &["config", "print"], &secret).await;
    assert_eq!(code, 0);
    assert!(printed.contains("secret_key = \"[redacted]\"") && !printed.contains("hunter2"), "{printed}");
    let (code, help, _) = run(&node, &["--help"], &[]).await;
    assert_eq!(code, 0);
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
}

/// A standard output that nobody reads any more, as behind `| head -0`.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_nothing_and_a_full_disk_is_said() {
    let mut node = Plan::sandbox().start().await;
    let (admin, token) = (format!("http://{}", node.admin), node.data().join("admin-token").display().to_string());
    let at = ["--admin", &admin, "--token-file", &token];
    let export = node.data().join("audit.jsonl").display().to_string();
    let (code, _, err) = run(&node, &[["audit", "export", "--output", &export].as_slice(), &at].concat(), &[]).await;
    assert_eq!(code, 0, "{err}");
    let forged = node.data().join("forged.jsonl").display().to_string();
    std::fs::write(&forged, "{}\n").expect("a file");
    for (arguments, expected) in [
        (vec!["audit", "verify", &export], 0),
        (vec!["audit", "verify", &forged], 4),
        (vec!["config", "print"], 0),
        (vec!["--help"], 0),
        ([["ledger", "verify"].as_slice(), &at].concat(), 0),
        ([["cluster", "status"].as_slice(), &at].concat(), 0),
        ([["cluster", "shards", "--json"].as_slice(), &at].concat(), 0),
    ] {
        let mut command = node.command(&arguments);
        let Output { status, stderr, .. } = command
            .stdout(unread())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
            .wait_with_output()
            .await
            .expect("an end");
        let said = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(expected), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        let said = command.stderr(unread()).status().await.expect("an end");
        assert_eq!(said.code(), Some(expected), "{arguments:?} with nobody at standard error either");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let Output { status, stderr, .. } = node
        .command(&["config", "print"])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
        .wait_with_output()
        .await
        .expect("an end");
    let said = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.starts_with("construct: standard output: No space left") && said.lines().count() == 1, "{said}");

    node.stop().await;
    node.spawn_printing_to(unread());
    node.wait_ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_is_one_line() {
    let node = Plan::sandbox().start().await;
    let (admin, data) = (format!("http://{}", node.admin), node.data().display().to_string());
    let token = node.data().join("admin-token").display().to_string();
    let broken = node.data().join("broken.toml").display().to_string();
    std::fs::write(&broken, "[gateway]\n\nlisten = \n").expect("a file");
    for (arguments, code, expected) in [
        (vec!["cluster", "status", "--token-file", "/nowhere"], 3, "cannot read the administrator token /nowhere"),
        (vec!["cluster", "status", "--admin", "ftp://x", "--token-file", &token], 3, "--admin ftp://x: expected http"),
        (vec!["cluster", "members", "--admin", "http://127.0.0.1:9", "--token-file", &token], 3, "Connection refused"),
        (vec!["ledger", "verify", "--admin", "https://127.0.0.1:9", "--token-file", &token], 3, "Connection refused"),
        (
            vec!["audit", "export", "--output", "/nowhere/x", "--admin", &admin, "--token-file", &token],
            1,
            "/nowhere/x: No such file",
        ),
        (vec!["audit", "export", "--output", &token, "--admin", &admin, "--token-file", &token], 1, "File exists"),
        (vec!["audit", "verify", "/nowhere"], 1, "/nowhere: No such file"),
        (vec!["audit", "verify", "/dev/null"], 4, "not verified: "),
        (vec!["compact", "--data-dir", &data], 1, "is in use by"),
        (vec!["compact", "--data-dir", "/dev/null/x"], 1, "the data directory"),
        (vec!["config", "print", "--config", &broken], 2, "is not TOML: line 3: "),
        (vec!["config", "print", "--node-id", "0"], 2, "the configuration is not valid: node.id: "),
    ] {
        let (ended, out, err) = run(&node, &arguments, &[]).await;
        assert_eq!((ended, out.as_str()), (code, ""), "{arguments:?}: {err}");
        assert!(
            err.starts_with("construct: ") && err.contains(expected),
            "{arguments:?}: expected {expected:?} in {err}"
        );
        assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
    }
}
