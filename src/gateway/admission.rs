//! Which request gets a place when there are too many: health before payments before what people wait for before bulk.
//!
//! A class is bounded twice: by a share of all places that it may hold itself, so that work stuck in one class (a payment
//! processor or an upstream that never answers) leaves the others theirs; and by how full the gateway may be when it
//! asks, so that under overload the lower class is refused first and the highest still finds a place.
//!
//! Invariant: nothing waits here. A request has a place or is refused at once, before it is authenticated or read; what
//! refusals cost, and so their pace (`pace.rs`), is what keeps the rate of served requests up while far more come in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::registry::LimitClass;
use crate::kernel::Error;

/// What a request is to the platform, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Health checks, and what operators ask of the admin listener. Always admitted.
    Health,
    /// Whatever moves money, and what the payment processor reports.
    Payments,
    /// What a person waits for.
    Interactive,
    /// Requests that go on to a configured upstream.
    Upstream,
    /// What machines ask in number: sending, exports, listings of everything.
    Bulk,
}

impl Class {
    /// The class of an endpoint that does not say its own.
    #[must_use]
    pub const fn of(limit: LimitClass) -> Self {
        match limit {
            LimitClass::Unlimited => Self::Health,
            LimitClass::Money => Self::Payments,
            LimitClass::Auth | LimitClass::Read | LimitClass::Write | LimitClass::Public => Self::Interactive,
        }
    }

    const ALL: [Self; 5] = [Self::Health, Self::Payments, Self::Interactive, Self::Upstream, Self::Bulk];

    const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Payments => "payments",
            Self::Interactive => "interactive",
            Self::Upstream => "upstream",
            Self::Bulk => "bulk",
        }
    }

    /// Percent of all places: how many the class itself may hold, and how many may be taken when it asks.
    const fn shares(self) -> (usize, usize) {
        match self {
            Self::Health => (usize::MAX, usize::MAX),
            Self::Payments => (50, 100),
            Self::Interactive => (80, 90),
            Self::Upstream => (50, 85),
            Self::Bulk => (30, 75),
        }
    }
}

/// When a machine may ask again, in seconds.
const BULK_AGAIN: u32 = 3;

/// The places of one listener.
#[derive(Debug)]
pub struct Admission {
    places: usize,
    taken: AtomicUsize,
    /// By class, without health.
    held: [AtomicUsize; 4],
}

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    slot: usize,
}

impl Admission {
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        for class in Class::ALL {
            drop(overloaded(class));
        }
        Arc::new(Self { places: places.max(1), taken: AtomicUsize::new(0), held: Default::default() })
    }

    /// A place for a request of this class. `None`: it needs none.
    ///
    /// # Errors
    /// `overloaded` when the class or the gateway is full for it.
    pub fn admit(self: &Arc<Self>, class: Class) -> Result<Option<Permit>, Error> {
        let slot = match class {
            Class::Health => return Ok(None),
            Class::Payments => 0,
            Class::Interactive => 1,
            Class::Upstream => 2,
            Class::Bulk => 3,
        };
        let (own, all) = class.shares();
        if !enter(&self.held[slot], self.share(own)) {
            return Err(refused(class));
        }
        if !enter(&self.taken, self.share(all)) {
            self.held[slot].fetch_sub(1, Ordering::AcqRel);
            return Err(refused(class));
        }
        Ok(Some(Permit { admission: Arc::clone(self), slot }))
    }

    fn share(&self, percent: usize) -> usize {
        (self.places.saturating_mul(percent) / 100).max(1)
    }
}

/// Counts one more, unless that would be more than `most`.
fn enter(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < most).then_some(now + 1)).is_ok()
}

fn overloaded(class: Class) -> metrics::Counter {
    metrics::counter!("construct_http_overloaded_total", "class" => class.name())
}

fn refused(class: Class) -> Error {
    overloaded(class).increment(1);
    let error = Error::overloaded("The gateway");
    // Machines can wait longer than people, and what their refusals cost is not to be had for who is served.
    if class == Class::Bulk { error.retry_after(BULK_AGAIN) } else { error }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.held[self.slot].fetch_sub(1, Ordering::AcqRel);
        self.admission.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many places as it gets.
    fn fill(admission: &Arc<Admission>, class: Class) -> Vec<Permit> {
        std::iter::from_fn(|| admission.admit(class).ok().flatten()).collect()
    }

    #[test]
    fn the_lower_class_is_refused_first_and_the_highest_always_finds_a_place() {
        let admission = Admission::new(100);
        let bulk = fill(&admission, Class::Bulk);
        let interactive = fill(&admission, Class::Interactive);
        assert_eq!((bulk.len(), interactive.len()), (30, 60));
        let again = |class| admission.admit(class).map(drop).expect_err("it is full for it").retry_after_seconds;
        assert_eq!((again(Class::Bulk), again(Class::Upstream)), (Some(BULK_AGAIN), Some(1)));
        let payments = fill(&admission, Class::Payments);
        assert_eq!(payments.len(), 10);
        assert!(admission.admit(Class::Health).is_ok_and(|permit| permit.is_none()));
        drop(bulk);
        assert_eq!(fill(&admission, Class::Bulk).len(), 5, "70 are taken, and 75 may be when bulk asks");
    }

    #[test]
    fn work_stuck_in_one_class_leaves_the_others_theirs() {
        let others = [Class::Payments, Class::Interactive, Class::Upstream, Class::Bulk];
        for stuck in others {
            let admission = Admission::new(100);
            let _held = fill(&admission, stuck);
            for class in others.into_iter().filter(|class| *class != stuck) {
                let more_urgent = class == Class::Payments || stuck != Class::Interactive;
                assert_eq!(
                    admission.admit(class).is_ok(),
                    more_urgent || class == Class::Upstream,
                    "{stuck:?} {class:?}"
                );
            }
        }
    }

    #[test]
    fn places_are_given_back() {
        let admission = Admission::new(10);
        for _ in 0..3 {
            assert_eq!(fill(&admission, Class::Interactive).len(), 8);
        }
        assert_eq!(admission.taken.load(Ordering::Acquire), 0);
    }
}
