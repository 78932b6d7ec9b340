//! One other node, as this one sends to it: what waits, what is in flight, and who waits for which answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, Histogram};
use ractor::ActorRef;
use ractor::rpc::CallResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::envelope::{BYTES, Envelope, ITEMS, Item};
use super::router::RouterMessage;
use crate::actors::runtime::remote::{REMOTE_BYTES, Refusal, RemoteError};
use crate::cluster::link::Link;
use crate::kernel::ShardId;

/// Envelopes in flight to one node.
const WINDOW: usize = 4;
/// Requests that wait for an envelope, and bytes of all that wait (answers too).
const QUEUE: usize = 8192;
const QUEUE_BYTES: usize = 64 << 20;
/// Requests of the other node under way here.
const UNDER_WAY: usize = 8192;
/// The longest a node may take to take an envelope in; its runtime is not asked for that.
const TAKEN_IN: Duration = Duration::from_secs(5);

pub(super) struct Peer {
    node: u64,
    own: (u64, u64),
    next: AtomicU64,
    /// Whether there is a session that takes envelopes. Ends with `waiting` locked, so that no call is left behind.
    up: AtomicBool,
    waiting: Mutex<HashMap<u64, Call>>,
    requests: mpsc::Sender<u64>,
    answers: mpsc::UnboundedSender<(Item, OwnedSemaphorePermit)>,
    /// Taken by the session that is up.
    queues: tokio::sync::Mutex<Queues>,
    waiting_bytes: AtomicUsize,
    under_way: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    envelopes: Counter,
    items: Histogram,
}

struct Queues {
    requests: mpsc::Receiver<u64>,
    /// At most as many as requests of the other node are under way: each holds its permit.
    answers: mpsc::UnboundedReceiver<(Item, OwnedSemaphorePermit)>,
}

struct Call {
    /// Gone once it is on its way.
    request: Option<(ShardId, Vec<u8>)>,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<u8>, RemoteError>>,
}

impl Peer {
    pub fn new(node: u64, link: &Link) -> Self {
        let (requests, queued_requests) = mpsc::channel(QUEUE);
        let (answers, queued_answers) = mpsc::unbounded_channel();
        let label = node.to_string();
        Self {
            node,
            own: (link.node(), link.incarnation()),
            next: AtomicU64::new(1),
            up: AtomicBool::new(false),
            waiting: Mutex::default(),
            requests,
            answers,
            queues: tokio::sync::Mutex::new(Queues { requests: queued_requests, answers: queued_answers }),
            waiting_bytes: AtomicUsize::new(0),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            refusals: Arc::new(Semaphore::new(UNDER_WAY)),
            envelopes: metrics::counter!("construct_envelopes_total", "peer" => label.clone()),
            items: metrics::histogram!("construct_envelope_items", "peer" => label),
        }
    }

    pub async fn call(&self, shard: ShardId, request: Vec<u8>, deadline: Instant) -> Result<Vec<u8>, RemoteError> {
        let node = self.node;
        if request.len() > REMOTE_BYTES || self.waiting_bytes.load(Ordering::Relaxed) > QUEUE_BYTES {
            return Err(Refusal::Overloaded.into());
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if !self.up.load(Ordering::Acquire) {
                return Err(RemoteError::Unreachable { node });
            }
            self.waiting_bytes.fetch_add(request.len(), Ordering::Relaxed);
            waiting.insert(id, Call { request: Some((shard, request)), deadline, answer });
        }
        let guard = GiveUp { id, peer: self };
        self.requests.try_send(id).map_err(|_| Refusal::Overloaded)?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RemoteError::Lost { node }),
            // Still here: it never left.
            Err(_) if guard.is_queued() => Err(Refusal::Expired.into()),
            Err(_) => Err(RemoteError::Lost { node }),
        }
    }

    /// Room for one more request of the other node; `None` at the bound.
    pub fn admit(&self) -> Option<OwnedSemaphorePermit> {
        let room = self.waiting_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES;
        Arc::clone(&self.under_way).try_acquire_owned().ok().filter(|_| room)
    }

    /// Tells the other node that there was no room. Beyond another bound nothing is said: its caller's time runs out.
    pub fn refuse(&self, item: Item) {
        if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
            self.answer(item, permit);
        }
    }

    /// Queues an answer for the other node.
    pub fn answer(&self, mut item: Item, permit: OwnedSemaphorePermit) {
        if let Item::Answer { id, incarnation, .. } = item
            && item.bytes() > REMOTE_BYTES
        {
            tracing::error!(node = self.node, bytes = item.bytes(), "a reply is larger than the entity lane carries");
            item = Item::Answer { id, incarnation, answer: Err(Refusal::ReplyTooLarge) };
        }
        self.waiting_bytes.fetch_add(item.bytes(), Ordering::Relaxed);
        // The receiver lives as long as this.
        let _ = self.answers.send((item, permit));
    }

    /// What another node answered to a call.
    pub fn answered(&self, id: u64, answer: Result<Vec<u8>, Refusal>) {
        if let Some(call) = self.take(id) {
            let answer = answer.map_err(|refusal| match refusal {
                Refusal::ReplyTooLarge => RemoteError::Lost { node: self.node },
                other => other.into(),
            });
            // Whoever asked may have given up.
            let _ = call.answer.send(answer);
        }
    }

    /// Sends envelopes to the other node's router until `ended`, or until this is dropped; either way everything that
    /// waits is told.
    pub async fn run(&self, router: ActorRef<RouterMessage>, ended: &CancellationToken) {
        let mut session = Session::begin(self).await;
        let _ = ended.run_until_cancelled(self.send(&mut session.queues, router, ended)).await;
    }

    async fn send(&self, queues: &mut Queues, router: ActorRef<RouterMessage>, ended: &CancellationToken) {
        let window = Arc::new(Semaphore::new(WINDOW));
        loop {
            let Ok(turn) = Arc::clone(&window).acquire_owned().await else { return };
            let items = self.gather(queues).await;
            if items.is_empty() {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "a histogram")]
            self.items.record(items.len() as f64);
            self.envelopes.increment(1);
            let (from, incarnation) = self.own;
            let envelope = match (Envelope { from, incarnation, items }).encode() {
                Ok(envelope) => envelope,
                Err(error) => {
                    // What was in it ends by its deadline.
                    tracing::error!(%error, "an envelope does not encode");
                    continue;
                }
            };
            let (router, ended) = (router.clone(), ended.clone());
            tokio::spawn(async move {
                let taken = router.call(|taken| RouterMessage::Envelope(envelope, taken), Some(TAKEN_IN)).await;
                if !matches!(taken, Ok(CallResult::Success(_))) {
                    tracing::warn!("an envelope was not taken in; the session is given up");
                    ended.cancel();
                }
                drop(turn);
            });
        }
    }

    /// Everything that waits and fits into one envelope; waits for the first.
    async fn gather(&self, queues: &mut Queues) -> Vec<Item> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        let first = tokio::select! {
            biased;
            Some((item, _permit)) = queues.answers.recv() => Some(item),
            Some(id) = queues.requests.recv() => self.depart(id),
            else => None,
        };
        let mut next = first;
        while items.len() < ITEMS && bytes < BYTES {
            if let Some(item) = next.take() {
                bytes += item.bytes();
                items.push(item);
            }
            next = match queues.answers.try_recv() {
                Ok((item, _permit)) => Some(item),
                Err(_) => match queues.requests.try_recv() {
                    // A request that was given up leaves a gap.
                    Ok(id) => self.depart(id),
                    Err(_) => break,
                },
            };
        }
        if let Some(item) = next {
            items.push(item);
        }
        let answers = items.iter().filter(|item| matches!(item, Item::Answer { .. }));
        self.waiting_bytes.fetch_sub(answers.map(Item::bytes).sum(), Ordering::Relaxed);
        items
    }

    /// Takes a request that is about to leave; `None` when its caller gave up, or its time is over.
    fn depart(&self, id: u64) -> Option<Item> {
        let mut waiting = self.lock();
        let call = waiting.get_mut(&id)?;
        let remaining = call.deadline.saturating_duration_since(Instant::now());
        let remaining_ms = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX);
        if remaining_ms == 0 {
            return None;
        }
        let (shard, body) = call.request.take()?;
        self.waiting_bytes.fetch_sub(body.len(), Ordering::Relaxed);
        Some(Item::Request { id, shard: shard.0, remaining_ms, body })
    }

    fn take(&self, id: u64) -> Option<Call> {
        let call = self.lock().remove(&id)?;
        if let Some((_, request)) = &call.request {
            self.waiting_bytes.fetch_sub(request.len(), Ordering::Relaxed);
        }
        Some(call)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Call>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Envelopes are taken as long as this is there; then who waits for an answer is told that none comes.
struct Session<'a> {
    peer: &'a Peer,
    queues: tokio::sync::MutexGuard<'a, Queues>,
}

impl<'a> Session<'a> {
    /// Waits for the end of the one before.
    async fn begin(peer: &'a Peer) -> Self {
        let queues = peer.queues.lock().await;
        peer.up.store(true, Ordering::Release);
        Self { peer, queues }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Self { peer, queues } = self;
        while let Ok((item, _)) = queues.answers.try_recv() {
            peer.waiting_bytes.fetch_sub(item.bytes(), Ordering::Relaxed);
        }
        while queues.requests.try_recv().is_ok() {}
        let calls: Vec<u64> = {
            let waiting = peer.lock();
            peer.up.store(false, Ordering::Release);
            waiting.keys().copied().collect()
        };
        let node = peer.node;
        for call in calls.into_iter().filter_map(|id| peer.take(id)) {
            let queued = call.request.is_some();
            let error = if queued { RemoteError::Unreachable { node } } else { RemoteError::Lost { node } };
            let _ = call.answer.send(Err(error));
        }
    }
}

/// Forgets a call when its caller does.
struct GiveUp<'a> {
    id: u64,
    peer: &'a Peer,
}

impl GiveUp<'_> {
    fn is_queued(&self) -> bool {
        self.peer.lock().get(&self.id).is_some_and(|call| call.request.is_some())
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        drop(self.peer.take(self.id));
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
