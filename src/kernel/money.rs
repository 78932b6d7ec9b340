//! Money: integer minor units and an ISO 4217 currency. There is no floating point near it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ISO 4217 currency. Serialized as its three-letter code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    pub const USD: Currency = Currency(iso_currency::Currency::USD);
    pub const EUR: Currency = Currency(iso_currency::Currency::EUR);

    /// Digits after the decimal point: 2 for USD, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u16 {
        self.0.exponent().unwrap_or(0)
    }

    /// Whether people pay in it: neither a metal or a code for tests (XAU, XTS) nor a unit of account (CLF).
    #[must_use]
    pub fn is_money(self) -> bool {
        !self.0.is_special() && !self.0.is_fund()
    }

    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        iso_currency::Currency::from_code(text).map(Self).ok_or(UnknownCurrency)
    }
}

/// The text is not an ISO 4217 code in capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an ISO 4217 currency code in capitals, such as USD")]
pub struct UnknownCurrency;

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount in minor units (cents for USD, yen for JPY) of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    pub amount: i64,
    pub currency: Currency,
}

/// Money arithmetic that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("amounts of different currencies cannot be combined")]
    CurrencyMismatch,
    #[error("the amount is out of range")]
    OutOfRange,
}

impl Money {
    #[must_use]
    pub const fn new(amount: i64, currency: Currency) -> Self {
        Self { amount, currency }
    }

    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self { amount: 0, currency }
    }

    /// # Errors
    /// [`MoneyError`] when the currencies differ or the sum leaves the range of `i64`.
    pub fn add(self, other: Money) -> Result<Money, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch);
        }
        let amount = self.amount.checked_add(other.amount).ok_or(MoneyError::OutOfRange)?;
        Ok(Money { amount, ..self })
    }

    /// # Errors
    /// [`MoneyError::OutOfRange`] when the product leaves the range of `i64`.
    pub fn times(self, quantity: i64) -> Result<Money, MoneyError> {
        let amount = self.amount.checked_mul(quantity).ok_or(MoneyError::OutOfRange)?;
        Ok(Money { amount, ..self })
    }

    /// `self × numerator ÷ denominator`, half away from zero, computed in 128 bits.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] when the denominator is not positive or the result leaves the range of `i64`.
    pub fn scale(self, numerator: i64, denominator: i64) -> Result<Money, MoneyError> {
        if denominator <= 0 {
            return Err(MoneyError::OutOfRange);
        }
        let product = i128::from(self.amount) * i128::from(numerator);
        let half = i128::from(denominator) / 2;
        let rounded = if product >= 0 {
            (product + half) / i128::from(denominator)
        } else {
            (product - half) / i128::from(denominator)
        };
        let amount = i64::try_from(rounded).map_err(|_| MoneyError::OutOfRange)?;
        Ok(Money { amount, ..self })
    }
}

impl fmt::Display for Money {
    /// `19.99 USD`, `500 JPY`, `-0.05 EUR`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.currency.exponent());
        let sign = if self.amount < 0 { "-" } else { "" };
        let magnitude = self.amount.unsigned_abs().to_string();
        if digits == 0 {
            return write!(f, "{sign}{magnitude} {}", self.currency);
        }
        let padded = format!("{magnitude:0>width$}", width = digits + 1);
        let (whole, fraction) = padded.split_at(padded.len() - digits);
        write!(f, "{sign}{whole}.{fraction} {}", self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_prints_by_the_currencys_exponent() {
        let yen: Currency = "JPY".parse().expect("a currency");
        let shown = [Money::new(1999, Currency::USD), Money::new(-5, Currency::EUR), Money::new(500, yen)];
        assert_eq!(shown.map(|m| m.to_string()), ["19.99 USD", "-0.05 EUR", "500 JPY"]);
    }

    #[test]
    fn metals_test_codes_and_units_of_account_are_no_money() {
        let is_money = |code: &str| code.parse::<Currency>().expect("a code").is_money();
        assert!(["USD", "EUR", "JPY", "ISK", "XAF", "XOF", "XCD"].into_iter().all(is_money));
        assert!(!["XAU", "XTS", "XSU", "XDR", "CLF", "BOV", "UYI"].into_iter().any(is_money));
    }

    #[test]
    fn scaling_rounds_half_away_from_zero_and_refuses_overflow() {
        assert_eq!(Money::new(5, Currency::USD).scale(1, 2), Ok(Money::new(3, Currency::USD)));
        assert_eq!(Money::new(-5, Currency::USD).scale(1, 2), Ok(Money::new(-3, Currency::USD)));
        assert_eq!(Money::new(i64::MAX, Currency::USD).scale(2, 1), Err(MoneyError::OutOfRange));
        assert_eq!(Money::new(1, Currency::USD).scale(1, 0), Err(MoneyError::OutOfRange));
    }
}
