//! Clusters of real processes: joined by token, asked at any node.

mod actors;
mod between;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod collected;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod damage;
mod far;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod faults;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod grow;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod history;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod journey;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod nemesis;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod registers;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod returns;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod roaming;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod rotation;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod sales;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod silence;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod snapshots;
mod tour;
#[cfg(all(feature = "failpoints", feature = "peers"))]
mod upgrade;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use between::Between;

use crate::http::Client;
use crate::node::{Node, Plan};

/// A debug build on a busy machine.
const SETTLES_WITHIN: Duration = Duration::from_secs(90);

/// Nodes of one cluster, whose embedded providers keep what they did in one place.
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// What lies between the nodes, where a test wants to disturb it.
    between: Option<Between>,
    /// What each node is started with, by its place; the identity comes on top.
    plan: Box<dyn Fn(usize) -> Plan + Send + Sync>,
    /// Nodes that were started so far; the next one has the next number as its id.
    started: usize,
    shared: TempDir,
}

impl Cluster {
    /// A cluster of this size with every shard on up to three nodes.
    pub async fn start(size: usize) -> Self {
        Self::of(size, |_| Plan::sandbox(), None).await
    }

    /// A cluster whose nodes reach each other only through `between`, if it is given.
    pub async fn of(
        size: usize,
        plan: impl Fn(usize) -> Plan + Send + Sync + 'static,
        between: Option<Between>,
    ) -> Self {
        let (shared, plan) = (TempDir::new().expect("a temporary directory"), Box::new(plan));
        let mut cluster = Self { nodes: Vec::new(), between, plan, started: 0, shared };
        for _ in 0..size {
            cluster.join().await;
        }
        cluster.settled().await;
        cluster
    }

    /// Starts one more node and waits until it serves.
    async fn join(&mut self) {
        let mut plan = (self.plan)(self.started)
            .set("node.id", &(self.started + 1).to_string())
            .set("node.sandbox_dir", self.outside().to_str().expect("a path"))
            .set("gateway.public_url", "http://127.0.0.1:1")
            // A debug build on a busy machine is not dead because it is late.
            .set("cluster.election_ms", "600");
        self.started += 1;
        if let Some(first) = self.nodes.first() {
            plan = plan.set("cluster.join", &first.cluster.to_string()).set("cluster.token", &self.token().await);
        }
        let mut node = match &self.between {
            None => plan.prepare(),
            Some(between) => {
                let proxy = between.proxy().await;
                let node = plan.set("cluster.address", &proxy.address().to_string()).prepare();
                proxy.serve(node.cluster);
                node
            }
        };
        node.start().await;
        self.nodes.push(node);
    }

    /// A token with which one node may join.
    async fn token(&self) -> String {
        let token = self.nodes[0].operator().post("/admin/v1/cluster/tokens", &json!({})).await;
        token.expect(201);
        token.text_at("/token")
    }

    /// Where a node's bytes to other nodes come from.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    fn address(&self, index: usize) -> std::net::IpAddr {
        self.nodes[index].cluster.ip()
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
            // Every member has the meta shard.
            let wanted = if shard["id"] == 0 { self.nodes.len() } else { self.nodes.len().min(3) };
            replicas == wanted && shard["placement"]["leader"] == shard["leader"]
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
