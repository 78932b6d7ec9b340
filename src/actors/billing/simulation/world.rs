//! The world of the simulation: entities in memory, messages, calls and timers in random order and sometimes twice, and
//! a processor with one answer per key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::invoice::Invoice;
use super::super::numbering::Numbering;
use super::super::subscription::Subscription;
use super::super::wallet::Wallet;
use crate::actors::notifications::delivery;
use crate::kernel::dice::Dice;
use crate::kernel::{Change, Context, Decision, Effect, Entity, EntityId, Error, Origin, Outcome, Timestamp, codec};
use crate::providers::payment::{
    CardFacts, ChargeReceipt, ChargeStatus, PaymentReceipt, PaymentRequest, RefundProgress, RefundReceipt, declined,
    not_refunded,
};

/// What a decision leaves behind, without its type.
pub(super) struct Left {
    reply: Vec<u8>,
    effects: Vec<Effect>,
    changes: Vec<Change>,
}

pub(super) trait Cell {
    fn command(&mut self, command: &[u8], context: &Context) -> Result<Left, Error>;
    fn timer(&mut self, name: &str, context: &Context) -> Option<Result<Left, Error>>;
    fn outcome(&mut self, tag: &str, outcome: Outcome, context: &Context) -> Option<Result<Left, Error>>;
}

pub(super) struct Live<E: Entity>(E);

impl<E: Entity> Live<E> {
    fn run(&mut self, command: E::Command, context: &Context) -> Result<Left, Error> {
        let Decision { reply, events, effects, changes, .. } = self.0.decide(command, context)?;
        for event in &events {
            self.0.apply(event);
        }
        Ok(Left { reply: codec::encode(&reply).expect("encodes"), effects, changes })
    }
}

impl<E: Entity> Cell for Live<E> {
    fn command(&mut self, command: &[u8], context: &Context) -> Result<Left, Error> {
        self.run(codec::decode(command).expect("decodes"), context)
    }

    fn timer(&mut self, name: &str, context: &Context) -> Option<Result<Left, Error>> {
        E::on_timer(name).map(|command| self.run(command, context))
    }

    fn outcome(&mut self, tag: &str, outcome: Outcome, context: &Context) -> Option<Result<Left, Error>> {
        E::on_outcome(tag, outcome).map(|command| self.run(command, context))
    }
}

fn cell(kind: &str) -> Option<Box<dyn Cell>> {
    match kind {
        Wallet::KIND => Some(Box::new(Live(Wallet::default()))),
        Subscription::KIND => Some(Box::new(Live(Subscription::default()))),
        Invoice::KIND => Some(Box::new(Live(Invoice::default()))),
        Numbering::KIND => Some(Box::new(Live(Numbering::default()))),
        _ => None,
    }
}

/// The processor: one answer per key, and what really happened.
#[derive(Default)]
pub(super) struct Processor {
    pub(super) answers: HashMap<String, Outcome>,
    pub(super) charges: BTreeMap<String, ChargeReceipt>,
    pub(super) taken: BTreeMap<String, i64>,
    pub(super) given_back: i64,
    /// Reference of a refund that was made → its key.
    refunds: BTreeMap<String, String>,
}

impl Processor {
    fn call(&mut self, key: &str, request: PaymentRequest, dice: &mut Dice) -> Outcome {
        if let PaymentRequest::FindCharge { reference, .. } = &request {
            if let Some(charge) = self.charges.get_mut(reference)
                && matches!(charge.status, ChargeStatus::RequiresAction { .. })
                && dice.one_in(6)
            {
                // The payer had answered the challenge, or the processor gave up waiting.
                charge.status = match dice.one_in(2) {
                    true => ChargeStatus::Succeeded,
                    false => ChargeStatus::Declined { code: "abandoned".into() },
                };
                if charge.status == ChargeStatus::Succeeded {
                    self.taken.insert(charge.id.clone(), charge.amount.amount);
                }
            }
            return done(&PaymentReceipt::Found(self.charges.get(reference).cloned()));
        }
        if let PaymentRequest::FindRefund { reference, .. } = &request {
            let found = self.refunds.get(reference);
            let receipt = |id: &String| RefundReceipt { id: id.clone(), progress: RefundProgress::Succeeded };
            return done(&PaymentReceipt::FoundRefund(found.map(receipt)));
        }
        if let Some(answer) = self.answers.get(key) {
            return answer.clone();
        }
        let answer = self.decide(key, request, dice);
        self.answers.insert(key.to_owned(), answer.clone());
        answer
    }

    fn decide(&mut self, key: &str, request: PaymentRequest, dice: &mut Dice) -> Outcome {
        match request {
            PaymentRequest::CreateCustomer { reference } => done(&PaymentReceipt::Customer { id: reference }),
            PaymentRequest::AttachMethod { token, .. } => done(&PaymentReceipt::Method(CardFacts {
                token,
                brand: "visa".into(),
                last4: "4242".into(),
                expires_month: 1,
                expires_year: 2040,
            })),
            PaymentRequest::DetachMethod { .. } => done(&PaymentReceipt::Detached),
            PaymentRequest::Refund(refund) => {
                let lost = dice.one_in(4);
                if dice.one_in(4) {
                    let refused = Outcome::Refused(not_refunded("no"));
                    return if lost { Outcome::Unknown("lost".into()) } else { refused };
                }
                assert!(self.refunds.insert(refund.reference, key.to_owned()).is_none(), "given back twice");
                self.given_back += refund.amount.amount;
                let receipt = PaymentReceipt::Refund { id: key.to_owned() };
                if lost { Outcome::Unknown("lost".into()) } else { done(&receipt) }
            }
            PaymentRequest::FindCharge { .. } | PaymentRequest::FindRefund { .. } => {
                Outcome::Unknown("asked elsewhere".into())
            }
            PaymentRequest::Charge(charge) => {
                let lucky = if charge.token == "pm_bad" { dice.one_in(4) } else { !dice.one_in(6) };
                let lost = dice.one_in(8);
                if !lucky {
                    return if lost { Outcome::Unknown("lost".into()) } else { Outcome::Refused(declined("no")) };
                }
                let challenged = dice.one_in(8);
                let status = match challenged {
                    true => ChargeStatus::RequiresAction { client_secret: "secret".into() },
                    false => ChargeStatus::Succeeded,
                };
                let receipt =
                    ChargeReceipt { id: key.into(), reference: charge.reference, amount: charge.amount, status };
                if !challenged {
                    self.taken.insert(key.to_owned(), charge.amount.amount);
                }
                self.charges.insert(receipt.reference.clone(), receipt.clone());
                if lost { Outcome::Unknown("lost".into()) } else { done(&PaymentReceipt::Charge(receipt)) }
            }
        }
    }
}

fn done(receipt: &PaymentReceipt) -> Outcome {
    Outcome::Done(codec::encode(receipt).expect("encodes"))
}

#[derive(Clone)]
pub(super) struct Message {
    source: EntityId,
    key: String,
    pub(super) effect: Effect,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) now: Timestamp,
    pub(super) cells: BTreeMap<EntityId, Box<dyn Cell>>,
    pub(super) messages: Vec<Message>,
    pub(super) timers: BTreeMap<(EntityId, String), Timestamp>,
    pub(super) indexes: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    pub(super) processor: Processor,
    pub(super) receipts: BTreeSet<String>,
    pub(super) steps: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: "2026-01-31T10:00:00Z".parse().expect("a time"),
            cells: BTreeMap::new(),
            messages: Vec::new(),
            timers: BTreeMap::new(),
            indexes: BTreeMap::new(),
            processor: Processor::default(),
            receipts: BTreeSet::new(),
            steps: 0,
        }
    }

    fn context(&mut self, id: &EntityId) -> Context {
        self.steps += 1;
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.dice.roll().to_le_bytes());
        Context { id: id.clone(), sequence: self.steps, now: self.now, origin: Origin::system("simulation"), entropy }
    }

    pub(super) fn ask<E: Entity>(&mut self, id: &EntityId, command: &E::Command) -> Result<E::Reply, Error> {
        let reply = self.command(id, &codec::encode(command).expect("encodes"))?;
        Ok(codec::decode(&reply).expect("decodes"))
    }

    fn command(&mut self, id: &EntityId, command: &[u8]) -> Result<Vec<u8>, Error> {
        let context = self.context(id);
        let made = self.cells.remove(id).or_else(|| cell(id.kind()));
        let mut live = made.expect("a kind of billing");
        let left = live.command(command, &context);
        self.cells.insert(id.clone(), live);
        Ok(self.keep(&context, left?))
    }

    fn keep(&mut self, context: &Context, left: Left) -> Vec<u8> {
        for (position, effect) in left.effects.into_iter().enumerate() {
            let key = format!("{}:{}:{position}", context.id, context.sequence);
            self.messages.push(Message { source: context.id.clone(), key, effect });
        }
        for change in left.changes {
            match change {
                Change::Timer { name, due: Some(due) } => drop(self.timers.insert((context.id.clone(), name), due)),
                Change::Timer { name, due: None } => drop(self.timers.remove(&(context.id.clone(), name))),
                Change::Index { index, key, value: Some(value) } => drop(self.indexes.insert((index, key), value)),
                Change::Index { index, key, value: None } => drop(self.indexes.remove(&(index, key))),
                Change::Row { .. } => {}
            }
        }
        left.reply
    }

    fn deliver_one(&mut self) {
        let index = self.dice.below(self.messages.len());
        let message = self.messages[index].clone();
        if !self.dice.one_in(5) {
            self.messages.swap_remove(index);
        }
        let (tag, outcome) = match message.effect {
            Effect::Tell { to, command, .. } if to.kind() == "delivery" => {
                let delivery::Command::Send(request) = codec::decode(&command).expect("decodes") else { return };
                if request.template == "receipt" {
                    self.receipts.insert(message.key);
                }
                return;
            }
            Effect::Tell { to, command, tag } => match self.command(&to, &command) {
                Ok(reply) => (tag, Outcome::Done(reply)),
                Err(error) => (tag, Outcome::Refused(error)),
            },
            Effect::Call { request, tag, .. } => {
                let request = codec::decode(&request).expect("decodes");
                let outcome = self.processor.call(&message.key, request, &mut self.dice);
                (tag, outcome)
            }
        };
        if tag.is_empty() {
            return;
        }
        let context = self.context(&message.source);
        let mut live = self.cells.remove(&message.source).expect("it sent this");
        let left = live.outcome(&tag, outcome, &context);
        self.cells.insert(message.source, live);
        if let Some(left) = left {
            self.keep(&context, left.expect("outcomes are never refused"));
        }
    }

    fn fire_one(&mut self) -> bool {
        let due: Vec<_> = self.timers.iter().filter(|(_, due)| **due <= self.now).map(|(key, _)| key.clone()).collect();
        if due.is_empty() {
            return false;
        }
        let (id, name) = due[self.dice.below(due.len())].clone();
        self.timers.remove(&(id.clone(), name.clone()));
        for _ in 0..=usize::from(self.dice.one_in(6)) {
            let context = self.context(&id);
            let mut live = self.cells.remove(&id).expect("it set this");
            let left = live.timer(&name, &context).expect("a known timer");
            self.cells.insert(id.clone(), live);
            self.keep(&context, left.expect("timers are never refused"));
        }
        true
    }

    /// Until nothing is left to do now.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let messages = !self.messages.is_empty();
            let first = messages && !self.dice.one_in(4);
            if first || (!self.fire_one() && messages) {
                self.deliver_one();
            } else if !messages && !self.timers.values().any(|due| *due <= self.now) {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// To the next timer, or far beyond it.
    pub(super) fn advance(&mut self, end: Timestamp) {
        let next = self.timers.values().min().copied().unwrap_or(end).max(self.now);
        let leap = if self.dice.one_in(12) { i64::try_from(self.dice.below(70)).expect("small") } else { 0 };
        self.now = next.plus_days(leap).min(end).max(self.now);
        // Some of what is due now interleaves with what people do; the rest follows.
        if self.dice.one_in(3) {
            self.fire_one();
        } else {
            self.settle();
        }
    }
}
