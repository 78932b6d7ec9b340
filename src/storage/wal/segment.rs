//! One segment file: a header, then frames.
//!
//! A segment is written under a temporary name until its header is durable, so a file with a segment's name always
//! begins with a valid header. Segments are numbered without gaps and freed oldest first.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

use super::disk::{Disk, DiskFile};
use super::error::WalError;
use super::frame::{self, Frame};
use crate::kernel::fail_point;

/// Bytes before the first frame:
/// `magic [8] | crc u32 | version u32 | number u64 | salt u64 | oldest u64 | reserved u64`, little endian.
pub const HEADER_BYTES: u32 = 48;
const MAGIC: [u8; 8] = *b"cnstrwal";
const VERSION: u32 = 1;
const SUFFIX: &str = ".wal";
/// Of a segment that is read from its beginning, so much is in memory.
const PIECE_BYTES: usize = 1 << 20;
/// The name of a segment until its header is durable.
pub const UNFINISHED: &str = "next.tmp";

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub number: u64,
    pub salt: u64,
    /// The oldest segment that still held something live when this one was begun.
    pub oldest: u64,
    /// The size the file was made with, which it keeps until it is sealed; 0 when that was not noted.
    pub reserved: u64,
}

impl Header {
    /// A header with a fresh salt.
    pub fn new(number: u64, oldest: u64, reserved: u64) -> Self {
        let mut salt = [0; 8];
        SystemRandom::new().fill(&mut salt).expect("the operating system's generator works");
        Self { number, salt: u64::from_le_bytes(salt), oldest, reserved }
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for word in [self.number, self.salt, self.oldest, self.reserved] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(head) = bytes.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err("the segment's header is cut short");
        };
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        if head[..8] != MAGIC {
            return Err("not a segment of this log");
        }
        if half(8) != crc32c::crc32c(&head[12..]) {
            return Err("the segment's header fails its checksum");
        }
        if half(12) != VERSION {
            return Err("the segment has a format this build does not know");
        }
        Ok(Self { number: word(16), salt: word(24), oldest: word(32), reserved: word(40) })
    }
}

/// The file name of segment `number`.
pub fn name(number: u64) -> String {
    format!("{number:020}{SUFFIX}")
}

/// The number of the segment in a file of this name; none for other files.
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// An open segment. Readers that still hold one may read it after its file was removed.
pub struct Segment {
    pub header: Header,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    size: AtomicU64,
    live: AtomicU64,
}

/// Where an entry stands.
#[derive(Clone)]
pub struct Place {
    pub segment: std::sync::Arc<Segment>,
    pub offset: u32,
    pub body_len: u32,
}

impl Place {
    pub fn bytes(&self) -> u64 {
        u64::from(frame::size(self.body_len as usize))
    }
}

impl Segment {
    /// Creates the file of a new segment, durably.
    pub fn create(disk: &dyn Disk, header: Header) -> Result<Self, WalError> {
        let bytes = header.reserved;
        let path = disk.dir().join(name(header.number));
        let io = |action| {
            let path = path.clone();
            move |source| WalError::Io { action, path, source }
        };
        let file = disk.create(UNFINISHED, bytes).map_err(io("create"))?;
        file.write_all_at(&header.to_bytes(), 0).map_err(io("write"))?;
        file.sync().map_err(io("sync"))?;
        fail_point::reach("wal.segment_made");
        disk.rename(UNFINISHED, &name(header.number)).map_err(io("name"))?;
        fail_point::reach("wal.segment_named");
        disk.sync_dir().map_err(io("sync the directory of"))?;
        Ok(Self { header, path, file, size: AtomicU64::new(bytes), live: AtomicU64::new(0) })
    }

    /// Opens segment `number`.
    pub fn open(disk: &dyn Disk, number: u64) -> Result<Self, WalError> {
        let path = disk.dir().join(name(number));
        let io = |action| {
            let path = path.clone();
            move |source| WalError::Io { action, path, source }
        };
        let corrupt = |what: &str| WalError::Corrupt { path: path.clone(), offset: 0, what: what.to_owned() };
        let file = disk.open(&name(number)).map_err(io("open"))?;
        let size = file.size().map_err(io("size"))?;
        if size < u64::from(HEADER_BYTES) || size > u64::from(u32::MAX) {
            return Err(corrupt("the segment's size cannot be"));
        }
        let mut head = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut head, 0).map_err(io("read"))?;
        let header = Header::from_bytes(&head).map_err(corrupt)?;
        if header.number != number {
            return Err(corrupt("the segment is another one than its name says"));
        }
        Ok(Self { header, path, file, size: AtomicU64::new(size), live: AtomicU64::new(0) })
    }

    pub fn number(&self) -> u64 {
        self.header.number
    }

    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Bytes the file occupies.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Bytes of live entries.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    pub fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn subtract_live(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The whole file.
    pub fn read_all(&self) -> Result<Vec<u8>, WalError> {
        let mut bytes = vec![0; usize::try_from(self.size()).expect("at most 4 GiB")];
        self.file.read_exact_at(&mut bytes, 0).map_err(self.io("read"))?;
        Ok(bytes)
    }

    /// The body of the frame at a place, checked.
    pub fn read(&self, offset: u32, body_len: u32) -> Result<Bytes, WalError> {
        let mut bytes = vec![0; frame::HEADER_BYTES + body_len as usize];
        self.file.read_exact_at(&mut bytes, u64::from(offset)).map_err(self.io("read"))?;
        match frame::parse(&bytes, offset, self.header.salt) {
            Some(frame) if frame.body.len() == body_len as usize => Ok(Bytes::from(bytes).slice(frame::HEADER_BYTES..)),
            _ => Err(self.corrupt(offset, "the record fails its checksum")),
        }
    }

    pub fn write(&self, bytes: &[u8], offset: u32) -> Result<(), WalError> {
        self.file.write_all_at(bytes, u64::from(offset)).map_err(self.io("write"))
    }

    pub fn sync(&self) -> Result<(), WalError> {
        self.file.sync().map_err(self.io("sync"))
    }

    /// Gives back what follows `end`.
    pub fn cut(&self, end: u32) -> Result<(), WalError> {
        self.file.set_size(u64::from(end)).map_err(self.io("cut"))?;
        self.size.store(u64::from(end), Ordering::Relaxed);
        self.sync()
    }

    /// Removes the file, durably.
    pub fn remove(&self, disk: &dyn Disk) -> Result<(), WalError> {
        disk.remove(&name(self.number())).map_err(self.io("remove"))?;
        disk.sync_dir().map_err(self.io("sync the directory of"))
    }

    /// Visits the valid frames from the first on, a piece of the file in memory at a time; the offset of the first byte that
    /// is none, or of the file's end.
    pub fn scan(&self, mut visit: impl FnMut(Frame<'_>) -> Result<(), WalError>) -> Result<u32, WalError> {
        let (mut piece, mut base, mut offset) = (Vec::new(), HEADER_BYTES, HEADER_BYTES);
        loop {
            let rest: &[u8] = piece.get((offset - base) as usize..).unwrap_or_default();
            if let Some(frame) = frame::parse(rest, offset, self.header.salt) {
                offset = frame.end();
                visit(frame)?;
                continue;
            }
            let left = usize::try_from(self.size().saturating_sub(u64::from(offset))).expect("at most 4 GiB");
            let claimed = frame::claimed(rest);
            if rest.len() >= claimed || rest.len() >= left {
                return Ok(offset);
            }
            piece.resize(claimed.max(PIECE_BYTES).min(left), 0);
            self.file.read_exact_at(&mut piece, u64::from(offset)).map_err(self.io("read"))?;
            base = offset;
        }
    }

    pub fn corrupt(&self, offset: u32, what: &str) -> WalError {
        WalError::Corrupt { path: self.path.clone(), offset: u64::from(offset), what: what.to_owned() }
    }

    pub fn unreadable(&self, offset: u32, source: crate::kernel::codec::CodecError) -> WalError {
        WalError::Unreadable { path: self.path.clone(), offset: u64::from(offset), source }
    }

    fn io(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> WalError {
        let path = self.path.clone();
        move |source| WalError::Io { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::OsDisk;
    use super::super::frame::Kind;
    use super::*;

    #[test]
    fn header_bytes_of_version_1_stay_readable() {
        let header = Header { number: 2, salt: 3, oldest: 1, reserved: 0 };
        let bytes = header.to_bytes();
        let tail =
            "01000000".to_owned() + "0200000000000000" + "0300000000000000" + "0100000000000000" + "0000000000000000";
        assert_eq!(hex::encode(&bytes[12..]), tail);
        assert_eq!(hex::encode(&bytes[..8]), "636e73747277616c");
        assert_eq!(Header::from_bytes(&bytes), Ok(header));
        let sized = Header { reserved: 1 << 20, ..header };
        assert_eq!(Header::from_bytes(&sized.to_bytes()), Ok(sized));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Header::from_bytes(&bad).is_err(), "bit changed in byte {at}");
        }
    }

    #[test]
    fn segment_names_sort_by_number() {
        assert_eq!(name(12), "00000000000000000012.wal");
        assert_eq!(number("00000000000000000012.wal"), Some(12));
        assert_eq!(number("next.tmp"), None);
        assert_eq!(number("+0000000000000000012.wal"), None);
    }

    #[test]
    fn frames_of_any_size_are_found_whatever_piece_of_the_file_they_begin_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = OsDisk::open(dir.path()).expect("opens");
        let lengths = [0, 100, PIECE_BYTES - 200, 3, PIECE_BYTES, PIECE_BYTES * 2 + 5, 7, PIECE_BYTES - 16, 1];
        let segment = Segment::create(&disk, Header::new(1, 1, 8 << 20)).expect("made");
        let mut bytes = Vec::new();
        for (number, length) in (1u8..).zip(lengths) {
            let offset = HEADER_BYTES + u32::try_from(bytes.len()).expect("small");
            let body = vec![number; length];
            let frame = Frame { offset, batch: offset, group: 7, kind: Kind::Append, body: &body };
            frame::put(&mut bytes, segment.header.salt, &frame);
        }
        let found = |segment: &Segment| {
            let mut found = Vec::new();
            let end = segment.scan(|frame| {
                assert!(frame.body.iter().all(|byte| usize::from(*byte) == found.len() + 1));
                Ok(found.push(frame.body.len()))
            });
            (found, end.expect("readable"))
        };
        segment.write(&bytes, HEADER_BYTES).expect("written");
        let end = HEADER_BYTES + u32::try_from(bytes.len()).expect("small");
        assert_eq!(found(&segment), (lengths.to_vec(), end));
        // The file ends within the last frame, within its head, and within the largest.
        for (cut, left) in [(8, 8), (30, 7), (PIECE_BYTES + 4096, 5)] {
            segment.cut(end - u32::try_from(cut).expect("small")).expect("cut");
            assert_eq!(found(&segment).0, lengths[..left], "{cut} bytes are missing");
        }
    }
}
