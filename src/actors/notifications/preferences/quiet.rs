//! Quiet hours: a daily window in the person's own time zone.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::kernel::Timestamp;

/// Minutes after midnight, `start` inclusive, `end` exclusive; the window may cross midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    pub start_minute: u16,
    pub end_minute: u16,
}

impl QuietHours {
    /// From `HH:MM` texts; `None` when they are no times of day or the window is empty.
    #[must_use]
    pub fn parse(start: &str, end: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 {
                return None;
            }
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let hours = Self { start_minute: minute(start)?, end_minute: minute(end)? };
        (hours.start_minute != hours.end_minute).then_some(hours)
    }

    #[must_use]
    pub fn start(self) -> String {
        Self::text(self.start_minute)
    }

    #[must_use]
    pub fn end(self) -> String {
        Self::text(self.end_minute)
    }

    fn text(minute: u16) -> String {
        format!("{:02}:{:02}", minute / 60, minute % 60)
    }

    fn contains(self, minute: u16) -> bool {
        if self.start_minute < self.end_minute {
            (self.start_minute..self.end_minute).contains(&minute)
        } else {
            minute >= self.start_minute || minute < self.end_minute
        }
    }

    /// When the quiet hours around `now` end; `None` when it is not quiet. An unknown zone counts as UTC. A local end
    /// that a change of the clocks skips or repeats is taken as RFC 5545 does.
    #[must_use]
    pub fn end_after(self, now: Timestamp, time_zone: &str) -> Option<Timestamp> {
        let zone = TimeZone::get(time_zone).unwrap_or(TimeZone::UTC);
        let local = now.to_jiff().to_zoned(zone.clone());
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).ok()?;
        if !self.contains(minute) {
            return None;
        }
        let hour = i8::try_from(self.end_minute / 60).ok()?;
        let end = Time::new(hour, i8::try_from(self.end_minute % 60).ok()?, 0, 0).ok()?;
        let today = local.date();
        let date = if minute < self.end_minute { today } else { today.tomorrow().ok()? };
        let end = date.to_datetime(end).to_zoned(zone).ok()?;
        Some(Timestamp::from_jiff(end.timestamp())).filter(|end| *end > now)
    }
}

/// Whether the name is in the IANA time zone database.
#[must_use]
pub fn is_time_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn quiet_hours_follow_the_persons_clock_across_midnight_and_dst() {
        let hours = QuietHours::parse("22:00", "07:00").expect("a window");
        let cases = [
            ("2026-01-31T22:30:00Z", "UTC", Some("2026-02-01T07:00:00Z")),
            ("2026-01-31T06:59:00Z", "UTC", Some("2026-01-31T07:00:00Z")),
            ("2026-01-31T07:00:00Z", "UTC", None),
            ("2026-01-31T22:30:00Z", "America/New_York", None),
            ("2026-01-31T22:30:00Z", "Europe/Berlin", Some("2026-02-01T06:00:00Z")),
            // The clocks go forward at 02:00 in Berlin on 2026-03-29.
            ("2026-03-28T22:30:00Z", "Europe/Berlin", Some("2026-03-29T05:00:00Z")),
            ("2026-01-31T22:30:00Z", "Nowhere/Atall", Some("2026-02-01T07:00:00Z")),
        ];
        for (now, zone, expected) in cases {
            assert_eq!(hours.end_after(at(now), zone), expected.map(at), "{now} {zone}");
        }
        for (start, end) in [("24:00", "07:00"), ("7:00", "08:00"), ("07:00", "07:00"), ("aa:bb", "07:00")] {
            assert_eq!(QuietHours::parse(start, end), None, "{start} {end}");
        }
        assert_eq!((hours.start(), hours.end()), ("22:00".to_owned(), "07:00".to_owned()));
    }
}
