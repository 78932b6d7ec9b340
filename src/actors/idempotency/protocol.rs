//! What an idempotent request is told, remembers and answers.

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;

/// Who carries a request out: one attempt in one life of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executor {
    pub node: u64,
    /// Made anew at every start of the node.
    pub boot: [u8; 16],
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Asks to carry the request out. `at` is wall time: it measures the executor's deadline, not the domain.
    Start { fingerprint: [u8; 32], user_id: Option<String>, executor: Executor, at: Timestamp, deadline_ms: i64 },
    /// The answer is there. Ignored from anyone but the executor.
    Complete {
        executor: Executor,
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },
    /// There will be no answer to remember. Ignored from anyone but the executor.
    Abandon { executor: Executor },
    /// The time to remember it is over.
    Expire,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Started {
        fingerprint: [u8; 32],
        user_id: Option<String>,
        executor: Executor,
        deadline: Timestamp,
    },
    Completed {
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },
    Abandoned,
    Expired,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Carry it out.
    Proceed,
    /// It was answered so.
    Answered(#[serde(with = "serde_bytes")] Vec<u8>),
    Noted,
}
