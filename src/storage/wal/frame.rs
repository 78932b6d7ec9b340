//! The frame of a record on disk, and how a torn tail is told from corruption.
//!
//! ```text
//! crc u32 | body length u32 | group u16 | kind u8 | 0 u8 | batch u32 | body | zeros up to a multiple of 8
//! ```
//! Integers are little endian. The CRC-32C covers the segment's salt, the frame's offset and everything after the
//! CRC up to the end of the body, so that a frame is valid at its own place in its own segment only; the salt is
//! random, so that no payload can be made to look like a frame.
//!
//! `batch` is the offset at which the write began that this frame was part of. A write begins only after the one
//! before it was synced. Hence the rule of recovery: a valid frame whose `batch` lies beyond a bad frame proves that
//! the bad one had been durable (corruption); without such a frame the bad one is the torn end of the last write.

/// Bytes before the body.
pub const HEADER_BYTES: usize = 16;
const ALIGN: usize = 8;
const PAGE: usize = 4096;

/// What a record says. The numbers are on disk: never reuse one (9 was never written).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A Raft entry at the end of its group's log.
    Append = 1,
    Vote = 2,
    /// Entries after a log id are gone.
    Truncate = 3,
    /// Entries up to a log id are gone.
    Purge = 4,
    Committed = 5,
    /// A copy of a live entry out of a segment about to be freed.
    Moved = 6,
    /// Checkpoint of a group's vote, committed and purged log ids, for the same reason.
    State = 7,
    /// Checkpoint marker: every segment up to a number holds nothing live any more.
    Freed = 8,
    /// The last record of a segment that is written no more.
    Seal = 10,
    /// The group's replica gives back what it held: only its vote and a mark stay.
    Emptied = 11,
}

impl Kind {
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Append,
            2 => Self::Vote,
            3 => Self::Truncate,
            4 => Self::Purge,
            5 => Self::Committed,
            6 => Self::Moved,
            7 => Self::State,
            8 => Self::Freed,
            10 => Self::Seal,
            11 => Self::Emptied,
            _ => return None,
        })
    }
}

/// A valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub offset: u32,
    pub batch: u32,
    pub group: u16,
    pub kind: Kind,
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The offset of the frame that follows.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.offset + size(self.body.len())
    }
}

/// Bytes on disk of a frame with a body of `body_len` bytes.
#[must_use]
pub fn size(body_len: usize) -> u32 {
    let bytes = (HEADER_BYTES + body_len).next_multiple_of(ALIGN);
    u32::try_from(bytes).expect("records are limited by the codec to far below 4 GiB")
}

fn checksum(salt: u64, offset: u32, rest: &[u8]) -> u32 {
    let mut place = [0u8; 12];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), rest)
}

/// Appends a frame to `buffer` that will stand at `offset` of its segment.
pub fn put(buffer: &mut Vec<u8>, salt: u64, frame: &Frame<'_>) {
    let start = buffer.len();
    let length = u32::try_from(frame.body.len()).expect("records are limited by the codec to far below 4 GiB");
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&frame.group.to_le_bytes());
    buffer.extend_from_slice(&[frame.kind as u8, 0]);
    buffer.extend_from_slice(&frame.batch.to_le_bytes());
    buffer.extend_from_slice(frame.body);
    let crc = checksum(salt, frame.offset, &buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    buffer.resize(start + size(frame.body.len()) as usize, 0);
}

/// How many bytes the frame at the beginning of `bytes` says it has, without what follows its body; those of a head where
/// there is none yet.
#[must_use]
pub fn claimed(bytes: &[u8]) -> usize {
    bytes
        .first_chunk::<HEADER_BYTES>()
        .map_or(HEADER_BYTES, |head| HEADER_BYTES + u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize)
}

/// The frame at the beginning of `bytes`, which stand at `offset` of their segment; none unless it is valid.
#[must_use]
pub fn parse(bytes: &[u8], offset: u32, salt: u64) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let kind = Kind::from_byte(header[10])?;
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let batch = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if header[11] != 0 || batch > offset || length > rest.len() {
        return None;
    }
    let crc = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if crc != checksum(salt, offset, &bytes[4..HEADER_BYTES + length]) {
        return None;
    }
    let group = u16::from_le_bytes([header[8], header[9]]);
    Some(Frame { offset, batch, group, kind, body: &rest[..length] })
}

/// A frame after the bad one at `bad` proving that `bad` had been durable: its offset, if there is one.
#[must_use]
pub fn proof_of_sync(segment: &[u8], bad: u32, salt: u64) -> Option<u32> {
    find(segment, bad, salt, |frame| frame.batch > bad)
}

/// The offset of the next valid frame after the bad one at `bad`.
#[must_use]
pub fn next_valid(segment: &[u8], bad: u32, salt: u64) -> Option<u32> {
    find(segment, bad, salt, |frame| frame.offset > bad)
}

fn find(segment: &[u8], bad: u32, salt: u64, wanted: impl Fn(&Frame<'_>) -> bool) -> Option<u32> {
    let mut at = (bad as usize).next_multiple_of(ALIGN);
    while at + HEADER_BYTES <= segment.len() {
        if at.is_multiple_of(PAGE) && segment.get(at..at + PAGE).is_some_and(|page| *page == [0; PAGE]) {
            at += PAGE;
            continue;
        }
        let offset = u32::try_from(at).ok()?;
        if parse(&segment[at..], offset, salt).is_some_and(|frame| wanted(&frame)) {
            return Some(offset);
        }
        at += ALIGN;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 0x5a17_5a17_5a17_5a17;

    fn frame(offset: u32, batch: u32, body: &[u8]) -> Frame<'_> {
        Frame { offset, batch, group: 7, kind: Kind::Append, body }
    }

    #[test]
    fn frame_bytes_stay_what_they_are() {
        let mut bytes = Vec::new();
        put(&mut bytes, SALT, &frame(48, 48, b"abc"));
        assert_eq!(hex::encode(&bytes[4..]), "030000000700010030000000616263".to_owned() + "0000000000");
        assert_eq!(hex::encode(&bytes[..4]), hex::encode(checksum(SALT, 48, &bytes[4..19]).to_le_bytes()));
    }

    #[test]
    fn a_frame_is_valid_at_its_own_place_only() {
        let mut bytes = Vec::new();
        put(&mut bytes, SALT, &frame(48, 48, b"abc"));
        assert_eq!(parse(&bytes, 48, SALT), Some(frame(48, 48, b"abc")));
        assert_eq!(parse(&bytes, 56, SALT), None);
        assert_eq!(parse(&bytes, 48, SALT + 1), None);
        for at in 0..HEADER_BYTES + 3 {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert_eq!(parse(&bad, 48, SALT), None, "bit changed in byte {at}");
        }
        for length in 0..HEADER_BYTES + 3 {
            assert_eq!(parse(&bytes[..length], 48, SALT), None, "cut to {length}");
        }
    }

    #[test]
    fn only_a_later_write_proves_an_earlier_one() {
        let mut segment = vec![0; 48];
        put(&mut segment, SALT, &frame(48, 48, b"first"));
        let second = segment.len() as u32;
        put(&mut segment, SALT, &frame(second, 48, b"same write"));
        assert_eq!(proof_of_sync(&segment, 48, SALT), None);
        segment.resize(3 * PAGE, 0);
        let third = segment.len() as u32;
        put(&mut segment, SALT, &frame(third, second + 32, b"next write"));
        assert_eq!(proof_of_sync(&segment, 48, SALT), Some(third));
        assert_eq!(proof_of_sync(&segment, third, SALT), None);
    }
}
