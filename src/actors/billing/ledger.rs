//! Double entry: every movement of money is one transaction whose entries add up to zero.
//!
//! A transaction is written by the decision that moves the money, in the same batch, as a key of the index `ledger`; so
//! it exists exactly when the movement does. Debits are positive. Accounts are few and hold no names:
//!
//! | account | grows when |
//! |---|---|
//! | `receivable` | an invoice is finalized; falls when it is paid, voided or written off |
//! | `revenue` | (negative) something was sold |
//! | `tax` | (negative) tax is owed to the state |
//! | `customer_credit` | (negative) we owe a customer the rest of a downgrade |
//! | `cash` | the processor took money for us; falls with refunds |
//! | `bad_debt` | an invoice is given up |
//! | `refunds` | money was given back |
//! | `returns` | (negative) a payment that nothing is owed for is to go back; rises again when it went |

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Currency, Decision, Entity, Error, Timestamp, codec};

/// The index that holds the transactions, by id.
pub const INDEX: &str = "ledger";

const RECORD_KIND: u8 = b'$';
const RECORD_VERSION: u16 = 1;

/// Where money is. Persisted by position: new ones go last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Account {
    Receivable,
    Revenue,
    Tax,
    CustomerCredit,
    Cash,
    BadDebt,
    Refunds,
    Returns,
}

/// Why it moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Movement {
    InvoiceFinalized,
    InvoicePaid,
    InvoiceVoided,
    InvoiceWrittenOff,
    InvoiceRecovered,
    CreditGranted,
    Refunded,
    /// A payment arrived that nothing is owed for (any more).
    DuplicateReceived,
    /// It went back.
    DuplicateReturned,
}

/// One movement. `entries` are in minor units of `currency`, debits positive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub at: Timestamp,
    pub movement: Movement,
    /// The invoice or subscription it belongs to.
    pub reference: String,
    pub currency: Currency,
    pub entries: Vec<(Account, i64)>,
}

impl Transaction {
    /// Whether the entries add up to zero.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.entries.iter().map(|(_, amount)| i128::from(*amount)).sum::<i128>() == 0
    }

    /// The change of one account.
    #[must_use]
    pub fn change_of(&self, account: Account) -> i64 {
        self.entries.iter().filter(|(of, _)| *of == account).map(|(_, amount)| amount).sum()
    }

    /// # Errors
    /// `internal` when the stored bytes are not a transaction.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        codec::decode_record(RECORD_KIND, bytes).map_err(|error| {
            tracing::error!(%error, "a ledger transaction does not decode");
            Error::internal()
        })
    }
}

/// Adds a transaction to a decision. Entries of zero are left out; a transaction without entries is not written.
#[must_use]
pub fn post<E: Entity>(
    decision: Decision<E>,
    context: &Context,
    movement: Movement,
    reference: &str,
    currency: Currency,
    entries: &[(Account, i64)],
) -> Decision<E> {
    let entries: Vec<_> = entries.iter().copied().filter(|(_, amount)| *amount != 0).collect();
    if entries.is_empty() {
        return decision;
    }
    let transaction = Transaction { at: context.now, movement, reference: reference.to_owned(), currency, entries };
    debug_assert!(transaction.balances(), "{transaction:?}");
    let key = context.new_id("txn", &format!("{movement:?}:{reference}"));
    let value = codec::encode_record(RECORD_KIND, RECORD_VERSION, &transaction).expect("transactions are small");
    decision.index(INDEX, key, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_keep_their_bytes() {
        let transaction = Transaction {
            at: Timestamp::from_millis(1_769_853_600_000),
            movement: Movement::InvoicePaid,
            reference: "inv_1".into(),
            currency: Currency::USD,
            entries: vec![(Account::Cash, 1999), (Account::Receivable, -1999)],
        };
        let bytes = codec::encode_record(RECORD_KIND, RECORD_VERSION, &transaction).expect("encodes");
        let golden = "24010000c17e139c010000010000000500000000000000696e765f3103000000000000\
                      00555344020000000000000004000000cf070000000000000000000031f8ffffffffffff";
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(Transaction::decode(&bytes).expect("decodes"), transaction);
        assert!(transaction.balances());
        assert_eq!(transaction.change_of(Account::Cash), 1999);
    }
}
