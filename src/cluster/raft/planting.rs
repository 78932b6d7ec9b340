//! Logs of groups that begin with a state that another cluster left: with this node as their only voter.
//!
//! The log of a planted group holds nothing and says that everything up to the state was purged, so that whoever joins is
//! given the state and not entries without it. Terms go on from where they were: a position in the log never names two
//! states.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::storage::RaftLogStorage;
use openraft::vote::RaftLeaderId;

use crate::kernel::{ShardId, fail_point};
use crate::storage::state::{Header, LogPosition, Membership};
use crate::storage::types::{LeaderId, LogId, Vote};
use crate::storage::wal::Wal;

/// Makes a node the only voter as of what the header says is applied.
pub fn alone(header: &mut Header, node: u64, address: &str) {
    let nodes = BTreeMap::from([(node, address.to_owned())]);
    header.membership = Membership { at: header.applied, voters: vec![BTreeSet::from([node])], nodes };
}

/// Begins the log of a shard behind `at`, durably.
///
/// # Errors
/// When it cannot be written.
pub async fn begin_log(wal: &Wal, shard: ShardId, at: LogPosition, node: u64) -> io::Result<()> {
    let mut log = wal.group(shard.0);
    log.purge(LogId::new(LeaderId::new(at.term, at.node).to_committed(), at.index)).await?;
    // Returns once it is durable, and what was written before it, too.
    log.save_vote(&Vote::new(at.term + 1, node)).await?;
    fail_point::reach("planting.log_begun");
    Ok(())
}
