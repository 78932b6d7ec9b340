use super::super::note::{Checkpoint, Signer};
use super::*;
use crate::kernel::AuditRecord;
use crate::kernel::merkle::leaf_bytes;

const ORIGIN: &str = "example.org";

fn record(index: u64) -> AuditRecord {
    AuditRecord {
        at: Timestamp::from_millis(1_700_000_000_000).plus_seconds(i64::try_from(index).expect("small")),
        actor: format!("usr_{index}"),
        action: "session.create".into(),
        target: "ses_1".into(),
        outcome: "ok".into(),
        source: String::new(),
        request_id: format!("req_{index}"),
    }
}

/// A correct export of logs with these numbers of entries, as lines without their ends.
fn export(sizes: &[u64]) -> Vec<String> {
    let signer = Signer::from_seed(&[5; 32]).expect("a seed");
    let name = |shard: usize| shard_origin(ORIGIN, ShardId(shard as u16));
    let keys = (0..sizes.len()).map(|shard| LogKey {
        shard: shard as u16,
        verifier: Verifier::new(&name(shard), *signer.public_key()).to_text(),
    });
    let mut lines = vec![Header::new(ORIGIN, Timestamp::ZERO, keys.collect()).line()];
    for (shard, size) in sizes.iter().enumerate() {
        let mut peaks = Peaks::default();
        let sign = |size: u64, peaks: &Peaks| {
            let checkpoint = Checkpoint { origin: name(shard), size, root: peaks.root() };
            checkpoint_line(&signer.sign(&checkpoint))
        };
        for index in 0..*size {
            let leaf = leaf_bytes(ShardId(shard as u16), index, &record(index));
            peaks.push(leaf_hash(&leaf));
            lines.push(String::from_utf8(entry_line(&leaf)).expect("text"));
            if (index + 1) % CHECKPOINT_EVERY == 0 && index + 1 < *size {
                lines.push(sign(index + 1, &peaks));
            }
        }
        lines.push(sign(*size, &peaks));
    }
    lines.push(end_line(sizes.iter().sum()));
    lines.iter().map(|line| line.trim_end_matches('\n').to_owned()).collect()
}

fn check(lines: &[String]) -> Result<Verified, VerifyError> {
    verify((lines.join("\n") + "\n").as_bytes(), &[])
}

fn first_bad(lines: &[String]) -> (u64, String) {
    match check(lines) {
        Err(VerifyError::Line { line, reason }) => (line, reason),
        other => panic!("expected a bad line, got {other:?}"),
    }
}

#[test]
fn a_whole_export_verifies() {
    for sizes in [&[0][..], &[1], &[0, 3, 0, 250, 0], &[100, 200]] {
        let verified = check(&export(sizes)).expect("verifies");
        assert_eq!(verified.logs.iter().map(|log| log.entries).collect::<Vec<_>>(), sizes);
        assert_eq!(verified.origin, ORIGIN);
    }
}

#[test]
fn the_first_changed_line_is_named() {
    let lines = export(&[3, 250, 2]);
    for (position, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with(ENTRY_HEAD)) {
        let mut changed = lines.clone();
        changed[position] = line.replace("usr_", "usr-");
        assert_eq!(first_bad(&changed).0, position as u64 + 1);
    }
}

#[test]
fn missing_added_and_moved_lines_are_named() {
    let lines = export(&[3, 250, 2]);
    for position in 1..lines.len() {
        let mut missing = lines.clone();
        missing.remove(position);
        assert_eq!(first_bad(&missing).0, position as u64 + 1);
    }
    for position in 1..lines.len() - 1 {
        let mut twice = lines.clone();
        twice.insert(position, lines[position].clone());
        assert_eq!(first_bad(&twice).0, position as u64 + 2);
        let mut moved = lines.clone();
        moved.swap(position, position + 1);
        assert_eq!(first_bad(&moved).0, position as u64 + 1, "{position}");
    }
}

#[test]
fn a_forger_who_recomputes_leaf_hashes_is_caught_by_the_next_checkpoint() {
    let mut lines = export(&[250]);
    let mut forged = record(150);
    forged.actor = "usr_other".into();
    let leaf = leaf_bytes(ShardId(0), 150, &forged);
    // Header, 100 entries, a checkpoint, then entries 100 to 199 in lines 103 to 202.
    lines[152] = String::from_utf8(entry_line(&leaf)).expect("text").trim_end().to_owned();
    let (line, reason) = first_bad(&lines);
    assert_eq!(line, 103);
    assert!(reason.contains("lines 103 to 202"), "{reason}");
}

#[test]
fn keys_and_ends_are_checked() {
    let lines = export(&[2, 2]);
    let verified = check(&lines).expect("verifies");
    let keys: Vec<String> = verified.logs.iter().map(|log| log.verifier.clone()).collect();
    let file = lines.join("\n") + "\n";
    assert!(verify(file.as_bytes(), &keys).is_ok());
    assert!(verify(file.as_bytes(), &keys[..1]).is_err());
    assert_eq!(first_bad(&lines[..lines.len() - 1]).0, lines.len() as u64);
    assert_eq!(first_bad(&["rubbish".to_owned()]).0, 1);
    assert_eq!(first_bad(&[]).0, 1);
    let mut other_key = lines.clone();
    other_key[0] = lines[0].replace("shard-1+", "shard-9+");
    assert!(first_bad(&other_key).0 > 1);
    let mut longer = lines.clone();
    longer.push(lines[1].clone());
    assert_eq!(first_bad(&longer).0, lines.len() as u64 + 1);
}

#[test]
fn any_bytes_as_an_export() {
    let good = export(&[3, 0, 1]).join("\n").into_bytes();
    let note = export(&[1])[2].clone();
    crate::kernel::fuzz_tests::fuzz("audit-export", &[&good, note.as_bytes()], |bytes| {
        let pinned: Vec<String> = Vec::new();
        match verify(bytes, &pinned) {
            Ok(verified) => {
                let entries: u64 = verified.logs.iter().map(|log| log.entries).sum();
                format!("verified {} logs, {entries} entries", verified.logs.len())
            }
            Err(error) => error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(60).collect(),
        }
    });
}
