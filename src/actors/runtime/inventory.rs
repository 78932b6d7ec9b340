//! The actors of a node, and of all nodes: what is live, what waits in mailboxes, what crashed lately or is parked.
//!
//! Each node tells of the shards it leads. Whoever asks for all of them waits for each no longer than [`ANSWERS_WITHIN`],
//! and says who did not answer: an operator must see what is missing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::question::{Answer, Question};
use super::router::Router;
use crate::kernel::Error;

/// The longest a node may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Nodes that are asked at a time.
const ASKED: usize = 16;
/// Crashed and parked entities that a node tells of; what is parked comes first.
const CRASHES_TOLD: usize = 1000;

/// Live actors of one kind on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveKind {
    pub kind: String,
    pub live: u64,
    /// Requests waiting in their mailboxes, all together and in the fullest.
    pub mailbox_depth: u64,
    pub mailbox_deepest: u64,
    /// Batches on their way to the disk.
    pub committing: u64,
}

/// An entity that crashed lately, or is parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashedEntity {
    pub entity: String,
    pub shard: u16,
    pub restarts: u32,
    pub parked: bool,
    pub reason: String,
}

/// The actors of the shards that a node leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub kinds: Vec<LiveKind>,
    pub crashes: Vec<CrashedEntity>,
    /// Crashes beyond those.
    pub more_crashes: u64,
}

impl Router {
    /// The actors of this node.
    pub async fn inventory(&self) -> Inventory {
        let mut kinds = BTreeMap::<String, LiveKind>::new();
        let mut crashes = Vec::new();
        for shard in self.led() {
            for (id, handle) in shard.parts.directory.list() {
                let fresh = || LiveKind { kind: id.kind().to_owned(), ..LiveKind::default() };
                let kind = kinds.entry(id.kind().to_owned()).or_insert_with(fresh);
                let depth = handle.vitals.depth.load(Ordering::Relaxed) as u64;
                kind.live += 1;
                kind.mailbox_depth += depth;
                kind.mailbox_deepest = kind.mailbox_deepest.max(depth);
                kind.committing += handle.vitals.in_flight.load(Ordering::Relaxed) as u64;
            }
            let id = shard.parts.log.shard().0;
            crashes.extend(shard.crashes().await.into_iter().map(|crash| CrashedEntity {
                entity: crash.entity,
                shard: id,
                restarts: crash.crashes,
                parked: crash.parked,
                reason: crash.reason,
            }));
        }
        crashes.sort_by_key(|crash| !crash.parked);
        let more_crashes = crashes.len().saturating_sub(CRASHES_TOLD) as u64;
        crashes.truncate(CRASHES_TOLD);
        Inventory { kinds: kinds.into_values().collect(), crashes, more_crashes }
    }

    /// The actors of each of these nodes, or why there is no answer of it. `own` is this one.
    pub async fn inventories(&self, own: u64, nodes: Vec<u64>) -> BTreeMap<u64, Result<Inventory, Error>> {
        let until = Instant::now() + ANSWERS_WITHIN;
        let asked = nodes.into_iter().map(|node| async move {
            let told = if node == own { Ok(self.inventory().await) } else { self.inventory_of(node, until).await };
            (node, told)
        });
        futures::stream::iter(asked).buffer_unordered(ASKED).collect().await
    }

    async fn inventory_of(&self, node: u64, until: Instant) -> Result<Inventory, Error> {
        match self.way().ask_node(node, &Question::Inventory, until).await? {
            Answer::Inventory(inventory) => Ok(inventory),
            _ => Err(Error::internal()),
        }
    }
}
