//! The invoice: from draft to number, its views and how its events change it.

use serde::{Deserialize, Serialize};

use super::protocol::{
    Attempt, AttemptStatus, Command, Draft, Event, RefundState, RefundStatus, Reply, Return, State, View,
};
use super::{INDEX, collect, refund};
use crate::actors::billing::ledger::{self, Account, Movement};
use crate::actors::billing::notices::About;
use crate::actors::billing::numbering::{self, Numbering};
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Error, Money, Outcome, Timestamp, codec};

/// The most attempts to pay one invoice.
pub const MOST_ATTEMPTS: usize = 100;
/// The most refunds of one invoice.
pub const MOST_REFUNDS: usize = 100;

const ASK_AGAIN_SECONDS: i64 = 60;

/// One invoice. Nothing until it was created.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Invoice {
    pub(super) body: Option<Body>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Body {
    pub draft: Draft,
    pub state: State,
    pub number: Option<String>,
    pub created_at: Timestamp,
    pub issued_at: Option<Timestamp>,
    pub paid_at: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
    /// Failures that count for the schedule, and when the first was.
    pub failures: u32,
    pub first_failure: Option<Timestamp>,
    pub next_attempt: Option<Timestamp>,
    pub void_requested: bool,
    /// The charge that paid it.
    pub charge_id: Option<String>,
    pub returned: Vec<String>,
    pub refunds: Vec<RefundState>,
    pub version: u64,
    /// The subscription ended while it was open.
    pub withdrawn: bool,
    pub returns: Vec<Return>,
}

impl Entity for Invoice {
    const KIND: &'static str = "invoice";
    const STATE_VERSION: u16 = 2;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let body = match command {
            Command::Create(draft) => return Ok(self.create(draft, context)),
            _ => self.body.as_ref().ok_or_else(|| Error::not_found("invoice"))?,
        };
        match command {
            Command::Create(_) => Err(Error::internal()),
            Command::Numbered(result) => Ok(body.numbered(result, context)),
            Command::AskNumber => Ok(match body.number {
                None => Decision::reply(Reply::Done).effect(ask_number(&body.draft.series, context.id.key(), "number")),
                Some(_) => Decision::reply(Reply::Done),
            }),
            Command::Pay { method_id } => body.owned_by(context)?.pay(method_id, context),
            Command::Retry => Ok(body.retry(context)),
            Command::MethodResolved { attempt, result } => Ok(body.method_resolved(attempt, result, context)),
            Command::Charged { attempt, outcome } => Ok(body.charged(attempt, outcome, context)),
            Command::Reconcile => Ok(body.reconcile(context)),
            Command::Report { receipt } => Ok(body.reported(receipt, context)),
            Command::Void => Ok(body.void(context)),
            Command::Withdraw => Ok(body.withdraw(context)),
            Command::Refund { amount, reason } => body.refund(amount, reason, context),
            Command::RefundSettled { id, result } => Ok(body.refund_settled(id, result, context)),
            Command::RefundNumbered { id, result } => Ok(body.refund_numbered(id, result, context)),
            Command::AskRefundNumbers => Ok(body.ask_refund_numbers()),
            Command::FindRefunds => Ok(body.find_refunds(context)),
            Command::ReturnSettled { charge_id, result } => Ok(body.return_settled(&charge_id, result, context)),
            Command::FindReturns => Ok(body.find_returns(context)),
            Command::ReturnFound { charge_id, result } => Ok(body.return_found(&charge_id, result, context)),
            Command::ChooseMethod { method_id } => Ok(body.choose_method(method_id)),
            Command::GetInvoice => {
                let view = body.owned_by(context)?.view(context.id.key());
                Ok(Decision::reply(Reply::Invoice(Box::new(view))))
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match (event, &mut self.body) {
            (Event::Drafted { draft, at }, body @ None) => *body = Some(Body::new(draft, *at)),
            (_, None) => {}
            (event, Some(body)) => {
                body.version += 1;
                body.apply(event);
            }
        }
    }

    fn on_timer(name: &str) -> Option<Command> {
        match name {
            "number" => Some(Command::AskNumber),
            "retry" => Some(Command::Retry),
            "reconcile" => Some(Command::Reconcile),
            "refund_numbers" => Some(Command::AskRefundNumbers),
            "refunds" => Some(Command::FindRefunds),
            "returns" => Some(Command::FindReturns),
            _ => None,
        }
    }

    fn on_outcome(tag: &str, outcome: Outcome) -> Option<Command> {
        let (what, rest) = tag.split_once(':').unwrap_or((tag, ""));
        match what {
            "number" => Some(Command::Numbered(assigned(outcome))),
            "method" => {
                Some(Command::MethodResolved { attempt: rest.parse().ok()?, result: collect::resolved(outcome) })
            }
            "charge" => Some(Command::Charged { attempt: rest.parse().ok()?, outcome: collect::charge_of(outcome) }),
            "find" => Some(Command::Charged { attempt: rest.parse().ok()?, outcome: collect::found_of(outcome) }),
            "refund" => Some(Command::RefundSettled { id: rest.to_owned(), result: refund::refund_of(outcome) }),
            "found_refund" => Some(Command::RefundSettled { id: rest.to_owned(), result: refund::found_of(outcome) }),
            "return" => Some(Command::ReturnSettled { charge_id: rest.to_owned(), result: refund::refund_of(outcome) }),
            "found_return" => {
                Some(Command::ReturnFound { charge_id: rest.to_owned(), result: refund::found_of(outcome) })
            }
            "credit" => Some(Command::RefundNumbered { id: rest.to_owned(), result: assigned(outcome) }),
            _ => None,
        }
    }

    /// Version 2 knows whether the subscription ended, and which payments go back.
    fn upgrade(version: u16, mut state: Vec<u8>) -> Option<Vec<u8>> {
        match (version, state.first()?) {
            (1, 0) => {}
            (1, _) => state.extend(codec::encode(&(false, Vec::<Return>::new())).ok()?),
            _ => return None,
        }
        Some(state)
    }
}

impl Invoice {
    fn create(&self, draft: Box<Draft>, context: &Context) -> Decision<Self> {
        if self.body.is_some() {
            return Decision::reply(Reply::Done);
        }
        let id = context.id.key();
        Decision::reply(Reply::Done)
            .index(INDEX, format!("{}/{id}", draft.user_id), draft.subscription_id.as_str())
            .effect(ask_number(&draft.series, id, "number"))
            .audit(context, "invoice.drafted", id, "ok")
            .event(Event::Drafted { draft, at: context.now })
    }
}

impl Body {
    fn new(draft: &Draft, at: Timestamp) -> Self {
        Self {
            draft: draft.clone(),
            state: State::Draft,
            number: None,
            created_at: at,
            issued_at: None,
            paid_at: None,
            attempts: Vec::new(),
            failures: 0,
            first_failure: None,
            next_attempt: None,
            void_requested: false,
            charge_id: None,
            returned: Vec::new(),
            refunds: Vec::new(),
            version: 1,
            withdrawn: false,
            returns: Vec::new(),
        }
    }

    /// Another person's invoice does not exist, except for those who reach all.
    pub(super) fn owned_by(&self, context: &Context) -> Result<&Self, Error> {
        if context.origin.reaches(&self.draft.user_id) { Ok(self) } else { Err(Error::not_found("invoice")) }
    }

    pub(super) fn total(&self) -> Money {
        Money::new(self.draft.quote.total, self.draft.quote.currency)
    }

    pub(super) fn about<'a>(&'a self, context: &'a Context) -> About<'a> {
        About {
            user_id: &self.draft.user_id,
            plan: &self.draft.plan_name,
            number: self.number.as_deref().unwrap_or_default(),
            invoice_id: context.id.key(),
            total: self.total(),
            period: self.draft.quote.period,
        }
    }

    pub(super) fn view(&self, id: &str) -> View {
        View {
            id: id.to_owned(),
            draft: self.draft.clone(),
            state: self.state,
            number: self.number.clone(),
            created_at: self.created_at,
            issued_at: self.issued_at,
            paid_at: self.paid_at,
            next_attempt_at: self.next_attempt,
            attempts: self.attempts.clone(),
            refunds: self.refunds.clone(),
            returns: self.returns.clone(),
            version: self.version,
        }
    }

    /// Books what the invoice asks for (`sign` 1) or takes it back (−1).
    pub(super) fn book(
        &self,
        decision: Decision<Invoice>,
        context: &Context,
        movement: Movement,
        sign: i64,
    ) -> Decision<Invoice> {
        let quote = &self.draft.quote;
        let used = quote.credit_used();
        let entries = [
            (Account::Receivable, sign * quote.total),
            (Account::CustomerCredit, sign * used),
            (Account::Revenue, -sign * (quote.subtotal + used)),
            (Account::Tax, -sign * quote.tax),
        ];
        ledger::post(decision, context, movement, context.id.key(), quote.currency, &entries)
    }

    fn numbered(&self, result: Result<u64, Error>, context: &Context) -> Decision<Invoice> {
        let decision = Decision::reply(Reply::Done);
        if self.number.is_some() {
            return decision;
        }
        let Ok(number) = result else {
            return decision.timer("number", context.now.plus_seconds(ASK_AGAIN_SECONDS));
        };
        let number = numbering::printed(&self.draft.series, number);
        if self.state != State::Draft {
            return decision.clear_timer("number").event(Event::NumberKept { number });
        }
        let decision = self.book(decision, context, Movement::InvoiceFinalized, 1);
        let decision = decision
            .clear_timer("number")
            .audit(context, "invoice.finalized", context.id.key(), "ok")
            .event(Event::Finalized { number, at: context.now });
        if self.draft.quote.total == 0 {
            return self.paid(decision, context, 0, String::new());
        }
        self.start_attempt(decision, context, self.draft.method_id.clone(), false)
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Drafted { .. } => {}
            Event::Finalized { number, at } => {
                self.number = Some(number.clone());
                self.issued_at = Some(*at);
                self.state = State::Open;
            }
            Event::NumberKept { number } => self.number = Some(number.clone()),
            Event::Paid { attempt, charge_id, at } => {
                self.set_status(*attempt, AttemptStatus::Succeeded);
                self.state = State::Paid;
                self.paid_at = Some(*at);
                self.charge_id = Some(charge_id.clone()).filter(|id| !id.is_empty());
                self.next_attempt = None;
            }
            Event::RetryScheduled { at, first_failure, failures } => {
                self.next_attempt = *at;
                self.first_failure = Some(*first_failure);
                self.failures = *failures;
            }
            Event::VoidRequested => self.void_requested = true,
            Event::Withdrawn => self.withdrawn = true,
            Event::Voided { .. } => {
                self.state = State::Void;
                self.next_attempt = None;
            }
            Event::GivenUp { .. } => {
                self.state = State::Uncollectible;
                self.next_attempt = None;
            }
            Event::DuplicateReturned { charge_id } => self.returned.push(charge_id.clone()),
            Event::RefundRequested { id, amount, reason, at } => self.refunds.push(RefundState {
                id: id.clone(),
                number: None,
                amount: *amount,
                reason: reason.clone(),
                at: *at,
                status: RefundStatus::Pending,
            }),
            Event::RefundSucceeded { id, .. } => self.set_refund(id, RefundStatus::Succeeded),
            Event::RefundProcessing { id } => self.set_refund(id, RefundStatus::Processing),
            Event::RefundFailed { id, unknown: true } => self.set_refund(id, RefundStatus::Unknown),
            Event::RefundFailed { id, unknown: false } => self.set_refund(id, RefundStatus::Failed),
            Event::RefundNumbered { id, number } => {
                if let Some(refund) = self.refunds.iter_mut().find(|refund| refund.id == *id) {
                    refund.number = Some(number.clone());
                }
            }
            Event::MethodChosen { method_id } => self.draft.method_id = Some(method_id.clone()),
            Event::ReturnPlanned { .. } | Event::ReturnSent { .. } | Event::ReturnChanged { .. } => {
                self.apply_return(event);
            }
            attempt => self.apply_attempt(attempt),
        }
    }
}

/// Asks `series` for the number of a document.
pub(super) fn ask_number(series: &str, document_id: &str, tag: &str) -> Effect {
    let command = numbering::Command::Assign { document_id: document_id.to_owned() };
    Effect::tell::<Numbering>(EntityId::new("numbering", series), &command, tag)
}

fn assigned(outcome: Outcome) -> Result<u64, Error> {
    match outcome {
        Outcome::Done(bytes) => match codec::decode(&bytes) {
            Ok(numbering::Reply::Number(number)) => Ok(number),
            Err(_) => Err(Error::internal()),
        },
        Outcome::Refused(error) => Err(error),
        Outcome::Unknown(detail) => Err(Error::unavailable(detail)),
    }
}
