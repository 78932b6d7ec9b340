//! Which connections of this node follow which channel and belong to which session.
//!
//! A channel with followers is a [`Line`]. The word that it has something new goes to every follower; what is new, each
//! follower reads from its own position on, so nothing queues for a slow client, and there can be neither a gap nor a
//! duplicate between recovery and what comes live. Followers who stand at the same place, as in a fan-out nearly all
//! do, share one reading and one encoding of it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::channel::Channel;
use super::disconnect::Disconnect;
use crate::kernel::Error;

/// Pages larger than this are not kept: every channel may keep one.
const MAX_KEPT_BYTES: usize = 16 << 10;

/// What others leave for a connection.
#[derive(Debug, Default)]
pub struct Mailbox {
    ended: OnceLock<Disconnect>,
    wake: Notify,
}

impl Mailbox {
    /// Tells the connection to end.
    pub fn end(&self, why: Disconnect) {
        let _ = self.ended.set(why);
        self.wake.notify_one();
    }

    /// Waits until something was left. Cancel-safe.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Why to end, if somebody said so.
    #[must_use]
    pub fn ended(&self) -> Option<Disconnect> {
        self.ended.get().copied()
    }
}

/// A session that something of another protocol belongs to; it is let go of when dropped.
pub struct Watched {
    hub: Arc<Hub>,
    session: String,
    mailbox: Arc<Mailbox>,
}

impl Watched {
    pub(super) fn new(hub: &Arc<Hub>, session: &str) -> Self {
        let mailbox = Arc::default();
        hub.enter(session, &mailbox);
        Self { hub: Arc::clone(hub), session: session.to_owned(), mailbox }
    }

    /// Waits until the session ends. Cancel-safe.
    pub async fn ended(&self) {
        while self.mailbox.ended().is_none() {
            self.mailbox.changed().await;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.hub.exit(&self.session, &self.mailbox);
    }
}

/// What a follower has not had, ready to be sent.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub frame: Utf8Bytes,
    /// The offset of the first and of the last publication in it.
    pub first: u64,
    pub last: u64,
    pub count: u64,
    /// Whether there may be more behind it.
    pub more: bool,
}

/// A page that was read, for those who stand where its reader stood.
#[derive(Debug)]
struct Kept {
    /// Everything published before this count is in it or before it.
    as_of: u64,
    after: u64,
    pushed: Option<Pushed>,
}

/// A channel that connections of this node follow.
#[derive(Debug)]
pub struct Line {
    pub channel: Channel,
    followers: Mutex<Vec<Arc<Follower>>>,
    /// How many those are, for whoever must not wait while all of them are being told.
    count: AtomicUsize,
    /// How often something new was announced.
    published: AtomicU64,
    kept: Mutex<Option<Kept>>,
    reading: tokio::sync::Mutex<()>,
}

/// A connection's place on a line.
#[derive(Debug)]
pub struct Follower {
    mailbox: Arc<Mailbox>,
    news: AtomicBool,
}

impl Follower {
    /// Tells the connection that there is something new.
    pub fn tell(&self) {
        self.keep();
        self.mailbox.wake.notify_one();
    }

    /// Marks the news without waking anyone: the connection itself puts them off.
    pub fn keep(&self) {
        self.news.store(true, Ordering::Release);
    }

    /// Whether there was news, once.
    #[must_use]
    pub fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::AcqRel)
    }
}

impl Line {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            followers: Mutex::default(),
            count: AtomicUsize::new(0),
            published: AtomicU64::new(0),
            kept: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    fn members(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Follower>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        // Before anyone is told: who hears of it must not be content with what was read earlier.
        self.published.fetch_add(1, Ordering::AcqRel);
        for follower in self.members().iter() {
            follower.tell();
        }
    }

    /// What comes after `after`: as another follower read it since the latest announcement, or `read` now. `None`:
    /// nothing does.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn after<F>(&self, after: u64, read: impl FnOnce() -> F) -> Result<Option<Pushed>, Error>
    where
        F: Future<Output = Result<Option<Pushed>, Error>>,
    {
        if let Some(kept) = self.kept(after) {
            return Ok(kept);
        }
        if self.count.load(Ordering::Relaxed) < 2 {
            return read().await;
        }
        let _turn = self.reading.lock().await;
        if let Some(kept) = self.kept(after) {
            return Ok(kept);
        }
        let as_of = self.published.load(Ordering::Acquire);
        let pushed = read().await?;
        if pushed.as_ref().is_none_or(|pushed| pushed.frame.len() <= MAX_KEPT_BYTES) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(Kept { as_of, after, pushed: pushed.clone() });
        }
        Ok(pushed)
    }

    fn kept(&self, after: u64) -> Option<Option<Pushed>> {
        let published = self.published.load(Ordering::Acquire);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|kept| kept.after == after && kept.as_of >= published).map(|kept| kept.pushed.clone())
    }
}

/// The connections of this node. Bounded by the number of connections and of channels each may follow.
#[derive(Debug, Default)]
pub struct Hub {
    /// Every connection, by the address of its mailbox.
    open: Mutex<HashMap<usize, Arc<Mailbox>>>,
    lines: Mutex<HashMap<Channel, Arc<Line>>>,
    sessions: Mutex<HashMap<String, Vec<Arc<Mailbox>>>>,
}

impl Hub {
    /// A connection began; it hears when all are to end.
    pub fn open(&self, mailbox: &Arc<Mailbox>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(Arc::as_ptr(mailbox).addr(), Arc::clone(mailbox));
    }

    pub fn close(&self, mailbox: &Arc<Mailbox>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&Arc::as_ptr(mailbox).addr());
    }

    /// Tells every connection to end.
    pub fn end_all(&self, why: Disconnect) {
        for mailbox in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            mailbox.end(why);
        }
    }

    /// Joins a connection to a channel; it hears of what is published from now on until it leaves.
    #[must_use]
    pub fn follow(&self, channel: &Channel, mailbox: &Arc<Mailbox>) -> (Arc<Line>, Arc<Follower>) {
        let follower = Arc::new(Follower { mailbox: Arc::clone(mailbox), news: AtomicBool::new(false) });
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match lines.get(channel) {
            Some(line) => Arc::clone(line),
            None => {
                let line = Arc::new(Line::new(channel.clone()));
                lines.insert(channel.clone(), Arc::clone(&line));
                line
            }
        };
        line.members().push(Arc::clone(&follower));
        line.count.fetch_add(1, Ordering::Relaxed);
        (line, follower)
    }

    pub fn unfollow(&self, line: &Line, follower: &Arc<Follower>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut members = line.members();
        if let Some(place) = members.iter().position(|member| Arc::ptr_eq(member, follower)) {
            members.swap_remove(place);
            line.count.fetch_sub(1, Ordering::Relaxed);
        }
        if members.is_empty() {
            lines.remove(&line.channel);
        }
    }

    pub fn enter(&self, session: &str, mailbox: &Arc<Mailbox>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        match sessions.get_mut(session) {
            Some(members) if members.iter().any(|member| Arc::ptr_eq(member, mailbox)) => {}
            Some(members) => members.push(Arc::clone(mailbox)),
            None => drop(sessions.insert(session.to_owned(), vec![Arc::clone(mailbox)])),
        }
    }

    pub fn exit(&self, session: &str, mailbox: &Arc<Mailbox>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(members) = sessions.get_mut(session) {
            members.retain(|member| !Arc::ptr_eq(member, mailbox));
            if members.is_empty() {
                sessions.remove(session);
            }
        }
    }

    /// Whether anyone here follows the channel.
    #[must_use]
    pub fn has_followers(&self, channel: &Channel) -> bool {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).contains_key(channel)
    }

    /// Whether a connection here belongs to the session.
    #[must_use]
    pub fn has_session(&self, session: &str) -> bool {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).contains_key(session)
    }

    /// Tells every follower that the channel has something new.
    pub fn publish(&self, channel: &Channel) {
        let line = self.lines.lock().unwrap_or_else(PoisonError::into_inner).get(channel).cloned();
        if let Some(line) = line {
            line.publish();
        }
    }

    /// Tells every follower that its channel may have something new.
    pub fn publish_all(&self) {
        let lines: Vec<_> = self.lines.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        lines.iter().for_each(|line| line.publish());
    }

    /// Ends every connection of the session.
    pub fn end_session(&self, session: &str, why: Disconnect) {
        let members = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        for mailbox in members.get(session).into_iter().flatten() {
            mailbox.end(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(first: u64, last: u64) -> Pushed {
        let frame = Utf8Bytes::from(format!("{first}..={last}"));
        Pushed { frame, first, last, count: last + 1 - first, more: false }
    }

    #[tokio::test]
    async fn followers_hear_once_of_many_and_nothing_after_they_left() {
        let (hub, one, two) = (Hub::default(), Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let channel = Channel::Inbox("usr_a".into());
        let (line, first) = hub.follow(&channel, &one);
        let (_, second) = hub.follow(&channel, &two);
        hub.publish(&channel);
        hub.publish_all();
        one.changed().await;
        assert!(first.take_news() && !first.take_news() && second.take_news());
        hub.unfollow(&line, &second);
        hub.publish(&channel);
        hub.publish(&Channel::Inbox("usr_b".into()));
        assert!(first.take_news() && !second.take_news() && hub.has_followers(&channel));
        hub.unfollow(&line, &first);
        assert!(!hub.has_followers(&channel));
    }

    #[tokio::test]
    async fn a_page_is_read_once_for_all_who_stand_at_its_place_and_again_after_news() {
        let (hub, mailbox) = (Hub::default(), Arc::new(Mailbox::default()));
        let channel = Channel::Topic("news".into());
        let (line, _one) = hub.follow(&channel, &mailbox);
        let read = async |after, last| {
            let mut read = false;
            let pushed = line
                .after(after, || {
                    read = true;
                    std::future::ready(Ok(Some(page(after + 1, last))))
                })
                .await;
            (read, pushed.expect("read").map(|pushed| pushed.last))
        };
        // Alone on the line, nothing is kept.
        assert_eq!((read(0, 1).await, read(0, 1).await), ((true, Some(1)), (true, Some(1))));
        let (_, _two) = hub.follow(&channel, &mailbox);
        assert_eq!((read(0, 1).await, read(0, 9).await), ((true, Some(1)), (false, Some(1))));
        assert_eq!(read(1, 9).await, (true, Some(9)));
        hub.publish(&channel);
        assert_eq!((read(1, 10).await, read(1, 11).await), ((true, Some(10)), (false, Some(10))));
    }

    #[tokio::test]
    async fn ending_a_session_reaches_its_connections_only() {
        let (hub, one, two) = (Hub::default(), Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        hub.enter("ses_1", &one);
        hub.enter("ses_1", &one);
        hub.enter("ses_2", &two);
        hub.end_session("ses_1", Disconnect::SESSION_ENDED);
        one.changed().await;
        assert_eq!((one.ended(), two.ended()), (Some(Disconnect::SESSION_ENDED), None));
        hub.exit("ses_1", &one);
        assert!(!hub.has_session("ses_1") && hub.has_session("ses_2"));
    }
}
