//! Dunning: when a failed renewal is tried again, and what happens when every try failed.
//!
//! The schedule comes from the settings, is copied into each subscription when it starts and from there into each
//! invoice, so that a changed setting never changes a collection already under way. Tries are counted from the first
//! failure, so a node that was down for a while does not hammer a card on its return.

use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;

/// What becomes of a subscription whose invoice could not be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exhausted {
    /// The subscription ends.
    Cancel,
    /// The subscription is paused; its holder may resume it once a card works.
    Pause,
}

/// When to try again, in days after the first failure, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub retry_days: Vec<u16>,
    pub exhausted: Exhausted,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { retry_days: vec![1, 3, 5, 7], exhausted: Exhausted::Cancel }
    }
}

impl Schedule {
    /// The most retries a schedule may name.
    pub const MOST: usize = 16;

    /// The same schedule with ascending, distinct, bounded days of at least one.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.retry_days.retain(|days| *days > 0);
        self.retry_days.sort_unstable();
        self.retry_days.dedup();
        self.retry_days.truncate(Self::MOST);
        self
    }

    /// When to try again after `failures` failed tries, of which the first failed at `first_failure`; never before
    /// `now`. `None`: the schedule is exhausted.
    #[must_use]
    pub fn next_try(&self, first_failure: Timestamp, failures: u32, now: Timestamp) -> Option<Timestamp> {
        let index = usize::try_from(failures).ok()?.checked_sub(1)?;
        let days = *self.retry_days.get(index)?;
        let previous = index.checked_sub(1).and_then(|i| self.retry_days.get(i)).copied().unwrap_or(0);
        let planned = first_failure.plus_days(i64::from(days));
        if planned > now {
            return Some(planned);
        }
        Some(now.plus_days(i64::from(days - previous)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_follow_the_schedule_and_end() {
        let schedule = Schedule::default();
        let first = Timestamp::from_millis(1_000);
        let day = |n: i64| first.plus_days(n);
        assert_eq!(schedule.next_try(first, 1, first), Some(day(1)));
        assert_eq!(schedule.next_try(first, 2, day(1)), Some(day(3)));
        assert_eq!(schedule.next_try(first, 4, day(5)), Some(day(7)));
        assert_eq!(schedule.next_try(first, 5, day(7)), None);
        assert_eq!(schedule.next_try(first, 0, first), None);
    }

    #[test]
    fn a_late_failure_waits_the_scheduled_distance_from_now() {
        let first = Timestamp::from_millis(1_000);
        let late = first.plus_days(30);
        assert_eq!(Schedule::default().next_try(first, 2, late), Some(late.plus_days(2)));
    }

    #[test]
    fn schedules_are_made_ascending_and_bounded() {
        let messy = Schedule { retry_days: vec![5, 0, 1, 5], exhausted: Exhausted::Pause }.normalized();
        assert_eq!(messy.retry_days, [1, 5]);
    }
}
