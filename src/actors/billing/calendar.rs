//! Billing periods on the calendar, anchored: every boundary is counted from the anchor, never from the boundary
//! before it, so that January 31st gives February 28th (or 29th) and then March 31st again.
//!
//! Invariants: boundaries strictly increase; boundary 0 is the anchor; all arithmetic is in UTC, so a period is the
//! same for everybody and never depends on a time-zone database. Deliberately absent: local time zones.

use jiff::tz::TimeZone;
use jiff::{Span, ToSpan};
use serde::{Deserialize, Serialize};

use crate::kernel::{Error, Timestamp};

/// The unit in which a price recurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    Day,
    Week,
    Month,
    Year,
}

impl Interval {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// How often a price recurs: every `count` intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recurrence {
    pub interval: Interval,
    pub count: u16,
}

impl Recurrence {
    /// Refuses recurrences of zero length or longer than ten years.
    ///
    /// # Errors
    /// A 422 at `pointer`.
    pub fn check(self, pointer: &str) -> Result<(), Error> {
        let most = match self.interval {
            Interval::Day => 3650,
            Interval::Week => 520,
            Interval::Month => 120,
            Interval::Year => 10,
        };
        if self.count == 0 || self.count > most {
            return Err(Error::invalid(pointer, format!("expected 1 to {most} {}s", self.interval.as_str())));
        }
        Ok(())
    }

    /// The boundary `n` recurrences after `anchor`. A day of the month that does not exist becomes the month's last.
    ///
    /// # Errors
    /// `conflict` when the calendar ends (year 9999).
    pub fn boundary(self, anchor: Timestamp, n: u32) -> Result<Timestamp, Error> {
        let units = i64::from(self.count) * i64::from(n);
        let span = match self.interval {
            Interval::Day => Span::new().try_days(units),
            Interval::Week => Span::new().try_weeks(units),
            Interval::Month => Span::new().try_months(units),
            Interval::Year => Span::new().try_years(units),
        };
        let start = anchor.to_jiff().to_zoned(TimeZone::UTC).datetime();
        let end = span.and_then(|span| start.checked_add(span)).and_then(|end| end.to_zoned(TimeZone::UTC));
        end.map(|end| Timestamp::from_jiff(end.timestamp())).map_err(|_| end_of_calendar())
    }
}

fn end_of_calendar() -> Error {
    Error::conflict("The billing period lies outside the calendar.")
}

/// A half-open stretch of time `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl Period {
    #[must_use]
    pub fn millis(self) -> i64 {
        self.end.millis_since(self.start)
    }

    /// Milliseconds of this period that lie after `at`: between 0 and the whole.
    #[must_use]
    pub fn millis_after(self, at: Timestamp) -> i64 {
        self.end.millis_since(at).clamp(0, self.millis().max(0))
    }
}

/// `days` calendar days after `at` (days of 24 hours, as all times are UTC).
#[must_use]
pub fn days_after(at: Timestamp, days: u16) -> Timestamp {
    let day = i64::from(days).days();
    let end = at.to_jiff().to_zoned(TimeZone::UTC).checked_add(day);
    end.map_or_else(|_| at.plus_days(i64::from(days)), |end| Timestamp::from_jiff(end.timestamp()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn dates(anchor: &str, interval: Interval, count: u16, n: u32) -> Vec<String> {
        let every = Recurrence { interval, count };
        (0..=n).map(|i| every.boundary(at(anchor), i).expect("in range").to_string()[..10].to_owned()).collect()
    }

    #[test]
    fn monthly_boundaries_return_to_the_original_day() {
        let shown = dates("2026-01-31T10:00:00Z", Interval::Month, 1, 4);
        assert_eq!(shown, ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]);
        let shown = dates("2027-12-31T23:59:59.999Z", Interval::Month, 1, 3);
        assert_eq!(shown, ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31"]);
        let shown = dates("2026-08-31T00:00:00Z", Interval::Month, 3, 3);
        assert_eq!(shown, ["2026-08-31", "2026-11-30", "2027-02-28", "2027-05-31"]);
    }

    #[test]
    fn leap_days_come_back_every_four_years() {
        let shown = dates("2024-02-29T12:00:00Z", Interval::Year, 1, 4);
        assert_eq!(shown, ["2024-02-29", "2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]);
    }

    #[test]
    fn the_end_of_the_calendar_is_an_error_and_zero_recurrences_are_refused() {
        let yearly = Recurrence { interval: Interval::Year, count: 10 };
        assert!(yearly.boundary(at("2026-01-01T00:00:00Z"), u32::MAX).is_err());
        assert!(Recurrence { interval: Interval::Month, count: 0 }.check("/x").is_err());
        assert!(Recurrence { interval: Interval::Month, count: 121 }.check("/x").is_err());
    }

    proptest! {
        #[test]
        fn boundaries_increase_and_keep_time_and_day(
            millis in 0i64..4_000_000_000_000, months in 1u16..=12, n in 0u32..60
        ) {
            let anchor = Timestamp::from_millis(millis);
            let every = Recurrence { interval: Interval::Month, count: months };
            let (this, next) = (every.boundary(anchor, n)?, every.boundary(anchor, n + 1)?);
            prop_assert!(this < next);
            let utc = |t: Timestamp| t.to_jiff().to_zoned(TimeZone::UTC).datetime();
            prop_assert_eq!(utc(this).time(), utc(anchor).time());
            let last = utc(this).date().days_in_month();
            prop_assert_eq!(utc(this).day(), utc(anchor).day().min(last));
            let month = |t: Timestamp| i64::from(utc(t).year()) * 12 + i64::from(utc(t).month());
            prop_assert_eq!(month(this) - month(anchor), i64::from(months) * i64::from(n));
        }
    }
}
