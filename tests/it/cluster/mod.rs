//! Clusters of real processes: joined by token, asked at any node.

mod tour;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::http::Client;
use crate::node::{Node, Plan};

/// A debug build on a busy machine.
const SETTLES_WITHIN: Duration = Duration::from_secs(90);

/// Nodes of one cluster, whose embedded providers keep what they did in one place.
pub struct Cluster {
    pub nodes: Vec<Node>,
    shared: TempDir,
}

impl Cluster {
    /// A cluster of this size with every shard on up to three nodes.
    pub async fn start(size: u64) -> Self {
        let shared = TempDir::new().expect("a temporary directory");
        let mut cluster = Self { nodes: Vec::new(), shared };
        for _ in 0..size {
            cluster.join().await;
        }
        cluster.settled().await;
        cluster
    }

    /// Starts one more node and waits until it serves.
    async fn join(&mut self) {
        let id = self.nodes.len() + 1;
        let mut plan = Plan::sandbox()
            .set("node.id", &id.to_string())
            .set("node.sandbox_dir", self.outside().to_str().expect("a path"))
            .set("gateway.public_url", "http://127.0.0.1:1");
        if let Some(first) = self.nodes.first() {
            let token = first.operator().post("/admin/v1/cluster/tokens", &json!({})).await;
            token.expect(201);
            plan = plan.set("cluster.join", &first.cluster.to_string()).set("cluster.token", &token.text_at("/token"));
        }
        self.nodes.push(plan.start().await);
    }

    /// Waits until every shard is where it should be, led by whom it should be, and every node knows it.
    async fn settled(&self) {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut poll = tokio::time::interval(Duration::from_millis(200));
        loop {
            poll.tick().await;
            let mut seen = Vec::new();
            for node in &self.nodes {
                seen.push(node.operator().get("/admin/v1/shards").await.json);
            }
            if seen.iter().all(|shards| self.is_settled(shards)) {
                return;
            }
            let logs: String = self.nodes.iter().map(Node::log).collect();
            assert!(Instant::now() < deadline, "the cluster does not settle: {seen:#?}\n{logs}");
        }
    }

    fn is_settled(&self, shards: &Value) -> bool {
        let Some(items) = shards["items"].as_array() else { return false };
        let settled = |shard: &Value| {
            let replicas = shard["replicas"].as_array().map_or(0, Vec::len);
            replicas == self.nodes.len().min(3) && shard["placement"]["leader"] == shard["leader"]
        };
        !items.is_empty() && items.iter().all(settled)
    }

    /// Where the embedded providers of all nodes keep what they sent and charged.
    pub fn outside(&self) -> &Path {
        self.shared.path()
    }

    /// The gateway of one node.
    pub fn at(&self, index: usize) -> Client {
        self.nodes[index].api()
    }
}
