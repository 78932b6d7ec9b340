//! The wallet: attaching, choosing and detaching payment methods; handing out subscriptions; closing.

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Method, MethodStatus, Payable, Reply, Trial};
use crate::actors::billing::plans::MOST_PLANS;
use crate::actors::billing::subscription::{self, CancelAt, Subscription};
use crate::kernel::{
    Context, Decision, Effect, Entity, EntityId, Error, ErrorCode, Outcome, ProviderKind, Timestamp, codec,
};
use crate::providers::payment::{CardFacts, PaymentReceipt, PaymentRequest, is_method_token};

/// The most payment methods of one person, failed ones included; the oldest failed one makes room.
pub const MOST_METHODS: usize = 50;
/// The most subscriptions of one person that have not ended.
pub const MOST_SUBSCRIPTIONS: usize = 200;
/// The most plans that one person tries: as many as there can be.
const MOST_TRIALS: usize = MOST_PLANS;

/// What one person pays with.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Wallet {
    customer: Option<String>,
    customer_requested: bool,
    methods: Vec<Method>,
    default: Option<String>,
    subscriptions: Vec<String>,
    closed: bool,
    /// Each plan once, for good: a trial is not repeated by another subscription.
    trials: Vec<Trial>,
}

impl Entity for Wallet {
    const KIND: &'static str = "wallet";
    const STATE_VERSION: u16 = 2;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::OpenSubscription => self.open_subscription(context),
            Command::SubscriptionEnded { id } => Ok(self.subscription_ended(id)),
            Command::AttachMethod { token, make_default } => self.attach(token, make_default, context),
            Command::SetDefault { id } => self.set_default(id, context),
            Command::DetachMethod { id } => self.detach(id, context),
            Command::GetMethod { id } => Ok(Decision::reply(self.shown(self.method(&id)?))),
            Command::ListMethods => {
                let ready = self.methods.iter().filter(|method| matches!(method.status, MethodStatus::Ready(_)));
                let (methods, default) = (ready.cloned().collect(), self.default.clone());
                Ok(Decision::reply(Reply::Methods { methods, default }))
            }
            Command::ListSubscriptions => Ok(Decision::reply(Reply::Subscriptions(self.subscriptions.clone()))),
            Command::Resolve { method_id } => Ok(Decision::reply(Reply::Payable(self.resolve(method_id.as_deref())))),
            Command::CustomerMade(result) => Ok(self.customer_made(result)),
            Command::MethodAttached { id, result } => Ok(self.method_attached(id, result, context)),
            Command::Close => Ok(self.close(context)),
            Command::TakeTrial { plan_id, subscription_id } => Ok(self.take_trial(plan_id, subscription_id)),
            Command::ListTrials => Ok(Decision::reply(Reply::Trials(self.trials.clone()))),
            Command::MethodNamed { subscription_id, method_id } => Ok(self.method_named(&subscription_id, method_id)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::SubscriptionOpened { id } => self.subscriptions.push(id.clone()),
            Event::SubscriptionEnded { id } => self.subscriptions.retain(|known| known != id),
            Event::AttachRequested { id, token, make_default, at } => {
                self.requested(id, token, *make_default, *at);
            }
            Event::CustomerRequested => self.customer_requested = true,
            Event::CustomerMade { customer } => self.customer = Some(customer.clone()),
            Event::CustomerFailed => self.customer_requested = false,
            Event::MethodAttached { id, card } => {
                self.set_status(id, MethodStatus::Ready(card.clone()));
                let wanted = self.methods.iter().any(|method| method.id == *id && method.make_default);
                if wanted || self.default.is_none() {
                    self.default = Some(id.clone());
                }
            }
            Event::AttachFailed { id, error } => self.set_status(id, MethodStatus::Failed(error.clone())),
            Event::DefaultChosen { id } => self.default = Some(id.clone()),
            Event::MethodDetached { id } => self.detached(id),
            Event::TrialTaken { plan_id, subscription_id } => {
                let (plan_id, subscription_id) = (plan_id.clone(), subscription_id.clone());
                self.trials.push(Trial { plan_id, subscription_id });
            }
            Event::Closed => {
                self.closed = true;
                self.methods.clear();
                self.subscriptions.clear();
                self.default = None;
            }
        }
    }

    fn on_outcome(tag: &str, outcome: Outcome) -> Option<Command> {
        if tag == "customer" {
            return Some(Command::CustomerMade(receipt(outcome).and_then(|receipt| match receipt {
                PaymentReceipt::Customer { id } => Ok(id),
                _ => Err(Error::internal()),
            })));
        }
        let id = tag.strip_prefix("attach:")?.to_owned();
        let result = receipt(outcome).and_then(|receipt| match receipt {
            PaymentReceipt::Method(card) => Ok(card),
            _ => Err(Error::internal()),
        });
        Some(Command::MethodAttached { id, result })
    }

    /// Version 2 knows which plans were tried.
    fn upgrade(version: u16, mut state: Vec<u8>) -> Option<Vec<u8>> {
        state.extend(codec::encode(&Vec::<Trial>::new()).ok()?);
        (version == 1).then_some(state)
    }
}

impl Wallet {
    fn method(&self, id: &str) -> Result<&Method, Error> {
        self.methods.iter().find(|method| method.id == id).ok_or_else(|| Error::not_found("payment method"))
    }

    fn ready(&self, id: &str) -> Option<(&Method, &CardFacts)> {
        let method = self.methods.iter().find(|method| method.id == id)?;
        match &method.status {
            MethodStatus::Ready(card) => Some((method, card)),
            MethodStatus::Pending | MethodStatus::Failed(_) => None,
        }
    }

    fn shown(&self, method: &Method) -> Reply {
        let default = self.default.as_deref() == Some(method.id.as_str());
        Reply::Method { method: method.clone(), default }
    }

    fn resolve(&self, method_id: Option<&str>) -> Option<Payable> {
        let customer = self.customer.clone()?;
        let wanted = method_id.and_then(|id| self.ready(id));
        let (method, card) = wanted.or_else(|| self.ready(self.default.as_deref()?))?;
        Some(Payable { method_id: method.id.clone(), customer, token: card.token.clone() })
    }

    fn open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::new(ErrorCode::Gone, "The account is closed.")) } else { Ok(()) }
    }

    fn open_subscription(&self, context: &Context) -> Result<Decision<Self>, Error> {
        self.open()?;
        if self.subscriptions.len() >= MOST_SUBSCRIPTIONS {
            let detail = format!("There are {MOST_SUBSCRIPTIONS} subscriptions already; cancel one first.");
            return Err(Error::conflict(detail));
        }
        let id = context.new_id("sub", "subscription");
        Ok(Decision::reply(Reply::Opened { id: id.clone() }).event(Event::SubscriptionOpened { id }))
    }

    fn subscription_ended(&self, id: String) -> Decision<Self> {
        let decision = Decision::reply(Reply::Done);
        if self.subscriptions.contains(&id) { decision.event(Event::SubscriptionEnded { id }) } else { decision }
    }

    fn take_trial(&self, plan_id: String, subscription_id: String) -> Decision<Self> {
        match self.trials.iter().find(|trial| trial.plan_id == plan_id) {
            Some(taken) => Decision::reply(Reply::Trial(taken.subscription_id == subscription_id)),
            None if self.trials.len() >= MOST_TRIALS => Decision::reply(Reply::Trial(false)),
            None => Decision::reply(Reply::Trial(true)).event(Event::TrialTaken { plan_id, subscription_id }),
        }
    }

    fn attach(&self, token: String, make_default: bool, context: &Context) -> Result<Decision<Self>, Error> {
        self.open()?;
        if !is_method_token(&token) {
            return Err(Error::invalid("/token", "expected a token of the payment processor, such as pm_card_visa"));
        }
        if let Some(known) = self.methods.iter().find(|method| method.is(&token)) {
            let chosen = make_default && matches!(known.status, MethodStatus::Ready(_));
            return if chosen {
                self.set_default(known.id.clone(), context)
            } else {
                Ok(Decision::reply(self.shown(known)))
            };
        }
        let kept = self.methods.iter().filter(|method| !matches!(method.status, MethodStatus::Failed(_))).count();
        if kept >= MOST_METHODS {
            return Err(Error::conflict(format!(
                "There are {MOST_METHODS} payment methods already; delete one first."
            )));
        }
        let id = context.new_id("pm", "method");
        let method = Method {
            id: id.clone(),
            token: token.clone(),
            added_at: context.now,
            make_default,
            status: MethodStatus::Pending,
        };
        let decision = Decision::reply(Reply::Method { method, default: false })
            .audit(context, "payment_method.requested", &id, "ok")
            .event(Event::AttachRequested { id: id.clone(), token: token.clone(), make_default, at: context.now });
        Ok(match &self.customer {
            Some(customer) => decision.effect(attach_effect(customer, &token, &id)),
            None if self.customer_requested => decision,
            None => {
                let request = PaymentRequest::CreateCustomer { reference: context.id.key().to_owned() };
                let effect = Effect::call(ProviderKind::Payment, &request, "customer");
                decision.event(Event::CustomerRequested).effect(effect)
            }
        })
    }

    fn customer_made(&self, result: Result<String, Error>) -> Decision<Self> {
        let mut decision = Decision::reply(Reply::Done);
        if self.customer.is_some() {
            return decision;
        }
        let pending = self.methods.iter().filter(|method| method.status == MethodStatus::Pending);
        match result {
            Ok(customer) => {
                for method in pending {
                    decision = decision.effect(attach_effect(&customer, &method.token, &method.id));
                }
                decision.event(Event::CustomerMade { customer })
            }
            Err(error) => {
                for method in pending {
                    decision = decision.event(Event::AttachFailed { id: method.id.clone(), error: error.clone() });
                }
                decision.event(Event::CustomerFailed)
            }
        }
    }

    fn method_attached(&self, id: String, result: Result<CardFacts, Error>, context: &Context) -> Decision<Self> {
        let decision = Decision::reply(Reply::Done);
        let pending = self.methods.iter().any(|method| method.id == id && method.status == MethodStatus::Pending);
        match (pending, result) {
            // Another token of one that is kept: it is not kept twice, as removing one would detach both.
            (true, Ok(card)) if self.methods.iter().any(|method| method.id != id && method.is(&card.token)) => {
                let error = Error::conflict("This payment method is kept already.");
                decision.audit(context, "payment_method.added", &id, "failed").event(Event::AttachFailed { id, error })
            }
            (true, Ok(card)) => {
                decision.audit(context, "payment_method.added", &id, "ok").event(Event::MethodAttached { id, card })
            }
            (true, Err(error)) => {
                decision.audit(context, "payment_method.added", &id, "failed").event(Event::AttachFailed { id, error })
            }
            // Closed in the meantime: what the processor keeps now, it must not keep.
            (false, Ok(card)) if self.closed => decision.effect(detach_effect(card.token)),
            (false, _) => decision,
        }
    }

    fn set_default(&self, id: String, context: &Context) -> Result<Decision<Self>, Error> {
        let (method, _) = self.ready(&id).ok_or_else(|| Error::not_found("payment method"))?;
        let decision = Decision::reply(Reply::Method { method: method.clone(), default: true });
        if self.default.as_deref() == Some(&id) {
            return Ok(decision);
        }
        Ok(decision.audit(context, "payment_method.default", &id, "ok").event(Event::DefaultChosen { id }))
    }

    fn detach(&self, id: String, context: &Context) -> Result<Decision<Self>, Error> {
        let (_, card) = self.ready(&id).ok_or_else(|| Error::not_found("payment method"))?;
        let mut decision = Decision::reply(Reply::Done);
        // Wallets of before may keep one twice.
        if !self.methods.iter().any(|method| method.id != id && method.is(&card.token)) {
            decision = decision.effect(detach_effect(card.token.clone()));
        }
        // Which of them name it is theirs to know.
        for subscription in &self.subscriptions {
            decision = decision.effect(forget_effect(subscription, &id));
        }
        Ok(decision.audit(context, "payment_method.removed", &id, "ok").event(Event::MethodDetached { id }))
    }

    /// A subscription may have been started or changed with a method while it was deleted, and heard of that too early.
    fn method_named(&self, subscription_id: &str, method_id: String) -> Decision<Self> {
        let decision = Decision::reply(Reply::Done);
        if self.ready(&method_id).is_some() {
            return decision;
        }
        decision.effect(forget_effect(subscription_id, &method_id))
    }

    fn close(&self, context: &Context) -> Decision<Self> {
        let mut decision = Decision::reply(Reply::Done);
        if self.closed {
            return decision;
        }
        for id in &self.subscriptions {
            let cancel = subscription::Command::Cancel { at: CancelAt::Now };
            decision = decision.effect(Effect::tell::<Subscription>(subscription::id(id), &cancel, ""));
        }
        for method in &self.methods {
            if let MethodStatus::Ready(card) = &method.status {
                decision = decision.effect(detach_effect(card.token.clone()));
            }
        }
        decision.audit(context, "wallet.closed", context.id.key(), "ok").event(Event::Closed)
    }

    fn requested(&mut self, id: &str, token: &str, make_default: bool, at: Timestamp) {
        if self.methods.len() >= MOST_METHODS {
            let failed = self.methods.iter().position(|method| matches!(method.status, MethodStatus::Failed(_)));
            if let Some(index) = failed {
                self.methods.remove(index);
            }
        }
        let (id, token) = (id.to_owned(), token.to_owned());
        self.methods.push(Method { id, token, added_at: at, make_default, status: MethodStatus::Pending });
    }

    fn set_status(&mut self, id: &str, status: MethodStatus) {
        if let Some(method) = self.methods.iter_mut().find(|method| method.id == id) {
            method.status = status;
        }
    }

    fn detached(&mut self, id: &str) {
        self.methods.retain(|method| method.id != id);
        if self.default.as_deref() == Some(id) {
            let ready = |method: &&Method| matches!(method.status, MethodStatus::Ready(_));
            self.default = self.methods.iter().rev().find(ready).map(|method| method.id.clone());
        }
    }
}

fn attach_effect(customer: &str, token: &str, method_id: &str) -> Effect {
    let request = PaymentRequest::AttachMethod { customer: customer.to_owned(), token: token.to_owned() };
    Effect::call(ProviderKind::Payment, &request, &format!("attach:{method_id}"))
}

fn forget_effect(subscription_id: &str, method_id: &str) -> Effect {
    let forget = subscription::Command::ForgetMethod { method_id: method_id.to_owned() };
    Effect::tell::<Subscription>(subscription::id(subscription_id), &forget, "")
}

fn detach_effect(token: String) -> Effect {
    Effect::call(ProviderKind::Payment, &PaymentRequest::DetachMethod { token }, "")
}

/// The receipt of a payment call, or why there is none.
fn receipt(outcome: Outcome) -> Result<PaymentReceipt, Error> {
    match outcome {
        Outcome::Done(bytes) => codec::decode(&bytes).map_err(|_| Error::internal()),
        Outcome::Refused(error) => Err(error),
        Outcome::Unknown(_) => Err(Error::unavailable("The payment processor did not answer.")),
    }
}
