//! Payments: what billing asks of a processor, and what it hears back.
//!
//! Invariants: no card number ever passes here, only the processor's tokens; every request that moves money carries a
//! `reference` of ours which the processor stores, so that a lost answer can be looked up; a decline is a refusal
//! ([`crate::kernel::ErrorCode::PaymentDeclined`]) and a request for 3-D Secure is a receipt.

use serde::{Deserialize, Serialize};

use crate::kernel::{Error, ErrorCode, Money};

pub mod sandbox;
pub mod stripe;
pub mod webhook;

/// A request to the payment processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentRequest {
    /// An account of ours at the processor; `reference` is the user's id.
    CreateCustomer {
        reference: String,
    },
    /// Keeps a payment method for later charges. `token` is the processor's.
    AttachMethod {
        customer: String,
        token: String,
    },
    DetachMethod {
        token: String,
    },
    Charge(Charge),
    Refund(Refund),
    /// Looks up a charge by its reference; moves no money.
    FindCharge {
        customer: String,
        reference: String,
    },
    /// Looks up a refund of `charge` by its reference; moves no money.
    FindRefund {
        charge: String,
        reference: String,
    },
}

/// Takes money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    pub amount: Money,
    pub customer: String,
    pub token: String,
    /// Ours, unique per attempt: `<invoice id>/<attempt>`. The processor finds a charge by it and by the invoice.
    pub reference: String,
    pub description: String,
    /// The payer is not there to answer a challenge (a renewal).
    pub off_session: bool,
}

/// Gives money back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The processor's id of the charge.
    pub charge: String,
    pub amount: Money,
    pub reference: String,
}

/// What a processor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentReceipt {
    Customer {
        id: String,
    },
    Method(CardFacts),
    Detached,
    Charge(ChargeReceipt),
    Refund {
        id: String,
    },
    /// The answer to [`PaymentRequest::FindCharge`]; `None`: there certainly is no such charge.
    Found(Option<ChargeReceipt>),
    /// The processor took the refund, but it is not done.
    RefundPending {
        id: String,
    },
    /// The answer to [`PaymentRequest::FindRefund`]; `None`: there certainly is no such refund.
    FoundRefund(Option<RefundReceipt>),
}

/// A refund as the processor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundReceipt {
    pub id: String,
    pub progress: RefundProgress,
}

/// How far a refund is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefundProgress {
    Succeeded,
    Pending,
    /// The money stays where it is.
    Failed {
        code: String,
    },
}

impl RefundReceipt {
    /// The answer to a request for this refund.
    ///
    /// # Errors
    /// The refusal of one that failed.
    pub fn answer(self) -> Result<PaymentReceipt, Error> {
        match self.progress {
            RefundProgress::Succeeded => Ok(PaymentReceipt::Refund { id: self.id }),
            RefundProgress::Pending => Ok(PaymentReceipt::RefundPending { id: self.id }),
            RefundProgress::Failed { code } => Err(not_refunded(&code)),
        }
    }

    /// The one of two that got further.
    #[must_use]
    pub fn further(best: Option<Self>, other: Self) -> Option<Self> {
        let rank = |receipt: &Self| match receipt.progress {
            RefundProgress::Succeeded => 2,
            RefundProgress::Pending => 1,
            RefundProgress::Failed { .. } => 0,
        };
        best.filter(|best| rank(best) >= rank(&other)).or(Some(other))
    }
}

/// The refusal of a refund that certainly does not happen.
#[must_use]
pub fn not_refunded(code: &str) -> Error {
    Error::conflict(format!("The money was not given back: {code}."))
}

/// What may be shown of a payment method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardFacts {
    /// The processor's lasting token; not always the one that was sent.
    pub token: String,
    pub brand: String,
    pub last4: String,
    pub expires_month: u8,
    pub expires_year: u16,
}

/// A charge as the processor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeReceipt {
    pub id: String,
    pub reference: String,
    pub amount: Money,
    pub status: ChargeStatus,
}

impl ChargeReceipt {
    /// Which of two answers a request to charge `reference`: what paid the invoice, by whichever attempt, then the attempt
    /// itself, then another attempt that may still pay it.
    #[must_use]
    pub fn answering(reference: &str, best: Option<Self>, other: Self) -> Option<Self> {
        let rank = |receipt: &Self| match receipt.status {
            ChargeStatus::Succeeded => 3,
            _ if receipt.reference == reference => 2,
            ChargeStatus::Processing => 1,
            // Whoever answers the challenge of another attempt is given back what was too much.
            ChargeStatus::RequiresAction { .. } | ChargeStatus::Declined { .. } => 0,
        };
        best.into_iter().chain([other]).filter(|receipt| rank(receipt) > 0).max_by_key(rank)
    }
}

/// The invoice of a charge's reference.
#[must_use]
pub fn invoice_of(reference: &str) -> &str {
    reference.split_once('/').map_or(reference, |(invoice, _)| invoice)
}

/// How far a charge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChargeStatus {
    Succeeded,
    /// The payer must answer a 3-D Secure challenge with this client secret.
    RequiresAction {
        client_secret: String,
    },
    /// The processor will report later.
    Processing,
    Declined {
        code: String,
    },
}

/// The refusal of a decline. The processor's decline code travels as the detail of the member at fault.
#[must_use]
pub fn declined(code: &str) -> Error {
    Error::new(ErrorCode::PaymentDeclined, "The payment was declined.").field("/payment_method_id", code)
}

/// The decline code of a refusal made by [`declined`], or the refusal's own code.
#[must_use]
pub fn decline_code(error: &Error) -> String {
    let code = error.errors.first().map(|field| field.detail.clone());
    code.filter(|_| error.code == ErrorCode::PaymentDeclined).unwrap_or_else(|| error.code.as_str().to_owned())
}

/// Whether `token` has the form of a processor's payment-method token: `pm_`, `card_`, `src_` or `tok_` and letters,
/// digits or underscores. Anything else, a card number above all, is refused before it is stored.
#[must_use]
pub fn is_method_token(token: &str) -> bool {
    let rest = ["pm_", "card_", "src_", "tok_"].iter().find_map(|prefix| token.strip_prefix(prefix));
    rest.is_some_and(|rest| {
        (1..=128).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Currency, codec};

    #[test]
    fn requests_keep_their_bytes() {
        let charge = PaymentRequest::Charge(Charge {
            amount: Money::new(1999, Currency::USD),
            customer: "cus_1".into(),
            token: "pm_1".into(),
            reference: "inv_1/1".into(),
            description: "Pro".into(),
            off_session: true,
        });
        let bytes = codec::encode(&charge).expect("encodes");
        let golden = "03000000cf070000000000000300000000000000555344050000000000000063\
                      75735f310400000000000000706d5f310700000000000000696e765f312f31030000000000000050726f01";
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(codec::decode::<PaymentRequest>(&bytes).expect("decodes"), charge);
    }

    #[test]
    fn only_tokens_are_taken() {
        assert!(is_method_token("pm_card_visa") && is_method_token("tok_visa"));
        for bad in ["", "pm_", "4242424242424242", "pm_4242 4242", "visa", "pm_é"] {
            assert!(!is_method_token(bad), "{bad}");
        }
    }

    #[test]
    fn a_charge_is_answered_by_what_paid_its_invoice() {
        let receipt = |attempt: u32, status: ChargeStatus| ChargeReceipt {
            id: format!("pi_{attempt}"),
            reference: format!("inv_1/{attempt}"),
            amount: Money::new(1999, Currency::USD),
            status,
        };
        let declined = || ChargeStatus::Declined { code: "no".into() };
        let challenged = ChargeStatus::RequiresAction { client_secret: String::new() };
        let found = |receipts: Vec<ChargeReceipt>| {
            let best = receipts.into_iter().fold(None, |best, other| ChargeReceipt::answering("inv_1/2", best, other));
            best.map(|receipt| receipt.id)
        };
        let succeeded = || receipt(3, ChargeStatus::Succeeded);
        assert_eq!(found(vec![receipt(2, declined()), succeeded(), receipt(1, declined())]), Some("pi_3".into()));
        assert_eq!(found(vec![receipt(1, ChargeStatus::Processing), receipt(2, declined())]), Some("pi_2".into()));
        assert_eq!(found(vec![receipt(1, declined()), receipt(3, ChargeStatus::Processing)]), Some("pi_3".into()));
        assert_eq!(found(vec![receipt(1, declined()), receipt(3, challenged)]), None);
        assert_eq!(invoice_of("inv_1/2"), "inv_1");
    }

    #[test]
    fn a_decline_carries_its_code() {
        assert_eq!(decline_code(&declined("insufficient_funds")), "insufficient_funds");
        assert_eq!(decline_code(&Error::not_found("customer")), "not_found");
    }
}
