//! How fast refusals leave when there are very many of them.
//!
//! A refusal is cheap, but not free: reading a request and answering it is a fifth of what a command costs. Clients that
//! ask again as soon as they were refused can so take from those who are served what is left of the processor. Beyond
//! `AT_ONCE` a second, a refusal therefore waits on its connection for as long as it says that the client should wait,
//! `LONGEST` at most, and what the connection carries next is not read meanwhile.
//!
//! Invariants: a refusal that waits holds a connection and nothing else, no place and no body; those that wait are bounded,
//! so that there are always connections for whoever is served.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Refusals a second that leave as soon as they are made: some percent of a core.
const AT_ONCE: u32 = 1000;
/// A connection is not held longer, whatever a refusal says.
const LONGEST: Duration = Duration::from_secs(3);

/// The pace of a listener.
#[derive(Debug)]
pub struct Pace {
    at_once: u32,
    began: Instant,
    /// A second since then in the upper half, the refusals of it in the lower.
    second: AtomicU64,
    waiting: Semaphore,
}

impl Pace {
    /// Of a listener with so many connections at most: three quarters of them may wait.
    #[must_use]
    pub fn new(max_connections: usize) -> Self {
        Self::with(AT_ONCE, max_connections / 4 * 3)
    }

    fn with(at_once: u32, may_wait: usize) -> Self {
        let waiting = Semaphore::new(may_wait.min(Semaphore::MAX_PERMITS));
        Self { at_once, began: Instant::now(), second: AtomicU64::new(0), waiting }
    }

    /// Returns when a refusal may leave that tells its client to wait so long. `stop` lets all leave.
    pub async fn wait(&self, told: Duration, stop: &CancellationToken) {
        if self.is_among_the_first(self.began.elapsed().as_secs()) {
            return;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return };
        metrics::counter!("construct_http_refusals_held_total").increment(1);
        tokio::select! {
            () = sleep(told.min(LONGEST)) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Counts a refusal of this second.
    fn is_among_the_first(&self, second: u64) -> bool {
        let count = |last: u64| if last >> 32 == second { last + 1 } else { (second << 32) + 1 };
        let last = self.second.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(count(last)));
        let number = count(last.unwrap_or_default()) & u64::from(u32::MAX);
        number <= u64::from(self.at_once)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    #[test]
    fn so_many_of_each_second_leave_at_once() {
        let pace = Pace::with(3, 1);
        for second in [0, 1, 7, 1 << 31] {
            let at_once: Vec<bool> = (0..5).map(|_| pace.is_among_the_first(second)).collect();
            assert_eq!(at_once, [true, true, true, false, false], "{second}");
        }
    }

    #[tokio::test]
    async fn the_others_wait_their_time() {
        let (pace, stop) = (Pace::with(0, 1), CancellationToken::new());
        let (began, told) = (Instant::now(), Duration::from_millis(20));
        pace.wait(told, &stop).await;
        assert!(began.elapsed() >= told);
    }

    #[tokio::test]
    async fn those_that_wait_are_bounded_and_leave_when_the_node_stops() {
        let (pace, stop, told) = (Pace::with(0, 20), CancellationToken::new(), Duration::from_secs(3600));
        let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(pace.wait(told, &stop))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(pace.wait(told, &stop).now_or_never().is_some(), "as many wait as may");
        stop.cancel();
        join_all(waiting).await;
    }
}
