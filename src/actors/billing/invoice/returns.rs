//! Payments that nothing is owed for (any more), on their way back.
//!
//! The books owe the money from when it arrived until the processor says that it went. Every further request is
//! preceded by a look-up, so that nothing goes back twice. After [`MOST_TRIES`] a person has to see to it: the return
//! stays as it is, in sight.

use super::protocol::{Event, RefundFault, RefundStatus, Reply, Return};
use super::refund::next_look;
use super::state::{Body, Invoice, MOST_ATTEMPTS};
use crate::actors::billing::ledger::{self, Account, Movement};
use crate::kernel::{Context, Decision, Effect, Money, ProviderKind};
use crate::providers::payment::{ChargeReceipt, PaymentRequest, Refund};

/// The most requests to give one payment back: daily after the first few, for about two months.
const MOST_TRIES: u32 = 60;

impl Body {
    /// Gives a payment back, unless it paid this invoice or is on its way back already.
    pub(super) fn give_back(
        &self,
        decision: Decision<Invoice>,
        receipt: ChargeReceipt,
        context: &Context,
    ) -> Decision<Invoice> {
        let ours = self.charge_id.as_ref() == Some(&receipt.id);
        if ours || self.returned.contains(&receipt.id) || self.returned.len() >= MOST_ATTEMPTS {
            return decision;
        }
        let (charge_id, reference, amount) = (receipt.id, format!("{}/return", receipt.reference), receipt.amount);
        let entries = [(Account::Cash, amount.amount), (Account::Returns, -amount.amount)];
        let id = context.id.key();
        ledger::post(decision, context, Movement::DuplicateReceived, id, amount.currency, &entries)
            .effect(request(&charge_id, &reference, amount))
            .audit(context, "invoice.duplicate_received", id, "ok")
            .event(Event::DuplicateReturned { charge_id: charge_id.clone() })
            .event(Event::ReturnPlanned { charge_id, reference, amount: amount.amount, at: context.now })
    }

    fn going_back(&self, charge_id: &str) -> Option<&Return> {
        self.returns.iter().find(|back| back.charge_id == charge_id && back.status != RefundStatus::Succeeded)
    }

    pub(super) fn return_settled(
        &self,
        charge_id: &str,
        result: Result<String, RefundFault>,
        context: &Context,
    ) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        let Some(back) = self.going_back(charge_id) else { return decision };
        let (id, currency) = (context.id.key(), self.draft.quote.currency);
        let (status, outcome) = match result {
            Ok(_) => {
                let entries = [(Account::Returns, back.amount), (Account::Cash, -back.amount)];
                let charge_id = charge_id.to_owned();
                return ledger::post(decision, context, Movement::DuplicateReturned, id, currency, &entries)
                    .audit(context, "invoice.duplicate_returned", id, "ok")
                    .event(Event::ReturnChanged { charge_id, status: RefundStatus::Succeeded });
            }
            Err(RefundFault::Pending) => (RefundStatus::Processing, "pending"),
            Err(RefundFault::Unknown(_)) => (RefundStatus::Unknown, "unknown"),
            Err(RefundFault::Refused(_)) => (RefundStatus::Failed, "failed"),
        };
        if status == back.status {
            return decision;
        }
        decision
            .timer("returns", next_look(back.at, context.now))
            .audit(context, "invoice.duplicate_returned", id, outcome)
            .event(Event::ReturnChanged { charge_id: charge_id.to_owned(), status })
    }

    /// Looks up what should be back and is not known to be. What is being asked for is left alone.
    pub(super) fn find_returns(&self, context: &Context) -> Decision<Invoice> {
        let mut decision = Decision::reply(Reply::Done);
        let open = |back: &&Return| !matches!(back.status, RefundStatus::Pending | RefundStatus::Succeeded);
        for back in self.returns.iter().filter(open).filter(|back| back.tries < MOST_TRIES) {
            let (charge, reference) = (back.charge_id.clone(), back.reference.clone());
            let find = PaymentRequest::FindRefund { charge, reference };
            decision = decision
                .effect(Effect::call(ProviderKind::Payment, &find, &format!("found_return:{}", back.charge_id)))
                .timer("returns", next_look(back.at, context.now));
        }
        decision
    }

    pub(super) fn return_found(
        &self,
        charge_id: &str,
        result: Result<String, RefundFault>,
        context: &Context,
    ) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        let asked = |back: &&Return| back.status != RefundStatus::Pending;
        let Some(back) = self.going_back(charge_id).filter(asked) else { return decision };
        match result {
            Ok(_) | Err(RefundFault::Pending) => self.return_settled(charge_id, result, context),
            Err(RefundFault::Unknown(_)) => decision,
            Err(RefundFault::Refused(_)) => {
                let amount = Money::new(back.amount, self.draft.quote.currency);
                decision
                    .effect(request(charge_id, &back.reference, amount))
                    .event(Event::ReturnSent { charge_id: charge_id.to_owned() })
            }
        }
    }

    pub(super) fn apply_return(&mut self, event: &Event) {
        let (charge_id, to) = match event {
            Event::ReturnPlanned { charge_id, reference, amount, at } => {
                let (charge_id, reference) = (charge_id.clone(), reference.clone());
                let (tries, status) = (1, RefundStatus::Pending);
                return self.returns.push(Return { charge_id, reference, amount: *amount, at: *at, tries, status });
            }
            Event::ReturnSent { charge_id } => (charge_id, RefundStatus::Pending),
            Event::ReturnChanged { charge_id, status } => (charge_id, *status),
            _ => return,
        };
        if let Some(back) = self.returns.iter_mut().find(|back| back.charge_id == *charge_id) {
            back.tries += u32::from(matches!(event, Event::ReturnSent { .. }));
            back.status = to;
        }
    }
}

fn request(charge: &str, reference: &str, amount: Money) -> Effect {
    let refund = Refund { charge: charge.to_owned(), amount, reference: reference.to_owned() };
    Effect::call(ProviderKind::Payment, &PaymentRequest::Refund(refund), &format!("return:{charge}"))
}
