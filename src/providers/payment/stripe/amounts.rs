//! Stripe's amounts. Most are in the minor units of ISO 4217, some are not: ISK and UGX have no minor unit but are sent
//! with two digits; MGA has one, of a fifth, but is sent in whole ariary; of currencies with three digits the last must
//! be 0. Source: <https://docs.stripe.com/currencies#minor-units>.

use crate::kernel::{Currency, Error, Money};

/// Digits that Stripe's amounts have and ours do not, negative the other way around.
fn more_digits(currency: Currency) -> i32 {
    match currency.code() {
        "ISK" | "UGX" => 2,
        "MGA" => -2,
        _ => 0,
    }
}

/// Whether every amount in this currency can be charged: prices are whole multiples of what Stripe takes, but parts of a
/// period and taxes are not.
#[must_use]
pub fn can_charge(currency: Currency) -> bool {
    currency.exponent() <= 2 && more_digits(currency) >= 0
}

/// An amount of ours as Stripe wants it.
pub(super) fn to_stripe(money: Money) -> Result<i64, Error> {
    let refused = || Error::invalid("/amount", format!("the processor cannot charge amounts in {}", money.currency));
    if !can_charge(money.currency) {
        return Err(refused());
    }
    let factor = 10i64.pow(more_digits(money.currency).unsigned_abs());
    money.amount.checked_mul(factor).ok_or_else(refused)
}

/// An amount of Stripe's as ours.
pub(super) fn from_stripe(amount: i64, currency: Currency) -> Result<Money, String> {
    let factor = 10i64.pow(more_digits(currency).unsigned_abs());
    if !can_charge(currency) || amount % factor != 0 {
        return Err(format!("{amount} of {currency} is no amount of ours"));
    }
    Ok(Money::new(amount / factor, currency))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_sent_as_stripe_counts_them_and_read_back() {
        let of = |code: &str| code.parse::<Currency>().expect("a currency");
        for (code, ours, theirs) in [("USD", 1999, 1999), ("JPY", 500, 500), ("ISK", 5, 500), ("UGX", 5, 500)] {
            assert_eq!(to_stripe(Money::new(ours, of(code))), Ok(theirs), "{code}");
            assert_eq!(from_stripe(theirs, of(code)), Ok(Money::new(ours, of(code))), "{code}");
        }
        assert!(from_stripe(501, of("ISK")).is_err() && to_stripe(Money::new(i64::MAX, of("ISK"))).is_err());
        for code in ["MGA", "KWD", "CLF"] {
            assert!(!can_charge(of(code)) && to_stripe(Money::new(1000, of(code))).is_err(), "{code}");
        }
    }
}
