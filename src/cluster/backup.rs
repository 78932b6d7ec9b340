//! Takes a backup of the whole cluster while it serves: all shards at one instant, sealed before anything leaves the node.
//!
//! First every shard is held for a moment on the node that leads it ([`ShardLog::cut`]); what they have then is written
//! into a file by each of them while it goes on. Then the node that was asked fetches the files in pieces, at a bounded
//! rate, seals them and hands them out as a stream. Memory is bounded by the pieces; the disk of a leader holds one more
//! file of each shard that it leads, until that is read. A backup that fails ends without its last chunk, so that it
//! opens nowhere. Its form is [`storage::backup`](crate::storage::backup).
//!
//! [`ShardLog::cut`]: crate::actors::runtime::log::ShardLog::cut

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;

use super::secrets;
use crate::actors::compliance::erasure;
use crate::actors::compliance::kek;
use crate::actors::members;
use crate::actors::runtime::log::{CUT_READ, CutId};
use crate::actors::runtime::{Page, Router, Scope, entropy};
use crate::kernel::{AuditRecord, Error, Origin, Secret, ShardId, Timestamp};
use crate::providers::keys::KeyWrapper;
use crate::storage::backup::{self, Manifest, Part, SECRET_BYTES, Sealer, Section, SectionWriter};
use crate::storage::state::LogPosition;

/// How often all shards are tried to be held at once, and the pause in between.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);
/// Pieces made and not yet taken by whoever receives the backup.
const AHEAD: usize = 8;
/// The longest key.
const KEY_LIMIT: usize = 4096;
/// Erased people asked for at once.
const PAGE: usize = 1000;
/// In the data directory: the last backup that was handed out to its end here.
const LAST: &str = "last-backup.json";

/// An earlier backup, of which shards that have not changed since are not taken again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The cluster it was taken of; hexadecimal.
    pub cluster: String,
    pub parts: Vec<BasePart>,
}

/// A shard of an earlier backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BasePart {
    #[schema(maximum = 65535)]
    pub shard: u16,
    /// The last entry of its log that it holds.
    pub position: BasePosition,
    /// The backup that has it.
    pub held_by: String,
}

/// A place in the log of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BasePosition {
    pub term: u64,
    /// The node that led in that term.
    pub node: u64,
    pub index: u64,
}

impl From<LogPosition> for BasePosition {
    fn from(LogPosition { term, node, index }: LogPosition) -> Self {
        Self { term, node, index }
    }
}

impl Base {
    /// What a later backup needs to know of this one.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let part = |part: &Part| {
            let held_by = part.held_by.clone().unwrap_or_else(|| manifest.id.clone());
            part.position.map(|at| BasePart { shard: part.shard, position: at.into(), held_by })
        };
        Self { cluster: manifest.cluster.clone(), parts: manifest.parts.iter().filter_map(part).collect() }
    }
}

/// The last backup that was handed out.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Last {
    at_seconds: i64,
    bytes: u64,
}

/// Takes backups at this node, one at a time.
pub struct Backups {
    router: Router,
    data_dir: PathBuf,
    cluster: [u8; 16],
    shards: u16,
    bytes_per_second: u64,
    keys: Arc<dyn KeyWrapper>,
    running: Arc<Mutex<()>>,
}

/// All shards as they were at one instant.
struct Cut {
    id: CutId,
    at: Timestamp,
    positions: BTreeMap<ShardId, Option<LogPosition>>,
    /// The versions of the key-encryption key that this node had before.
    keys: Vec<u32>,
}

impl Backups {
    #[must_use]
    pub fn new(
        router: Router,
        data_dir: PathBuf,
        (cluster, shards): ([u8; 16], u16),
        bytes_per_second: u64,
        keys: Arc<dyn KeyWrapper>,
    ) -> Self {
        let last =
            std::fs::read(data_dir.join(LAST)).ok().and_then(|bytes| serde_json::from_slice::<Last>(&bytes).ok());
        last.unwrap_or(Last { at_seconds: 0, bytes: 0 }).publish();
        for outcome in ["done", "failed"] {
            metrics::counter!("construct_backups_total", "outcome" => outcome).absolute(0);
        }
        let bytes_per_second = bytes_per_second.max(1);
        Self { router, data_dir, cluster, shards, bytes_per_second, keys, running: Arc::default() }
    }

    /// Takes a backup sealed under `secret`; its bytes as they are made. The last one is an error when it failed.
    ///
    /// # Errors
    /// `invalid` for a secret that is not one; `conflict` for a base of another cluster, or while another backup is taken here;
    /// `unavailable` when a shard has no leader or cannot be held.
    pub async fn take(
        self: &Arc<Self>,
        secret: Secret<String>,
        base: Option<Base>,
        origin: &Origin,
    ) -> Result<mpsc::Receiver<io::Result<Bytes>>, Error> {
        let text = secret.expose().as_bytes();
        let printable = text.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable || text.trim_ascii() != text || !(SECRET_BYTES..=KEY_LIMIT).contains(&text.len()) {
            let detail =
                format!("must be {SECRET_BYTES} to {KEY_LIMIT} printable ASCII characters, without spaces around");
            return Err(Error::invalid("/key", detail));
        }
        if base.as_ref().is_some_and(|base| base.cluster != hex::encode(self.cluster)) {
            return Err(Error::conflict("The earlier backup is of another cluster."));
        }
        let running = Arc::clone(&self.running).try_lock_owned();
        let running = running.map_err(|_| Error::conflict("A backup is being taken at this node.").retry_after(60))?;
        let begun = tokio::task::spawn_blocking(move || Sealer::new(&secret)).await;
        let (sealer, head) = begun.map_err(|_| Error::internal())?.map_err(|error| {
            tracing::error!(%error, "a backup cannot be sealed");
            Error::internal()
        })?;
        let cut = self.cut().await.inspect_err(|_| ended("failed"))?;
        self.note(&cut, origin).await.inspect_err(|_| ended("failed"))?;
        let (output, taken) = mpsc::channel(AHEAD);
        let pace = Pace { output, rate: self.bytes_per_second, began: Instant::now(), bytes: 0 };
        let stream = Stream { backups: Arc::clone(self), sealer, pace, cut, base };
        tokio::spawn(stream.run(head, running));
        Ok(taken)
    }

    /// Holds every shard, so that there is an instant at which all were held.
    async fn cut(&self) -> Result<Cut, Error> {
        let mut tries = 0;
        loop {
            let keys = self.keys.versions();
            let id: CutId = entropy().first_chunk().copied().unwrap_or_default();
            let shards: Vec<ShardId> = self.router.shard_ids().collect();
            let cuts = futures::future::join_all(shards.iter().map(|shard| self.router.cut(*shard, id))).await;
            let at = self.router.now();
            let released = futures::future::join_all(shards.iter().map(|shard| self.router.release(*shard, id))).await;
            let held = released.into_iter().all(|released| released == Ok(true));
            tries += 1;
            match cuts.into_iter().collect::<Result<Vec<_>, _>>() {
                Ok(positions) if held => {
                    return Ok(Cut { id, at, positions: shards.into_iter().zip(positions).collect(), keys });
                }
                Err(error) if tries >= TRIES => return Err(error),
                Ok(_) if tries >= TRIES => {
                    return Err(Error::unavailable("The shards cannot all be held at once; try again later."));
                }
                failed => tracing::info!(tries, error = ?failed.err(), "the shards were not all held at once; again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn note(&self, cut: &Cut, origin: &Origin) -> Result<(), Error> {
        let record = AuditRecord {
            at: self.router.now(),
            actor: origin.principal.audit_name().to_owned(),
            action: "cluster.backup".to_owned(),
            target: format!("backup:{}", hex::encode(cut.id)),
            outcome: "ok".to_owned(),
            source: origin.source.clone(),
            request_id: origin.request_id.clone(),
        };
        self.router.audit(&members::id(), vec![record]).await
    }

    /// The ids of everybody whose erasure has begun, a line each.
    ///
    /// # Errors
    /// `unavailable` when a shard has no leader.
    pub async fn erased(&self) -> Result<Vec<u8>, Error> {
        let (mut lines, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after: after.take(), limit: PAGE, reverse: false };
            let found = self.router.scan(Scope::All, erasure::ALL, b"", page).await?;
            for (id, _) in &found {
                lines.extend_from_slice(id);
                lines.push(b'\n');
            }
            match found.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(lines),
            }
        }
    }

    fn keep(&self, last: Last) {
        last.publish();
        let kept = serde_json::to_vec(&last).map_err(io::Error::from);
        let kept = kept.and_then(|bytes| std::fs::write(self.data_dir.join(LAST), bytes));
        if let Err(error) = kept {
            tracing::warn!(%error, "the time of this backup is not kept");
        }
    }
}

impl Last {
    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    fn publish(&self) {
        metrics::gauge!("construct_backup_last_seconds").set(self.at_seconds as f64);
        metrics::gauge!("construct_backup_last_bytes").set(self.bytes as f64);
    }
}

fn ended(outcome: &'static str) {
    metrics::counter!("construct_backups_total", "outcome" => outcome).increment(1);
}

/// Hands bytes out, not faster than they may be.
struct Pace {
    output: mpsc::Sender<io::Result<Bytes>>,
    rate: u64,
    began: Instant,
    bytes: u64,
}

impl Pace {
    async fn put(&mut self, sealed: Vec<u8>) -> io::Result<()> {
        if sealed.is_empty() {
            return Ok(());
        }
        self.bytes += sealed.len() as u64;
        let sent = self.output.send(Ok(Bytes::from(sealed))).await;
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the backup any more"))?;
        let due = u128::from(self.bytes) * 1_000_000 / u128::from(self.rate);
        sleep_until(self.began + Duration::from_micros(u64::try_from(due).unwrap_or(u64::MAX))).await;
        Ok(())
    }
}

/// A backup on its way.
struct Stream {
    backups: Arc<Backups>,
    sealer: Sealer,
    pace: Pace,
    cut: Cut,
    base: Option<Base>,
}

impl Stream {
    async fn run(mut self, head: Vec<u8>, running: OwnedMutexGuard<()>) {
        let id = hex::encode(self.cut.id);
        let began = Instant::now();
        let last = self.all(head).await;
        if last.is_err() {
            for shard in self.cut.positions.keys() {
                self.drop_cut(*shard).await;
            }
        }
        // Who hears how this one ended may begin the next one at once.
        drop(running);
        let ending = match last {
            Ok(last) => self.pace.put(last).await,
            Err(error) => Err(error),
        };
        match ending {
            Ok(()) => {
                ended("done");
                let (bytes, seconds) = (self.pace.bytes, began.elapsed().as_secs_f64());
                tracing::info!(id, bytes, seconds, "a backup was taken");
                let last = Last { at_seconds: self.cut.at.as_seconds(), bytes };
                let _ = tokio::task::spawn_blocking(move || self.backups.keep(last)).await;
            }
            Err(error) => {
                ended("failed");
                tracing::error!(id, %error, "a backup failed");
                // Who received it hears of the end either way: the last chunk is missing.
                let _ = self.pace.output.send(Err(error)).await;
            }
        }
    }

    /// Hands out everything but the last chunk, which it returns.
    async fn all(&mut self, head: Vec<u8>) -> io::Result<Vec<u8>> {
        self.pace.put(head).await?;
        let secrets = self.secrets().await?;
        let secrets = self.section(&secrets).await?;
        let erased = self.backups.erased().await.map_err(io::Error::other)?;
        let erased = self.section(&erased).await?;
        let mut parts = Vec::new();
        for (shard, position) in self.cut.positions.clone() {
            parts.push(self.part(shard, position).await?);
        }
        self.end(&Manifest {
            format: backup::FORMAT,
            id: hex::encode(self.cut.id),
            cluster: hex::encode(self.backups.cluster),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: self.backups.shards,
            taken_at: self.cut.at,
            secrets,
            erased,
            parts,
        })
        .await
    }

    /// The secrets of this node. With the same keys before the cut and after it, and the one in use among them, everything
    /// opens that was wrapped at the cut.
    async fn secrets(&self) -> io::Result<Vec<u8>> {
        let Backups { router, data_dir, keys, .. } = self.backups.as_ref();
        let asked = router.ask::<kek::Versions>(&kek::id(), kek::Command::Get, &Origin::system("backup")).await;
        let active = asked.map_err(io::Error::other)?.active;
        let data_dir = data_dir.clone();
        let packed =
            tokio::task::spawn_blocking(move || secrets::pack(&data_dir)).await.map_err(io::Error::other)??;
        let held = keys.versions();
        if held != self.cut.keys || (active > 0 && !held.contains(&active)) {
            return Err(io::Error::other(
                "the key-encryption key is being rotated; take the backup again when that is done",
            ));
        }
        Ok(packed)
    }

    async fn end(&mut self, manifest: &Manifest) -> io::Result<Vec<u8>> {
        let ending = backup::ending(manifest, self.sealer.pushed())?;
        let sealed = self.sealer.push(&ending);
        self.pace.put(sealed).await?;
        Ok(self.sealer.finish())
    }

    async fn section(&mut self, bytes: &[u8]) -> io::Result<Section> {
        let mut section = SectionWriter::at(self.sealer.pushed());
        section.update(bytes);
        let sealed = self.sealer.push(bytes);
        self.pace.put(sealed).await?;
        Ok(section.end(self.sealer.pushed()))
    }

    async fn part(&mut self, shard: ShardId, position: Option<LogPosition>) -> io::Result<Part> {
        let here = position.map(BasePosition::from);
        let known = self.base.iter().flat_map(|base| &base.parts);
        let known = known.filter(|part| part.shard == shard.0).find(|part| Some(part.position) == here);
        if let Some(held_by) = known.map(|part| part.held_by.clone()) {
            self.drop_cut(shard).await;
            return Ok(Part { shard: shard.0, position, held_by: Some(held_by), section: None });
        }
        let mut section = SectionWriter::at(self.sealer.pushed());
        let mut offset = 0;
        loop {
            let piece = self.backups.router.read_cut(shard, self.cut.id, offset).await.map_err(io::Error::other)?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            section.update(&piece);
            let sealed = self.sealer.push(&piece);
            self.pace.put(sealed).await?;
        }
        self.drop_cut(shard).await;
        let section = section.end(self.sealer.pushed());
        Ok(Part { shard: shard.0, position, held_by: None, section: Some(section) })
    }

    async fn drop_cut(&self, shard: ShardId) {
        let _ = self.backups.router.read_cut(shard, self.cut.id, CUT_READ).await;
    }
}
