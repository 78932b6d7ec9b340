//! The rules: what is counted, over how long, and from when on it is an alert.

use std::collections::BTreeSet;

use super::protocol::{Act, Detection, Seen};
use crate::kernel::Timestamp;

/// How long acts count.
pub(super) const WINDOW_MINUTES: i64 = 10;

/// Failed sign-ins of one source that are an alert, and over how many accounts.
const STUFFING_ACTS: usize = 10;
const STUFFING_TARGETS: usize = 5;
/// Failed sign-ins to one account, and wrong codes for one, that are an alert.
const GUESSING_ACTS: usize = 10;
const CODE_ACTS: usize = 5;

/// What one more act, the last of `recent`, amounts to: detections and whom each is about. `recent` is in order.
pub(super) fn detect(recent: &[Seen]) -> Vec<(Detection, String)> {
    let Some(newest) = recent.last() else { return Vec::new() };
    let within = |seen: &&Seen| seen.act == newest.act && is_recent(seen.at, newest.at);
    let mut found = Vec::new();
    match newest.act {
        Act::SignInFailed => {
            let of_source: Vec<&Seen> =
                recent.iter().filter(within).filter(|seen| seen.source == newest.source).collect();
            let targets: BTreeSet<&str> = of_source.iter().map(|seen| seen.target.as_str()).collect();
            if !newest.source.is_empty() && of_source.len() >= STUFFING_ACTS && targets.len() >= STUFFING_TARGETS {
                found.push((Detection::CredentialStuffing, newest.source.clone()));
            }
            if of_target(recent, newest) >= GUESSING_ACTS {
                found.push((Detection::PasswordGuessing, newest.target.clone()));
            }
        }
        Act::SecondFactorFailed if of_target(recent, newest) >= CODE_ACTS => {
            found.push((Detection::SecondFactorGuessing, newest.target.clone()));
        }
        Act::SecondFactorFailed => {}
        Act::RefreshTokenReused => found.push((Detection::RefreshTokenReuse, newest.target.clone())),
        Act::PrivilegeChanged => found.push((Detection::PrivilegeChange, newest.target.clone())),
    }
    found
}

fn of_target(recent: &[Seen], newest: &Seen) -> usize {
    let same = |seen: &&Seen| seen.act == newest.act && seen.target == newest.target && is_recent(seen.at, newest.at);
    recent.iter().filter(same).count()
}

pub(super) fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    at >= now.plus_minutes(-WINDOW_MINUTES)
}
