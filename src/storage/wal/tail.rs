//! What stands after the last valid frame of a segment: nothing, the torn end of a write that nobody was told of, or
//! what is left of a record that was acknowledged.
//!
//! A segment's space reads as zeros until it is written, and a disk writes whole sectors. So of a torn write some
//! sectors are missing, and a missing sector is zeros; a record of which every sector is there and which still fails its
//! checksum was damaged later. A file that is shorter than its header says was cut off later. Both are refused: what
//! they held may have been acknowledged. The one thing that cannot be told apart is a damaged record that itself holds a
//! sector of zeros and is the very last one written before a crash.

use super::frame::{self, Frame, HEADER_BYTES, Kind};
use super::queue::NO_GROUP;

const SECTOR: usize = 512;
/// Bytes of a frame's head that are not zero, by chance, at least.
const FEWEST_WRITTEN: usize = 3;
/// Zeros that a body may end in.
const MOST_TRAILING_ZEROS: usize = 64;

/// The bytes from the end of the last valid frame on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// Never written.
    Empty,
    /// The torn end of the last write; so many bytes.
    Torn(u64),
    /// The mark that the segment ends here, itself damaged: nothing is lost with it.
    Seal,
    /// A record that had been written whole.
    Damaged(String),
}

/// Judges what follows `end` in a segment whose last valid frame was part of a write begun at `last_batch`.
#[must_use]
pub fn judge(segment: &[u8], end: u32, last_batch: u32, salt: u64) -> Tail {
    let rest = segment.get(end as usize..).unwrap_or_default();
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Tail::Empty };
    let torn = Tail::Torn(last as u64 + 1);
    if let Some(later) = frame::proof_of_sync(segment, end, salt) {
        return Tail::Damaged(format!(
            "a record is damaged; it was durable, for a later write stands at offset {later}"
        ));
    }
    if is_seal(rest, end, last_batch, salt) {
        return Tail::Seal;
    }
    let Some(head) = rest.first_chunk::<HEADER_BYTES>() else { return torn };
    if written(head) < FEWEST_WRITTEN || head_is_torn(head, end) {
        return torn;
    }
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let batch = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
    let known = Kind::from_byte(head[10]).is_some() && head[11] == 0 && (batch == end || batch == last_batch);
    if !known {
        return Tail::Damaged("the head of a record is damaged".to_owned());
    }
    let missing = has_missing_sector(rest, end, HEADER_BYTES + length) || HEADER_BYTES + length > last + SECTOR;
    if missing && !length_is_damaged(segment, rest, end, last, salt) {
        return torn;
    }
    Tail::Damaged("a record is damaged; all of it had been written".to_owned())
}

fn written(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte != 0).count()
}

/// Whether the head stands in two sectors, and one of them is missing.
fn head_is_torn(head: &[u8; HEADER_BYTES], end: u32) -> bool {
    let in_first = SECTOR - end as usize % SECTOR;
    in_first < HEADER_BYTES && (written(&head[..in_first]) == 0 || written(&head[in_first..]) == 0)
}

/// Whether the seal that belongs here stands here with a few bytes changed.
fn is_seal(rest: &[u8], end: u32, last_batch: u32, salt: u64) -> bool {
    let Some(found) = rest.first_chunk::<HEADER_BYTES>() else { return false };
    let nothing_follows = rest[HEADER_BYTES..].iter().all(|byte| *byte == 0);
    let near = |batch| {
        let mut seal = Vec::new();
        frame::put(&mut seal, salt, &Frame { offset: end, batch, group: NO_GROUP, kind: Kind::Seal, body: &[] });
        seal.iter().zip(found).filter(|(wanted, found)| wanted != found).count() <= 4
    };
    nothing_follows && (near(end) || near(last_batch))
}

/// Whether a sector of the frame of `size` bytes at the beginning of `rest` holds nothing but zeros.
fn has_missing_sector(rest: &[u8], end: u32, size: usize) -> bool {
    let frame = &rest[..size.min(rest.len())];
    let (first, others) = frame.split_at((SECTOR - end as usize % SECTOR).min(frame.len()));
    std::iter::once(first).chain(others.chunks(SECTOR)).any(|piece| written(piece) == 0)
}

/// Whether the record is valid with another length than its head says: then all of it is there.
fn length_is_damaged(segment: &[u8], rest: &[u8], end: u32, last: usize, salt: u64) -> bool {
    let next = frame::next_valid(segment, end, salt).map(|next| (next - end) as usize);
    let (from, to) = match next {
        Some(next) => (next.saturating_sub(HEADER_BYTES + 7), next.saturating_sub(HEADER_BYTES)),
        None => {
            ((last + 1).saturating_sub(HEADER_BYTES), (last + 1 + MOST_TRAILING_ZEROS).saturating_sub(HEADER_BYTES))
        }
    };
    let mut copy = rest[..(HEADER_BYTES + to).min(rest.len())].to_vec();
    (from..=to).any(|length| {
        let Ok(bytes) = u32::try_from(length) else { return false };
        copy[4..8].copy_from_slice(&bytes.to_le_bytes());
        frame::parse(&copy, end, salt).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x1234_5678_9abc_def1;
    const SPACE: usize = 16 << 10;

    /// A first write of one small record, and a last one of `bodies`; where the last one begins and ends.
    fn segment(bodies: &[usize]) -> (Vec<u8>, u32, u32) {
        let mut bytes = vec![0; 48];
        let put = |bytes: &mut Vec<u8>, batch, body: &[u8]| {
            let offset = u32::try_from(bytes.len()).expect("small");
            frame::put(bytes, SALT, &Frame { offset, batch, group: 3, kind: Kind::Append, body });
        };
        put(&mut bytes, 48, &[7; 100]);
        let start = u32::try_from(bytes.len()).expect("small");
        for size in bodies {
            put(&mut bytes, start, &(0..*size).map(|at| (at % 250) as u8 + 1).collect::<Vec<_>>());
        }
        let end = u32::try_from(bytes.len()).expect("small");
        bytes.resize(SPACE, 0);
        (bytes, start, end)
    }

    #[test]
    fn a_write_that_misses_sectors_is_torn() {
        for bodies in [&[300][..], &[5000], &[600, 700, 5000]] {
            let (whole, start, end) = segment(bodies);
            let sectors = start as usize / SECTOR..=(end as usize - 1) / SECTOR;
            for missing in sectors {
                let mut bytes = whole.clone();
                // The first sector also holds the end of the write before, which was synced.
                let from = (missing * SECTOR).max(start as usize);
                bytes[from..((missing + 1) * SECTOR).min(end as usize)].fill(0);
                let (valid, batch) = valid_end(&bytes);
                assert!(
                    matches!(judge(&bytes, valid, batch, SALT), Tail::Torn(_) | Tail::Empty),
                    "{bodies:?} {missing}"
                );
            }
        }
    }

    fn valid_end(bytes: &[u8]) -> (u32, u32) {
        let (mut end, mut batch) = (48, 48);
        while let Some(frame) = frame::parse(&bytes[end as usize..], end, SALT) {
            (end, batch) = (frame.end(), frame.batch);
        }
        (end, batch)
    }

    #[test]
    fn a_written_record_with_one_byte_changed_is_damaged() {
        for bodies in [&[300][..], &[5000], &[600, 700, 1800]] {
            let (whole, start, end) = segment(bodies);
            for at in start as usize..end as usize {
                for change in [0x01, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= change;
                    let (valid, batch) = valid_end(&bytes);
                    if valid < end {
                        let tail = judge(&bytes, valid, batch, SALT);
                        assert!(matches!(tail, Tail::Damaged(_)), "{bodies:?}: byte {at} ^ {change:#x} gives {tail:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_changed_bit_in_space_never_written_is_nothing() {
        let (whole, _, end) = segment(&[300]);
        for at in [end as usize, end as usize + 9, SPACE - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let (valid, batch) = valid_end(&bytes);
            assert!(matches!(judge(&bytes, valid, batch, SALT), Tail::Torn(_)), "byte {at}");
        }
    }

    #[test]
    fn a_damaged_seal_loses_nothing() {
        let (mut whole, start, end) = segment(&[300]);
        whole.truncate(end as usize);
        frame::put(&mut whole, SALT, &Frame { offset: end, batch: end, group: NO_GROUP, kind: Kind::Seal, body: &[] });
        for at in end as usize..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            assert_eq!(judge(&bytes, end, start, SALT), Tail::Seal, "byte {at}");
        }
    }
}
