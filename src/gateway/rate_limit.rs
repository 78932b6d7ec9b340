//! How often a caller may call: GCRA, one bucket per class and caller, told in `RateLimit` fields
//! (draft-ietf-httpapi-ratelimit-headers: `"policy";q=;w=` and `"policy";r=;t=`).
//!
//! Invariant: memory is bounded. Idle buckets are dropped when there are too many; should that not suffice, callers
//! beyond the bound share one bucket. Deliberately absent: counting over all nodes; each node counts what it serves.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::HeaderValue;

use super::registry::LimitClass;
use crate::kernel::{Error, ErrorCode};
use crate::settings::{Limit, Limits};

const MAX_KEYS: usize = 100_000;
/// Counting the buckets takes longer than a check: it is done once in so many calls, or more often where few are
/// allowed.
const LOOK_EVERY: u32 = 64;
/// Between purges of idle buckets, in calls.
const PURGE_EVERY: u32 = 4096;

type Keyed<C> = RateLimiter<Box<str>, DashMapStateStore<Box<str>>, C, StateInformationMiddleware>;

/// What the caller is told of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// `RateLimit`.
    pub state: HeaderValue,
}

/// A call beyond the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    pub report: Report,
    pub retry_after_seconds: u32,
}

impl From<&Limited> for Error {
    fn from(limited: &Limited) -> Self {
        Error::new(ErrorCode::RateLimited, "This is more often than allowed; nothing was done.")
            .retry_after(limited.retry_after_seconds)
    }
}

struct Bucket<C: Clock> {
    name: &'static str,
    policy: HeaderValue,
    burst: u32,
    period: Duration,
    calls: AtomicU32,
    /// Between looks at the number of buckets, in calls.
    look_every: u32,
    /// Whether there were as many buckets as there may be, at the last look.
    full: AtomicBool,
    max_keys: usize,
    clock: C,
    limiter: Keyed<C>,
}

impl<C: Clock + Clone> Bucket<C> {
    fn new(name: &'static str, limit: Limit, clock: &C, max_keys: usize) -> Self {
        let per_minute = NonZeroU32::new(limit.per_minute).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        let limiter = Keyed::new(quota, DashMapStateStore::default(), clock.clone());
        let calls = AtomicU32::new(0);
        let (burst, period) = (burst.get(), quota.replenish_interval());
        let policy = header(format!("\"{name}\";q={burst};w={}", seconds(period * burst).max(1)));
        let look_every = u32::try_from(max_keys / 8).unwrap_or(LOOK_EVERY).clamp(1, LOOK_EVERY);
        let (full, clock) = (AtomicBool::new(false), clock.clone());
        Self { name, policy, burst, period, calls, look_every, full, max_keys, clock, limiter }
    }

    fn check(&self, key: &str) -> Result<Report, Limited> {
        let mut key: Box<str> = key.into();
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call.is_multiple_of(PURGE_EVERY) && self.limiter.len() >= self.max_keys / 2 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        if call.is_multiple_of(self.look_every) {
            self.full.store(self.limiter.len() >= self.max_keys, Ordering::Relaxed);
        }
        if self.full.load(Ordering::Relaxed) {
            key = "".into();
        }
        match self.limiter.check_key(&key) {
            Ok(snapshot) => Ok(self.report(snapshot.remaining_burst_capacity())),
            Err(until) => {
                let wait = seconds(until.wait_time_from(self.clock.now())).max(1);
                Err(Limited { report: self.report(0), retry_after_seconds: wait })
            }
        }
    }

    /// `t` says when the whole burst is available again.
    fn report(&self, remaining: u32) -> Report {
        let Self { name, policy, burst, period, .. } = self;
        let reset = seconds(*period * burst.saturating_sub(remaining));
        Report { policy: policy.clone(), state: header(format!("\"{name}\";r={remaining};t={reset}")) }
    }
}

fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("names and digits")
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

/// The limits of a listener.
pub struct RateLimits<C: Clock = DefaultClock> {
    auth: Bucket<C>,
    account: Bucket<C>,
    public: Bucket<C>,
    read: Bucket<C>,
    write: Bucket<C>,
    money: Bucket<C>,
}

impl RateLimits {
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self::with_clock(limits, &DefaultClock::default(), MAX_KEYS)
    }
}

impl<C: Clock + Clone> RateLimits<C> {
    fn with_clock(limits: &Limits, clock: &C, max_keys: usize) -> Self {
        let bucket = |name, limit| {
            drop(metrics::counter!("construct_http_limited_total", "class" => name));
            Bucket::new(name, limit, clock, max_keys)
        };
        Self {
            auth: bucket("auth", limits.auth),
            account: bucket("account", limits.account),
            public: bucket("public", limits.public),
            read: bucket("read", limits.read),
            write: bucket("write", limits.write),
            money: bucket("money", limits.money),
        }
    }

    /// Counts a call of `caller` (a user id or the pseudonym of an address). `None`: not limited.
    ///
    /// # Errors
    /// [`Limited`] when it is one too many.
    pub fn check(&self, class: LimitClass, caller: &str) -> Result<Option<Report>, Limited> {
        let bucket = match class {
            LimitClass::Unlimited => return Ok(None),
            LimitClass::Auth => &self.auth,
            LimitClass::Public => &self.public,
            LimitClass::Read => &self.read,
            LimitClass::Write => &self.write,
            LimitClass::Money => &self.money,
        };
        bucket.check(caller).map(Some)
    }

    /// Counts a try of credentials at `account` from `source`: guessing at one account stays slow, and nobody can lock
    /// its owner out from elsewhere.
    ///
    /// # Errors
    /// [`Limited`] when it is one too many.
    pub fn check_account(&self, source: &str, account: &str) -> Result<Report, Limited> {
        let digest = ring::digest::digest(&ring::digest::SHA256, account.trim().to_lowercase().as_bytes());
        self.account.check(&format!("{source}:{}", hex::encode(&digest.as_ref()[..16])))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::settings::Settings;

    fn limits(clock: &FakeRelativeClock, max_keys: usize) -> RateLimits<FakeRelativeClock> {
        let mut limits = Settings::embedded().limits;
        limits.read = Limit { per_minute: 30, burst: 3 };
        limits.account = Limit { per_minute: 1, burst: 1 };
        RateLimits::with_clock(&limits, clock, max_keys)
    }

    #[test]
    fn a_burst_passes_and_then_one_call_a_period() {
        let clock = FakeRelativeClock::default();
        let limits = limits(&clock, 100);
        let text = |report: &Report| report.state.to_str().expect("text").to_owned();
        let state = |outcome: Result<Option<Report>, Limited>| match outcome {
            Ok(report) => text(&report.expect("limited")),
            Err(limited) => format!("{} retry {}", text(&limited.report), limited.retry_after_seconds),
        };
        let call = || state(limits.check(LimitClass::Read, "usr_1"));
        let first = limits.check(LimitClass::Read, "usr_0").expect("allowed").expect("limited");
        assert_eq!(first.policy, "\"read\";q=3;w=6");
        assert_eq!(call(), "\"read\";r=2;t=2");
        assert_eq!(call(), "\"read\";r=1;t=4");
        assert_eq!(call(), "\"read\";r=0;t=6");
        assert_eq!(call(), "\"read\";r=0;t=6 retry 2");
        clock.advance(Duration::from_secs(1));
        assert_eq!(call(), "\"read\";r=0;t=6 retry 1");
        clock.advance(Duration::from_secs(1));
        assert_eq!(call(), "\"read\";r=0;t=6");
        assert!(limits.check(LimitClass::Read, "usr_2").is_ok());
        assert_eq!(limits.check(LimitClass::Unlimited, "usr_1"), Ok(None));
    }

    #[test]
    fn an_account_is_guessed_at_slowly_from_each_source() {
        let limits = limits(&FakeRelativeClock::default(), 100);
        assert!(limits.check_account("here", "ada@example.org").is_ok());
        assert!(limits.check_account("here", " ADA@example.org").is_err());
        assert!(limits.check_account("here", "bob@example.org").is_ok());
        assert!(limits.check_account("there", "ada@example.org").is_ok());
    }

    #[test]
    fn callers_beyond_the_bound_share_a_bucket() {
        let limits = limits(&FakeRelativeClock::default(), 10);
        let outcomes: Vec<bool> =
            (0..20).map(|n| limits.check(LimitClass::Read, &format!("usr_{n}")).is_ok()).collect();
        assert_eq!(outcomes.iter().filter(|passed| **passed).count(), 13);
        assert!(limits.read.limiter.len() <= 11);
    }
}
