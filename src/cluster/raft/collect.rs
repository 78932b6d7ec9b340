//! A replica that was taken away gives its space back, and may be taken in again (ADR 111).
//!
//! The group is stopped and out of reach of others, so that it confirms nothing any more; then whoever leads it is asked
//! whether it is without this node; then the log is emptied, the state, and the snapshots. A replica that forgets must not vote
//! as if it never had anything: the log keeps its vote, and a mark up to where it was. What a crash leaves begun is ended before
//! the group starts again.

use openraft::vote::RaftLeaderId;

use super::{RaftGroupError, ShardGroup};
use crate::actors::runtime::log::ShardLog;
use crate::kernel::{ShardId, fail_point};
use crate::storage::state::{ShardMachine, StateError};
use crate::storage::types::{LeaderId, Vote};
use crate::storage::wal::GroupLog;

/// Who leads a group that is without this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    pub term: u64,
    pub node: u64,
}

impl ShardGroup {
    /// Whether there is something to give back.
    #[must_use]
    pub fn holds_anything(&self) -> bool {
        self.parts().log.last().is_some() || !self.machine().is_empty()
    }

    /// Gives back what the replica holds, if `left` then says who leads the group without this node; else goes on as before.
    /// Whether it gave it back.
    ///
    /// # Errors
    /// [`RaftGroupError`] when it failed in between; the node must stop then, and ends it at its next start.
    pub async fn collect(&self, left: impl Future<Output = Option<Leader>>) -> Result<bool, RaftGroupError> {
        let collected = self.stop_and_collect(left).await;
        if let Err(error) = &collected {
            self.set_broken(error);
        }
        collected
    }

    async fn stop_and_collect(&self, left: impl Future<Output = Option<Leader>>) -> Result<bool, RaftGroupError> {
        let parts = self.parts();
        parts.network.withdraw(self.shard());
        self.running().end().await;
        let leader = left.await;
        if let Some(Leader { term, node }) = leader {
            let vote = Vote { leader_id: LeaderId::new(term, node), committed: true };
            parts.log.empty(Some(vote), true).await.map_err(|error| parts.failed("cannot be emptied", error))?;
            fail_point::reach("collect.marked");
            end(self.shard(), &parts.log, &parts.machine).await?;
        }
        self.set_running(parts.run().await?);
        Ok(leader.is_some())
    }
}

/// Ends what was begun: the log is empty by now.
pub(super) async fn end(shard: ShardId, log: &GroupLog, machine: &ShardMachine) -> Result<(), RaftGroupError> {
    machine.empty().await.map_err(StateError::from)?;
    fail_point::reach("collect.snapshots_removed");
    log.empty(None, false).await.map_err(|error| RaftGroupError::Group {
        shard,
        what: "cannot be emptied".to_owned(),
        error: error.to_string(),
    })?;
    fail_point::reach("collect.ended");
    metrics::counter!("construct_replicas_collected_total").increment(1);
    tracing::info!(%shard, "a replica that was taken away has given its space back");
    Ok(())
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
