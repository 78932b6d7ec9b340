//! The bodies of records: own, versioned forms of openraft's types, written through [`kernel::codec`](crate::kernel::codec).
//!
//! openraft's own serde forms rely on defaults for missing fields, which the codec cannot skip, and may change with
//! any release of it; these are append-only and held by golden bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{BasicNode, EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use crate::kernel::codec::{self, CodecError};
use crate::storage::types::{Entry, LeaderId, LogId, ShardCommand, Vote};

/// Codec kinds of the bodies. On disk: never reuse one.
const LOG_ID: u8 = 0x21;
const VOTE: u8 = 0x22;
const ENTRY: u8 = 0x23;
const STATE: u8 = 0x24;
const FREED: u8 = 0x25;
const EMPTIED: u8 = 0x26;
const VERSION: u16 = 1;
/// Of [`STATE`]: the second one has a mark.
const STATE_VERSION: u16 = 2;

/// Encoded length of [`LogIdV1`]: with it an entry's log id is read without decoding the entry.
const LOG_ID_BYTES: usize = 24;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct LogIdV1 {
    term: u64,
    node: u64,
    index: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct MembershipV1 {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, String>,
}

#[derive(Debug, Deserialize)]
struct EntryV1 {
    log_id: LogIdV1,
    payload: PayloadV1,
}

#[derive(Debug, Deserialize)]
enum PayloadV1 {
    Blank,
    Normal(ShardCommand),
    Membership(MembershipV1),
}

/// As [`EntryV1`], without taking the entry apart.
#[derive(Debug, Serialize)]
struct EntryV1Ref<'a> {
    log_id: LogIdV1,
    payload: PayloadV1Ref<'a>,
}

#[derive(Debug, Serialize)]
enum PayloadV1Ref<'a> {
    Blank,
    Normal(&'a ShardCommand),
    Membership(MembershipV1),
}

#[derive(Debug, Serialize, Deserialize)]
struct StateV1 {
    vote: Option<VoteV1>,
    committed: Option<LogIdV1>,
    purged: Option<LogIdV1>,
}

/// Of groups that were emptied; others are written as version 1.
#[derive(Debug, Serialize, Deserialize)]
struct StateV2 {
    state: StateV1,
    emptied: MarkV1,
}

#[derive(Debug, Serialize, Deserialize)]
struct MarkV1 {
    upto: Option<LogIdV1>,
    unfinished: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct EmptiedV1 {
    vote: Option<VoteV1>,
    mark: MarkV1,
}

impl From<&LogId> for LogIdV1 {
    fn from(id: &LogId) -> Self {
        let leader = id.committed_leader_id();
        Self { term: leader.term, node: leader.node_id, index: id.index() }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        Self::new(LeaderId { term: id.term, node_id: id.node }, id.index)
    }
}

impl From<&Vote> for VoteV1 {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteV1> for Vote {
    fn from(vote: VoteV1) -> Self {
        if vote.committed { Self::new_committed(vote.term, vote.node) } else { Self::new(vote.term, vote.node) }
    }
}

impl From<&Mark> for MarkV1 {
    fn from(mark: &Mark) -> Self {
        Self { upto: mark.upto.as_ref().map(LogIdV1::from), unfinished: mark.unfinished }
    }
}

impl From<MarkV1> for Mark {
    fn from(mark: MarkV1) -> Self {
        Self { upto: mark.upto.map(LogId::from), unfinished: mark.unfinished }
    }
}

/// What a replica that was emptied had confirmed at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last entry that it ever had.
    pub upto: Option<LogId>,
    /// Whether what the log was applied to may still be there.
    pub unfinished: bool,
}

/// What a group has besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub emptied: Option<Mark>,
}

fn encode<T: Serialize>(kind: u8, value: &T) -> Result<Bytes, CodecError> {
    codec::encode_record(kind, VERSION, value).map(Bytes::from)
}

/// # Errors
/// [`CodecError::Encode`], here and below, when the record passes the codec's limit.
pub fn encode_entry(entry: &Entry) -> Result<Bytes, CodecError> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadV1Ref::Blank,
        EntryPayload::Normal(command) => PayloadV1Ref::Normal(command),
        EntryPayload::Membership(membership) => PayloadV1Ref::Membership(MembershipV1 {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }),
    };
    encode(ENTRY, &EntryV1Ref { log_id: (&entry.log_id).into(), payload })
}

/// # Errors
/// [`CodecError`], here and below, when the bytes are not such a record, or of a version from the future.
pub fn decode_entry(body: &[u8]) -> Result<Entry, CodecError> {
    let EntryV1 { log_id, payload } = codec::decode_record(ENTRY, body)?;
    let payload = match payload {
        PayloadV1::Blank => EntryPayload::Blank,
        PayloadV1::Normal(command) => EntryPayload::Normal(command),
        PayloadV1::Membership(MembershipV1 { configs, nodes }) => {
            let nodes: BTreeMap<u64, BasicNode> =
                nodes.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
            let membership = Membership::new(configs, nodes)
                .map_err(|error| CodecError::Invalid { kind: ENTRY, what: error.to_string() })?;
            EntryPayload::Membership(membership)
        }
    };
    Ok(Entry { log_id: log_id.into(), payload })
}

/// The log id of an encoded entry.
pub fn entry_log_id(body: &[u8]) -> Result<LogId, CodecError> {
    let (_, record) = codec::open_record(ENTRY, VERSION, body)?;
    let head = record.get(..LOG_ID_BYTES).ok_or(CodecError::Short)?;
    codec::decode::<LogIdV1>(head).map(LogId::from)
}

pub fn encode_vote(vote: &Vote) -> Result<Bytes, CodecError> {
    encode(VOTE, &VoteV1::from(vote))
}

pub fn decode_vote(body: &[u8]) -> Result<Vote, CodecError> {
    codec::decode_record::<VoteV1>(VOTE, body).map(Vote::from)
}

/// The log id of a truncation, a purge or a commit; none is the beginning of the log.
pub fn encode_log_id(id: Option<&LogId>) -> Result<Bytes, CodecError> {
    encode(LOG_ID, &id.map(LogIdV1::from))
}

pub fn decode_log_id(body: &[u8]) -> Result<Option<LogId>, CodecError> {
    codec::decode_record::<Option<LogIdV1>>(LOG_ID, body).map(|id| id.map(LogId::from))
}

pub fn encode_state(state: &State) -> Result<Bytes, CodecError> {
    let State { vote, committed, purged, emptied } = state;
    let vote = vote.as_ref().map(VoteV1::from);
    let (committed, purged) = (committed.as_ref().map(LogIdV1::from), purged.as_ref().map(LogIdV1::from));
    let state = StateV1 { vote, committed, purged };
    match emptied {
        None => encode(STATE, &state),
        Some(mark) => {
            codec::encode_record(STATE, STATE_VERSION, &StateV2 { state, emptied: mark.into() }).map(Bytes::from)
        }
    }
}

pub fn decode_state(body: &[u8]) -> Result<State, CodecError> {
    let (version, record) = codec::open_record(STATE, STATE_VERSION, body)?;
    let (state, emptied) = match version {
        VERSION => (codec::decode(record)?, None),
        _ => {
            let StateV2 { state, emptied } = codec::decode(record)?;
            (state, Some(emptied.into()))
        }
    };
    let StateV1 { vote, committed, purged } = state;
    let (committed, purged) = (committed.map(LogId::from), purged.map(LogId::from));
    Ok(State { vote: vote.map(Vote::from), committed, purged, emptied })
}

/// What stays of a group that is emptied: its vote and its mark.
pub fn encode_emptied(vote: Option<&Vote>, mark: &Mark) -> Result<Bytes, CodecError> {
    encode(EMPTIED, &EmptiedV1 { vote: vote.map(VoteV1::from), mark: mark.into() })
}

pub fn decode_emptied(body: &[u8]) -> Result<State, CodecError> {
    let EmptiedV1 { vote, mark } = codec::decode_record(EMPTIED, body)?;
    Ok(State { vote: vote.map(Vote::from), emptied: Some(mark.into()), ..State::default() })
}

/// The highest segment that holds nothing live.
pub fn encode_freed(segment: u64) -> Result<Bytes, CodecError> {
    encode(FREED, &segment)
}

pub fn decode_freed(body: &[u8]) -> Result<u64, CodecError> {
    codec::decode_record(FREED, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Op, Timestamp};

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogIdV1 { term, node, index }.into()
    }

    fn check(payload: EntryPayload<ShardCommand, u64, BasicNode>, golden: &str) {
        let entry = Entry { log_id: log_id(3, 1, 258), payload };
        let bytes = encode_entry(&entry).expect("encodes");
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(decode_entry(&bytes).expect("decodes"), entry);
        assert_eq!(entry_log_id(&bytes).expect("has a log id"), entry.log_id);
    }

    const ENTRY_HEAD: &str = "230100030000000000000001000000000000000201000000000000";

    #[test]
    fn entry_bytes_of_version_1_stay_readable() {
        check(EntryPayload::Blank, &format!("{ENTRY_HEAD}00000000"));
        let ops = vec![Op::Expire { before: Timestamp::default() }];
        check(
            EntryPayload::Normal(ShardCommand { ops }),
            &format!("{ENTRY_HEAD}01000000010000000000000005000000{}", "0000000000000000"),
        );
        let nodes = BTreeMap::from([(1, BasicNode { addr: "a:1".to_owned() })]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).expect("valid");
        check(
            EntryPayload::Membership(membership),
            &format!("{ENTRY_HEAD}02000000{one}{one}{one}{one}{one}0300000000000000613a31", one = "0100000000000000"),
        );
    }

    #[test]
    fn state_bytes_of_version_1_stay_readable() {
        let vote = Vote::new_committed(5, 2);
        let bytes = encode_vote(&vote).expect("encodes");
        assert_eq!(hex::encode(&bytes), "2201000500000000000000020000000000000001");
        assert_eq!(decode_vote(&bytes).expect("decodes"), vote);

        let bytes = encode_log_id(Some(&log_id(1, 2, 3))).expect("encodes");
        assert_eq!(hex::encode(&bytes), "21010001010000000000000002000000000000000300000000000000");
        assert_eq!(decode_log_id(&bytes).expect("decodes"), Some(log_id(1, 2, 3)));
        assert_eq!(hex::encode(encode_log_id(None).expect("encodes")), "21010000");

        let state = State { vote: Some(vote), purged: Some(log_id(1, 2, 3)), ..State::default() };
        let bytes = encode_state(&state).expect("encodes");
        assert_eq!(
            hex::encode(&bytes),
            "24010001050000000000000002000000000000000100010100000000000000020000000000000003".to_owned()
                + "00000000000000"
        );
        assert_eq!(decode_state(&bytes).expect("decodes"), state);

        let mark = Mark { upto: Some(log_id(4, 5, 6)), unfinished: true };
        let marked = State { emptied: Some(mark), ..state };
        let bytes = encode_state(&marked).expect("encodes");
        let head = "24020001050000000000000002000000000000000100010100000000000000020000000000000003".to_owned();
        let tail = "0104000000000000000500000000000000060000000000000001";
        assert_eq!(hex::encode(&bytes), head + "00000000000000" + tail);
        assert_eq!(decode_state(&bytes).expect("decodes"), marked);

        let bytes = encode_emptied(Some(&vote), &mark).expect("encodes");
        assert_eq!(hex::encode(&bytes), "260100010500000000000000020000000000000001".to_owned() + tail);
        let left = State { vote: Some(vote), emptied: Some(mark), ..State::default() };
        assert_eq!(decode_emptied(&bytes).expect("decodes"), left);

        let bytes = encode_freed(9).expect("encodes");
        assert_eq!(hex::encode(&bytes), "2501000900000000000000");
        assert_eq!(decode_freed(&bytes).expect("decodes"), 9);
    }
}
