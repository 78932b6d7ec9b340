//! Proration by exact time: what the rest of a period is worth, in integer minor units.
//!
//! `unused(price, at) = price × milliseconds left ÷ milliseconds of the period`, rounded half away from zero in 128
//! bits. Used and unused always add up to the whole price, so no money appears or vanishes, and a change back at the
//! same instant costs nothing. One function makes the lines for the preview and for the invoice, which is why the two
//! agree to the minor unit.

use serde::{Deserialize, Serialize};

use super::calendar::Period;
use crate::kernel::{Error, Money, Timestamp};

/// The largest quantity of one subscription.
pub const MOST_QUANTITY: i64 = 1_000_000;

/// The largest amount of one line or invoice, in minor units: far inside `i64`, so that sums cannot overflow.
pub const MOST_AMOUNT: i64 = 1_000_000_000_000_000;

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineKind {
    /// A whole period in advance.
    Period,
    /// Unused time given back (negative).
    Credit,
    /// The rest of a period at the new price.
    Charge,
    /// Credit left from earlier changes, used up here (negative).
    Balance,
}

/// One line of an invoice. `amount` is in minor units of the invoice's currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub kind: LineKind,
    pub description: String,
    pub quantity: i64,
    pub amount: i64,
    pub period: Period,
}

/// A price as a line needs it.
#[derive(Debug, Clone, Copy)]
pub struct Priced<'a> {
    pub name: &'a str,
    pub unit_price: Money,
    pub quantity: i64,
}

impl Priced<'_> {
    /// Unit price × quantity.
    ///
    /// # Errors
    /// A 422 at `/quantity` when the quantity or the amount is out of range.
    pub fn whole(self) -> Result<Money, Error> {
        check_quantity(self.quantity)?;
        let whole = self.unit_price.times(self.quantity).map_err(|_| too_much())?;
        if whole.amount.abs() > MOST_AMOUNT { Err(too_much()) } else { Ok(whole) }
    }
}

/// # Errors
/// A 422 at `/quantity` unless 1 to [`MOST_QUANTITY`].
pub fn check_quantity(quantity: i64) -> Result<(), Error> {
    if (1..=MOST_QUANTITY).contains(&quantity) {
        return Ok(());
    }
    Err(Error::invalid("/quantity", format!("expected a whole number from 1 to {MOST_QUANTITY}")))
}

fn too_much() -> Error {
    Error::invalid("/quantity", "the amount would be out of range")
}

/// The part of `whole` that pays for the time of `period` after `at`.
///
/// # Errors
/// A 422 when the amount is out of range.
pub fn unused(whole: Money, period: Period, at: Timestamp) -> Result<Money, Error> {
    if period.millis() <= 0 {
        return Ok(Money::zero(whole.currency));
    }
    whole.scale(period.millis_after(at), period.millis()).map_err(|_| too_much())
}

/// The line of one whole period.
///
/// # Errors
/// A 422 when quantity or amount is out of range.
pub fn period_line(price: Priced<'_>, period: Period) -> Result<Line, Error> {
    let amount = price.whole()?.amount;
    let description = price.name.to_owned();
    Ok(Line { kind: LineKind::Period, description, quantity: price.quantity, amount, period })
}

/// The two lines of a change at `at` inside `period`: the old price's unused time back, the new price's rest charged.
///
/// # Errors
/// A 422 when a quantity or an amount is out of range, `/plan_id` when the currencies differ.
pub fn change_lines(old: Priced<'_>, new: Priced<'_>, period: Period, at: Timestamp) -> Result<Vec<Line>, Error> {
    same_currency(old, new)?;
    let charge = unused(new.whole()?, period, at)?.amount;
    let rest = Period { start: at.clamp(period.start, period.end), end: period.end };
    let description = format!("Remaining time on {}", new.name);
    let charge = Line { kind: LineKind::Charge, description, quantity: new.quantity, amount: charge, period: rest };
    Ok(vec![credit_line(old, period, at)?, charge])
}

/// The lines of a change that starts a new period (another interval): unused time back, a whole new period charged.
///
/// # Errors
/// As [`change_lines`].
pub fn restart_lines(
    old: Priced<'_>,
    new: Priced<'_>,
    period: Period,
    at: Timestamp,
    next: Period,
) -> Result<Vec<Line>, Error> {
    same_currency(old, new)?;
    Ok(vec![credit_line(old, period, at)?, period_line(new, next)?])
}

fn credit_line(old: Priced<'_>, period: Period, at: Timestamp) -> Result<Line, Error> {
    let amount = -unused(old.whole()?, period, at)?.amount;
    let rest = Period { start: at.clamp(period.start, period.end), end: period.end };
    let description = format!("Unused time on {}", old.name);
    Ok(Line { kind: LineKind::Credit, description, quantity: old.quantity, amount, period: rest })
}

fn same_currency(old: Priced<'_>, new: Priced<'_>) -> Result<(), Error> {
    if old.unit_price.currency == new.unit_price.currency {
        return Ok(());
    }
    Err(Error::invalid("/currency", "a subscription keeps its currency; start another one instead"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::Currency;

    fn priced(amount: i64, quantity: i64) -> Priced<'static> {
        Priced { name: "Plan", unit_price: Money::new(amount, Currency::USD), quantity }
    }

    fn june() -> Period {
        Period {
            start: "2026-06-01T00:00:00Z".parse().expect("a time"),
            end: "2026-07-01T00:00:00Z".parse().expect("a time"),
        }
    }

    #[test]
    fn half_a_month_is_half_the_price() {
        let at = "2026-06-16T00:00:00Z".parse().expect("a time");
        let lines = change_lines(priced(1000, 1), priced(3000, 1), june(), at).expect("in range");
        assert_eq!(lines.iter().map(|l| l.amount).collect::<Vec<_>>(), [-500, 1500]);
        assert_eq!(lines[0].period.start, at);
    }

    #[test]
    fn quantities_and_amounts_out_of_range_are_refused() {
        for quantity in [0, -1, MOST_QUANTITY + 1, i64::MAX, i64::MIN] {
            assert!(period_line(priced(1, quantity), june()).is_err(), "{quantity}");
        }
        assert!(period_line(priced(i64::MAX, 2), june()).is_err());
        assert!(period_line(priced(MOST_AMOUNT, 2), june()).is_err());
        let euro = Priced { name: "Plan", unit_price: Money::new(1, Currency::EUR), quantity: 1 };
        assert!(change_lines(priced(1, 1), euro, june(), june().start).is_err());
    }

    proptest! {
        #[test]
        fn used_and_unused_add_up_and_changing_back_is_free(
            price in 0i64..10_000_000, other in 0i64..10_000_000, quantity in 1i64..1000, offset in -1000i64..2_700_000_000
        ) {
            let period = june();
            let at = period.start.plus_millis(offset);
            let whole = priced(price, quantity).whole()?;
            let left = unused(whole, period, at)?;
            prop_assert!(left.amount >= 0 && left.amount <= whole.amount);
            let there = change_lines(priced(price, quantity), priced(other, 1), period, at)?;
            let back = change_lines(priced(other, 1), priced(price, quantity), period, at)?;
            let sum: i64 = there.iter().chain(&back).map(|line| line.amount).sum();
            prop_assert_eq!(sum, 0);
            let same = change_lines(priced(price, quantity), priced(price, quantity), period, at)?;
            prop_assert_eq!(same.iter().map(|line| line.amount).sum::<i64>(), 0);
        }

        #[test]
        fn later_changes_never_give_back_more(price in 0i64..10_000_000, a in 0i64..2_592_000_000, b in 0i64..2_592_000_000) {
            let period = june();
            let whole = priced(price, 1).whole()?;
            let (early, late) = (a.min(b), a.max(b));
            let left = |millis| unused(whole, period, period.start.plus_millis(millis)).map(|money| money.amount);
            prop_assert!(left(early)? >= left(late)?);
        }
    }
}
