//! The state machine of an erasure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ALL, Command, Event, OPEN, Phase, Reply, Step};
use crate::actors::billing::wallet::{self, Wallet};
use crate::actors::compliance::keyring::{self, Keyring, keyring_id};
use crate::actors::identity::user::{self, User};
use crate::actors::notifications::delivery::{self, Category, Channel, Delivery, SendRequest};
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Error, Outcome, Timestamp};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    phase: Phase,
    /// Those told who have not answered yet.
    waiting: BTreeSet<Step>,
    begun_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
}

impl Entity for Erasure {
    const KIND: &'static str = "erasure";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Get => Ok(Decision::reply(self.answer())),
            Command::Begin => Ok(self.begin(context)),
            Command::Told { step, refused } => Ok(self.told(step, refused, context)),
            Command::Settled => Ok(self.settled(context)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Begun { at } => {
                self.phase = Phase::Leaving;
                self.begun_at = Some(*at);
                self.waiting = Step::LEAVING.into();
            }
            Event::Told { step, .. } => {
                self.waiting.remove(step);
                if self.waiting.is_empty() {
                    self.phase = match self.phase {
                        Phase::Leaving => Phase::Settling,
                        Phase::Closing => Phase::Destroying,
                        phase => phase,
                    };
                }
            }
            Event::Settled => {
                let (phase, step) = match self.phase {
                    Phase::Settling => (Phase::Closing, Step::Account),
                    _ => (Phase::Sealing, Step::Key),
                };
                self.phase = phase;
                self.waiting = BTreeSet::from([step]);
            }
            Event::Completed { at } => {
                self.phase = Phase::Completed;
                self.completed_at = Some(*at);
                self.waiting.clear();
            }
        }
    }

    fn on_outcome(tag: &str, outcome: Outcome) -> Option<Command> {
        let refused = match outcome {
            Outcome::Done(_) => None,
            Outcome::Refused(error) => Some(error.code.as_str().to_owned()),
            Outcome::Unknown(_) => Some("unknown".to_owned()),
        };
        Some(Command::Told { step: Step::parse(tag)?, refused })
    }
}

impl Erasure {
    fn answer(&self) -> Reply {
        let Self { phase, begun_at, completed_at, .. } = *self;
        Reply::Progress { phase, begun_at, completed_at }
    }

    /// A decision of these events, answered with the state after them.
    fn with(&self, events: Vec<Event>) -> Decision<Self> {
        let mut after = self.clone();
        events.iter().for_each(|event| after.apply(event));
        let mut decision = Decision::reply(after.answer());
        decision.events = events;
        decision
    }

    fn begin(&self, context: &Context) -> Decision<Self> {
        if self.phase != Phase::Absent {
            return Decision::reply(self.answer());
        }
        let mut decision = self.with(vec![Event::Begun { at: context.now }]);
        for step in Step::LEAVING {
            decision = decision.effect(tell(step, context));
        }
        let user_id = context.id.key();
        let decision = decision.index(OPEN, user_id, Vec::new()).index(ALL, user_id, Vec::new());
        decision.audit(context, "erasure.begin", user_id, "ok")
    }

    fn told(&self, step: Step, refused: Option<String>, context: &Context) -> Decision<Self> {
        if !self.waiting.contains(&step) {
            return Decision::reply(self.answer());
        }
        let (outcome, user_id) = (if refused.is_some() { "failed" } else { "ok" }, context.id.key());
        let action = format!("erasure.{}", step.as_str());
        let done = step == Step::Key && refused.is_none();
        let mut events = vec![Event::Told { step, refused }];
        if done {
            events.push(Event::Completed { at: context.now });
        }
        let decision = self.with(events).audit(context, &action, user_id, outcome);
        if done { decision.unindex(OPEN, user_id) } else { decision }
    }

    fn settled(&self, context: &Context) -> Decision<Self> {
        let step = match self.phase {
            Phase::Settling => Step::Account,
            Phase::Destroying => Step::Key,
            // The keyring refused before; it is asked until it obeys.
            Phase::Sealing if self.waiting.is_empty() => Step::Key,
            _ => return Decision::reply(self.answer()),
        };
        self.with(vec![Event::Settled]).effect(tell(step, context))
    }
}

fn tell(step: Step, context: &Context) -> Effect {
    let (user_id, tag) = (context.id.key(), step.as_str());
    let user = |command| Effect::tell::<User>(EntityId::new(User::KIND, user_id), &command, tag);
    match step {
        Step::SignOut => user(user::Command::SignOutEverywhere),
        Step::Account => user(user::Command::Erase),
        Step::Wallet => Effect::tell::<Wallet>(wallet::id(user_id), &wallet::Command::Close, tag),
        Step::Farewell => {
            let mut request = SendRequest::template(user_id, Category::Security, "erasure_done", &[]);
            request.channels = Some(vec![Channel::Email]);
            let id = EntityId::new(Delivery::KIND, &context.new_id("ntf", "farewell"));
            Effect::tell::<Delivery>(id, &delivery::Command::Send(request), tag)
        }
        Step::Key => Effect::tell::<Keyring>(keyring_id(user_id), &keyring::Command::Erase, tag),
    }
}
