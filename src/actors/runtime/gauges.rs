//! What an operator asks at 3 a.m., measured when it is asked: live actors, mailboxes, parked entities, who leads and who
//! lags, what waits.
//!
//! What a shard's leader alone knows is 0 on the other nodes, never what it was when they led: the largest over all nodes is
//! the truth. Counters are there from the first reading on, so that their first increase is one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use metrics::{counter, gauge, histogram};

use super::Runtime;
use super::log::LogStatus;
use super::replica::Replica;
use super::shard::Shard;
use crate::kernel::{Clock, ShardId};

/// How calls of providers end.
const OUTCOMES: [&str; 4] = ["done", "retry", "refused", "unknown"];

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
const fn value(count: u64) -> f64 {
    count as f64
}

impl Runtime {
    /// Brings the gauges of the runtime up to date; called when metrics are read.
    pub async fn publish_gauges(&self) {
        let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for name in self.router.kind_names() {
            kinds.insert(name.to_owned(), (0, 0));
        }
        for replica in self.router.replicas() {
            let shard = replica.shard();
            for (id, handle) in shard.iter().flat_map(|shard| shard.parts.directory.list()) {
                let (live, depth) = kinds.entry(id.kind().to_owned()).or_default();
                *live += 1;
                *depth += handle.vitals.depth.load(Ordering::Relaxed) as u64;
            }
            self.publish_shard(replica, shard.as_deref()).await;
        }
        for (kind, (live, depth)) in kinds {
            gauge!("construct_actors_live", "kind" => kind.clone()).set(value(live));
            gauge!("construct_actors_mailbox_depth", "kind" => kind.clone()).set(value(depth));
            drop(counter!("construct_entity_restarts_total", "kind" => kind));
        }
        for provider in self.means.providers.keys() {
            for outcome in OUTCOMES {
                let labels = [("provider", provider.as_str()), ("outcome", outcome)];
                drop(counter!("construct_provider_calls_total", &labels));
            }
        }
        drop(histogram!("construct_timer_lag_seconds"));
        drop(gauge!("construct_clock_ahead_seconds"));
    }

    async fn publish_shard(&self, replica: &Replica, shard: Option<&Shard>) {
        let name = replica.id().to_string();
        let parked = match shard {
            Some(shard) => shard.crashes().await.iter().filter(|crash| crash.parked).count(),
            None => 0,
        };
        gauge!("construct_actors_parked", "shard" => name.clone()).set(value(parked as u64));
        drop(counter!("construct_overloaded_total", "shard" => name.clone()));
        let status = replica.log.status();
        gauge!("construct_shard_leader", "shard" => name.clone()).set(f64::from(u8::from(status.leader.is_some())));
        gauge!("construct_shard_leads", "shard" => name.clone()).set(f64::from(u8::from(shard.is_some())));
        gauge!("construct_shard_votes", "shard" => name.clone()).set(f64::from(u8::from(replica.log.votes())));
        gauge!("construct_shard_term", "shard" => name.clone()).set(value(status.term));
        gauge!("construct_shard_queued", "shard" => name.clone()).set(value(status.queued as u64));
        let pending = shard.map_or(0, |_| replica.state().counts().outbox_pending);
        gauge!("construct_outbox_records", "shard" => name.clone(), "state" => "unsettled").set(value(pending));
        let led = shard.map(|_| &status);
        self.publish_replicas(replica.id(), led);
        self.publish_feeds(replica, led.is_some());
        let due = replica.state().next_timer().ok().flatten();
        // Timers are the leader's business.
        let overdue = due.filter(|_| shard.is_some()).map_or(0, |due| self.clock.now().millis_since(due).max(0));
        let seconds = u64::try_from(overdue / 1000).unwrap_or(0);
        gauge!("construct_timers_overdue_seconds", "shard" => name).set(value(seconds));
    }

    /// Votes of a shard, and the log entries that each other replica lacks, where this node leads it.
    fn publish_replicas(&self, shard: ShardId, led: Option<&LogStatus>) {
        let name = shard.to_string();
        let voters = led.map_or(0, |status| status.replicas.iter().filter(|replica| replica.voter).count());
        gauge!("construct_shard_voters", "shard" => name.clone()).set(value(voters as u64));
        let lags: BTreeMap<u64, u64> = led.map(lags).unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before: BTreeSet<u64> = told.insert(shard, lags.keys().copied().collect()).unwrap_or_default();
        for node in before.into_iter().chain(lags.keys().copied()).collect::<BTreeSet<_>>() {
            let lag = lags.get(&node).copied().unwrap_or(0);
            let labels = [("shard", name.clone()), ("node", node.to_string())];
            gauge!("construct_shard_replica_lag_entries", &labels).set(value(lag));
        }
    }

    /// How far each consumer of the shard's feed is behind it, in entries of all kinds. Who wants few of them stores how
    /// far it is now and then only, so some hundreds are nothing.
    fn publish_feeds(&self, replica: &Replica, led: bool) {
        let state = replica.state();
        let consumers = self.means.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        for consumer in consumers.iter() {
            let consumed = state.consumed(consumer.name()).ok().filter(|_| led);
            let behind = consumed.map_or(0, |consumed| state.feed_head().saturating_sub(consumed));
            let labels = [("consumer", consumer.name().to_owned()), ("shard", replica.id().to_string())];
            gauge!("construct_feed_behind_entries", &labels).set(value(behind));
        }
    }
}

/// By replica other than the leader: how many entries of the leader's log it is not known to have.
fn lags(status: &LogStatus) -> BTreeMap<u64, u64> {
    let own = status.replicas.iter().find(|replica| Some(replica.node) == status.leader);
    let last = own.and_then(|own| own.matched).unwrap_or(status.applied);
    let others = status.replicas.iter().filter(|replica| Some(replica.node) != status.leader);
    others.map(|replica| (replica.node, last.saturating_sub(replica.matched.unwrap_or(0)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::log;

    #[test]
    fn who_was_not_heard_lags_by_everything_and_the_leader_not_at_all() {
        let replica = |node, matched| log::Replica { node, voter: true, matched };
        let replicas = vec![replica(1, Some(40)), replica(2, Some(38)), replica(3, None), replica(4, Some(41))];
        let status = LogStatus { leader: Some(1), term: 1, applied: 39, queued: 0, replicas };
        assert_eq!(lags(&status), BTreeMap::from([(2, 2), (3, 40), (4, 0)]));
    }
}
