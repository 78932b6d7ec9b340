//! Feeds: the events of a shard in commit order, for those who follow them.
//!
//! A [`FeedConsumer`] has a durable offset on every shard and sees every entry at least once, in order. Who only needs
//! what happens from now on (sockets) follows [`ShardState::feed`](crate::storage::state::ShardState) from its head.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::log::unreadable;
use super::sealer::Sealer;
use super::sealing::{Place, open};
use super::shard::Shard;
use crate::kernel::{EntityId, Error, Op, Timestamp};
use crate::storage::state::{FeedEntry, ShardState};

const PAGE: usize = 256;
/// Entries that nobody wanted, after which the offset is stored all the same: a write for each would double the log.
const UNSTORED: u64 = 1024;
/// Entries counted at most by [`behind`].
const MOST_BEHIND: u64 = 100_000;
const PAUSE: Duration = Duration::from_secs(1);

/// The events of one batch, opened.
#[derive(Debug, Clone)]
pub struct Opened {
    pub position: u64,
    pub entity: EntityId,
    pub at: Timestamp,
    /// Encoded events of the entity's kind, in order. Empty when the person they belonged to was erased.
    pub events: Vec<Vec<u8>>,
}

/// Follows every shard's feed with a durable offset.
#[async_trait]
pub trait FeedConsumer: Send + Sync + 'static {
    /// Names the offset; never changes once released.
    fn name(&self) -> &'static str;

    /// Whether entries of this entity kind are wanted; others are skipped without being opened.
    fn wants(&self, kind: &str) -> bool;

    /// Handles entries in order; after an error the same entries come again.
    ///
    /// # Errors
    /// Anything that may pass.
    async fn handle(&self, entries: &[Opened]) -> Result<(), Error>;
}

/// Opens one entry with its person's key.
///
/// # Errors
/// `unavailable` when the key cannot be had now.
pub async fn open_entry(sealer: &dyn Sealer, entry: FeedEntry) -> Result<Opened, Error> {
    let FeedEntry { position, entity, first_sequence, subject, events, at } = entry;
    let key = match &subject {
        Some(subject) => match sealer.key(subject, false).await? {
            Some(key) => Some(key),
            None => return Ok(Opened { position, entity, at, events: Vec::new() }),
        },
        None => None,
    };
    let mut opened = Vec::with_capacity(events.len());
    for (event, sequence) in events.into_iter().zip(first_sequence..) {
        opened.push(open(key.as_ref(), &entity, &Place::Event(sequence), event)?);
    }
    Ok(Opened { position, entity, at, events: opened })
}

/// Runs a consumer on one shard until this node stops leading it.
pub async fn consume(shard: Arc<Shard>, consumer: Arc<dyn FeedConsumer>, stopping: CancellationToken) {
    let mut applied = shard.parts.log.state().applied();
    let mut seen = 0;
    loop {
        applied.mark_unchanged();
        match pass(&shard, consumer.as_ref(), &mut seen).await {
            Ok(true) => {}
            Ok(false) => tokio::select! {
                () = stopping.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
            },
            // However much is committed meanwhile: what failed is not asked again at that rate.
            Err(error) => {
                tracing::warn!(consumer = consumer.name(), %error, "a feed consumer is put off");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// How many entries wait that the consumer wants.
///
/// # Errors
/// When the feed cannot be read.
pub fn behind(state: &ShardState, consumer: &dyn FeedConsumer) -> Result<u64, Error> {
    let (mut after, mut count) = (state.consumed(consumer.name()).map_err(|error| unreadable(&error))?, 0);
    while count < MOST_BEHIND {
        let page = state.feed(after, PAGE).map_err(|error| unreadable(&error))?;
        let Some(last) = page.last() else { break };
        after = last.position;
        count += page.iter().map(|entry| u64::from(consumer.wants(entry.entity.kind()))).sum::<u64>();
    }
    Ok(count)
}

/// Handles one page beyond the stored offset and `seen`; whether there may be more.
async fn pass(shard: &Shard, consumer: &dyn FeedConsumer, seen: &mut u64) -> Result<bool, Error> {
    let state = shard.parts.log.state();
    let stored = state.consumed(consumer.name()).map_err(|error| unreadable(&error))?;
    let page = state.feed(stored.max(*seen), PAGE).map_err(|error| unreadable(&error))?;
    let Some(position) = page.last().map(|entry| entry.position) else { return Ok(false) };
    let mut wanted = Vec::new();
    for entry in page {
        if consumer.wants(entry.entity.kind()) {
            wanted.push(open_entry(shard.parts.sealer(), entry).await?);
        }
    }
    // The first offset is stored at once: the feed is kept for consumers that have one.
    if wanted.is_empty() && stored > 0 && position - stored < UNSTORED {
        *seen = position;
        return Ok(true);
    }
    if !wanted.is_empty() {
        consumer.handle(&wanted).await?;
    }
    let consumed = Op::Consumed { consumer: consumer.name().to_owned(), position };
    let done = shard.parts.propose(consumed).map_err(|_| Error::overloaded("The shard's queue"))?;
    let stopped = || Error::unavailable("The shard is stopping.");
    done.await.map_err(|_| stopped())?.map_err(|_| stopped())?;
    *seen = position;
    Ok(true)
}
