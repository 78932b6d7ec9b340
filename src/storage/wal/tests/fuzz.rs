//! Any bytes where the log stands: refused or read, never made up, never a panic.

use std::fs;

use super::*;
use crate::kernel::fuzz_tests::{fuzz, fuzz_costly};
use crate::storage::wal::{frame, record};

const TEXTS: [&str; 4] = ["one", "two", "three", "four"];

#[test]
fn any_bytes_as_a_frame_or_a_record() {
    let body = record::encode_entry(&entry(1, 1, "one")).expect("encodes");
    let mut whole = Vec::new();
    let framed = frame::Frame { offset: 64, batch: 0, group: 1, kind: frame::Kind::Append, body: &body };
    frame::put(&mut whole, 7, &framed);
    let mark = record::Mark { upto: Some(log_id(1, 1)), unfinished: true };
    let marked = record::State { emptied: Some(mark), ..record::State::default() };
    let seeds: [&[u8]; 7] = [
        &whole,
        &body,
        &record::encode_state(&marked).expect("encodes"),
        &record::encode_emptied(None, &mark).expect("encodes"),
        &record::encode_log_id(Some(&log_id(1, 1))).expect("encodes"),
        &record::encode_freed(7).expect("encodes"),
        &[],
    ];
    fuzz("wal-record", &seeds, |bytes| {
        let parsed = frame::parse(bytes, 64, 7);
        if let Some(found) = &parsed {
            let mut again = Vec::new();
            frame::put(&mut again, 7, found);
            let length = frame::HEADER_BYTES + found.body.len();
            assert_eq!(again[..length], bytes[..length], "a frame has one form");
        }
        let proof = frame::proof_of_sync(bytes, 0, 7).is_some();
        let read = [
            record::decode_entry(bytes).map(drop),
            record::decode_vote(bytes).map(drop),
            record::decode_log_id(bytes).map(drop),
            record::decode_state(bytes).map(drop),
            record::decode_emptied(bytes).map(drop),
            record::decode_freed(bytes).map(drop),
            record::entry_log_id(bytes).map(drop),
        ];
        let read = read.map(|outcome| outcome.map_err(|error| error.to_string()));
        format!("{} {proof} {read:?}", parsed.is_some())
    });
}

#[test]
fn any_bytes_as_a_segment_are_refused_or_give_a_beginning_of_what_was_written() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = || WalOptions { segment_bytes: 4 << 10, ..small() };
    let written = tempfile::tempdir().expect("a directory");
    let bytes = runtime.block_on(async {
        let (wal, _) = open(written.path(), options());
        let mut log = wal.group(1);
        for (index, text) in TEXTS.iter().enumerate() {
            append(&mut log, vec![entry(1, index as u64, text)]).await;
        }
        fs::read(segment_files(written.path()).pop().expect("a segment")).expect("readable")
    });
    let name = segment_files(written.path()).pop().expect("a segment").file_name().expect("a name").to_owned();
    let original: Vec<_> = TEXTS.iter().enumerate().map(|(index, text)| entry(1, index as u64, text)).collect();
    fuzz_costly("wal-segment", &[&bytes], |bytes| {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(&name), bytes).expect("writable");
        runtime.block_on(async {
            let (wal, recovered) = match Wal::open(dir.path(), options()) {
                Ok(opened) => opened,
                Err(error) => {
                    let text = error.to_string();
                    return text
                        .rsplit(": ")
                        .next()
                        .unwrap_or_default()
                        .chars()
                        .filter(|c| !c.is_ascii_digit())
                        .collect();
                }
            };
            let found = all(&mut wal.group(1)).await;
            assert_eq!(found, original[..found.len()], "what is read was written");
            format!("{} entries, cut {}", found.len(), recovered.cut.is_some())
        })
    });
}
