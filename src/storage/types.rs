//! The Raft types of a shard, shared by the log, the state machine and the group.

use std::fmt;

use openraft::RaftTypeConfig;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::kernel::{Op, OpOutcome};

/// One Raft entry: the operations that queued while the previous append was in flight, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCommand {
    pub ops: Vec<Op>,
}

impl fmt::Display for ShardCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.ops.len())
    }
}

/// One outcome for each operation of the entry, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReply {
    pub outcomes: Vec<OpOutcome>,
}

impl fmt::Display for ShardReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.outcomes.len())
    }
}

openraft::declare_raft_types!(
    /// 64-bit node ids, addresses as nodes, ticks at common moments, everything else as openraft has it.
    pub TypeConfig:
        D = ShardCommand,
        R = ShardReply,
        NodeId = u64,
        Node = openraft::BasicNode,
        AsyncRuntime = crate::storage::pace::PacedRuntime,
);

/// Who proposed an entry: a term and the node that led in it.
pub type LeaderId = <TypeConfig as RaftTypeConfig>::LeaderId;
pub type LogId = openraft::LogId<<LeaderId as RaftLeaderId>::Committed>;
pub type Vote = <TypeConfig as RaftTypeConfig>::Vote;
pub type Entry = <TypeConfig as RaftTypeConfig>::Entry;
