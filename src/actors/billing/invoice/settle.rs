//! What follows when an attempt is settled: paid, tried again, given up, voided, or given back.

use super::protocol::{Attempt, AttemptStatus, Event, Mode, Reason, Reply, State};
use super::state::{Body, Invoice};
use super::{CANCELED, NO_PAYMENT_METHOD};
use crate::actors::billing::ledger::{self, Account, Movement};
use crate::actors::billing::notices;
use crate::actors::billing::subscription::{self, Subscription};
use crate::kernel::{Context, Decision, Effect};
use crate::providers::payment::ChargeReceipt;

impl Body {
    pub(super) fn succeeded(
        &self,
        decision: Decision<Invoice>,
        number: u32,
        receipt: ChargeReceipt,
        context: &Context,
    ) -> Decision<Invoice> {
        // A change whose payment took too long is made all the same; of what has ended, the money goes back.
        let unwanted = self.withdrawn || (self.void_requested && self.draft.reason != Reason::Change);
        if matches!(self.state, State::Open | State::Uncollectible) && !unwanted {
            // The cluster before a restored one may have made out the same invoice by terms that are not known here.
            let decision = match receipt.amount == self.total() {
                true => decision,
                false => decision.audit(context, "invoice.amount_differs", context.id.key(), "unknown"),
            };
            return self.paid(decision, context, number, receipt.id);
        }
        let decision = match self.state {
            State::Open => self.voided(decision, context).event(Event::AttemptFailed {
                attempt: number,
                code: CANCELED.to_owned(),
                at: context.now,
            }),
            _ => decision,
        };
        self.give_back(decision, receipt, context)
    }

    pub(super) fn paid(
        &self,
        decision: Decision<Invoice>,
        context: &Context,
        attempt: u32,
        charge_id: String,
    ) -> Decision<Invoice> {
        let id = context.id.key();
        let (movement, from) = match self.state {
            State::Uncollectible => (Movement::InvoiceRecovered, Account::BadDebt),
            _ => (Movement::InvoicePaid, Account::Receivable),
        };
        let total = self.total();
        let entries = [(Account::Cash, total.amount), (from, -total.amount)];
        let mut decision = ledger::post(decision, context, movement, id, total.currency, &entries)
            .clear_timer("retry")
            .effect(self.tell(subscription::Command::InvoicePaid { invoice_id: id.to_owned() }))
            .audit(context, "invoice.paid", id, "ok");
        decision = self.watch(decision, Some(attempt), context);
        if total.amount > 0 {
            decision = decision.effect(notices::receipt(context, self.about(context)));
        }
        decision.event(Event::Paid { attempt, charge_id, at: context.now })
    }

    pub(super) fn failed(
        &self,
        decision: Decision<Invoice>,
        attempt: &Attempt,
        code: &str,
        context: &Context,
    ) -> Decision<Invoice> {
        let decision = self
            .watch(decision, Some(attempt.number), context)
            .audit(context, "invoice.payment_failed", context.id.key(), "failed")
            .event(Event::AttemptFailed { attempt: attempt.number, code: code.to_owned(), at: context.now });
        if matches!(self.state, State::Paid | State::Void) {
            return decision;
        }
        if self.void_requested {
            return self.voided(decision, context);
        }
        let challenged = matches!(attempt.status, AttemptStatus::Pending { client_secret: Some(_) });
        match (&self.draft.mode, attempt.manual) {
            // The challenge counted as a failure when it was asked for.
            (Mode::Dunning(_), false) if challenged => return decision,
            (_, false) => return self.after_failure(decision, code, context),
            (_, true) => {}
        }
        let decision = decision.effect(notices::payment_failed(context, self.about(context), code, self.next_attempt));
        match (self.state, self.next_attempt) {
            (State::Open, Some(next)) => decision.timer("retry", next),
            _ => decision,
        }
    }

    /// What the invoice's mode says about a failure that nobody was there to see.
    pub(super) fn after_failure(
        &self,
        decision: Decision<Invoice>,
        code: &str,
        context: &Context,
    ) -> Decision<Invoice> {
        let id = context.id.key().to_owned();
        let schedule = match &self.draft.mode {
            Mode::Dunning(schedule) => schedule,
            Mode::KeepOpen => {
                let failed = subscription::Command::InvoiceFailed { invoice_id: id, exhausted: false };
                let decision = decision.effect(self.tell(failed));
                // Who starts without a payment method knows it.
                if code == NO_PAYMENT_METHOD {
                    return decision;
                }
                return decision.effect(notices::payment_failed(context, self.about(context), code, None));
            }
            Mode::VoidOnDecline => {
                let notice = notices::payment_failed(context, self.about(context), code, None);
                return self.voided(decision.effect(notice), context);
            }
        };
        let first = self.first_failure.unwrap_or(context.now);
        let failures = self.failures + 1;
        let next = schedule.next_try(first, failures, context.now);
        let notice = notices::payment_failed(context, self.about(context), code, next);
        let failed = subscription::Command::InvoiceFailed { invoice_id: id.clone(), exhausted: next.is_none() };
        let decision = decision.effect(self.tell(failed)).effect(notice).event(Event::RetryScheduled {
            at: next,
            first_failure: first,
            failures,
        });
        if let Some(next) = next {
            return decision.timer("retry", next);
        }
        let total = self.total();
        let entries = [(Account::BadDebt, total.amount), (Account::Receivable, -total.amount)];
        ledger::post(decision, context, Movement::InvoiceWrittenOff, &id, total.currency, &entries)
            .audit(context, "invoice.uncollectible", &id, "ok")
            .event(Event::GivenUp { at: context.now })
    }

    pub(super) fn void(&self, context: &Context) -> Decision<Invoice> {
        self.voided_when_known(Decision::reply(Reply::Done), context)
    }

    /// The subscription is over.
    pub(super) fn withdraw(&self, context: &Context) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        match self.state {
            State::Draft | State::Open if self.withdrawn => decision,
            State::Draft | State::Open => self.voided_when_known(decision.event(Event::Withdrawn), context),
            // It ended before it heard of the payment: the change never took effect.
            State::Paid if self.draft.reason == Reason::Change => {
                let reason = "the subscription ended before the change took effect".to_owned();
                let refund = self.refund(None, reason, context);
                refund.map_or(decision, |refund| Decision { reply: Reply::Done, ..refund })
            }
            State::Paid | State::Void | State::Uncollectible => decision,
        }
    }

    /// Voids what certainly was not paid. What may have been is found out first.
    fn voided_when_known(&self, decision: Decision<Invoice>, context: &Context) -> Decision<Invoice> {
        match self.state {
            State::Paid | State::Void | State::Uncollectible => decision,
            _ if self.void_requested => decision,
            _ if self.is_under_way() => decision.event(Event::VoidRequested),
            _ if self.is_challenged() => self.look_up(decision.event(Event::VoidRequested), context),
            _ => self.voided(decision, context),
        }
    }

    pub(super) fn voided(&self, decision: Decision<Invoice>, context: &Context) -> Decision<Invoice> {
        let id = context.id.key();
        let decision = match self.state {
            State::Draft => decision,
            _ => self.book(decision, context, Movement::InvoiceVoided, -1),
        };
        self.watch(decision, None, context)
            .clear_timer("retry")
            .effect(self.tell(subscription::Command::InvoiceVoided { invoice_id: id.to_owned() }))
            .audit(context, "invoice.voided", id, "ok")
            .event(Event::Voided { at: context.now })
    }

    fn tell(&self, command: subscription::Command) -> Effect {
        Effect::tell::<Subscription>(subscription::id(&self.draft.subscription_id), &command, "")
    }
}
