use openraft::EntryPayload;

use super::*;
use crate::kernel::fuzz_tests::{fuzz, keeps_its_form};
use crate::kernel::{Op, Timestamp};
use crate::storage::types::{Entry, ShardCommand};

fn log_id(index: u64) -> LogId {
    LogIdV1 { term: 2, node: 1, index }.into()
}

const LOG_ID: &str = "0200000000000000 0100000000000000";

fn golden(parts: &[&str]) -> String {
    parts.concat().replace(' ', "")
}

fn check_request(call: Call, expected: &[&str]) {
    let bytes = Request { id: 7, shard: 3, call }.encode().expect("encodes");
    let head = ["620100 0700000000000000 0300"].iter().chain(expected).copied().collect::<Vec<_>>();
    assert_eq!(hex::encode(&bytes[4..]), golden(&head));
    let decoded = Request::decode(&bytes).expect("decodes");
    assert_eq!((decoded.id, decoded.shard), (7, 3));
    assert_eq!(decoded.encode().expect("encodes"), bytes);
    assert!(Request::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(Request::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn the_bytes_of_requests_of_version_1_are_fixed() {
    let vote = VoteRequest { vote: Vote::new(5, 2), last_log_id: Some(log_id(9)), leadership_transfer: true };
    let vote_bytes = ["0500000000000000 0200000000000000 00 01", LOG_ID, "0900000000000000 01"];
    check_request(Call::PreVote(vote.clone()), &["00000000", &vote_bytes.concat()]);
    check_request(Call::Vote(vote), &["01000000", &vote_bytes.concat()]);
    let ops = vec![Op::Expire { before: Timestamp::default() }];
    let entry = Entry { log_id: log_id(10), payload: EntryPayload::Normal(ShardCommand { ops }) };
    let entry_bytes = hex::encode(encode_entry(&entry).expect("encodes"));
    let append = AppendEntriesRequest {
        vote: Vote::new_committed(2, 1),
        prev_log_id: Some(log_id(9)),
        entries: vec![entry],
        leader_commit: None,
    };
    let length = format!("{:02x}000000", entry_bytes.len() / 2);
    let expected = [
        "02000000 0400000000000000 0200000000000000 0100000000000000 01 01",
        LOG_ID,
        "0900000000000000 00 0100000000000000",
        &length,
        &entry_bytes,
    ];
    check_request(Call::Append { stream: 4, append }, &expected);
    check_request(Call::EndOfStream { stream: 4 }, &["03000000 0400000000000000"]);
    let transfer = TransferLeaderRequest::new(Vote::new_committed(2, 1), 3, None);
    check_request(Call::Transfer(transfer), &["04000000 0200000000000000 0100000000000000 01 0300000000000000 00"]);
}

fn check_reply(reply: Reply, expected: &[&str]) {
    let bytes = reply.encode(7).expect("encodes");
    assert_eq!(hex::encode(&bytes), golden(&[&["630100 0700000000000000"][..], expected].concat()));
    assert_eq!(Reply::decode(&bytes).expect("decodes"), (7, reply));
}

#[test]
fn the_bytes_of_replies_of_version_1_are_fixed() {
    let vote = VoteResponse { vote: Vote::new(5, 2), vote_granted: true, last_log_id: None };
    check_reply(Reply::Voted(vote), &["00000000 0500000000000000 0200000000000000 00 01 00"]);
    check_reply(Reply::Appended(Ok(Some(log_id(9)))), &["01000000 01", LOG_ID, "0900000000000000"]);
    let conflict = Reply::Appended(Err(StreamAppendError::Conflict(log_id(9))));
    check_reply(conflict, &["02000000", LOG_ID, "0900000000000000"]);
    let higher = Reply::Appended(Err(StreamAppendError::HigherVote(Vote::new(5, 2))));
    check_reply(higher, &["03000000 0500000000000000 0200000000000000 00"]);
    check_reply(Reply::Transferred(Ok(())), &["04000000"]);
    let changed = TransferLeaderError::VoteChanged { expected: Vote::new(5, 2), actual: Vote::new(6, 3) };
    check_reply(
        Reply::Transferred(Err(changed)),
        &["05000000 0500000000000000 0200000000000000 00 0600000000000000 0300000000000000 00"],
    );
    let behind = TransferLeaderError::LogNotFlushed { expected: Some(log_id(9)), actual: None };
    check_reply(Reply::Transferred(Err(behind)), &["06000000 01", LOG_ID, "0900000000000000 00"]);
    check_reply(Reply::Failed("x".to_owned()), &["07000000 0100000000000000 78"]);
}

#[test]
fn the_bytes_of_the_snapshot_lane_of_version_1_are_fixed() {
    let offer = Offer { shard: 3, vote: Vote::new(5, 2).into(), index: 8, bytes: 9, crc32c: 10 };
    let bytes = offer.encode().expect("encodes");
    let expected = "640100 0300 0500000000000000 0200000000000000 00 0800000000000000 0900000000000000 0a000000";
    assert_eq!(hex::encode(&bytes), golden(&[expected]));
    assert_eq!(Offer::decode(&bytes).expect("decodes"), offer);
    for (reply, expected) in [
        (SnapshotReply::From { offset: 4 }, "650100 00000000 0400000000000000"),
        (
            SnapshotReply::Installed { vote: Vote::new(5, 2).into() },
            "650100 01000000 0500000000000000 0200000000000000 00",
        ),
        (SnapshotReply::Failed { why: "x".to_owned() }, "650100 02000000 0100000000000000 78"),
    ] {
        let bytes = reply.encode().expect("encodes");
        assert_eq!(hex::encode(&bytes), golden(&[expected]));
        assert_eq!(SnapshotReply::decode(&bytes).expect("decodes"), reply);
    }
}

#[test]
fn any_bytes_as_messages_of_the_raft_and_snapshot_lanes() {
    let request = |call| Request { id: 7, shard: 3, call }.encode().expect("encodes");
    let entry = |index| {
        let ops = vec![Op::Expire { before: Timestamp::default() }];
        Entry { log_id: log_id(index), payload: EntryPayload::Normal(ShardCommand { ops }) }
    };
    let append = AppendEntriesRequest {
        vote: Vote::new_committed(2, 1),
        prev_log_id: Some(log_id(9)),
        entries: vec![entry(10), entry(11)],
        leader_commit: Some(log_id(8)),
    };
    let vote = VoteRequest { vote: Vote::new(5, 2), last_log_id: Some(log_id(9)), leadership_transfer: true };
    let offer = Offer { shard: 1, vote: Vote::new(5, 2).into(), index: 9, bytes: 1 << 20, crc32c: 7 };
    let seeds = [
        request(Call::Append { stream: 4, append }),
        request(Call::PreVote(vote)),
        request(Call::EndOfStream { stream: 4 }),
        Reply::Failed("x".to_owned()).encode(7).expect("encodes"),
        Reply::Appended(Ok(Some(log_id(9)))).encode(7).expect("encodes"),
        offer.encode().expect("encodes"),
        SnapshotReply::From { offset: 5 }.encode().expect("encodes"),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    fuzz("raft-lane", &seeds, |bytes| {
        let ways = [
            keeps_its_form(bytes, Request::decode, |request| request.encode().expect("encodes")),
            keeps_its_form(bytes, Reply::decode, |(id, reply)| reply.encode(*id).expect("encodes")),
            keeps_its_form(bytes, Offer::decode, |offer| offer.encode().expect("encodes")),
            keeps_its_form(bytes, SnapshotReply::decode, |reply| reply.encode().expect("encodes")),
        ];
        ways.join(" ")
    });
}
