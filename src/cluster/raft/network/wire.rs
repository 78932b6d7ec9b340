//! What crosses the raft and the snapshot lane: own, versioned forms of openraft's messages.
//!
//! A message is `length of head (4, little endian) ‖ head ‖ entries`; an entry is the bytes that also stand in the
//! write-ahead log. Architecture invariant: append-only, held by golden bytes.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::kernel::codec::{self, CodecError};
use crate::storage::types::{LeaderId, LogId, TypeConfig, Vote};
use crate::storage::wal::{decode_entry, encode_entry};

const REQUEST: u8 = 0x62;
const REPLY: u8 = 0x63;
const OFFER: u8 = 0x64;
const SNAPSHOT_REPLY: u8 = 0x65;
const VERSION: u16 = 1;

type VoteRequestOf = VoteRequest<TypeConfig>;
type VoteResponseOf = VoteResponse<TypeConfig>;
type Append = AppendEntriesRequest<TypeConfig>;
type Appended = StreamAppendResult<TypeConfig>;
type Transfer = TransferLeaderRequest<TypeConfig>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LogIdV1 {
    term: u64,
    node: u64,
    index: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<LogId> for LogIdV1 {
    fn from(id: LogId) -> Self {
        let leader = id.committed_leader_id();
        Self { term: leader.term, node: leader.node_id, index: id.index() }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        Self::new(LeaderId { term: id.term, node_id: id.node }, id.index)
    }
}

impl From<Vote> for VoteV1 {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteV1> for Vote {
    fn from(vote: VoteV1) -> Self {
        if vote.committed { Self::new_committed(vote.term, vote.node) } else { Self::new(vote.term, vote.node) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// Named by the reply.
    id: u64,
    shard: u16,
    body: Body,
}

#[derive(Debug, Serialize, Deserialize)]
enum Body {
    PreVote { vote: VoteV1, last: Option<LogIdV1>, transfer: bool },
    Vote { vote: VoteV1, last: Option<LogIdV1>, transfer: bool },
    Append { stream: u64, vote: VoteV1, prev: Option<LogIdV1>, commit: Option<LogIdV1>, entries: Vec<u32> },
    EndOfStream { stream: u64 },
    Transfer { from: VoteV1, to: u64, last: Option<LogIdV1> },
}

/// A message of the raft lane, from the side that dialed.
#[derive(Debug)]
pub(super) struct Request {
    pub id: u64,
    pub shard: u16,
    pub call: Call,
}

#[derive(Debug)]
pub(super) enum Call {
    PreVote(VoteRequestOf),
    Vote(VoteRequestOf),
    /// Appends of one stream take effect in the order they are sent; stream 0 is each for itself.
    Append {
        stream: u64,
        append: Append,
    },
    /// Nothing more comes on this stream.
    EndOfStream {
        stream: u64,
    },
    Transfer(Transfer),
}

impl Request {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut entries = Vec::new();
        let body = match &self.call {
            Call::PreVote(VoteRequest { vote, last_log_id, leadership_transfer: transfer }) => {
                Body::PreVote { vote: (*vote).into(), last: last_log_id.map(Into::into), transfer: *transfer }
            }
            Call::Vote(VoteRequest { vote, last_log_id, leadership_transfer: transfer }) => {
                Body::Vote { vote: (*vote).into(), last: last_log_id.map(Into::into), transfer: *transfer }
            }
            Call::Append { stream, append } => {
                for entry in &append.entries {
                    entries.push(encode_entry(entry)?);
                }
                Body::Append {
                    stream: *stream,
                    vote: append.vote.into(),
                    prev: append.prev_log_id.map(Into::into),
                    commit: append.leader_commit.map(Into::into),
                    entries: entries.iter().map(|entry| u32::try_from(entry.len()).unwrap_or(u32::MAX)).collect(),
                }
            }
            Call::EndOfStream { stream } => Body::EndOfStream { stream: *stream },
            Call::Transfer(request) => Body::Transfer {
                from: (*request.from_leader()).into(),
                to: *request.to_node_id(),
                last: request.last_log_id().copied().map(Into::into),
            },
        };
        let head = codec::encode_record(REQUEST, VERSION, &Head { id: self.id, shard: self.shard, body })?;
        let bytes: usize = entries.iter().map(|entry| entry.len()).sum();
        let mut message = Vec::with_capacity(4 + head.len() + bytes);
        message.extend_from_slice(&u32::try_from(head.len()).map_err(|_| CodecError::Short)?.to_le_bytes());
        message.extend_from_slice(&head);
        entries.iter().for_each(|entry| message.extend_from_slice(entry));
        Ok(message)
    }

    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let (length, rest) = message.split_first_chunk::<4>().ok_or(CodecError::Short)?;
        let (head, mut bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(CodecError::Short)?;
        let Head { id, shard, body } = codec::decode_record(REQUEST, head)?;
        let vote_request = |vote: VoteV1, last: Option<LogIdV1>, transfer| VoteRequest {
            vote: vote.into(),
            last_log_id: last.map(Into::into),
            leadership_transfer: transfer,
        };
        let call = match body {
            Body::PreVote { vote, last, transfer } => Call::PreVote(vote_request(vote, last, transfer)),
            Body::Vote { vote, last, transfer } => Call::Vote(vote_request(vote, last, transfer)),
            Body::Append { stream, vote, prev, commit, entries: lengths } => {
                let mut entries = Vec::new();
                for length in lengths {
                    let (entry, rest) = bytes.split_at_checked(length as usize).ok_or(CodecError::Short)?;
                    entries.push(decode_entry(entry)?);
                    bytes = rest;
                }
                let (prev_log_id, leader_commit) = (prev.map(Into::into), commit.map(Into::into));
                Call::Append {
                    stream,
                    append: AppendEntriesRequest { vote: vote.into(), prev_log_id, entries, leader_commit },
                }
            }
            Body::EndOfStream { stream } => Call::EndOfStream { stream },
            Body::Transfer { from, to, last } => {
                Call::Transfer(TransferLeaderRequest::new(from.into(), to, last.map(Into::into)))
            }
        };
        if !bytes.is_empty() {
            return Err(CodecError::Invalid { kind: REQUEST, what: format!("{} bytes too many", bytes.len()) });
        }
        Ok(Self { id, shard, call })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ReplyV1 {
    id: u64,
    body: ReplyBody,
}

#[derive(Debug, Serialize, Deserialize)]
enum ReplyBody {
    Voted { vote: VoteV1, granted: bool, last: Option<LogIdV1> },
    Appended { upto: Option<LogIdV1> },
    Conflict { at: LogIdV1 },
    HigherVote { vote: VoteV1 },
    Transferred,
    VoteChanged { expected: VoteV1, actual: VoteV1 },
    NotFlushed { expected: Option<LogIdV1>, actual: Option<LogIdV1> },
    Failed { why: String },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Voted(VoteResponseOf),
    Appended(Appended),
    Transferred(TransferLeaderResponse<TypeConfig>),
    /// The shard is not there, or has stopped.
    Failed(String),
}

impl Reply {
    pub fn encode(&self, id: u64) -> Result<Vec<u8>, CodecError> {
        let body = match self {
            Self::Voted(VoteResponse { vote, vote_granted: granted, last_log_id }) => {
                ReplyBody::Voted { vote: (*vote).into(), granted: *granted, last: last_log_id.map(Into::into) }
            }
            Self::Appended(Ok(upto)) => ReplyBody::Appended { upto: upto.map(Into::into) },
            Self::Appended(Err(StreamAppendError::Conflict(at))) => ReplyBody::Conflict { at: (*at).into() },
            Self::Appended(Err(StreamAppendError::HigherVote(vote))) => ReplyBody::HigherVote { vote: (*vote).into() },
            Self::Transferred(Ok(())) => ReplyBody::Transferred,
            Self::Transferred(Err(TransferLeaderError::VoteChanged { expected, actual })) => {
                ReplyBody::VoteChanged { expected: (*expected).into(), actual: (*actual).into() }
            }
            Self::Transferred(Err(TransferLeaderError::LogNotFlushed { expected, actual })) => {
                ReplyBody::NotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) }
            }
            Self::Failed(why) => ReplyBody::Failed { why: why.clone() },
        };
        codec::encode_record(REPLY, VERSION, &ReplyV1 { id, body })
    }

    pub fn decode(message: &[u8]) -> Result<(u64, Self), CodecError> {
        let ReplyV1 { id, body } = codec::decode_record(REPLY, message)?;
        let reply = match body {
            ReplyBody::Voted { vote, granted, last } => Self::Voted(VoteResponse {
                vote: vote.into(),
                vote_granted: granted,
                last_log_id: last.map(Into::into),
            }),
            ReplyBody::Appended { upto } => Self::Appended(Ok(upto.map(Into::into))),
            ReplyBody::Conflict { at } => Self::Appended(Err(StreamAppendError::Conflict(at.into()))),
            ReplyBody::HigherVote { vote } => Self::Appended(Err(StreamAppendError::HigherVote(vote.into()))),
            ReplyBody::Transferred => Self::Transferred(Ok(())),
            ReplyBody::VoteChanged { expected, actual } => Self::Transferred(Err(TransferLeaderError::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            })),
            ReplyBody::NotFlushed { expected, actual } => Self::Transferred(Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            })),
            ReplyBody::Failed { why } => Self::Failed(why),
        };
        Ok((id, reply))
    }
}

/// The first message of a snapshot stream: what is offered. The file's content is the shard's own format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub shard: u16,
    pub vote: VoteV1,
    /// Names the file together with length and checksum, so that an interrupted transfer goes on where it stopped.
    pub index: u64,
    pub bytes: u64,
    pub crc32c: u32,
}

/// What the receiver of a snapshot answers, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotReply {
    /// The file is wanted from this byte on.
    From {
        offset: u64,
    },
    /// It is installed (or not needed); the receiver's vote.
    Installed {
        vote: VoteV1,
    },
    Failed {
        why: String,
    },
}

impl Offer {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(OFFER, VERSION, self)
    }

    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(OFFER, message)
    }
}

impl SnapshotReply {
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(SNAPSHOT_REPLY, VERSION, self)
    }

    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(SNAPSHOT_REPLY, message)
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
