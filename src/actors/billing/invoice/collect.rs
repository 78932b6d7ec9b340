//! Collecting an invoice: attempts, their outcomes, and what follows from them.

use super::protocol::{Attempt, AttemptStatus, ChargeOutcome, Event, Mode, Reply, State};
use super::state::{Body, Invoice, MOST_ATTEMPTS};
use super::{CANCELED, NO_PAYMENT_METHOD, parse_reference, reference};
use crate::actors::billing::dunning::Schedule;
use crate::actors::billing::wallet::{self, Payable, Wallet};
use crate::kernel::{Context, Decision, Effect, Error, Outcome, ProviderKind, Timestamp, codec};
use crate::providers::payment::{Charge, ChargeReceipt, ChargeStatus, PaymentReceipt, PaymentRequest, decline_code};

const LOOK_UP_SOON_SECONDS: i64 = 600;
const LOOK_UP_LATER_SECONDS: i64 = 3600;
/// A challenge is looked at less and less often, down to daily.
const LOOK_UP_RARELY_SECONDS: i64 = 86_400;
const CHALLENGE_WATCHED_DAYS: i64 = 30;
/// The most attempts looked up at once.
const MOST_LOOK_UPS: usize = 8;
/// How long whoever pays by hand has at least to answer a challenge before the schedule goes on.
const CHALLENGE_HOLDS_SECONDS: i64 = 3600;

/// What the wallet answered.
pub(super) fn resolved(outcome: Outcome) -> Result<Option<Payable>, Error> {
    match outcome {
        Outcome::Done(bytes) => match codec::decode(&bytes) {
            Ok(wallet::Reply::Payable(payable)) => Ok(payable),
            _ => Err(Error::internal()),
        },
        Outcome::Refused(error) => Err(error),
        Outcome::Unknown(detail) => Err(Error::unavailable(detail)),
    }
}

/// What is known after a charge was called.
pub(super) fn charge_of(outcome: Outcome) -> ChargeOutcome {
    match outcome {
        Outcome::Done(bytes) => match codec::decode(&bytes) {
            Ok(PaymentReceipt::Charge(receipt)) => ChargeOutcome::Receipt(receipt),
            _ => ChargeOutcome::Unknown,
        },
        // Given up after many attempts: one of them may have been the one whose answer was lost.
        Outcome::Refused(error) if error.code.may_retry() => ChargeOutcome::Unknown,
        Outcome::Refused(error) => ChargeOutcome::NotCharged { code: decline_code(&error) },
        Outcome::Unknown(_) => ChargeOutcome::Unknown,
    }
}

/// What is known after a charge was looked up.
pub(super) fn found_of(outcome: Outcome) -> ChargeOutcome {
    let Outcome::Done(bytes) = outcome else { return ChargeOutcome::Unknown };
    match codec::decode(&bytes) {
        Ok(PaymentReceipt::Found(Some(receipt))) => ChargeOutcome::Receipt(receipt),
        Ok(PaymentReceipt::Found(None)) => ChargeOutcome::NotCharged { code: "not_charged".to_owned() },
        _ => ChargeOutcome::Unknown,
    }
}

impl Body {
    pub(super) fn choose_method(&self, method_id: String) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        if !matches!(self.state, State::Draft | State::Open) || self.draft.method_id.as_ref() == Some(&method_id) {
            return decision;
        }
        decision.event(Event::MethodChosen { method_id })
    }

    fn attempt(&self, number: u32) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.number == number)
    }

    fn named_another(&self, attempt: &Attempt, payable: &Payable) -> bool {
        let named =
            attempt.method_id.as_ref().filter(|id| attempt.manual && Some(*id) != self.draft.method_id.as_ref());
        named.is_some_and(|id| *id != payable.method_id)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.status.is_under_way())
    }

    fn next_number(&self) -> u32 {
        self.attempts.last().map_or(1, |attempt| attempt.number + 1)
    }

    pub(super) fn start_attempt(
        &self,
        decision: Decision<Invoice>,
        context: &Context,
        method_id: Option<String>,
        manual: bool,
    ) -> Decision<Invoice> {
        let attempt = self.next_number();
        let ask = wallet::Command::Resolve { method_id: method_id.clone() };
        let ask = Effect::tell::<Wallet>(wallet::id(&self.draft.user_id), &ask, &format!("method:{attempt}"));
        decision.effect(ask).event(Event::AttemptStarted { attempt, method_id, manual, at: context.now })
    }

    pub(super) fn pay(&self, method_id: Option<String>, context: &Context) -> Result<Decision<Invoice>, Error> {
        match self.state {
            State::Open | State::Uncollectible => {}
            State::Paid => return Err(Error::conflict("The invoice is paid already.")),
            State::Draft => return Err(Error::conflict("The invoice is still being made out.").retry_after(1)),
            State::Void => return Err(Error::conflict("The invoice is void.")),
        }
        if self.is_under_way() {
            return Err(Error::conflict("A payment of this invoice is under way.").retry_after(5));
        }
        // What the schedule of retries needs is kept free.
        if self.attempts.len() >= MOST_ATTEMPTS - Schedule::MOST {
            return Err(Error::conflict("There were too many attempts to pay this invoice."));
        }
        let method_id = method_id.or_else(|| self.draft.method_id.clone());
        let decision = Decision::reply(Reply::Done).clear_timer("retry");
        let decision = decision.audit(context, "invoice.payment_requested", context.id.key(), "ok");
        Ok(self.start_attempt(decision, context, method_id, true))
    }

    pub(super) fn retry(&self, context: &Context) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        let due = self.next_attempt.is_some_and(|at| at <= context.now);
        if self.state != State::Open || !due || self.is_under_way() || self.attempts.len() >= MOST_ATTEMPTS {
            return decision;
        }
        self.start_attempt(decision, context, self.draft.method_id.clone(), false)
    }

    pub(super) fn method_resolved(
        &self,
        number: u32,
        result: Result<Option<Payable>, Error>,
        context: &Context,
    ) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        let Some(attempt) = self.attempt(number).filter(|a| a.status == AttemptStatus::Resolving) else {
            return decision;
        };
        let payable = match result {
            // The wallet falls back to the default; whoever named another one must not have that one charged.
            Ok(Some(payable)) if self.named_another(attempt, &payable) => {
                return self.failed(decision, attempt, NO_PAYMENT_METHOD, context);
            }
            Ok(Some(payable)) if !self.void_requested => payable,
            Ok(Some(_)) => return self.failed(decision, attempt, CANCELED, context),
            Ok(None) => return self.failed(decision, attempt, NO_PAYMENT_METHOD, context),
            Err(_) => return self.failed(decision, attempt, "payment_methods_unavailable", context),
        };
        let charge = Charge {
            amount: self.total(),
            customer: payable.customer.clone(),
            token: payable.token.clone(),
            reference: reference(context.id.key(), number),
            description: format!("{} {}", self.number.as_deref().unwrap_or_default(), self.draft.plan_name),
            off_session: self.draft.off_session && !attempt.manual,
        };
        let tag = format!("charge:{number}");
        decision
            .effect(Effect::call(ProviderKind::Payment, &PaymentRequest::Charge(charge), &tag))
            .event(Event::ChargeSent { attempt: number, payable })
    }

    pub(super) fn charged(&self, number: u32, outcome: ChargeOutcome, context: &Context) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        let Some(attempt) = self.attempt(number) else { return decision };
        let waiting =
            matches!(attempt.status, AttemptStatus::Charging | AttemptStatus::Unknown | AttemptStatus::Pending { .. });
        let receipt = match outcome {
            ChargeOutcome::Receipt(receipt) => receipt,
            ChargeOutcome::NotCharged { code } if waiting => return self.failed(decision, attempt, &code, context),
            ChargeOutcome::Unknown if waiting => return unknown(decision, attempt, context),
            ChargeOutcome::NotCharged { .. } | ChargeOutcome::Unknown => return decision,
        };
        match receipt.status.clone() {
            ChargeStatus::Succeeded => self.succeeded(decision, number, receipt, context),
            ChargeStatus::Declined { code } if waiting => self.failed(decision, attempt, &code, context),
            ChargeStatus::Processing if waiting => self.pending(decision, attempt, receipt.id, None, context),
            ChargeStatus::RequiresAction { client_secret } if waiting => {
                self.pending(decision, attempt, receipt.id, Some(client_secret), context)
            }
            _ => decision,
        }
    }

    /// A report of the processor's own. Only one that fits this invoice counts.
    pub(super) fn reported(&self, receipt: ChargeReceipt, context: &Context) -> Decision<Invoice> {
        let ours = parse_reference(&receipt.reference).filter(|(id, _)| *id == context.id.key());
        match ours {
            Some((_, number)) if receipt.amount == self.total() => {
                self.charged(number, ChargeOutcome::Receipt(receipt), context)
            }
            _ => Decision::reply(Reply::Done).audit(context, "invoice.report_refused", context.id.key(), "failed"),
        }
    }

    fn pending(
        &self,
        decision: Decision<Invoice>,
        attempt: &Attempt,
        charge_id: String,
        client_secret: Option<String>,
        context: &Context,
    ) -> Decision<Invoice> {
        let challenged = client_secret.is_some();
        if matches!(attempt.status, AttemptStatus::Pending { .. }) {
            // Looked up before it is voided: nobody has answered the challenge.
            let void = self.void_requested && challenged && self.state == State::Open;
            return if void { self.voided(decision, context) } else { decision };
        }
        let decision = decision.event(Event::ChargePending { attempt: attempt.number, charge_id, client_secret });
        let look = context.now.plus_seconds(LOOK_UP_LATER_SECONDS);
        if self.void_requested {
            return self.voided(decision, context).timer("reconcile", look);
        }
        let decision = decision.timer("reconcile", look);
        if !challenged {
            return decision;
        }
        // The payer is not there: the same as a decline, but the challenge may still be answered.
        match (&self.draft.mode, self.state, self.next_attempt) {
            (Mode::Dunning(_), ..) if !attempt.manual => {
                self.after_failure(decision, "authentication_required", context)
            }
            // Should the payer leave it at that, the schedule goes on.
            (_, State::Open, Some(next)) => {
                decision.timer("retry", next.max(context.now.plus_seconds(CHALLENGE_HOLDS_SECONDS)))
            }
            _ => decision,
        }
    }

    pub(super) fn reconcile(&self, context: &Context) -> Decision<Invoice> {
        self.look_up(Decision::reply(Reply::Done), context)
    }

    /// Asks the processor what became of the attempts that may still be paid, and does so again while there are any.
    pub(super) fn look_up(&self, mut decision: Decision<Invoice>, context: &Context) -> Decision<Invoice> {
        let open = || self.attempts.iter().rev().filter(|attempt| may_be_paid(attempt, context.now));
        if open().next().is_none() {
            return decision;
        }
        for attempt in open().take(MOST_LOOK_UPS) {
            let find = PaymentRequest::FindCharge {
                customer: attempt.customer.clone().unwrap_or_default(),
                reference: reference(context.id.key(), attempt.number),
            };
            let tag = format!("find:{}", attempt.number);
            decision = decision.effect(Effect::call(ProviderKind::Payment, &find, &tag));
        }
        self.watch(decision, None, context)
    }

    /// Sets the timer of the next look-up, or clears it where nothing but the attempt `settled` would be looked up.
    pub(super) fn watch(
        &self,
        decision: Decision<Invoice>,
        settled: Option<u32>,
        context: &Context,
    ) -> Decision<Invoice> {
        let open = self.attempts.iter().filter(|attempt| may_be_paid(attempt, context.now));
        let open = open.filter(|attempt| Some(attempt.number) != settled);
        let pause = open.map(|attempt| match attempt.status {
            AttemptStatus::Pending { client_secret: Some(_) } => {
                let age = context.now.millis_since(attempt.at) / 1000;
                age.clamp(LOOK_UP_LATER_SECONDS, LOOK_UP_RARELY_SECONDS)
            }
            _ => LOOK_UP_LATER_SECONDS,
        });
        match pause.min() {
            Some(seconds) => decision.timer("reconcile", context.now.plus_seconds(seconds)),
            None => decision.clear_timer("reconcile"),
        }
    }

    /// Whether somebody may still answer a challenge.
    pub(super) fn is_challenged(&self) -> bool {
        self.attempts.iter().any(|attempt| matches!(attempt.status, AttemptStatus::Pending { client_secret: Some(_) }))
    }

    pub(super) fn set_status(&mut self, number: u32, status: AttemptStatus) {
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.number == number) {
            attempt.status = status;
        }
    }

    pub(super) fn apply_attempt(&mut self, event: &Event) {
        match event {
            Event::AttemptStarted { attempt, method_id, manual, at } => self.attempts.push(Attempt {
                number: *attempt,
                at: *at,
                manual: *manual,
                method_id: method_id.clone(),
                customer: None,
                charge_id: None,
                status: AttemptStatus::Resolving,
            }),
            Event::ChargeSent { attempt, payable } => {
                self.set_status(*attempt, AttemptStatus::Charging);
                if let Some(attempt) = self.attempts.iter_mut().find(|known| known.number == *attempt) {
                    attempt.customer = Some(payable.customer.clone());
                    attempt.method_id = Some(payable.method_id.clone());
                }
            }
            Event::ChargeUnknown { attempt } => self.set_status(*attempt, AttemptStatus::Unknown),
            Event::ChargePending { attempt, charge_id, client_secret } => {
                self.set_status(*attempt, AttemptStatus::Pending { client_secret: client_secret.clone() });
                if let Some(attempt) = self.attempts.iter_mut().find(|known| known.number == *attempt) {
                    attempt.charge_id = Some(charge_id.clone());
                }
            }
            Event::AttemptFailed { attempt, code, .. } => {
                self.set_status(*attempt, AttemptStatus::Failed { code: code.clone() });
            }
            _ => {}
        }
    }
}

/// Whether the processor knows something of an attempt that we do not. Whoever was challenged may answer at any time, by
/// what the processor says; after a month only its own report tells of it.
fn may_be_paid(attempt: &Attempt, now: Timestamp) -> bool {
    match attempt.status {
        AttemptStatus::Unknown | AttemptStatus::Pending { client_secret: None } => true,
        AttemptStatus::Pending { client_secret: Some(_) } => attempt.at.plus_days(CHALLENGE_WATCHED_DAYS) > now,
        AttemptStatus::Resolving
        | AttemptStatus::Charging
        | AttemptStatus::Failed { .. }
        | AttemptStatus::Succeeded => false,
    }
}

/// Nobody knows whether it was charged: nothing is tried until it is found out.
fn unknown(decision: Decision<Invoice>, attempt: &Attempt, context: &Context) -> Decision<Invoice> {
    if attempt.status == AttemptStatus::Unknown || matches!(attempt.status, AttemptStatus::Pending { .. }) {
        return decision.timer("reconcile", context.now.plus_seconds(LOOK_UP_LATER_SECONDS));
    }
    decision
        .timer("reconcile", context.now.plus_seconds(LOOK_UP_SOON_SECONDS))
        .audit(context, "invoice.payment_unknown", context.id.key(), "unknown")
        .event(Event::ChargeUnknown { attempt: attempt.number })
}
