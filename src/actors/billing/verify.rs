//! `construct ledger verify`: reads the whole ledger and every invoice, and says whether the books hold.
//!
//! Checked: every transaction adds up to zero; every invoice's lines recompute to its totals; what the ledger says of
//! each invoice is what its state says; numbers have no gaps and name the invoice that bears them. Reads only. Run it
//! when billing is at rest: a payment booked between reading the ledger and reading its invoice looks like a fault.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::invoice::{self, Invoice, State, View};
use super::ledger::{self, Account, Transaction};
use super::numbering;
use super::quote::Quote;
use crate::actors::runtime::{Page, Router, Scope};
use crate::kernel::{Error, Origin};

const PAGE: usize = 500;
/// The most faults a report lists; more are only counted.
const MOST_FAULTS: usize = 100;

/// What the check found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LedgerReport {
    pub transactions: u64,
    pub invoices: u64,
    pub numbers: u64,
    /// Balances by account and currency, in minor units, such as `cash USD`.
    pub balances: BTreeMap<String, i64>,
    pub fault_count: u64,
    pub faults: Vec<String>,
}

impl LedgerReport {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.fault_count == 0
    }

    fn fault(&mut self, text: String) {
        self.fault_count += 1;
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(text);
        }
    }
}

/// Checks everything.
///
/// # Errors
/// When something cannot be read; what is wrong with what was read is in the report.
pub async fn verify(router: &Router) -> Result<LedgerReport, Error> {
    let mut report = LedgerReport::default();
    let mut booked = BTreeMap::new();
    each(router, ledger::INDEX, |key, value| {
        let transaction = Transaction::decode(&value)?;
        book(&mut report, &mut booked, &key, &transaction);
        Ok(())
    })
    .await?;
    let mut ids = Vec::new();
    each(router, invoice::INDEX, |key, _| {
        ids.extend(key.rsplit_once('/').map(|(_, id)| id.to_owned()));
        Ok(())
    })
    .await?;
    let mut numbered = BTreeMap::new();
    for id in ids {
        let view = read(router, &id).await?;
        report.invoices += 1;
        check(&mut report, &view, booked.get(&id).copied().unwrap_or_default());
        if let Some(number) = &view.number {
            numbered.insert(number.clone(), id);
        }
    }
    let mut last = BTreeMap::new();
    each(router, numbering::INDEX, |key, value| {
        walk_number(&mut report, &mut last, &numbered, &key, &value);
        Ok(())
    })
    .await?;
    Ok(report)
}

async fn read(router: &Router, id: &str) -> Result<View, Error> {
    let origin = Origin::system("ledger:verify");
    match router.ask::<Invoice>(&invoice::id(id), invoice::Command::GetInvoice, &origin).await? {
        invoice::Reply::Invoice(view) => Ok(*view),
        _ => Err(Error::internal()),
    }
}

/// Every key of an index in every shard, page by page.
async fn each(
    router: &Router,
    index: &str,
    mut take: impl FnMut(String, Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = Page { after: after.take(), limit: PAGE, reverse: false };
        let found = router.scan(Scope::All, index, b"", page).await?;
        let more = found.len() == PAGE;
        after = found.last().map(|(key, _)| key.clone());
        for (key, value) in found {
            take(String::from_utf8_lossy(&key).into_owned(), value)?;
        }
        if !more {
            return Ok(());
        }
    }
}

/// What the ledger says of one invoice: receivable and cash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Booked {
    receivable: i64,
    cash: i64,
    bad_debt: i64,
}

fn book(report: &mut LedgerReport, booked: &mut BTreeMap<String, Booked>, key: &str, transaction: &Transaction) {
    report.transactions += 1;
    if !transaction.balances() {
        report.fault(format!("transaction {key} does not add up to zero"));
    }
    for (account, amount) in &transaction.entries {
        let name = format!("{} {}", format!("{account:?}").to_lowercase(), transaction.currency);
        let balance = report.balances.entry(name).or_default();
        *balance = balance.saturating_add(*amount);
    }
    let of = booked.entry(transaction.reference.clone()).or_default();
    of.receivable = of.receivable.saturating_add(transaction.change_of(Account::Receivable));
    of.cash = of.cash.saturating_add(transaction.change_of(Account::Cash));
    of.bad_debt = of.bad_debt.saturating_add(transaction.change_of(Account::BadDebt));
}

fn check(report: &mut LedgerReport, view: &View, booked: Booked) {
    let quote = &view.draft.quote;
    if !recomputes(quote) {
        report.fault(format!("invoice {} does not recompute", view.id));
    }
    let refunded = view.refunds.iter().filter(|refund| refund.status == invoice::RefundStatus::Succeeded);
    let refunded: i64 = refunded.map(|refund| refund.amount).sum();
    let going_back = view.returns.iter().filter(|back| back.status != invoice::RefundStatus::Succeeded);
    let going_back: i64 = going_back.map(|back| back.amount).sum();
    let mut expected = match view.state {
        State::Draft | State::Void => Booked::default(),
        State::Open => Booked { receivable: quote.total, ..Booked::default() },
        State::Paid => Booked { cash: quote.total - refunded, ..Booked::default() },
        State::Uncollectible => Booked { bad_debt: quote.total, ..Booked::default() },
    };
    expected.cash += going_back;
    if booked != expected {
        let state = view.state;
        report.fault(format!("invoice {} is {state:?} but booked as {booked:?}, expected {expected:?}", view.id));
    }
}

/// Whether lines, tax and total belong together.
#[must_use]
pub fn recomputes(quote: &Quote) -> bool {
    let lines: i128 = quote.lines.iter().map(|line| i128::from(line.amount)).sum();
    let whole = lines == i128::from(quote.subtotal) && quote.subtotal.checked_add(quote.tax) == Some(quote.total);
    whole && quote.total >= 0 && quote.credit_used() == quote.balance_before - quote.balance_after
}

fn walk_number(
    report: &mut LedgerReport,
    last: &mut BTreeMap<String, u64>,
    numbered: &BTreeMap<String, String>,
    key: &str,
    value: &[u8],
) {
    let Some((series, number)) = key.rsplit_once('/') else {
        return report.fault(format!("{key} is not a number"));
    };
    let Ok(number) = number.parse::<u64>() else {
        return report.fault(format!("{key} is not a number"));
    };
    report.numbers += 1;
    let before = last.insert(series.to_owned(), number).unwrap_or(0);
    if number != before + 1 {
        report.fault(format!("series {series} jumps from {before} to {number}"));
    }
    let printed = numbering::printed(series, number);
    let document = String::from_utf8_lossy(value);
    if let Some(invoice_id) = numbered.get(&printed)
        && *invoice_id != document
    {
        report.fault(format!("{printed} was given to {document} but is borne by {invoice_id}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::billing::calendar::Period;
    use crate::actors::billing::invoice::{Command, Draft, Mode, Reason, Reply};
    use crate::actors::billing::proration::{Line, LineKind};
    use crate::actors::runtime::testing::Given;
    use crate::kernel::{Change, Currency, Entity, Money, Outcome};
    use crate::providers::payment::{ChargeReceipt, ChargeStatus, not_refunded};

    #[test]
    fn the_books_hold_while_a_second_payment_is_on_its_way_back() {
        let mut invoice = Given::<Invoice>::new("inv_1");
        let period = Period { start: invoice.context.now, end: invoice.context.now.plus_days(28) };
        let line = Line { kind: LineKind::Period, description: "Pro".into(), quantity: 1, amount: 1999, period };
        let draft = Draft {
            user_id: "usr_1".into(),
            subscription_id: "sub_1".into(),
            plan_name: "Pro".into(),
            reason: Reason::Start,
            quote: Quote::of(Currency::USD, vec![line], period, 0, 0).expect("in range"),
            series: "INV".into(),
            mode: Mode::KeepOpen,
            method_id: None,
            off_session: false,
        };
        let paid = |id: &str| Command::Report {
            receipt: ChargeReceipt {
                id: id.into(),
                reference: invoice::reference("inv_1", 1),
                amount: Money::new(1999, Currency::USD),
                status: ChargeStatus::Succeeded,
            },
        };
        let nothing_back = Invoice::on_outcome("return:pi_2", Outcome::Refused(not_refunded("no")));
        let (mut report, mut booked) = (LedgerReport::default(), BTreeMap::new());
        for command in [
            Command::Create(Box::new(draft)),
            Command::Numbered(Ok(1)),
            paid("pi_1"),
            paid("pi_2"),
            nothing_back.expect("somebody waits for it"),
        ] {
            for change in invoice.when(command).expect("taken").changes {
                if let Change::Index { index, value: Some(value), .. } = change
                    && index == ledger::INDEX
                {
                    book(&mut report, &mut booked, "txn", &Transaction::decode(&value).expect("decodes"));
                }
            }
        }
        let Reply::Invoice(view) = invoice.when(Command::GetInvoice).expect("there").reply else {
            panic!("an invoice")
        };
        assert_eq!((view.state, booked["inv_1"].cash), (State::Paid, 2 * 1999));
        check(&mut report, &view, booked["inv_1"]);
        assert!(report.holds(), "{:?}", report.faults);
        check(&mut report, &View { returns: Vec::new(), ..*view }, booked["inv_1"]);
        assert!(!report.holds(), "money that nobody owes is found");
    }
}
