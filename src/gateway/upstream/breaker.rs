//! Leaves a failing upstream alone for a while, then lets one request try it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const THRESHOLD: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    /// Until then nothing passes; after it, one request at a time.
    open_until: Option<Instant>,
    trial_since: Option<Instant>,
}

impl Breaker {
    /// Whether a request may pass now. After a pause only one may, until it is known how it went.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (state.open_until, state.trial_since) {
            (None, _) => true,
            (Some(until), _) if now < until => false,
            // A trial that never reported back does not close the door for ever.
            (Some(_), Some(since)) if now < since + LONGEST_PAUSE => false,
            (Some(_), _) => {
                state.trial_since = Some(now);
                true
            }
        }
    }

    pub(super) fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// A request that says nothing about the upstream: another may try.
    pub(super) fn abandoned(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).trial_since = None;
    }

    pub(super) fn failed(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        state.trial_since = None;
        if state.failures >= THRESHOLD {
            let doublings = (state.failures - THRESHOLD).min(8);
            let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
            state.open_until = Some(now + pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let after = |pauses: u32| start + FIRST_PAUSE * pauses;
        for _ in 0..4 {
            breaker.failed(start);
        }
        breaker.succeeded();
        for _ in 0..4 {
            breaker.failed(start);
            assert!(breaker.admits(start));
        }
        breaker.failed(start);
        assert!(!breaker.admits(start));
        assert!(breaker.admits(after(1)) && !breaker.admits(after(1)));
        breaker.failed(after(1));
        assert!(!breaker.admits(after(2)));
        assert!(breaker.admits(after(3)));
        breaker.succeeded();
        assert!(breaker.admits(after(3)) && breaker.admits(after(3)));
    }
}
