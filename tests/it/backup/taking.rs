//! Taking them: sealed, only what changed, and never a part that looks whole.

use serde_json::json;

use super::{Shelf, text};
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::Person;

fn names(shelf: &Shelf) -> Vec<String> {
    let entries = std::fs::read_dir(shelf.dir()).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

async fn metrics(node: &Node) -> String {
    node.operator().get("/metrics").await.text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_sealed_whole_and_leaves_out_what_has_not_changed() {
    let node = Plan::sandbox().start().await;
    let shelf = Shelf::new();
    assert!(metric(&metrics(&node).await, "construct_backup_last_seconds").abs() < 0.5, "there was none yet");
    let person = Person::sign_up(&node, &Maildir::of(&node.data()), "ada@example.com", "consumer").await;
    let first = shelf.take(&node, &[]).await;
    assert_eq!((&first["shards"], &first["elsewhere"], &first["state"]), (&json!(8), &json!(0), &json!("whole")));
    let again = shelf.take(&node, &[]).await;
    assert!(again["elsewhere"].as_u64().expect("a number") >= 4, "most shards have not changed: {again}");
    assert!(again["bytes"].as_u64() < first["bytes"].as_u64());
    let full = shelf.take(&node, &["--full"]).await;
    assert_eq!(full["elsewhere"], 0);
    assert!(metric(&metrics(&node).await, "construct_backup_last_seconds") > 1.7e9);
    assert!(metric(&metrics(&node).await, "construct_backup_last_bytes") > 1000.0);
    let (code, listed) = shelf.check(&node).await;
    assert_eq!((code, listed.len()), (Some(0), 3), "{listed:#?}");

    // Nothing of what is inside can be read, and what the cluster's secrets begin with least of all.
    let file = std::fs::read(full["file"].as_str().expect("a path")).expect("readable");
    let root = std::fs::read_to_string(node.data().join("root.key")).expect("a root key");
    for secret in [person.id.as_str(), "construct root key", root.lines().nth(1).expect("a key")] {
        assert!(!file.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is in clear");
    }
    let entries = node.operator_api().get("/v1/audit/entries?action=cluster.backup").await;
    assert_eq!(entries.expect(200)["items"].as_array().map(Vec::len), Some(3), "{}", entries.text);

    // Without the one it builds on it is not whole, and says so.
    let base = first["file"].as_str().expect("a path").to_owned();
    let hidden = std::path::Path::new(&base).with_extension("hidden");
    std::fs::rename(&base, &hidden).expect("renamed");
    let (code, listed) = shelf.check(&node).await;
    assert_eq!(code, Some(4), "{listed:#?}");
    assert_eq!(listed.iter().filter(|backup| backup["state"] != "whole").count(), 1, "{listed:#?}");
    // The next one takes again what that had.
    let after = shelf.take(&node, &[]).await;
    std::fs::rename(&hidden, &base).expect("renamed");
    assert!(after["elsewhere"].as_u64().expect("a number") >= 4, "{after}");

    // Cut off anywhere, changed, or with another key: it does not open.
    let path = full["file"].as_str().expect("a path");
    for length in [file.len() - 1, file.len() / 2, 30] {
        std::fs::write(path, &file[..length]).expect("written");
        assert_eq!(shelf.check(&node).await.0, Some(4), "cut at {length}");
    }
    std::fs::write(path, &file).expect("written");
    assert_eq!(shelf.check(&node).await.0, Some(0));
    std::fs::write(shelf.key(), "another key of good length").expect("written");
    assert_eq!(shelf.check(&node).await.0, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_does_not_come_to_its_end_leaves_nothing_that_looks_whole() {
    // As slow as may be: it takes as long as the test needs.
    let node = Plan::sandbox().set("cluster.snapshot_bytes_per_second", "65536").start().await;
    let shelf = Shelf::new();
    let mailbox = Maildir::of(&node.data());
    let person = Person::sign_up(&node, &mailbox, "ada@example.com", "consumer").await;
    for number in 0..40 {
        let body = json!({
            "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"],
            "content": { "title": format!("note {number}"), "body": "x".repeat(3900) },
        });
        node.operator_api().post("/v1/notifications", &body).await.expect(202);
    }
    let (admin, token) = (format!("http://{}", node.admin), text(&node.data().join("admin-token")));
    let arguments = shelf.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let at = ["--admin", &admin, "--token-file", &token];
    let mut taking =
        node.command(&[&["cluster", "backup"], arguments.as_slice(), &at].concat()).spawn().expect("started");
    let mut poll = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut arrived = async || loop {
        poll.tick().await;
        let entries = std::fs::read_dir(shelf.dir()).into_iter().flatten();
        let bytes = entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum::<u64>();
        if bytes > 50_000 {
            break;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), arrived()).await.expect("some of it arrives");
    // One at a time at a node; and what is served goes on meanwhile.
    let refused = shelf.try_take(&node, &[]).await;
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("A backup is being taken"));
    person.api.get("/v1/me").await.expect(200);
    Person::sign_up(&node, &mailbox, "bob@example.com", "consumer").await;
    taking.kill().await.expect("killed");
    assert!(names(&shelf).iter().all(|name| !name.ends_with(".backup")), "{:?}", names(&shelf));

    // A node that ends in the middle: the command says so and leaves nothing at all.
    let mut node = node;
    let failed = async {
        let mut poll = tokio::time::interval(std::time::Duration::from_millis(50));
        while !metrics(&node).await.contains("construct_backups_total{outcome=\"failed\"} 1") {
            poll.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), failed)
        .await
        .expect("the node notices that nobody listens");
    for name in names(&shelf) {
        std::fs::remove_file(shelf.dir().join(name)).expect("removed");
    }
    let mut command = node.command(&[&["cluster", "backup"], arguments.as_slice(), &at].concat());
    let taking = command.stderr(std::process::Stdio::piped()).spawn().expect("started");
    let arrived = async {
        let mut poll = tokio::time::interval(std::time::Duration::from_millis(20));
        while names(&shelf).is_empty() {
            poll.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), arrived).await.expect("it begins");
    node.kill().await;
    let out = taking.wait_with_output().await.expect("it ends");
    assert!(!out.status.success());
    assert!(names(&shelf).is_empty(), "{:?}", names(&shelf));
    node.start().await;
    let leftover = walk(&node.data().join("snapshots"));
    assert!(leftover.iter().all(|name| name != "backup"), "{leftover:?}");
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
    }
    found
}
