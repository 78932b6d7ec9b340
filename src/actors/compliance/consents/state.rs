//! The state machine of consents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, Choice, Command, Event, Given, HISTORY, Purpose, Reply};
use crate::actors::notifications::preferences::{self, Preferences};
use crate::kernel::{Context, Decision, Effect, Entity, EntityId, Error, ErrorCode, Outcome, codec};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consents {
    given: BTreeMap<Purpose, Given>,
    version: u64,
}

impl Entity for Consents {
    const KIND: &'static str = "consents";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Get => Ok(Decision::reply(self.answer())),
            Command::Put { choices, expected } => self.put(&choices, expected, context),
            Command::Told(_) => Ok(Decision::reply(Reply::Done)),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::Changed { change } = event;
        self.given.insert(change.purpose, Given { granted: change.granted, at: change.at });
        self.version += 1;
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        Some(id.key().to_owned())
    }

    fn on_outcome(_tag: &str, outcome: Outcome) -> Option<Command> {
        Some(Command::Told(outcome))
    }
}

impl Consents {
    fn answer(&self) -> Reply {
        Reply::Consents { given: self.given.clone(), version: self.version }
    }

    fn put(&self, choices: &[Choice], expected: Option<u64>, context: &Context) -> Result<Decision<Self>, Error> {
        if expected.is_some_and(|expected| expected != self.version) {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The consents have changed since; read them again."));
        }
        let mut after = self.clone();
        let mut decision = Decision::reply(Reply::Done);
        for choice in choices {
            let Choice { purpose, granted } = *choice;
            if after.given.get(&purpose).map(|given| given.granted) == Some(granted) {
                continue;
            }
            let change = Change { purpose, granted, at: context.now };
            let row = codec::encode(&change).map_err(|_| Error::internal())?;
            decision = decision.row(HISTORY, after.version.to_be_bytes(), Some(row));
            let event = Event::Changed { change };
            after.apply(&event);
            let action = if granted { "consent.grant" } else { "consent.withdraw" };
            decision = decision.event(event).audit(context, action, context.id.key(), "ok");
            if purpose == Purpose::PromotionalMessages {
                let to = EntityId::new(Preferences::KIND, context.id.key());
                let tell = Effect::tell::<Preferences>(to, &preferences::Command::RecordConsent { granted }, "");
                decision = decision.effect(tell);
            }
        }
        decision.reply = after.answer();
        Ok(decision)
    }
}
