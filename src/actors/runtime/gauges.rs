//! What an operator asks at 3 a.m., measured when it is asked: live actors, mailboxes, parked entities, what waits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use metrics::gauge;

use super::Runtime;
use super::replica::Replica;
use super::shard::Shard;
use crate::kernel::Clock;

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
const fn value(count: usize) -> f64 {
    count as f64
}

impl Runtime {
    /// Brings the gauges of the runtime up to date; called when metrics are read.
    pub async fn publish_gauges(&self) {
        let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for name in self.router.kind_names() {
            kinds.insert(name.to_owned(), (0, 0));
        }
        for replica in self.router.replicas() {
            let shard = replica.shard();
            for (id, handle) in shard.iter().flat_map(|shard| shard.parts.directory.list()) {
                let (live, depth) = kinds.entry(id.kind().to_owned()).or_default();
                *live += 1;
                *depth += handle.vitals.depth.load(Ordering::Relaxed);
            }
            self.publish_shard(replica, shard.as_deref()).await;
        }
        for (kind, (live, depth)) in kinds {
            gauge!("construct_actors_live", "kind" => kind.clone()).set(value(live));
            gauge!("construct_actors_mailbox_depth", "kind" => kind).set(value(depth));
        }
    }

    async fn publish_shard(&self, replica: &Replica, shard: Option<&Shard>) {
        let name = replica.id().to_string();
        let parked = match shard {
            Some(shard) => shard.crashes().await.iter().filter(|crash| crash.parked).count(),
            None => 0,
        };
        gauge!("construct_actors_parked", "shard" => name.clone()).set(value(parked));
        let status = replica.log.status();
        gauge!("construct_shard_leader", "shard" => name.clone()).set(value(usize::from(status.leader.is_some())));
        gauge!("construct_shard_term", "shard" => name.clone()).set(value(usize::try_from(status.term).unwrap_or(0)));
        gauge!("construct_shard_queued", "shard" => name.clone()).set(value(status.queued));
        let due = replica.state().next_timer().ok().flatten();
        // Timers are the leader's business.
        let overdue = due.filter(|_| shard.is_some()).map_or(0, |due| self.clock.now().millis_since(due).max(0));
        let seconds = usize::try_from(overdue / 1000).unwrap_or(0);
        gauge!("construct_timers_overdue_seconds", "shard" => name).set(value(seconds));
    }
}
