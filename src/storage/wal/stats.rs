//! What the log counts, for operators (`construct_wal_*`) and for tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// A snapshot of the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Segment files, the one being written included.
    pub segments: u64,
    /// Bytes those files occupy.
    pub disk_bytes: u64,
    /// Bytes of entries that are not purged.
    pub live_bytes: u64,
    /// Group commits: one write and one `fdatasync` each.
    pub syncs: u64,
    pub records: u64,
    pub written_bytes: u64,
    /// Records of the largest group commit.
    pub largest_batch: u64,
    /// Entries copied out of old segments.
    pub moved: u64,
    /// Segments removed.
    pub freed: u64,
}

#[derive(Default)]
pub struct Counters {
    segments: AtomicU64,
    disk_bytes: AtomicU64,
    live_bytes: AtomicU64,
    syncs: AtomicU64,
    records: AtomicU64,
    written_bytes: AtomicU64,
    largest_batch: AtomicU64,
    moved: AtomicU64,
    freed: AtomicU64,
}

impl Counters {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn committed(&self, records: u64, bytes: u64, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.largest_batch.fetch_max(records, Ordering::Relaxed);
        counter!("construct_wal_syncs_total").increment(1);
        counter!("construct_wal_records_total").increment(records);
        counter!("construct_wal_written_bytes_total").increment(bytes);
        #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 records")]
        histogram!("construct_wal_batch_records").record(records as f64);
        histogram!("construct_wal_sync_seconds").record(took);
    }

    pub fn occupied(&self, segments: u64, disk_bytes: u64, live_bytes: u64) {
        self.segments.store(segments, Ordering::Relaxed);
        self.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        self.live_bytes.store(live_bytes, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "sizes of disks are far below 2^52 bytes")]
        {
            gauge!("construct_wal_segments").set(segments as f64);
            gauge!("construct_wal_disk_bytes").set(disk_bytes as f64);
            gauge!("construct_wal_live_bytes").set(live_bytes as f64);
        }
    }

    pub fn moved(&self, records: u64) {
        self.moved.fetch_add(records, Ordering::Relaxed);
        counter!("construct_wal_moved_records_total").increment(records);
    }

    pub fn freed(&self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
        counter!("construct_wal_freed_segments_total").increment(1);
    }

    pub fn snapshot(&self) -> WalStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WalStats {
            segments: read(&self.segments),
            disk_bytes: read(&self.disk_bytes),
            live_bytes: read(&self.live_bytes),
            syncs: read(&self.syncs),
            records: read(&self.records),
            written_bytes: read(&self.written_bytes),
            largest_batch: read(&self.largest_batch),
            moved: read(&self.moved),
            freed: read(&self.freed),
        }
    }
}
