//! Follows what happens on a shard from now on. Where this node has a replica, led here or not, it is that which is followed:
//! what crosses to a node once, with the log, is enough for everyone on it. Where it has none, or one that nobody
//! replicates to any more, the node that leads the shard is asked, and answers once there is something.
//!
//! What happened before is not seen; nor is what a snapshot replaced, which is said so. Who needs every entry is a
//! [`FeedConsumer`](super::feed::FeedConsumer).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::log::Leadership;
use super::question::{Answer, Followed, Question};
use super::replica::Replica;
use super::router::Router;
use crate::kernel::{EntityId, Error, ShardId};
use crate::storage::state::{FeedEntry, Progress};

const PAGE: usize = 512;
const PAUSE: Duration = Duration::from_millis(200);
/// How long another node has to say that nothing happened.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// A place in a shard's feed.
pub struct Follower {
    replica: Arc<Replica>,
    applied: watch::Receiver<Progress>,
    leadership: watch::Receiver<Leadership>,
    /// `None` until it is known where the feed is.
    position: Option<u64>,
    /// Who is asked where the replica here is nobody's, and for what.
    elsewhere: Option<Elsewhere>,
}

struct Elsewhere {
    router: Router,
    kinds: Vec<Followed>,
    /// Shards that are meant to be there and not here.
    away: watch::Receiver<BTreeSet<ShardId>>,
}

/// What came next.
pub struct News {
    /// In order.
    pub entries: Vec<FeedEntry>,
    /// There was more that cannot be seen any more.
    pub gap: bool,
}

impl Follower {
    /// Of a shard that every node has: from what is applied by now.
    #[must_use]
    pub fn new(replica: Arc<Replica>) -> Self {
        let (applied, leadership) = (replica.state().applied(), replica.log.leadership());
        let position = Some(replica.state().feed_head());
        Self { replica, applied, leadership, position, elsewhere: None }
    }

    /// Of any shard: entries of these kinds, from what has happened by now.
    #[must_use]
    pub fn anywhere(router: Router, replica: Arc<Replica>, kinds: Vec<Followed>) -> Self {
        let away = router.away();
        let mut follower = Self { elsewhere: Some(Elsewhere { router, kinds, away }), ..Self::new(replica) };
        if !follower.is_here() {
            follower.position = None;
        }
        follower
    }

    /// Whether the replica of this node is kept up to date.
    fn is_here(&self) -> bool {
        let Some(elsewhere) = &self.elsewhere else { return true };
        let known = *self.leadership.borrow();
        known.replica && known.leader.is_some() && !elsewhere.away.borrow().contains(&self.replica.id())
    }

    /// Waits for the next entries; `None` when the state is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            self.applied.mark_unchanged();
            self.leadership.mark_unchanged();
            if let Some(elsewhere) = &mut self.elsewhere {
                elsewhere.away.mark_unchanged();
            }
            if !self.is_here() {
                match self.ask().await {
                    Ok(news) if news.gap || !news.entries.is_empty() => return Some(news),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(shard = %self.replica.id(), %error, "the feed of a shard elsewhere cannot be followed");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                continue;
            }
            let position = *self.position.get_or_insert_with(|| self.replica.state().feed_head());
            match self.replica.state().feed(position, PAGE) {
                Ok(entries) if !entries.is_empty() => {
                    let first = entries.first().map_or(0, |entry| entry.position);
                    self.position = entries.last().map(|entry| entry.position).or(self.position);
                    return Some(News { entries, gap: first > position + 1 });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(shard = %self.replica.id(), %error, "a feed cannot be read");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            let moved = async {
                match &mut self.elsewhere {
                    Some(elsewhere) => elsewhere.away.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.applied.changed() => changed.ok()?,
                changed = self.leadership.changed() => changed.ok()?,
                changed = moved => changed.ok()?,
            }
        }
    }

    /// Waits until something may have happened to an entity, or so much time has passed; false when the state is gone.
    pub async fn hears_of(&mut self, entity: &EntityId, within: Duration) -> bool {
        let until = Instant::now() + within;
        loop {
            match tokio::time::timeout_at(until, self.next()).await {
                Ok(None) => return false,
                Ok(Some(news)) if !news.gap && news.entries.iter().all(|entry| entry.entity != *entity) => {}
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }

    /// What the node that leads the shard says, once there is something.
    async fn ask(&mut self) -> Result<News, Error> {
        let Some(Elsewhere { router, kinds, .. }) = &self.elsewhere else { return Err(Error::internal()) };
        let question = Question::Follow { after: self.position, kinds: kinds.clone() };
        match router.settle(self.replica.id(), &question, Instant::now() + ANSWERED_WITHIN).await? {
            Answer::News { reached, gap, entries } => {
                self.position = Some(reached);
                Ok(News { entries, gap })
            }
            _ => Err(Error::internal()),
        }
    }
}
