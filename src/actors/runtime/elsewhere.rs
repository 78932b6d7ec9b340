//! Finds the node that leads a shard and asks there.
//!
//! Where a shard is led is known from the shard's own log where this node has a replica, else from what other nodes
//! answered last; a wrong guess costs one more hop, for whoever does not lead says who does. A question is asked again
//! only where nothing was done, or where doing it twice is the same as once. Waiting for a leader ends with 503.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::aftermath::Aftermath;
use super::answer::too_late;
use super::question::{Answer, Question, decode_answer};
use super::remote::{Refusal, Remote, RemoteError};
use super::router::Router;
use super::shard::Undelivered;
use crate::kernel::{Error, ShardId};
use crate::providers::keys::KeyWrapper;

/// How long a question waits for a shard to get a leader.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// Pause before the next look at who leads, unless this node hears of it earlier.
const PAUSE: Duration = Duration::from_millis(25);
/// Hops after hints without a pause.
const HOPS: u32 = 4;

/// What this node knows of the way to others.
pub(super) struct Way {
    remote: OnceLock<(u64, Arc<dyn Remote>)>,
    leaders: RwLock<HashMap<ShardId, u64>>,
    peers: RwLock<Vec<u64>>,
    /// Shards that are meant to have no replica here, whatever the one that was here last knows of it.
    away: watch::Sender<BTreeSet<ShardId>>,
    stopping: CancellationToken,
    /// How the cluster began, once that is known.
    aftermath: Arc<OnceLock<Aftermath>>,
    /// What members have in common beside the shards.
    pub(super) keys: OnceLock<Arc<dyn KeyWrapper>>,
}

/// What came of asking one node.
enum Heard {
    Answer(Result<Answer, Error>),
    /// Nothing was done, or it may be done again. Who leads, if that node knows.
    Again(Option<u64>),
}

impl Way {
    pub fn new(stopping: CancellationToken, aftermath: Arc<OnceLock<Aftermath>>) -> Self {
        let (remote, leaders, peers) = (OnceLock::new(), RwLock::default(), RwLock::default());
        Self { remote, leaders, peers, away: watch::Sender::default(), stopping, aftermath, keys: OnceLock::new() }
    }

    pub fn away(&self) -> &watch::Sender<BTreeSet<ShardId>> {
        &self.away
    }

    pub fn aftermath(&self) -> Option<&Aftermath> {
        self.aftermath.get()
    }

    pub fn connect(&self, node: u64, remote: Arc<dyn Remote>) {
        let _ = self.remote.set((node, remote));
    }

    pub fn node(&self) -> Option<u64> {
        self.remote.get().map(|(node, _)| *node)
    }

    /// Other members, as this node knows them.
    pub fn others(&self) -> Vec<u64> {
        let (peers, own) = (self.peers.read().unwrap_or_else(PoisonError::into_inner), self.node());
        peers.iter().copied().filter(|node| Some(*node) != own).collect()
    }

    pub fn set_peers(&self, peers: Vec<u64>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    fn remembered(&self, shard: ShardId) -> Option<u64> {
        self.leaders.read().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()
    }

    fn remember(&self, shard: ShardId, leader: Option<u64>) {
        let mut leaders = self.leaders.write().unwrap_or_else(PoisonError::into_inner);
        // Others may take longer than this node to hear that it leads no more: it is not the way to itself.
        match leader.filter(|leader| Some(*leader) != self.node()) {
            Some(node) => drop(leaders.insert(shard, node)),
            None => drop(leaders.remove(&shard)),
        }
    }

    /// Any other node, in turn.
    fn any(&self, turn: u32) -> Option<u64> {
        let others = self.others();
        (!others.is_empty()).then(|| others[turn as usize % others.len()])
    }

    /// Asks a node about itself.
    ///
    /// # Errors
    /// `unavailable` with the reason when it does not answer by `until`; or its refusal.
    pub async fn ask_node(&self, node: u64, question: &Question, until: Instant) -> Result<Answer, Error> {
        let silent = |why: String| Error::unavailable(format!("No answer: {why}."));
        let Some((_, remote)) = self.remote.get() else { return Err(silent("this node knows no other".to_owned())) };
        let request = question.encode().map_err(|_| Error::internal())?;
        let bytes =
            remote.call(node, ShardId::META, request, until).await.map_err(|error| silent(error.to_string()))?;
        decode_answer(&bytes).map_err(|_| silent("it cannot be read".to_owned()))?
    }

    async fn ask(&self, node: u64, shard: ShardId, question: &Question, request: &[u8], until: Instant) -> Heard {
        let Some((_, remote)) = self.remote.get() else { return Heard::Again(None) };
        match remote.call(node, shard, request.to_vec(), until).await {
            Ok(bytes) => {
                self.remember(shard, Some(node));
                Heard::Answer(decode_answer(&bytes).unwrap_or_else(|error| {
                    tracing::error!(node, %shard, %error, "the answer of another node cannot be read");
                    Err(Error::internal())
                }))
            }
            Err(RemoteError::Refused(Refusal::NotLeader { leader })) => {
                self.remember(shard, leader.filter(|leader| *leader != node));
                Heard::Again(leader.filter(|leader| *leader != node))
            }
            Err(RemoteError::Refused(Refusal::Overloaded)) => {
                Heard::Answer(Err(Error::overloaded("The window of another node")))
            }
            Err(RemoteError::Refused(Refusal::Expired)) => {
                Heard::Answer(Err(Error::unavailable("The deadline passed; nothing was done.")))
            }
            Err(RemoteError::Lost { .. }) if !question.repeatable() => {
                self.remember(shard, None);
                let detail = "Another node did not answer; whether the command took effect is not known.";
                Heard::Answer(Err(Error::unavailable(detail)))
            }
            Err(error) => {
                tracing::debug!(node, %shard, %error, "another node cannot be asked");
                self.remember(shard, None);
                Heard::Again(None)
            }
        }
    }
}

impl Router {
    /// Who leads a shard by this node's replica of it. One that was taken away goes on naming who led it then.
    pub(super) fn heard_leader(&self, shard: ShardId) -> Option<u64> {
        let known = self.replica(shard)?.leadership();
        let hears = known.replica && !self.way().away.borrow().contains(&shard);
        known.leader.filter(|_| hears)
    }

    /// Asks whoever leads the shard, by `until`.
    ///
    /// # Errors
    /// The refusal; `unavailable` when the shard has no leader that can be reached; `deadline_exceeded`.
    pub(super) async fn settle(&self, shard: ShardId, question: &Question, until: Instant) -> Result<Answer, Error> {
        match tokio::time::timeout_at(until, self.search(shard, question, until)).await {
            Ok(result) => result,
            Err(_) => Err(too_late()),
        }
    }

    async fn search(&self, shard: ShardId, question: &Question, until: Instant) -> Result<Answer, Error> {
        let replica = self.replica(shard).ok_or_else(|| Error::not_found("shard"))?;
        let give_up = until.min(Instant::now() + LEADER_WAIT);
        let mut leadership = replica.log.leadership();
        let (mut hint, mut request, mut turn) = (None, None, 0);
        loop {
            leadership.mark_unchanged();
            if let Some(led) = replica.led() {
                match self.answer(&led, question).await {
                    Ok(answer) => return Ok(answer),
                    Err(Undelivered::Refused(error)) => return Err(error),
                    Err(Undelivered::Moved) => {}
                }
            }
            if let Some((own, _)) = self.way().remote.get() {
                let leader = hint.take().or_else(|| self.heard_leader(shard)).or_else(|| self.way().remembered(shard));
                let target = leader.or_else(|| self.way().any(turn));
                if let Some(node) = target.filter(|node| node != own) {
                    let bytes = match &request {
                        Some(bytes) => bytes,
                        None => request.insert(question.encode().map_err(|error| {
                            tracing::error!(%error, "a question does not encode");
                            Error::internal()
                        })?),
                    };
                    match self.way().ask(node, shard, question, bytes, until).await {
                        Heard::Answer(answer) => return answer,
                        Heard::Again(leader) => hint = leader.filter(|leader| leader != own),
                    }
                }
            }
            turn += 1;
            if hint.is_some() && turn % HOPS != 0 {
                continue;
            }
            if Instant::now() + PAUSE >= give_up || self.way().stopping.is_cancelled() {
                return Err(Error::unavailable("The shard has no leader that can be reached; nothing was done."));
            }
            tokio::select! {
                _ = leadership.changed() => {}
                () = tokio::time::sleep(PAUSE) => {}
                () = self.way().stopping.cancelled() => {}
            }
        }
    }
}
