//! Money given back: a refund at the processor and, once it succeeded, a numbered credit note.

use super::CREDIT_NOTES;
use super::protocol::{Event, RefundFault, RefundState, RefundStatus, Reply, State};
use super::state::{Body, Invoice, MOST_REFUNDS, ask_number};
use crate::actors::billing::ledger::{self, Account, Movement};
use crate::actors::billing::numbering;
use crate::kernel::{Context, Decision, Effect, Error, Money, Outcome, ProviderKind, codec};
use crate::providers::payment::{PaymentReceipt, PaymentRequest, Refund};

const ASK_AGAIN_SECONDS: i64 = 60;

/// What is known after a refund was called: the processor's id of it.
pub(super) fn refund_of(outcome: Outcome) -> Result<String, RefundFault> {
    match outcome {
        Outcome::Done(bytes) => match codec::decode(&bytes) {
            Ok(PaymentReceipt::Refund { id }) => Ok(id),
            _ => Err(RefundFault::Unknown("the receipt is unreadable".to_owned())),
        },
        // Given up after many attempts: one of them may have been the one whose answer was lost.
        Outcome::Refused(error) if error.code.may_retry() => Err(RefundFault::Unknown(error.detail)),
        Outcome::Refused(error) => Err(RefundFault::Refused(error)),
        Outcome::Unknown(detail) => Err(RefundFault::Unknown(detail)),
    }
}

impl Body {
    /// Series of credit notes: that of the invoice with `CN` behind it.
    fn credit_series(&self) -> String {
        format!("{}CN", self.draft.series)
    }

    /// What may still be given back. What may have been given back counts as given.
    fn refundable(&self) -> i64 {
        let back = self.refunds.iter().filter(|refund| refund.status != RefundStatus::Failed);
        self.draft.quote.total - back.map(|refund| refund.amount).sum::<i64>()
    }

    pub(super) fn refund(
        &self,
        amount: Option<i64>,
        reason: String,
        context: &Context,
    ) -> Result<Decision<Invoice>, Error> {
        let charge = match (self.state, &self.charge_id) {
            (State::Paid, Some(charge)) => charge.clone(),
            _ => return Err(Error::conflict("Only what was paid can be given back.")),
        };
        if self.refunds.len() >= MOST_REFUNDS {
            return Err(Error::conflict(format!("There are {MOST_REFUNDS} refunds of this invoice already.")));
        }
        let left = self.refundable();
        if left == 0 {
            return Err(Error::conflict("All that was paid has been given back."));
        }
        let amount = amount.unwrap_or(left);
        if amount <= 0 || amount > left {
            return Err(Error::invalid("/amount", format!("expected 1 to {left}, what is left of the invoice")));
        }
        let id = context.new_id("cn", "refund");
        let request = Refund {
            charge,
            amount: Money::new(amount, self.draft.quote.currency),
            reference: format!("{}/{id}", context.id.key()),
        };
        let refund = RefundState {
            id: id.clone(),
            number: None,
            amount,
            reason: reason.clone(),
            at: context.now,
            status: RefundStatus::Pending,
        };
        let call = Effect::call(ProviderKind::Payment, &PaymentRequest::Refund(request), &format!("refund:{id}"));
        Ok(Decision::reply(Reply::Refund(refund))
            .index(CREDIT_NOTES, format!("{}/{id}", self.draft.user_id), context.id.key())
            .effect(call)
            .audit(context, "invoice.refund_requested", context.id.key(), "ok")
            .event(Event::RefundRequested { id, amount, reason, at: context.now }))
    }

    pub(super) fn refund_settled(
        &self,
        id: String,
        result: Result<String, RefundFault>,
        context: &Context,
    ) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        let pending = |refund: &&RefundState| refund.id == id && refund.status == RefundStatus::Pending;
        let Some(refund) = self.refunds.iter().find(pending) else { return decision };
        let invoice_id = context.id.key();
        let provider_id = match result {
            Ok(provider_id) => provider_id,
            Err(RefundFault::Unknown(_)) => {
                return decision
                    .audit(context, "invoice.refunded", invoice_id, "unknown")
                    .event(Event::RefundFailed { id, unknown: true });
            }
            Err(RefundFault::Refused(_)) => {
                return decision
                    .unindex(CREDIT_NOTES, format!("{}/{id}", self.draft.user_id))
                    .audit(context, "invoice.refunded", invoice_id, "failed")
                    .event(Event::RefundFailed { id, unknown: false });
            }
        };
        let entries = [(Account::Refunds, refund.amount), (Account::Cash, -refund.amount)];
        let currency = self.draft.quote.currency;
        ledger::post(decision, context, Movement::Refunded, invoice_id, currency, &entries)
            .effect(ask_number(&self.credit_series(), &id, &format!("credit:{id}")))
            .audit(context, "invoice.refunded", invoice_id, "ok")
            .event(Event::RefundSucceeded { id, provider_id, at: context.now })
    }

    pub(super) fn refund_numbered(
        &self,
        id: String,
        result: Result<u64, Error>,
        context: &Context,
    ) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        if !self.refunds.iter().any(|refund| refund.id == id && refund.number.is_none()) {
            return decision;
        }
        match result {
            Ok(number) => {
                let number = numbering::printed(&self.credit_series(), number);
                decision.event(Event::RefundNumbered { id, number })
            }
            Err(_) => decision.timer("refund_numbers", context.now.plus_seconds(ASK_AGAIN_SECONDS)),
        }
    }

    pub(super) fn ask_refund_numbers(&self) -> Decision<Invoice> {
        let bare = |refund: &&RefundState| refund.status == RefundStatus::Succeeded && refund.number.is_none();
        let mut decision = Decision::reply(Reply::Done);
        for refund in self.refunds.iter().filter(bare) {
            decision = decision.effect(ask_number(&self.credit_series(), &refund.id, &format!("credit:{}", refund.id)));
        }
        decision
    }

    pub(super) fn set_refund(&mut self, id: &str, status: RefundStatus) {
        if let Some(refund) = self.refunds.iter_mut().find(|refund| refund.id == id) {
            refund.status = status;
        }
    }
}
