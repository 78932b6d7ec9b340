//! Money given back: a refund at the processor and, once it succeeded, a numbered credit note.

use super::CREDIT_NOTES;
use super::protocol::{Event, RefundFault, RefundState, RefundStatus, Reply, State};
use super::state::{Body, Invoice, MOST_REFUNDS, ask_number};
use crate::actors::billing::ledger::{self, Account, Movement};
use crate::actors::billing::numbering;
use crate::kernel::{Context, Decision, Effect, Error, Money, Outcome, ProviderKind, Timestamp, codec};
use crate::providers::payment::{PaymentReceipt, PaymentRequest, Refund, RefundProgress, not_refunded};

const ASK_AGAIN_SECONDS: i64 = 60;
const LOOK_UP_FIRST_SECONDS: i64 = 600;
const LOOK_UP_LAST_SECONDS: i64 = 86_400;

/// When money that was to go back at `since` is looked up next: after ten minutes, then ever less often, down to daily.
pub(super) fn next_look(since: Timestamp, now: Timestamp) -> Timestamp {
    let age = now.millis_since(since) / 1000;
    now.plus_seconds(age.clamp(LOOK_UP_FIRST_SECONDS, LOOK_UP_LAST_SECONDS))
}

/// What is known after a refund was called: the processor's id of it.
pub(super) fn refund_of(outcome: Outcome) -> Result<String, RefundFault> {
    match outcome {
        Outcome::Done(bytes) => match codec::decode(&bytes) {
            Ok(PaymentReceipt::Refund { id }) => Ok(id),
            Ok(PaymentReceipt::RefundPending { .. }) => Err(RefundFault::Pending),
            _ => Err(RefundFault::Unknown("the receipt is unreadable".to_owned())),
        },
        // Given up after many attempts: one of them may have been the one whose answer was lost.
        Outcome::Refused(error) if error.code.may_retry() => Err(RefundFault::Unknown(error.detail)),
        Outcome::Refused(error) => Err(RefundFault::Refused(error)),
        Outcome::Unknown(detail) => Err(RefundFault::Unknown(detail)),
    }
}

/// What is known after a refund was looked up.
pub(super) fn found_of(outcome: Outcome) -> Result<String, RefundFault> {
    let unknown = |detail: &str| RefundFault::Unknown(detail.to_owned());
    let Outcome::Done(bytes) = outcome else { return Err(unknown("it cannot be looked up")) };
    match codec::decode(&bytes) {
        Ok(PaymentReceipt::FoundRefund(Some(found))) => match found.progress {
            RefundProgress::Succeeded => Ok(found.id),
            RefundProgress::Pending => Err(RefundFault::Pending),
            RefundProgress::Failed { code } => Err(RefundFault::Refused(not_refunded(&code))),
        },
        Ok(PaymentReceipt::FoundRefund(None)) => Err(RefundFault::Refused(not_refunded("never asked for"))),
        _ => Err(unknown("the receipt is unreadable")),
    }
}

/// Whether it is to be looked up: it is not known to have ended, and nobody is asking for it.
pub(super) fn is_open(status: RefundStatus) -> bool {
    matches!(status, RefundStatus::Unknown | RefundStatus::Processing)
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
        let pending = |refund: &&RefundState| {
            refund.id == id && (refund.status == RefundStatus::Pending || is_open(refund.status))
        };
        let Some(refund) = self.refunds.iter().find(pending) else { return decision };
        let invoice_id = context.id.key();
        let look = next_look(refund.at, context.now);
        let provider_id = match result {
            Ok(provider_id) => provider_id,
            Err(RefundFault::Pending) if refund.status == RefundStatus::Processing => return decision,
            Err(RefundFault::Pending) => {
                return decision.timer("refunds", look).event(Event::RefundProcessing { id });
            }
            Err(RefundFault::Unknown(_)) if is_open(refund.status) => return decision,
            Err(RefundFault::Unknown(_)) => {
                return decision
                    .timer("refunds", look)
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

    pub(super) fn find_refunds(&self, context: &Context) -> Decision<Invoice> {
        let mut decision = Decision::reply(Reply::Done);
        let Some(charge) = &self.charge_id else { return decision };
        for refund in self.refunds.iter().filter(|refund| is_open(refund.status)) {
            let reference = format!("{}/{}", context.id.key(), refund.id);
            let find = PaymentRequest::FindRefund { charge: charge.clone(), reference };
            decision = decision
                .effect(Effect::call(ProviderKind::Payment, &find, &format!("found_refund:{}", refund.id)))
                .timer("refunds", next_look(refund.at, context.now));
        }
        decision
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
