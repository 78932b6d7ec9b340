//! Backups of running clusters, by the command line.

#[cfg(feature = "failpoints")]
pub mod crashing;
mod recovering;
mod restoring;
mod taking;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::node::Node;

const KEY: &str = "a key that is kept apart\n";

/// A directory of backups and the key to them.
pub struct Shelf {
    directory: tempfile::TempDir,
}

impl Shelf {
    pub fn new() -> Self {
        let shelf = Self { directory: tempfile::TempDir::new().expect("a temporary directory") };
        std::fs::write(shelf.key(), KEY).expect("a key file");
        shelf
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("backup.key")
    }

    pub fn dir(&self) -> PathBuf {
        self.directory.path().join("backups")
    }

    /// The arguments that name it.
    fn arguments(&self) -> Vec<String> {
        vec![text(&self.dir()), "--backup-key-file".to_owned(), text(&self.key())]
    }

    /// Takes a backup of the node's cluster; what the command says of it.
    pub async fn take(&self, node: &Node, more: &[&str]) -> Value {
        let out = self.try_take(node, more).await;
        assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), node.log());
        serde_json::from_slice(&out.stdout).expect("JSON")
    }

    pub async fn try_take(&self, node: &Node, more: &[&str]) -> Output {
        let (admin, token) = (format!("http://{}", node.admin), text(&node.data().join("admin-token")));
        let at = ["--json", "--admin", &admin, "--token-file", &token];
        self.run(node, "backup", &[&at, more].concat()).await
    }

    /// Makes a cluster of the node, which has not been started, from a backup.
    pub async fn restore(&self, node: &Node, more: &[&str]) -> Output {
        let data = text(&node.data());
        self.run(node, "restore", &[&["--data-dir", &data], more].concat()).await
    }

    /// Reads every backup to its end: the exit code, and what is said of each.
    pub async fn check(&self, node: &Node) -> (Option<i32>, Vec<Value>) {
        let out = self.run(node, "backups", &["--json"]).await;
        let listed: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (out.status.code(), listed.as_array().cloned().unwrap_or_default())
    }

    pub async fn run(&self, node: &Node, command: &str, more: &[&str]) -> Output {
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let all = [&["cluster", command], arguments.as_slice(), more].concat();
        node.command(&all).output().await.expect("the binary runs")
    }
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("a path of text").to_owned()
}
