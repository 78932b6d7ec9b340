//! What a node does by itself gives way to what people wait for.
//!
//! Timers and outboxes have as much to do as was accepted, and would take every processor for as long as that lasts: who
//! signs in meanwhile gets one turn of hundreds. So while something is done by itself, a node looks tens of times a
//! second whether somebody waits, and whether its processors have time left. Where somebody does and none have, what is
//! done by itself is cut down at once, to one thing for each processor and a rest after it; when there is room again it
//! grows back. Each [`Line`] is bounded on its own, so that none waits behind another.
//!
//! Invariant: no line ever stands still, and none is slowed while nobody waits.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Gauge, gauge};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::kernel::ProviderKind;

/// How often the processors are looked at.
const TICK: Duration = Duration::from_millis(20);
/// A look that comes later than this had to wait for a processor itself.
const LATE: Duration = Duration::from_millis(20);
/// The percentage of all processor time from which on none is left.
const FULL: u128 = 90;
/// More at once than all shards start.
const MOST: usize = 4096;
/// What has taken longer waits for somebody else and not for a processor: its turn goes on to the next.
const LONGEST_TURN: Duration = Duration::from_millis(250);

/// What is done by itself, by what holds each other up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    Timers,
    /// From entity to entity; `bulk`: made in number, of what can wait.
    Messages {
        bulk: bool,
    },
    /// Of a provider.
    Calls {
        provider: ProviderKind,
        bulk: bool,
    },
}

impl Line {
    const COUNT: usize = 13;

    const fn index(self) -> usize {
        match self {
            Self::Timers => 0,
            Self::Messages { bulk } => 1 + bulk as usize,
            Self::Calls { provider, bulk } => 3 + 2 * provider as usize + bulk as usize,
        }
    }

    /// Rest after a turn, as a multiple of it, when there is no processor left: a quarter of one is for what follows from
    /// what people did, a tenth for what was made in number, and for timers, which nobody waits for.
    const fn rest(self) -> u32 {
        match self {
            Self::Messages { bulk: false } | Self::Calls { bulk: false, .. } => 3,
            Self::Timers | Self::Messages { bulk: true } | Self::Calls { bulk: true, .. } => 9,
        }
    }
}

/// The places of one line.
struct Places {
    free: Arc<Semaphore>,
    /// How many there are, and how many of those taken are not to come back.
    count: Mutex<(usize, usize)>,
    waiting: AtomicUsize,
}

impl Places {
    fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST)), count: Mutex::new((MOST, 0)), waiting: AtomicUsize::new(0) }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, (usize, usize)> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it `count` places, as soon as enough are given back.
    fn set(&self, count: usize) {
        let mut places = self.count();
        let (now, owed) = *places;
        *places = if count < now {
            (count, owed + (now - count) - self.free.forget_permits(now - count))
        } else {
            let paid = owed.min(count - now);
            self.free.add_permits(count - now - paid);
            (count, owed - paid)
        };
    }

    /// How many are taken.
    fn taken(&self) -> usize {
        let (count, owed) = *self.count();
        (count + owed).saturating_sub(self.free.available_permits())
    }

    async fn take(self: &Arc<Self>) -> Place {
        let _waiting = Counted::one_more(&self.waiting);
        let permit = Arc::clone(&self.free).acquire_owned().await;
        Place { places: Arc::clone(self), permit: permit.ok() }
    }
}

/// A place, given back when dropped.
struct Place {
    places: Arc<Places>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.count();
        if places.1 > 0 {
            places.1 -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

/// What the shards of a node do by themselves, and who waits for anything else.
pub struct Background {
    processors: usize,
    lines: [Arc<Places>; Line::COUNT],
    under_way: AtomicUsize,
    begun: Notify,
    /// Who waits for a processor outside the shards.
    waiting: AtomicUsize,
    places: Gauge,
}

/// Somebody waits for a processor, until dropped.
pub struct Waited(Arc<Background>);

impl Drop for Waited {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of those that are counted, until dropped: also when what it does is given up.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one_more(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Background {
    /// On as many processors as this process may use.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let places = gauge!("construct_background_places");
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        places.set(MOST as f64);
        Arc::new(Self {
            processors,
            lines: std::array::from_fn(|_| Arc::new(Places::new())),
            under_way: AtomicUsize::new(0),
            begun: Notify::new(),
            waiting: AtomicUsize::new(0),
            places,
        })
    }

    /// Says that somebody waits for a processor, as long as the answer is kept.
    #[must_use]
    pub fn waited(self: &Arc<Self>) -> Waited {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waited(Arc::clone(self))
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Does something of this line when it is its turn.
    pub async fn turn<T>(&self, line: Line, work: impl Future<Output = T>) -> T {
        let _under_way = Counted::one_more(&self.under_way);
        self.begun.notify_one();
        let places = &self.lines[line.index()];
        let place = places.take().await;
        let (began, mut work) = (Instant::now(), pin!(work));
        let Ok(done) = tokio::time::timeout(LONGEST_TURN, &mut work).await else {
            drop(place);
            return work.await;
        };
        if self.is_crowded(places) && places.waiting.load(Ordering::Relaxed) > 0 {
            let rest = began.elapsed() * line.rest();
            tokio::spawn(async move {
                tokio::time::sleep(rest).await;
                drop(place);
            });
        }
        done
    }

    fn is_crowded(&self, places: &Places) -> bool {
        places.count().0 <= self.processors
    }

    /// Looks after the lines while something is under way. `waited`: whether somebody waits for a shard.
    pub async fn watch(self: Arc<Self>, waited: impl Fn() -> bool) {
        loop {
            self.begun.notified().await;
            let mut last = Look::now();
            loop {
                tokio::time::sleep(TICK).await;
                let now = Look::now();
                let somebody = self.waiting.load(Ordering::Relaxed) > 0 || waited();
                let whole = self.adjust(somebody && now.none_left_since(&last, self.processors));
                if whole && self.under_way.load(Ordering::Relaxed) == 0 {
                    break;
                }
                last = now;
            }
        }
    }

    /// Cuts the lines down to a quarter of what is under way, or lets them grow by a quarter; whether all are whole.
    fn adjust(&self, crowded: bool) -> bool {
        let mut least = MOST;
        for places in &self.lines {
            let now = places.count().0;
            let next = if crowded {
                (now.min(places.taken()) / 4).max(self.processors).min(now)
            } else {
                (now + now / 4 + 1).min(MOST)
            };
            if next != now {
                places.set(next);
            }
            least = least.min(next);
        }
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        self.places.set(least as f64);
        least == MOST
    }
}

/// How much processor time this process had by when.
struct Look {
    at: std::time::Instant,
    processor: Duration,
}

impl Look {
    fn now() -> Self {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = Duration::from_secs(u64::try_from(spent.tv_sec).unwrap_or(0));
        let processor = seconds + Duration::from_nanos(u64::try_from(spent.tv_nsec).unwrap_or(0));
        Self { at: std::time::Instant::now(), processor }
    }

    fn none_left_since(&self, last: &Self, processors: usize) -> bool {
        let (passed, spent) = (self.at - last.at, self.processor.saturating_sub(last.processor));
        passed > TICK + LATE || spent.as_nanos() * 100 >= passed.as_nanos() * FULL * processors as u128
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const BULK: Line = Line::Messages { bulk: true };
    const OTHERS: Line = Line::Messages { bulk: false };

    #[test]
    fn each_line_has_places_of_its_own() {
        use ProviderKind::{Email, Payment, Push, Sms, Webhook};
        let both = [false, true];
        let calls =
            [Email, Sms, Push, Payment, Webhook].map(|provider| both.map(|bulk| Line::Calls { provider, bulk }));
        let lines = both.map(|bulk| Line::Messages { bulk }).into_iter().chain(calls.into_iter().flatten());
        let mut places: Vec<_> = lines.chain([Line::Timers]).map(Line::index).collect();
        places.sort_unstable();
        assert_eq!(places, (0..Line::COUNT).collect::<Vec<_>>());
    }

    /// Turns of this line that are under way, of so many that want one.
    async fn under_way(
        background: &Arc<Background>,
        line: Line,
        wanted: usize,
    ) -> (usize, Vec<tokio::task::JoinHandle<()>>) {
        let tasks = (0..wanted).map(|_| {
            let background = Arc::clone(background);
            tokio::spawn(async move { background.turn(line, pending()).await })
        });
        let tasks: Vec<_> = tasks.collect();
        for _ in 0..wanted * 2 {
            tokio::task::yield_now().await;
        }
        (background.lines[line.index()].taken(), tasks)
    }

    #[tokio::test]
    async fn what_is_done_by_itself_is_cut_down_while_somebody_waits_and_grows_back() {
        let background = Background::new();
        let (taken, tasks) = under_way(&background, BULK, 600).await;
        assert_eq!(taken, 600, "while nobody waits nothing is held back");
        for _ in 0..4 {
            assert!(!background.adjust(true));
        }
        for places in &background.lines {
            assert!(background.is_crowded(places) && places.count().0 == background.processors);
        }
        // What is under way ends as it would have; what comes then has the places that are left.
        for task in tasks {
            task.abort();
            assert!(task.await.is_err());
        }
        for _ in 0..2 {
            let (taken, tasks) = under_way(&background, BULK, 600).await;
            assert_eq!(taken, background.processors);
            for task in tasks {
                task.abort();
                assert!(task.await.is_err());
            }
            let left =
                [&background.lines[BULK.index()].waiting, &background.under_way].map(|n| n.load(Ordering::Relaxed));
            assert_eq!(left, [0, 0], "who gives up is not counted any more");
        }
        let (_, tasks) = under_way(&background, BULK, 600).await;
        assert_eq!(under_way(&background, Line::Timers, 1).await.0, 1, "another line has places of its own");
        let grown = (0..100).take_while(|_| !background.adjust(false)).count();
        assert!(grown > 10 && grown < 60, "grew back in {grown} steps");
        for _ in 0..2 * tasks.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(background.lines[BULK.index()].taken(), 600);
    }

    #[tokio::test]
    async fn who_waits_for_somebody_else_holds_nobody_up() {
        let background = Background::new();
        for _ in 0..4 {
            background.adjust(true);
        }
        let (taken, _tasks) = under_way(&background, BULK, 3 * background.processors).await;
        assert_eq!(taken, background.processors);
        let last = Arc::clone(&background);
        assert_eq!(last.turn(BULK, async { 7 }).await, 7, "a turn goes on after a quarter of a second");
    }

    #[tokio::test]
    async fn a_turn_is_followed_by_a_rest_while_others_wait() {
        let background = Background::new();
        for _ in 0..4 {
            background.adjust(true);
        }
        let (began, each) = (Instant::now(), Duration::from_millis(10));
        let work = || async move {
            let _ = tokio::time::timeout(each, pending::<()>()).await;
        };
        let turns = (0..4 * background.processors).map(|_| background.turn(BULK, work()));
        futures::future::join_all(turns).await;
        // Four turns one after the other, three rests between them.
        let least = each * (4 + 3 * BULK.rest());
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
        background.turn(OTHERS, work()).await;
        assert_eq!(background.lines[OTHERS.index()].taken(), 0, "nobody waited behind it");
    }

    #[tokio::test]
    async fn it_is_cut_down_when_somebody_waits_and_no_processor_is_left() {
        let background = Background::new();
        let watched = tokio::spawn(Arc::clone(&background).watch(|| false));
        let busy = async {
            let began = Instant::now();
            let places = &background.lines[Line::Timers.index()];
            while places.count().0 == MOST && began.elapsed() < Duration::from_secs(30) {
                // Longer than a look may be late.
                let until = Instant::now() + TICK * 3;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                tokio::task::yield_now().await;
            }
            places.count().0
        };
        let waited = background.waited();
        let places = background.turn(Line::Timers, busy).await;
        assert!(places < MOST, "{places}");
        drop(waited);
        assert_eq!(background.waiting(), 0);
        watched.abort();
    }
}
