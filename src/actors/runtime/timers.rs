//! Durable timers of one shard: an index by due time in the shard's state, scanned by its leader.
//!
//! A due timer is a request to its entity; the batch that answers it also removes the timer, so it fires once. The
//! cost of a pass is that of what is due.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::aftermath::Aftermath;
use super::background::Line;
use super::clock::NodeClock;
use super::message::Work;
use super::shard::{Delivered, Shard};
use crate::kernel::{Clock, Error, ErrorCode, Op, Origin, fail_point};
use crate::storage::state::TimerEntry;

/// Timers fired at once per shard.
const CONCURRENT: usize = 64;
/// Timers read in one pass.
const PAGE: usize = 256;
/// Pause before a timer whose entity could not answer is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest sleep, so that a step of the system's clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

type TimerKey = (String, String, i64);

/// The timer task of one shard.
pub struct Timers {
    shard: Arc<Shard>,
    clock: Arc<NodeClock>,
    firing: AtomicUsize,
    /// Timers under way (`None`) or put off until an instant.
    held: Mutex<HashMap<TimerKey, Option<Instant>>>,
    done: Notify,
}

impl Timers {
    #[must_use]
    pub fn new(shard: Arc<Shard>, clock: Arc<NodeClock>) -> Self {
        let (firing, held, done) = (AtomicUsize::new(0), Mutex::new(HashMap::new()), Notify::new());
        Self { shard, clock, firing, held, done }
    }

    /// Whether nothing is due (apart from timers put off after a failure) and nothing is being fired.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        if self.firing.load(Ordering::Acquire) > 0 {
            return false;
        }
        let put_off = self.held().len();
        let due = self.shard.parts.log.state().timers_due(self.clock.now(), put_off + 1);
        due.is_ok_and(|due| due.len() <= put_off)
    }

    /// Fires timers until this node stops leading the shard.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken) {
        let mut applied = self.shard.parts.log.state().applied();
        let mut clock = self.clock.changes();
        let slots = Arc::new(Semaphore::new(CONCURRENT));
        loop {
            let seen = applied.borrow_and_update().timers_changed;
            clock.mark_unchanged();
            let fired = self.pass(&slots).await;
            if fired > 0 && !stopping.is_cancelled() {
                continue;
            }
            let sleep = self.until_next();
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(sleep) => {}
                () = self.done.notified() => {}
                // Most of what is applied sets no timer.
                stopped = async { applied.wait_for(|now| now.timers_changed != seen).await.is_err() } => if stopped { return },
                changed = clock.changed() => if changed.is_err() { return },
            }
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<TimerKey, Option<Instant>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts firing what is due and not held; how many.
    async fn pass(self: &Arc<Self>, slots: &Arc<Semaphore>) -> usize {
        let now = Instant::now();
        let held = {
            let mut held = self.held();
            held.retain(|_, until| until.is_none_or(|until| until > now));
            held.len()
        };
        let due = match self.shard.parts.log.state().timers_due(self.clock.now(), PAGE + held) {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "timers cannot be read");
                return 0;
            }
        };
        let mut fired = 0;
        for timer in due {
            let key = key_of(&timer);
            {
                let mut held = self.held();
                if held.contains_key(&key) {
                    continue;
                }
                held.insert(key.clone(), None);
            }
            let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return fired };
            self.firing.fetch_add(1, Ordering::AcqRel);
            fired += 1;
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let background = Arc::clone(&this.shard.parts.background);
                let put_off = background.turn(Line::Timers, this.fire(&timer)).await;
                match put_off {
                    true => drop(this.held().insert(key, Some(Instant::now() + PAUSE))),
                    false => drop(this.held().remove(&key)),
                }
                this.firing.fetch_sub(1, Ordering::AcqRel);
                drop(slot);
                this.done.notify_one();
            });
        }
        fired
    }

    /// Fires one timer; whether it has to be tried again later.
    async fn fire(&self, timer: &TimerEntry) -> bool {
        let TimerEntry { entity, name, due } = timer;
        let lag = self.clock.now().millis_since(*due);
        #[expect(clippy::cast_precision_loss, reason = "a lag in milliseconds is far below 2^52")]
        metrics::histogram!("construct_timer_lag_seconds").record(lag as f64 / 1000.0);
        let past = self.shard.parts.aftermath().filter(|aftermath| *due <= aftermath.until);
        let traceparent = past.map(Aftermath::traceparent);
        let origin = Origin { traceparent, ..Origin::system(format!("timer:{entity}:{name}")) };
        let work = Work::Timer { name: name.clone(), due: *due };
        fail_point::reach("timer.due");
        let delivered = self.shard.deliver(entity, &work, &origin, None).await;
        fail_point::reach("timer.fired");
        match delivered.map_err(Error::from) {
            Ok(Delivered::Reply(_)) => false,
            Ok(Delivered::Stale) => self.drop_timer(timer).await,
            Err(error) if error.code.may_retry() => {
                tracing::warn!(%entity, name, %error, "a timer is put off");
                true
            }
            // Of somebody who was erased.
            Err(error) if error.code == ErrorCode::Gone => self.drop_timer(timer).await,
            Err(error) => {
                tracing::warn!(%entity, name, %error, "an entity refused its timer; dropped");
                self.drop_timer(timer).await
            }
        }
    }

    async fn drop_timer(&self, timer: &TimerEntry) -> bool {
        let (entity, name, due) = (timer.entity.clone(), timer.name.clone(), timer.due);
        let Ok(done) = self.shard.parts.propose(Op::DropTimer { entity, name, due }) else { return true };
        !matches!(done.await, Ok(Ok(_)))
    }

    /// Until something that is not under way or put off is due, or may be tried again.
    fn until_next(&self) -> Duration {
        let (now, held) = (self.clock.now(), self.held().clone());
        let again = held.values().flatten().map(|until| until.saturating_duration_since(Instant::now())).min();
        let soon = now.plus_millis(i64::try_from(LONGEST_SLEEP.as_millis()).unwrap_or(i64::MAX));
        let due = self.shard.parts.log.state().timers_due(soon, held.len() + 1).unwrap_or_default();
        let next = due.into_iter().find(|timer| !held.contains_key(&key_of(timer))).map(|timer| {
            let millis = timer.due.millis_since(now).max(1);
            Duration::from_millis(u64::try_from(millis).unwrap_or(1))
        });
        let sleep = again.into_iter().chain(next).min().unwrap_or(LONGEST_SLEEP);
        sleep.clamp(Duration::from_millis(5), LONGEST_SLEEP)
    }
}

fn key_of(timer: &TimerEntry) -> TimerKey {
    (timer.entity.to_string(), timer.name.clone(), timer.due.as_millis())
}
