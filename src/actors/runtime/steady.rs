//! The system's clock made fit for domain time: it never goes back, and never stands still.
//!
//! The system's clock may be stepped by whoever sets it. A step forward is followed at once: the machine may have
//! slept. After a step back time goes on at half speed until the system's clock has caught up, as adjtime(3) slews:
//! nothing happens before what caused it, and what was to end after ten minutes ends after twenty and not in a day.
//! What counts seconds and not dates (leases, rate limits, pauses) takes the monotonic clock and notices none of this.
//! Deliberately absent: memory over a restart; a node that starts believes the system's clock.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kernel::{Clock, Timestamp};

/// How many times slower time goes while it waits for the system's clock.
const SLOWDOWN: u64 = 2;
/// An operator hears of a step back by more than this, in microseconds.
const NOTABLE_US: u64 = 1_000_000;

/// A clock that follows the system's and never goes back.
pub struct SteadyClock {
    started: Instant,
    time: Mutex<Time>,
}

/// All in microseconds: `now` since 1970, `read_at` on the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
struct Time {
    now: u64,
    read_at: u64,
    ahead: bool,
}

impl Time {
    /// How far ahead of the system's clock the time is, once both clocks were read.
    fn read(&mut self, system: u64, monotonic: u64) -> u64 {
        let passed = monotonic.saturating_sub(self.read_at);
        let slowly = passed / SLOWDOWN;
        self.now = system.max(self.now + slowly);
        // What the division left over is not lost when the clock is read often.
        self.read_at += slowly * SLOWDOWN;
        self.now - system
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self { started: Instant::now(), time: Mutex::default() }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = time.read(micros(since_1970()), micros(self.started.elapsed()));
        if ahead > NOTABLE_US && !time.ahead {
            tracing::error!(
                seconds = ahead / 1_000_000,
                "the system's clock went back; time goes on at half speed until it has caught up, or until a restart"
            );
        }
        if time.ahead && ahead == 0 {
            tracing::info!("the system's clock has caught up");
        }
        if time.ahead || ahead > NOTABLE_US {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("construct_clock_ahead_seconds").set(ahead as f64 / 1e6);
            time.ahead = ahead > 0;
        }
        Timestamp::from_millis(i64::try_from(time.now / 1000).unwrap_or(i64::MAX))
    }
}

/// What the system's clock says, for whoever compares it with clocks elsewhere.
#[must_use]
pub fn wall_now() -> Timestamp {
    Timestamp::from_millis(i64::try_from(since_1970().as_millis()).unwrap_or(i64::MAX))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place where the system's time is read")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const DAY: u64 = 86_400 * SECOND;

    #[test]
    fn steps_forward_are_followed_and_steps_back_are_waited_out() {
        let mut time = Time::default();
        let mut at = |system, monotonic| {
            let ahead = time.read(system, monotonic);
            (time.now, ahead)
        };
        assert_eq!(at(10 * DAY, 0), (10 * DAY, 0));
        assert_eq!(at(10 * DAY + SECOND, SECOND), (10 * DAY + SECOND, 0));
        assert_eq!(at(11 * DAY, 2 * SECOND), (11 * DAY, 0), "a step forward");
        assert_eq!(at(10 * DAY, 4 * SECOND), (11 * DAY + SECOND, DAY + SECOND), "a step back");
        assert_eq!(at(10 * DAY + 10 * SECOND, 14 * SECOND), (11 * DAY + 6 * SECOND, DAY - 4 * SECOND));
        // It has caught up after twice the step.
        assert_eq!(at(12 * DAY + 10 * SECOND, 2 * DAY + 14 * SECOND), (12 * DAY + 10 * SECOND, 0));
    }

    #[test]
    fn time_goes_on_however_often_it_is_read() {
        let mut time = Time::default();
        time.read(DAY, 0);
        for monotonic in 1..=2 * SECOND {
            time.read(0, monotonic);
        }
        assert_eq!(time.now, DAY + SECOND);
    }
}
