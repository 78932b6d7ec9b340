//! The first frame each way on every stream: who speaks to whom, for what, and in which version of the wire.
//!
//! Architecture invariant: append-only. Any released build can read any other's hello and say why it refuses.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::identity::ClusterId;
use crate::kernel::codec::{self, CodecError};

/// The versions of the wire that this build speaks. A stream uses the newest that both sides know. To the wire belongs
/// whatever nodes say to each other, so also commands and replies of entities, and which kinds there are (ADR 104).
///
/// 2: kinds, replies and a subscription's place are not what they were in 1, which no build speaks beside it.
/// 3: there is a level of the cluster (ADR 118), and the log of a group that was emptied can be read (ADR 111).
const WIRE: (u16, u16) = (2, 3);
/// The newest version of the wire that this build speaks: the highest level that a cluster with it can have.
pub const NEWEST: u16 = WIRE.1;
/// The largest hello or answer.
pub(super) const HELLO_BYTES: usize = 4096;

const HELLO: u8 = 0x60;
const ANSWER: u8 = 0x61;
const VERSION: u16 = 1;

/// What a stream is for. Each lane has streams of its own, so that none waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Votes and log entries.
    Raft,
    /// Requests to entities.
    Entity,
    /// A shard's state for a replica that the log does not reach.
    Snapshot,
    /// A node that is not a member yet.
    Join,
}

impl Lane {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Entity => "entity",
            Self::Snapshot => "snapshot",
            Self::Join => "join",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the dialing side says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Oldest and newest version of the wire it speaks.
    pub wire: (u16, u16),
    pub lane: Lane,
    pub cluster: ClusterId,
    pub from: u64,
    /// The node it means to reach; 0 on the join lane, where any member will do.
    pub to: u64,
    pub incarnation: u64,
    /// Version of the program.
    pub build: String,
}

/// What the accepting side answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Welcome { wire: u16, node: u64, incarnation: u64, build: String },
    Refused(Rejection),
}

/// Why a stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("no common version of the wire: the other side speaks {oldest} to {newest}")]
    Wire { oldest: u16, newest: u16 },
    #[error("the other side belongs to another cluster")]
    Cluster,
    #[error("the other side is node {node}")]
    Node { node: u64 },
    #[error("this node is not a member of the cluster")]
    NotMember,
    #[error("the certificate is not of the node that it is used for")]
    Certificate,
    #[error("the other side takes no more streams of this lane now")]
    Busy,
    #[error(
        "this node id has joined with another key: the node that had it was removed, and its data directory is of no use \
         any more; start with an empty one and a new join token"
    )]
    Key,
}

impl Rejection {
    /// For counting.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Wire { .. } => "wire",
            Self::Cluster => "cluster",
            Self::Node { .. } => "node",
            Self::NotMember => "not_member",
            Self::Certificate => "certificate",
            Self::Busy => "busy",
            Self::Key => "key",
        }
    }
}

/// Oldest and newest version that is spoken in a cluster of this level.
pub(super) const fn spoken(level: u16) -> (u16, u16) {
    let (oldest, newest) = WIRE;
    (if level > oldest { level } else { oldest }, newest)
}

/// The version of the wire that both sides use, in a cluster of this level.
pub(super) fn agree(other: (u16, u16), level: u16) -> Result<u16, Rejection> {
    let (oldest, newest) = spoken(level);
    let wire = newest.min(other.1);
    if wire < oldest.max(other.0) { Err(Rejection::Wire { oldest, newest }) } else { Ok(wire) }
}

impl Hello {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(HELLO, VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(HELLO, bytes)
    }
}

impl Answer {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(ANSWER, VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(ANSWER, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::{fuzz, keeps_its_form};

    #[test]
    fn the_bytes_of_version_1_are_fixed() {
        let hello = Hello {
            wire: (1, 2),
            lane: Lane::Snapshot,
            cluster: [0xab; 16],
            from: 3,
            to: 4,
            incarnation: 5,
            build: "0.1".to_owned(),
        };
        let bytes = hello.encode().unwrap();
        let golden = concat!(
            "600100",
            "01000200",
            "02000000",
            "abababababababababababababababab",
            "0300000000000000",
            "0400000000000000",
            "0500000000000000",
            "0300000000000000302e31",
        );
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(Hello::decode(&bytes).unwrap(), hello);
        let welcome = Answer::Welcome { wire: 1, node: 4, incarnation: 9, build: String::new() };
        let bytes = welcome.encode().unwrap();
        assert_eq!(
            hex::encode(&bytes),
            "61010000000000010004000000000000000900000000000000".to_owned() + "0000000000000000"
        );
        assert_eq!(Answer::decode(&bytes).unwrap(), welcome);
        let bytes = Answer::Refused(Rejection::NotMember).encode().unwrap();
        assert_eq!(hex::encode(&bytes), "6101000100000003000000");
    }

    #[test]
    fn two_builds_use_the_newest_common_version_or_part() {
        assert_eq!(agree((2, 2), 0), Ok(2));
        assert_eq!(agree((1, 9), 0), Ok(3));
        assert_eq!(agree((4, 9), 0), Err(Rejection::Wire { oldest: 2, newest: 3 }));
        assert_eq!(agree((1, 1), 0), Err(Rejection::Wire { oldest: 2, newest: 3 }));
    }

    #[test]
    fn what_is_below_the_level_of_the_cluster_is_not_spoken() {
        assert_eq!(agree((2, 2), 2), Ok(2));
        assert_eq!(agree((2, 2), 3), Err(Rejection::Wire { oldest: 3, newest: 3 }));
        assert_eq!(agree((2, 3), 3), Ok(3));
        // This build is the one that is too old.
        assert_eq!(agree((4, 4), 4), Err(Rejection::Wire { oldest: 4, newest: 3 }));
    }

    #[test]
    fn any_bytes_as_a_hello_or_its_answer() {
        let build = "0.1".to_owned();
        let hello = Hello {
            wire: (1, 2),
            lane: Lane::Join,
            cluster: [7; 16],
            from: 3,
            to: 0,
            incarnation: 5,
            build: build.clone(),
        };
        let seeds = [
            hello.encode().expect("encodes"),
            Answer::Welcome { wire: 1, node: 4, incarnation: 9, build }.encode().expect("encodes"),
            Answer::Refused(Rejection::Wire { oldest: 1, newest: 2 }).encode().expect("encodes"),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        fuzz("hello", &seeds, |bytes| {
            let agreed = Hello::decode(bytes).map(|hello| agree(hello.wire, 0));
            if let Ok(Ok(wire)) = agreed {
                assert!((WIRE.0..=WIRE.1).contains(&wire));
            }
            let ways = [
                keeps_its_form(bytes, Hello::decode, |hello| hello.encode().expect("encodes")),
                keeps_its_form(bytes, Answer::decode, |answer| answer.encode().expect("encodes")),
            ];
            format!("{} {}", ways.join(" "), matches!(agreed, Ok(Ok(_))))
        });
    }
}
