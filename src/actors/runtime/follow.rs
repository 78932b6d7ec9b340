//! Follows what happens on a shard from now on, by this node's replica, led here or not: what crosses to a node once,
//! with the log, is enough for everyone on it.
//!
//! What happened before is not seen; nor is what a snapshot replaced, which is said so. Who needs every entry is a
//! [`FeedConsumer`](super::feed::FeedConsumer).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::replica::Replica;
use crate::storage::state::{FeedEntry, Progress};

const PAGE: usize = 512;
const PAUSE: Duration = Duration::from_millis(200);

/// A place in a shard's feed.
pub struct Follower {
    replica: Arc<Replica>,
    applied: watch::Receiver<Progress>,
    position: u64,
}

/// What came next.
pub struct News {
    /// In order.
    pub entries: Vec<FeedEntry>,
    /// There was more that cannot be seen any more.
    pub gap: bool,
}

impl Follower {
    /// From what is applied by now.
    #[must_use]
    pub fn new(replica: Arc<Replica>) -> Self {
        let (applied, position) = (replica.state().applied(), replica.state().feed_head());
        Self { replica, applied, position }
    }

    /// Waits for the next entries; `None` when the state is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            self.applied.mark_unchanged();
            match self.replica.state().feed(self.position, PAGE) {
                Ok(entries) if !entries.is_empty() => {
                    let first = entries.first().map_or(0, |entry| entry.position);
                    let gap = first > self.position + 1;
                    self.position = entries.last().map_or(self.position, |entry| entry.position);
                    return Some(News { entries, gap });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(shard = %self.replica.id(), %error, "a feed cannot be read");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            self.applied.changed().await.ok()?;
        }
    }
}
