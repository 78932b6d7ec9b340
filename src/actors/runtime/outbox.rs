//! The outbox of one shard: effects that were committed and now have to happen.
//!
//! One task reads the shard's outbox records in order and keeps a queue for each (source, target), so that what one
//! entity sends to another arrives in the order it was decided. Heads of queues are delivered concurrently, within a
//! bound for each [`Line`]: a stuck provider holds up only its own, and what is sent in number does not hold up money.
//! How one record is delivered, and what its end means, is [`delivery`]'s.
//!
//! Architecture invariant: only the leader of the shard runs its outbox, and a record leaves it only by a committed
//! batch of its source (which learned the outcome) or a committed settlement.

pub mod delivery;
mod past;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::delivery::{Attempt, Courier};
use super::background::Line;
use super::router::Router;
use super::shard::Shard;
use crate::actors::runtime::log::unreadable;
use crate::kernel::{EntityId, Error, OutboxRecord, ProviderKind, Target};
use crate::providers::Provider;

const PAGE: usize = 512;
/// Releases of an operator that wait for the task.
const RELEASED: usize = 256;
/// A record that waits no longer than this for its next attempt is not at rest.
const SOON: Duration = Duration::from_secs(1);

/// What keeps its order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lane {
    source: EntityId,
    target: Destination,
    /// With whom it shares a bound on what is known and under way.
    line: Line,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Destination {
    Entity(EntityId),
    Provider(ProviderKind),
}

impl Lane {
    fn of(record: &OutboxRecord) -> Self {
        let bulk = record.is_bulk();
        let (target, line) = match &record.target {
            Target::Entity(id) => (Destination::Entity(id.clone()), Line::Messages { bulk }),
            Target::Provider(kind) => (Destination::Provider(*kind), Line::Calls { provider: *kind, bulk }),
        };
        Self { source: record.source.clone(), target, line }
    }
}

/// The outbox task of one shard.
pub struct Outbox {
    shard: Arc<Shard>,
    courier: Arc<Courier>,
    /// Queues that could go on now, or are going on.
    busy: AtomicUsize,
    read_up_to: AtomicU64,
    /// Records that an operator released: they are read no more.
    released: (mpsc::Sender<OutboxRecord>, Mutex<Option<mpsc::Receiver<OutboxRecord>>>),
    known: Gauge,
    waiting: Gauge,
}

/// The scheduler's memory, owned by its task.
#[derive(Default)]
struct Schedule {
    window: usize,
    queues: HashMap<Lane, VecDeque<u64>>,
    known: HashMap<Line, usize>,
    /// Lines with a full window, and the first record that was left in the store because of that.
    left: HashMap<Line, u64>,
    ready: HashMap<Line, VecDeque<Lane>>,
    running: HashMap<Line, usize>,
    in_progress: HashSet<Lane>,
    /// Queues whose head failed, and whether it is tried again so soon that it still counts as work under way.
    later: BTreeMap<(Instant, u64), (Lane, bool)>,
    /// Failed attempts of the head of a lane.
    attempts: HashMap<u64, u32>,
}

impl Outbox {
    #[must_use]
    pub fn new(shard: Arc<Shard>, router: Router, providers: BTreeMap<ProviderKind, Arc<dyn Provider>>) -> Self {
        let courier = Arc::new(Courier::new(Arc::clone(&shard), router, providers));
        let name = shard.parts.log.shard().to_string();
        let known = gauge!("construct_outbox_records", "shard" => name.clone(), "state" => "known");
        let waiting = gauge!("construct_outbox_records", "shard" => name, "state" => "waiting");
        let (release, released) = mpsc::channel(RELEASED);
        let released = (release, Mutex::new(Some(released)));
        Self { shard, courier, busy: AtomicUsize::new(0), read_up_to: AtomicU64::new(0), released, known, waiting }
    }

    /// Lets a held effect happen, or gives it up; whether it was held.
    ///
    /// # Errors
    /// `unavailable` when it cannot be committed.
    pub async fn decide_held(&self, number: u64, release: bool) -> Result<bool, Error> {
        let record = self.shard.parts.log.state().outbox_record(number).map_err(|error| unreadable(&error))?;
        let Some(record) = record.filter(OutboxRecord::is_held) else { return Ok(false) };
        match self.courier.decide_held(record, release).await? {
            // The next leader reads it from its state.
            Some(released) => Ok(self.released.0.send(released).await.is_ok()),
            None => Ok(true),
        }
    }

    /// Whether every record is delivered or waits for a retry.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let head = self.shard.parts.log.state().applied().borrow().outbox_head;
        self.busy.load(Ordering::Acquire) == 0 && self.read_up_to.load(Ordering::Acquire) >= head
    }

    /// Delivers until this node stops leading the shard; what waits then is the next leader's to count.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken) {
        self.deliver(stopping).await;
        self.known.set(0.0);
        self.waiting.set(0.0);
    }

    async fn deliver(&self, stopping: CancellationToken) {
        let mut applied = self.shard.parts.log.state().applied();
        let window = self.shard.parts.options.outbox_window;
        let mut schedule = Schedule { window, ..Schedule::default() };
        let (report, mut reports) = mpsc::unbounded_channel();
        let released = self.released.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut released) = released else { return };
        loop {
            let seen = applied.borrow_and_update().outbox_head;
            self.read(&mut schedule);
            schedule.wake(Instant::now());
            self.dispatch(&mut schedule, &report, &stopping);
            self.publish(&schedule);
            let next = schedule.later.keys().next().map(|(at, _)| *at);
            let sleep = async move {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep => {}
                finished = reports.recv() => {
                    if let Some((lane, number, attempt)) = finished {
                        schedule.finished(lane, number, attempt);
                    }
                    while let Ok((lane, number, attempt)) = reports.try_recv() {
                        schedule.finished(lane, number, attempt);
                    }
                }
                Some(record) = released.recv() => drop(schedule.meet(&record)),
                // Most of what is applied leaves nothing to deliver.
                stopped = async { applied.wait_for(|now| now.outbox_head != seen).await.is_err() } => if stopped { return },
            }
        }
    }

    /// Takes in records that were applied since the last pass, and those that windows had no room for.
    fn read(&self, schedule: &mut Schedule) {
        let head = self.shard.parts.log.state().applied().borrow().outbox_head;
        loop {
            let Some(page) = self.page(self.read_up_to.load(Ordering::Acquire)) else { return };
            let Some(last) = page.last().map(|record| record.number) else {
                // What was numbered before this read and is not there any more is settled.
                self.read_up_to.fetch_max(head, Ordering::AcqRel);
                break;
            };
            for record in &page {
                schedule.meet(record);
            }
            self.busy.store(schedule.busy(), Ordering::Release);
            self.read_up_to.store(last, Ordering::Release);
        }
        for (line, first) in schedule.refillable() {
            self.refill(schedule, line, first);
        }
    }

    /// Reads again from the first record of the line that was left, until its window is full or nothing is left.
    fn refill(&self, schedule: &mut Schedule, line: Line, first: u64) {
        let (mut after, upto) = (first.saturating_sub(1), self.read_up_to.load(Ordering::Acquire));
        schedule.left.remove(&line);
        while after < upto {
            let page = self.page(after);
            let Some(last) = page.as_ref().map(|page| page.last().map_or(upto, |record| record.number)) else {
                schedule.left.insert(line, after + 1);
                return;
            };
            for record in page.into_iter().flatten().filter(|record| record.number <= upto) {
                if Lane::of(&record).line == line && !schedule.meet(&record) {
                    return;
                }
            }
            after = last;
        }
    }

    fn page(&self, after: u64) -> Option<Vec<OutboxRecord>> {
        let page = self.shard.parts.log.state().outbox(after, PAGE);
        page.inspect_err(|error| tracing::error!(%error, "the outbox cannot be read")).ok()
    }

    fn dispatch(
        &self,
        schedule: &mut Schedule,
        report: &mpsc::UnboundedSender<(Lane, u64, Attempt)>,
        stopping: &CancellationToken,
    ) {
        let bound = self.shard.parts.options.outbox_lane;
        while let Some((lane, number, attempts)) = schedule.next(bound) {
            let (courier, report, stopping) = (Arc::clone(&self.courier), report.clone(), stopping.clone());
            let background = Arc::clone(&self.shard.parts.background);
            tokio::spawn(async move {
                let attempt = tokio::select! {
                    attempt = background.turn(lane.line, courier.deliver(number, attempts)) => attempt,
                    () = stopping.cancelled() => return,
                };
                let _ = report.send((lane, number, attempt));
            });
        }
    }

    fn publish(&self, schedule: &Schedule) {
        self.busy.store(schedule.busy(), Ordering::Release);
        let known: usize = schedule.known.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "a bounded count is far below 2^52")]
        self.known.set(known as f64);
        #[expect(clippy::cast_precision_loss, reason = "a bounded count is far below 2^52")]
        self.waiting.set(schedule.later.len() as f64);
    }
}

impl Schedule {
    /// Takes the record in if its line has room and none before it was left; whether it did.
    fn meet(&mut self, record: &OutboxRecord) -> bool {
        if record.is_held() {
            return true;
        }
        let lane = Lane::of(record);
        let line = lane.line;
        let known = self.known.entry(line).or_default();
        if *known >= self.window || self.left.contains_key(&line) {
            self.left.entry(line).or_insert(record.number);
            return false;
        }
        *known += 1;
        let queue = self.queues.entry(lane.clone()).or_default();
        queue.push_back(record.number);
        if queue.len() == 1 {
            self.ready.entry(line).or_default().push_back(lane);
        }
        true
    }

    /// Lines that left records and have room again: half a window, so that a refill is worth its reads.
    fn refillable(&self) -> Vec<(Line, u64)> {
        let room = |line: &Line| self.known.get(line).is_none_or(|known| *known <= self.window / 2);
        self.left.iter().filter(|(line, _)| room(line)).map(|(line, first)| (*line, *first)).collect()
    }

    /// Queues ready, under way, or about to be tried again.
    fn busy(&self) -> usize {
        let soon = self.later.values().filter(|(_, soon)| *soon).count();
        self.in_progress.len() + self.ready.values().map(VecDeque::len).sum::<usize>() + soon
    }

    /// Makes queues ready whose pause is over.
    fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (lane, _) = entry.remove();
            self.ready.entry(lane.line).or_default().push_back(lane);
        }
    }

    /// The next head to deliver: its queue, its number, and how often it failed before.
    fn next(&mut self, bound: usize) -> Option<(Lane, u64, u32)> {
        for (line, ready) in &mut self.ready {
            let running = self.running.entry(*line).or_default();
            if *running >= bound {
                continue;
            }
            let Some(lane) = ready.pop_front() else { continue };
            let Some(number) = self.queues.get(&lane).and_then(|queue| queue.front().copied()) else { continue };
            *running += 1;
            self.in_progress.insert(lane.clone());
            let attempts = self.attempts.get(&number).copied().unwrap_or(0);
            return Some((lane, number, attempts));
        }
        None
    }

    fn finished(&mut self, lane: Lane, number: u64, attempt: Attempt) {
        self.in_progress.remove(&lane);
        if let Some(running) = self.running.get_mut(&lane.line) {
            *running = running.saturating_sub(1);
        }
        if let Attempt::Later(pause) = attempt {
            *self.attempts.entry(number).or_default() += 1;
            self.later.insert((Instant::now() + pause, number), (lane, pause <= SOON));
            return;
        }
        self.attempts.remove(&number);
        if let Some(known) = self.known.get_mut(&lane.line) {
            *known = known.saturating_sub(1);
        }
        let Some(queue) = self.queues.get_mut(&lane) else { return };
        queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&lane);
        } else {
            self.ready.entry(lane.line).or_default().push_back(lane);
        }
    }
}

/// The pause before attempt `attempts + 1`: doubling from `first`, at most `longest`.
#[must_use]
pub fn backoff(attempts: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(attempts.min(20))).min(longest)
}
