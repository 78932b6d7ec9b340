//! Snapshots between nodes: a file, sent at a bounded rate over a stream of its own, resumed where it stopped.
//!
//! The sender offers a file by index, length and checksum; the receiver says from which byte it wants it (it keeps what
//! it has of an interrupted transfer, one file a shard), takes the pieces, verifies the whole and installs it. Nothing
//! of it is seen by the shard before that.

use std::collections::HashSet;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::wire::{Offer, SnapshotReply};
use super::{Group, Network};
use crate::cluster::link::{Lane, Link, LinkError, Sender, StreamError, Wire};
use crate::kernel::codec::CodecError;
use crate::storage::state::{ShardMachine, SnapshotFile, StateError};
use crate::storage::types::Vote;

const PIECE: usize = 256 << 10;
const EXTENSION: &str = "incoming";

/// Why a snapshot did not get across.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the other side does not speak this protocol")]
    Protocol(#[from] CodecError),
    #[error("the file cannot be read or written")]
    Io(#[from] io::Error),
    #[error("the state cannot be replaced")]
    State(#[from] StateError),
    #[error("the other side: {0}")]
    Refused(String),
    #[error("{0}")]
    Unfit(&'static str),
}

/// Sends a snapshot; the receiver's vote once it is installed there.
pub(super) async fn send(
    link: &Link,
    node: u64,
    shard: u16,
    vote: Vote,
    snapshot: &SnapshotFile,
    rate: u64,
) -> Result<Vote, SnapshotError> {
    ShardMachine::verify_before_sending(snapshot).await?;
    // Open from here on: a newer snapshot may remove its name.
    let mut file = File::open(&snapshot.path).await?;
    let (bytes, crc32c) = checksum(&mut file).await?;
    let index = snapshot.header.applied.map_or(0, |applied| applied.index);
    let mut wire = link.open(node, Lane::Snapshot).await?;
    wire.sender.send(Offer { shard, vote: vote.into(), index, bytes, crc32c }.encode()?).await?;
    loop {
        match SnapshotReply::decode(&wire.receiver.next().await?)? {
            SnapshotReply::From { offset } => {
                tracing::info!(node, shard, index, bytes, offset, "sending a snapshot");
                send_from(&wire.sender, &mut file, offset, rate).await?;
            }
            SnapshotReply::Installed { vote } => return Ok(vote.into()),
            SnapshotReply::Failed { why } => return Err(SnapshotError::Refused(why)),
        }
    }
}

async fn send_from(sender: &Sender, file: &mut File, offset: u64, rate: u64) -> Result<(), SnapshotError> {
    file.seek(SeekFrom::Start(offset)).await?;
    let (began, mut sent) = (Instant::now(), 0u64);
    loop {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        piece.truncate(read);
        sender.send(piece).await?;
        sent += read as u64;
        let due = u128::from(sent) * 1_000_000 / u128::from(rate.max(1));
        sleep_until(began + Duration::from_micros(u64::try_from(due).unwrap_or(u64::MAX).min(60_000_000))).await;
    }
}

/// Length and CRC-32C of a file.
async fn checksum(file: &mut File) -> io::Result<(u64, u32)> {
    file.seek(SeekFrom::Start(0)).await?;
    let (mut buffer, mut bytes, mut crc) = (vec![0; PIECE], 0, 0);
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok((bytes, crc));
        }
        bytes += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

/// Receives every snapshot that a node offers, one at a time of a shard, until the link stops.
pub(super) async fn accept(network: Network, link: Link) {
    let mut incoming = link.incoming(Lane::Snapshot);
    let receiving = Arc::new(Mutex::new(HashSet::new()));
    while let Some(Some(mut wire)) = link.stopping().run_until_cancelled(incoming.recv()).await {
        let (network, receiving) = (network.clone(), Arc::clone(&receiving));
        link.spawn(async move {
            let reply = match receive(&network, &receiving, &mut wire).await {
                Ok(vote) => SnapshotReply::Installed { vote: vote.into() },
                Err(error) => {
                    tracing::warn!(node = wire.node, %error, "a snapshot of another node was not received");
                    SnapshotReply::Failed { why: error.to_string() }
                }
            };
            if let Ok(message) = reply.encode() {
                let _ = wire.sender.send(message).await;
            }
            // The other side closes once it has the answer.
            let _ = wire.receiver.next().await;
        });
    }
}

type Receiving = Mutex<HashSet<u16>>;

/// Marks a shard as being received until dropped.
struct Turn<'a> {
    shard: u16,
    receiving: &'a Receiving,
}

impl<'a> Turn<'a> {
    fn take(receiving: &'a Receiving, shard: u16) -> Option<Self> {
        let free = receiving.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
        free.then_some(Self { shard, receiving })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.shard);
    }
}

async fn receive(network: &Network, receiving: &Receiving, wire: &mut Wire) -> Result<Vote, SnapshotError> {
    let offer = Offer::decode(&wire.receiver.next().await?)?;
    let group = network.group(offer.shard).ok_or(SnapshotError::Unfit("there is no such shard here"))?;
    let turn = Turn::take(receiving, offer.shard);
    let _turn = turn.ok_or(SnapshotError::Unfit("a snapshot of this shard is being received already"))?;
    let path = place(&group.machine.incoming()?, &offer).await?;
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path).await?;
    let mut have = file.metadata().await?.len();
    wire.sender.send(SnapshotReply::From { offset: have }.encode()?).await?;
    while have < offer.bytes {
        let piece = wire.receiver.next().await?;
        have += piece.len() as u64;
        if have > offer.bytes {
            break;
        }
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    file.sync_all().await?;
    if checksum(&mut file).await? != (offer.bytes, offer.crc32c) {
        fs::remove_file(&path).await?;
        return Err(SnapshotError::Unfit("the file that arrived is not the one that was offered"));
    }
    let vote = install(&group, &offer, &path).await;
    // Installing made a copy of its own; one that cannot be installed is not worth keeping.
    fs::remove_file(&path).await?;
    vote
}

async fn install(group: &Group, offer: &Offer, path: &Path) -> Result<Vote, SnapshotError> {
    let snapshot = group.machine.received(path).await?;
    let installed = group.raft.install_full_snapshot(offer.vote.into(), snapshot).await;
    installed.map(|response| response.vote).map_err(|error| SnapshotError::Refused(error.to_string()))
}

/// Where the offered file is received. What is left of any other is removed.
async fn place(directory: &Path, offer: &Offer) -> Result<PathBuf, SnapshotError> {
    let path = directory.join(format!("{:020}-{}-{:08x}.{EXTENSION}", offer.index, offer.bytes, offer.crc32c));
    let mut entries = fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let other = entry.path();
        if other != path && other.extension().is_some_and(|extension| extension == EXTENSION) {
            fs::remove_file(other).await?;
        }
    }
    Ok(path)
}
