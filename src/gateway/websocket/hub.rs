//! Which connections of this node follow which channel and belong to which session.
//!
//! The hub carries no publications, only the word that a channel has something new: every connection reads what is
//! beyond its own position from the channel's rows. So a burst costs one read, nothing queues for a slow client, and
//! there can be neither a gap nor a duplicate between recovery and what comes live.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::channel::Channel;
use super::disconnect::Disconnect;

/// What others leave for a connection.
#[derive(Debug, Default)]
pub struct Mailbox {
    news: Mutex<BTreeSet<Channel>>,
    ended: OnceLock<Disconnect>,
    wake: Notify,
}

impl Mailbox {
    /// Tells the connection that a channel it follows has something new.
    pub fn tell(&self, channel: &Channel) {
        self.keep(channel);
        self.wake.notify_one();
    }

    /// Marks the news without waking anyone: the connection itself puts them off.
    pub fn keep(&self, channel: &Channel) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.clone());
    }

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

    /// The channels with news, once.
    #[must_use]
    pub fn take_news(&self) -> BTreeSet<Channel> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Members<K> = Mutex<HashMap<K, Vec<Arc<Mailbox>>>>;

/// The connections of this node. Bounded by the number of connections and of channels each may follow.
#[derive(Debug, Default)]
pub struct Hub {
    channels: Members<Channel>,
    sessions: Members<String>,
}

fn join<K: Hash + Eq>(members: &Members<K>, key: K, mailbox: &Arc<Mailbox>) {
    let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
    let list = members.entry(key).or_default();
    if !list.iter().any(|member| Arc::ptr_eq(member, mailbox)) {
        list.push(Arc::clone(mailbox));
    }
}

fn leave<K: Hash + Eq>(members: &Members<K>, key: &K, mailbox: &Arc<Mailbox>) {
    let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(list) = members.get_mut(key) {
        list.retain(|member| !Arc::ptr_eq(member, mailbox));
        if list.is_empty() {
            members.remove(key);
        }
    }
}

impl Hub {
    pub fn follow(&self, channel: &Channel, mailbox: &Arc<Mailbox>) {
        join(&self.channels, channel.clone(), mailbox);
    }

    pub fn unfollow(&self, channel: &Channel, mailbox: &Arc<Mailbox>) {
        leave(&self.channels, channel, mailbox);
    }

    pub fn enter(&self, session: &str, mailbox: &Arc<Mailbox>) {
        join(&self.sessions, session.to_owned(), mailbox);
    }

    pub fn exit(&self, session: &str, mailbox: &Arc<Mailbox>) {
        leave(&self.sessions, &session.to_owned(), mailbox);
    }

    /// Whether anyone here follows the channel.
    #[must_use]
    pub fn has_followers(&self, channel: &Channel) -> bool {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).contains_key(channel)
    }

    /// Whether a connection here belongs to the session.
    #[must_use]
    pub fn has_session(&self, session: &str) -> bool {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).contains_key(session)
    }

    /// Tells every follower that the channel has something new.
    pub fn publish(&self, channel: &Channel) {
        let members = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        for mailbox in members.get(channel).into_iter().flatten() {
            mailbox.tell(channel);
        }
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

    #[tokio::test]
    async fn followers_hear_once_of_many_and_nothing_after_they_left() {
        let (hub, one, two) = (Hub::default(), Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let channel = Channel::Inbox("usr_a".into());
        hub.follow(&channel, &one);
        hub.follow(&channel, &one);
        hub.follow(&channel, &two);
        hub.publish(&channel);
        hub.publish(&channel);
        one.changed().await;
        assert_eq!(one.take_news().len(), 1);
        hub.unfollow(&channel, &two);
        hub.publish(&Channel::Inbox("usr_b".into()));
        assert!(one.take_news().is_empty() && hub.has_followers(&channel));
        hub.unfollow(&channel, &one);
        assert!(!hub.has_followers(&channel));
    }

    #[tokio::test]
    async fn ending_a_session_reaches_its_connections_only() {
        let (hub, one, two) = (Hub::default(), Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        hub.enter("ses_1", &one);
        hub.enter("ses_2", &two);
        hub.end_session("ses_1", Disconnect::SESSION_ENDED);
        one.changed().await;
        assert_eq!((one.ended(), two.ended()), (Some(Disconnect::SESSION_ENDED), None));
        hub.exit("ses_1", &one);
        assert!(!hub.has_session("ses_1") && hub.has_session("ses_2"));
    }
}
