//! The embedded payment processor: Stripe's test tokens on a journal of its own, so that a node without any account
//! at a processor still bills for real and survives `kill -9` like one that has.
//!
//! Invariants: an answer is on disk (one JSON line, `fdatasync`, [`LineFile`]) before it is given; the same key always gets
//! the same answer and moves money once. Nodes on one machine may share a journal.
//! The journal is kept whole and indexed in memory, so that anybody can count charges with `grep`; it is meant for
//! development and tests. Deliberately absent: completing a 3-D Secure challenge, which needs a browser.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    CardFacts, Charge, ChargeReceipt, ChargeStatus, PaymentReceipt, PaymentRequest, Refund, RefundProgress,
    RefundReceipt, declined, invoice_of,
};
use crate::kernel::{Error, Money, ProviderKind, codec};
use crate::providers::line_file::{Held, LineFile};
use crate::providers::{Provider, ProviderError};

/// The sandbox processor. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    journal: Arc<Mutex<Journal>>,
}

/// One answered request, as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    key: String,
    what: What,
    id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Customer {
        reference: String,
    },
    Method {
        customer: String,
        card: CardFacts,
    },
    Detached {
        token: String,
    },
    Charge {
        customer: String,
        receipt: ChargeReceipt,
    },
    Refund {
        charge: String,
        amount: Money,
        #[serde(default)]
        reference: String,
    },
    Refused(Error),
}

struct Journal {
    file: LineFile,
    answers: HashMap<String, Answer>,
    customers: HashMap<String, ()>,
    /// Charge id → amount taken and amount given back.
    charges: HashMap<String, (Money, i64)>,
    /// Reference → key of the answer.
    references: BTreeMap<String, String>,
}

impl Sandbox {
    /// Opens (or makes) the journal in `directory`.
    ///
    /// # Errors
    /// When it cannot be opened or is damaged.
    pub fn open(directory: &Path) -> std::io::Result<Self> {
        let kept = "what was charged and refunded; a charge in doubt may be made again";
        let mut journal = Journal {
            file: LineFile::open(&directory.join("journal.jsonl"), kept)?,
            answers: HashMap::new(),
            customers: HashMap::new(),
            charges: HashMap::new(),
            references: BTreeMap::new(),
        };
        let held = journal.file.hold()?;
        journal.catch_up(&held)?;
        Ok(Self { journal: Arc::new(Mutex::new(journal)) })
    }

    /// Works on the journal while no other process does, and after whatever they wrote.
    fn turn<T>(&self, work: impl FnOnce(&mut Journal, &Held) -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let unusable = |error| ProviderError::Retry(format!("the sandbox journal: {error}"));
        let held = journal.file.hold().map_err(unusable)?;
        journal.catch_up(&held).map_err(unusable)?;
        work(&mut journal, &held)
    }

    fn run(&self, key: &str, request: PaymentRequest) -> Result<PaymentReceipt, ProviderError> {
        self.turn(|journal, held| journal.run(held, key, request))
    }
}

impl Journal {
    fn run(&mut self, held: &Held, key: &str, request: PaymentRequest) -> Result<PaymentReceipt, ProviderError> {
        if let PaymentRequest::FindCharge { reference, .. } = &request {
            let answer = self.referred(reference);
            let found = answer.and_then(|answer| match &answer.what {
                What::Charge { receipt, .. } => Some(receipt.clone()),
                _ => None,
            });
            return Ok(PaymentReceipt::Found(found));
        }
        if let PaymentRequest::FindRefund { reference, .. } = &request {
            let answer = self.referred(reference);
            let found = answer.filter(|answer| matches!(answer.what, What::Refund { .. }));
            let receipt =
                |answer: &Answer| RefundReceipt { id: answer.refund_id(), progress: RefundProgress::Succeeded };
            return Ok(PaymentReceipt::FoundRefund(found.map(receipt)));
        }
        if let Some(answer) = self.answers.get(key) {
            return answer.clone().receipt();
        }
        let id = made_id(key);
        let what = self.decide(&id, request).unwrap_or_else(What::Refused);
        let answer = Answer { key: key.to_owned(), what, id };
        self.append(held, &answer)?;
        self.index(answer.clone());
        answer.receipt()
    }
}

impl Answer {
    fn refund_id(&self) -> String {
        format!("re_{}", self.id)
    }

    fn receipt(self) -> Result<PaymentReceipt, ProviderError> {
        let refund_id = self.refund_id();
        let id = self.id;
        match self.what {
            What::Customer { .. } => Ok(PaymentReceipt::Customer { id: format!("cus_{id}") }),
            What::Method { card, .. } => Ok(PaymentReceipt::Method(card)),
            What::Detached { .. } => Ok(PaymentReceipt::Detached),
            What::Charge { receipt, .. } => match receipt.status {
                ChargeStatus::Declined { code } => Err(ProviderError::Refused(declined(&code))),
                _ => Ok(PaymentReceipt::Charge(receipt)),
            },
            What::Refund { .. } => Ok(PaymentReceipt::Refund { id: refund_id }),
            What::Refused(error) => Err(ProviderError::Refused(error)),
        }
    }
}

impl Journal {
    /// Reads what other processes wrote.
    fn catch_up(&mut self, held: &Held) -> std::io::Result<()> {
        let answers = self.file.read_new(held)?;
        answers.into_iter().for_each(|answer| self.index(answer));
        Ok(())
    }

    fn append(&mut self, held: &Held, answer: &Answer) -> Result<(), ProviderError> {
        let written = self.file.append(held, answer);
        written.map_err(|error| ProviderError::Unknown(format!("the sandbox journal cannot be written: {error}")))
    }

    fn index(&mut self, answer: Answer) {
        match &answer.what {
            What::Customer { .. } => drop(self.customers.insert(format!("cus_{}", answer.id), ())),
            What::Charge { receipt, .. } => {
                self.references.insert(receipt.reference.clone(), answer.key.clone());
                if receipt.status == ChargeStatus::Succeeded {
                    self.charges.insert(receipt.id.clone(), (receipt.amount, 0));
                }
            }
            What::Refund { charge, amount, reference } => {
                self.references.insert(reference.clone(), answer.key.clone());
                if let Some((_, returned)) = self.charges.get_mut(charge) {
                    *returned += amount.amount;
                }
            }
            What::Method { .. } | What::Detached { .. } | What::Refused(_) => {}
        }
        self.answers.insert(answer.key.clone(), answer);
    }

    fn decide(&self, id: &str, request: PaymentRequest) -> Result<What, Error> {
        match request {
            PaymentRequest::CreateCustomer { reference } => Ok(What::Customer { reference }),
            PaymentRequest::AttachMethod { customer, token } => {
                self.known_customer(&customer)?;
                let card = card(id, &token)?;
                Ok(What::Method { customer, card })
            }
            PaymentRequest::DetachMethod { token } => Ok(What::Detached { token }),
            PaymentRequest::Charge(charge) => self.charge(id, charge),
            PaymentRequest::Refund(refund) => self.refund(refund),
            PaymentRequest::FindCharge { .. } | PaymentRequest::FindRefund { .. } => Err(Error::internal()),
        }
    }

    fn charge(&self, id: &str, charge: Charge) -> Result<What, Error> {
        self.known_customer(&charge.customer)?;
        if charge.amount.amount <= 0 {
            return Err(Error::invalid("/amount", "expected a positive amount"));
        }
        let status = match test_token(&charge.token) {
            Some("visa" | "mastercard" | "amex") => ChargeStatus::Succeeded,
            Some("authenticationRequired") => ChargeStatus::RequiresAction { client_secret: format!("pi_{id}_secret") },
            Some("chargeDeclinedInsufficientFunds") => ChargeStatus::Declined { code: "insufficient_funds".into() },
            Some("chargeDeclinedExpiredCard") => ChargeStatus::Declined { code: "expired_card".into() },
            Some(_) => ChargeStatus::Declined { code: "card_declined".into() },
            None => return Err(Error::not_found("payment method at the processor")),
        };
        let Charge { amount, customer, reference, .. } = charge;
        let receipt = ChargeReceipt { id: format!("pi_{id}"), reference, amount, status };
        Ok(What::Charge { customer, receipt })
    }

    fn refund(&self, refund: Refund) -> Result<What, Error> {
        let Some((amount, returned)) = self.charges.get(&refund.charge) else {
            return Err(Error::not_found("charge at the processor"));
        };
        let left = amount.amount - returned;
        if refund.amount.currency != amount.currency || refund.amount.amount <= 0 || refund.amount.amount > left {
            return Err(Error::invalid("/amount", "more than what is left of the charge"));
        }
        let Refund { charge, amount, reference } = refund;
        Ok(What::Refund { charge, amount, reference })
    }

    fn referred(&self, reference: &str) -> Option<&Answer> {
        self.references.get(reference).and_then(|key| self.answers.get(key))
    }

    /// What answers a request to charge with this reference: see [`ChargeReceipt::answering`].
    fn payment(&self, reference: &str) -> Option<&Answer> {
        let invoice = format!("{}/", invoice_of(reference));
        let of_invoice = self.references.range(invoice.clone()..).take_while(|(known, _)| known.starts_with(&invoice));
        let receipts = of_invoice.filter_map(|(_, key)| match &self.answers.get(key)?.what {
            What::Charge { receipt, .. } => Some(receipt.clone()),
            _ => None,
        });
        let best = receipts.fold(None, |best, other| ChargeReceipt::answering(reference, best, other))?;
        self.referred(&best.reference)
    }

    fn known_customer(&self, customer: &str) -> Result<(), Error> {
        if self.customers.contains_key(customer) { Ok(()) } else { Err(Error::not_found("customer at the processor")) }
    }
}

/// Ids follow from keys, so that a retry cannot make a second one.
fn made_id(key: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    hex::encode(&digest.as_ref()[..12])
}

/// Which of Stripe's test tokens (<https://docs.stripe.com/testing>) this one is, or was when it was attached.
fn test_token(token: &str) -> Option<&'static str> {
    let name = token.strip_prefix("pm_card_")?;
    let name = name.split_once("_sbx").map_or(name, |(name, _)| name);
    let name = name.strip_prefix("visa_").unwrap_or(name);
    const KNOWN: [&str; 9] = [
        "visa",
        "mastercard",
        "amex",
        "authenticationRequired",
        "chargeDeclined",
        "chargeDeclinedInsufficientFunds",
        "chargeDeclinedExpiredCard",
        "chargeCustomerFail",
        "chargeDeclinedProcessingError",
    ];
    KNOWN.into_iter().find(|known| *known == name)
}

fn card(id: &str, token: &str) -> Result<CardFacts, Error> {
    let name = test_token(token)
        .ok_or_else(|| Error::invalid("/token", "the sandbox knows Stripe's test tokens, such as pm_card_visa"))?;
    let (brand, last4) = match name {
        "mastercard" => ("mastercard", "4444"),
        "amex" => ("amex", "8431"),
        "authenticationRequired" => ("visa", "3184"),
        "chargeDeclined" => ("visa", "0002"),
        "chargeDeclinedInsufficientFunds" => ("visa", "9995"),
        "chargeDeclinedExpiredCard" => ("visa", "0069"),
        "chargeDeclinedProcessingError" => ("visa", "0119"),
        "chargeCustomerFail" => ("visa", "0341"),
        _ => ("visa", "4242"),
    };
    let token = format!("pm_card_{name}_sbx{}", &id[..8]);
    Ok(CardFacts { token, brand: brand.into(), last4: last4.into(), expires_month: 12, expires_year: 2034 })
}

#[async_trait]
impl Provider for Sandbox {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Payment
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let request = codec::decode(request).map_err(|error| {
            tracing::error!(%error, key, "a payment request does not decode");
            ProviderError::Refused(Error::internal())
        })?;
        let (sandbox, key) = (self.clone(), key.to_owned());
        let done = tokio::task::spawn_blocking(move || sandbox.run(&key, request)).await;
        let receipt = done.map_err(|error| ProviderError::Unknown(error.to_string()))??;
        codec::encode(&receipt).map_err(|error| ProviderError::Unknown(error.to_string()))
    }

    async fn reconcile(&self, key: &str, request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        let (sandbox, key) = (self.clone(), key.to_owned());
        let request = codec::decode(request);
        // As a processor's search does: what moved money is found by its reference under whatever key it was made.
        let found = move || {
            sandbox.turn(|journal, _| {
                let moved = match &request {
                    Ok(PaymentRequest::Charge(charge)) => journal.payment(&charge.reference),
                    Ok(PaymentRequest::Refund(refund)) => journal.referred(&refund.reference),
                    _ => None,
                };
                Ok(journal.answers.get(&key).or(moved).cloned())
            })
        };
        let answer = tokio::task::spawn_blocking(found).await;
        let answer = answer.map_err(|error| ProviderError::Unknown(error.to_string()))??;
        let Some(answer) = answer else { return Ok(None) };
        let bytes = codec::encode(&answer.receipt()?);
        bytes.map(Some).map_err(|error| ProviderError::Unknown(error.to_string()))
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
