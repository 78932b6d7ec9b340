//! What something will cost, line by line: the one computation behind every preview and every invoice.
//!
//! Invariants: `total = subtotal + tax`, `subtotal` is the sum of the lines and never negative, and credit is
//! conserved: `balance_after − balance_before = −(sum of all lines but the balance line)` whenever that sum is
//! negative, else what the balance line used up.

use serde::{Deserialize, Serialize};

use super::calendar::{Period, Recurrence};
use super::proration::{Line, LineKind, Priced, change_lines, period_line, restart_lines};
use crate::kernel::{Currency, Error, Money, Timestamp};

/// A plan at one price as it was when it was chosen. Later versions of the plan do not change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub plan_id: String,
    pub plan_version: u32,
    pub plan_name: String,
    pub entitlements: Vec<String>,
    pub trial_days: u16,
    pub every: Recurrence,
    pub unit_price: Money,
}

impl Offer {
    #[must_use]
    pub fn priced(&self, quantity: i64) -> Priced<'_> {
        Priced { name: &self.plan_name, unit_price: self.unit_price, quantity }
    }
}

/// An amount to pay and how it comes about. Amounts are in minor units of `currency`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub currency: Currency,
    pub lines: Vec<Line>,
    pub subtotal: i64,
    pub tax: i64,
    pub total: i64,
    /// Credit of the customer before and after.
    pub balance_before: i64,
    pub balance_after: i64,
    pub period: Period,
}

impl Quote {
    /// Adds up `lines`, uses credit where there is something to pay and keeps what is given back as credit.
    ///
    /// # Errors
    /// A 422 when the amounts are out of range.
    pub fn of(
        currency: Currency,
        mut lines: Vec<Line>,
        period: Period,
        balance: i64,
        tax_basis_points: u32,
    ) -> Result<Self, Error> {
        let out_of_range = || Error::invalid("/quantity", "the amount would be out of range");
        let sum = lines.iter().try_fold(0i64, |sum, line| sum.checked_add(line.amount)).ok_or_else(out_of_range)?;
        let used = balance.clamp(0, sum.max(0));
        if used > 0 {
            let description = "Credit from earlier changes".to_owned();
            lines.push(Line { kind: LineKind::Balance, description, quantity: 1, amount: -used, period });
        }
        let subtotal = sum.max(0) - used;
        let tax = Money::new(subtotal, currency).scale(i64::from(tax_basis_points), 10_000);
        let tax = tax.map_err(|_| out_of_range())?.amount;
        let total = subtotal.checked_add(tax).ok_or_else(out_of_range)?;
        let given_back = sum.min(0).checked_neg().ok_or_else(out_of_range)?;
        let balance_after =
            balance.checked_sub(used).and_then(|b| b.checked_add(given_back)).ok_or_else(out_of_range)?;
        Ok(Self { currency, lines, subtotal, tax, total, balance_before: balance, balance_after, period })
    }

    /// Whether there is anything to write an invoice about.
    #[must_use]
    pub fn needs_invoice(&self) -> bool {
        self.total > 0 || self.credit_used() > 0
    }

    /// Credit that the balance line uses up.
    #[must_use]
    pub fn credit_used(&self) -> i64 {
        self.lines.iter().filter(|line| line.kind == LineKind::Balance).map(|line| -line.amount).sum()
    }
}

/// A whole period in advance.
///
/// # Errors
/// A 422 when quantity or amount is out of range.
pub fn period_quote(offer: &Offer, quantity: i64, period: Period, balance: i64, tax: u32) -> Result<Quote, Error> {
    let line = period_line(offer.priced(quantity), period)?;
    Quote::of(offer.unit_price.currency, vec![line], period, balance, tax)
}

/// What is being changed, from what.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub old: (&'a Offer, i64),
    pub new: (&'a Offer, i64),
    pub period: Period,
    pub at: Timestamp,
}

impl Change<'_> {
    /// The period after the change: the same one, or a new one from now when the price recurs differently.
    ///
    /// # Errors
    /// `conflict` when the calendar ends.
    pub fn next_period(&self) -> Result<Period, Error> {
        if self.old.0.every == self.new.0.every {
            return Ok(self.period);
        }
        Ok(Period { start: self.at, end: self.new.0.every.boundary(self.at, 1)? })
    }

    /// # Errors
    /// A 422 when a quantity, amount or currency does not fit.
    pub fn quote(&self, balance: i64, tax: u32) -> Result<Quote, Error> {
        let (old, new) = (self.old.0.priced(self.old.1), self.new.0.priced(self.new.1));
        let next = self.next_period()?;
        let lines = if self.old.0.every == self.new.0.every {
            change_lines(old, new, self.period, self.at)?
        } else {
            restart_lines(old, new, self.period, self.at, next)?
        };
        Quote::of(self.new.0.unit_price.currency, lines, next, balance, tax)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn period() -> Period {
        let start: Timestamp = "2026-01-31T10:00:00Z".parse().expect("a time");
        Period { start, end: start.plus_days(28) }
    }

    fn line(amount: i64) -> Line {
        Line { kind: LineKind::Period, description: "Pro".into(), quantity: 1, amount, period: period() }
    }

    #[test]
    fn credit_is_used_before_money_and_tax_is_on_the_rest() {
        let quote = Quote::of(Currency::USD, vec![line(1000)], period(), 400, 1900).expect("in range");
        assert_eq!((quote.subtotal, quote.tax, quote.total, quote.balance_after), (600, 114, 714, 0));
        let quote = Quote::of(Currency::USD, vec![line(-1000)], period(), 400, 1900).expect("in range");
        assert_eq!((quote.total, quote.balance_after, quote.needs_invoice()), (0, 1400, false));
        let quote = Quote::of(Currency::USD, vec![line(300)], period(), 400, 1900).expect("in range");
        assert_eq!((quote.total, quote.balance_after, quote.needs_invoice()), (0, 100, true));
    }

    proptest! {
        #[test]
        fn no_money_appears_or_vanishes(
            amounts in proptest::collection::vec(-1_000_000i64..1_000_000, 1..5), balance in 0i64..1_000_000, tax in 0u32..10_000
        ) {
            let sum: i64 = amounts.iter().sum();
            let quote = Quote::of(Currency::USD, amounts.into_iter().map(line).collect(), period(), balance, tax)?;
            prop_assert!(quote.subtotal >= 0 && quote.tax >= 0 && quote.balance_after >= 0);
            prop_assert_eq!(quote.total, quote.subtotal + quote.tax);
            prop_assert_eq!(quote.subtotal - (quote.balance_after - quote.balance_before), sum);
        }
    }
}
