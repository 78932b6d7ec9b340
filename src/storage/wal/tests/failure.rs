//! A disk that fails: nothing is acknowledged after the first error, and the node hears of it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::storage::types::{TypeConfig, Vote};
use crate::storage::wal::disk::{Disk, DiskFile, OsDisk};

/// Fails every write or sync after a number of them.
#[derive(Clone)]
struct Budget(Arc<AtomicU64>);

impl Budget {
    fn spend(&self) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| io::Error::other("injected"))
    }
}

struct Failing<D> {
    inner: D,
    writes: Budget,
    syncs: Budget,
}

impl Failing<OsDisk> {
    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(Failing { inner, writes: self.writes.clone(), syncs: self.syncs.clone() })
    }
}

impl Disk for Failing<OsDisk> {
    fn dir(&self) -> &Path {
        self.inner.dir()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.writes.spend()?;
        Ok(self.file(self.inner.create(name, bytes)?))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.inner.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.syncs.spend()?;
        self.inner.sync_dir()
    }
}

impl DiskFile for Failing<Box<dyn DiskFile>> {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.writes.spend()?;
        self.inner.write_all_at(bytes, offset)
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_size(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.syncs.spend()?;
        self.inner.sync()
    }
}

/// Appends until the disk fails, then checks that the log is dead and that what it acknowledged is there on reopening.
async fn check(writes: u64, syncs: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let budget = |left| Budget(Arc::new(AtomicU64::new(left)));
    let inner = OsDisk::open(dir.path()).expect("a directory");
    let disk = Failing { inner, writes: budget(writes), syncs: budget(syncs) };
    let (wal, _) = Wal::open_on(Arc::new(disk), small()).expect("opens before the failure");
    let mut failed = wal.failed();
    let mut log = wal.group(1);
    let mut acknowledged = 0;
    while log.blocking_append(vec![entry(1, acknowledged, &"x".repeat(300))]).await.is_ok() {
        acknowledged += 1;
        assert!(acknowledged < 1000, "the failure never came");
    }
    assert!(wal.wait().is_err(), "what waits for it hears so");
    let reason = failed.wait_for(Option::is_some).await.expect("the log lives").clone();
    assert!(reason.is_some_and(|reason| reason.contains("injected")));

    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    assert!(log.blocking_append(vec![entry(1, acknowledged + 1, "late")]).await.is_err());
    assert!(log.truncate_after(None).await.is_err());
    assert!(log.purge(log_id(1, 0)).await.is_err());
    assert!(log.save_committed(None).await.is_err());
    assert!(log.try_get_log_entries(..).await.is_err());
    assert!(log.get_log_state().await.is_err());
    drop((wal, log));

    let (wal, _) = open(dir.path(), small());
    let last = ends(&mut wal.group(1)).await.1;
    assert!(last.map_or(0, |last| last + 1) >= acknowledged, "{last:?} after {acknowledged} acknowledged");
}

#[tokio::test]
async fn a_failed_write_stops_the_log() {
    for writes in [2, 3, 4, 12, 13, 14, 15, 16, 17] {
        check(writes, u64::MAX).await;
    }
}

#[tokio::test]
async fn a_failed_sync_stops_the_log() {
    for syncs in [2, 3, 4, 12, 13, 14, 15, 16, 17] {
        check(u64::MAX, syncs).await;
    }
}

#[tokio::test]
async fn who_waits_for_the_log_waits_for_what_was_appended_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    wal.wait().expect("there is nothing to wait for");
    let mut log = wal.group(1);
    for index in 0..20 {
        let (sender, durable) = TypeConfig::oneshot();
        log.append(vec![entry(1, index, "some")], IOFlushed::signal(sender)).await.expect("accepted");
        wal.wait().expect("written");
        assert!(durable.now_or_never().is_some(), "entry {index} is durable by then");
    }
    wal.close();
    wal.wait().expect("a closed log has written all");
}

#[tokio::test]
async fn a_closed_log_refuses_and_keeps_what_it_took() {
    let dir = tempfile::tempdir().expect("a directory");
    let (wal, _) = open(dir.path(), small());
    let mut log = wal.group(1);
    append(&mut log, vec![entry(1, 0, "kept")]).await;
    log.save_committed(Some(log_id(1, 0))).await.expect("accepted");
    wal.close();
    let error = log.blocking_append(vec![entry(1, 1, "late")]).await.expect_err("refused");
    assert!(error.to_string().contains("closed"), "{error}");
    assert_eq!(*wal.failed().borrow(), None);
    let (wal, _) = open(dir.path(), small());
    assert_eq!(all(&mut wal.group(1)).await, vec![entry(1, 0, "kept")]);
    assert_eq!(wal.group(1).read_committed().await.expect("readable"), Some(log_id(1, 0)));
}
