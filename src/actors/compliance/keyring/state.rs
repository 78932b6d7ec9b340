//! The keyring's state machine: absent, held or erased, and never back.

use serde::{Deserialize, Serialize};

use super::{BY_VERSION, Command, Event, Reply, by_version_key};
use crate::kernel::{Context, Decision, Entity, Error, ErrorCode, Timestamp};
use crate::providers::keys::WrappedKey;

/// The state of one person's key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keyring {
    #[default]
    Absent,
    Held(WrappedKey),
    Erased {
        at: Timestamp,
    },
}

impl Entity for Keyring {
    const KIND: &'static str = "keyring";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Get => Ok(Decision::reply(self.answer())),
            Command::Create { wrapped } => self.create(wrapped, context),
            Command::Rewrap { from, wrapped } => self.rewrap(from, wrapped, context),
            Command::Erase => Ok(self.erase(context)),
        }
    }

    /// Every event says the whole state, so that the one left by a purge is enough.
    fn apply(&mut self, event: &Event) {
        *self = match event {
            Event::Created { wrapped } | Event::Rewrapped { wrapped } => Self::Held(wrapped.clone()),
            Event::Erased { at } => Self::Erased { at: *at },
        };
    }
}

impl Keyring {
    fn answer(&self) -> Reply {
        match self {
            Self::Absent => Reply::Absent,
            Self::Held(wrapped) => Reply::Held(wrapped.clone()),
            Self::Erased { at } => Reply::Erased { at: *at },
        }
    }

    fn create(&self, wrapped: WrappedKey, context: &Context) -> Result<Decision<Self>, Error> {
        match self {
            Self::Held(_) => Err(Error::conflict("There is a data key already.")),
            Self::Erased { .. } => Err(erased()),
            Self::Absent => {
                let key = by_version_key(wrapped.version, context.id.key());
                let decision = Decision::reply(Reply::Accepted).event(Event::Created { wrapped });
                Ok(decision.index(BY_VERSION, key, Vec::new()))
            }
        }
    }

    fn rewrap(&self, from: u32, wrapped: WrappedKey, context: &Context) -> Result<Decision<Self>, Error> {
        match self {
            Self::Held(held) if held.version == from && wrapped.version > from => {
                let (old, new) =
                    (by_version_key(from, context.id.key()), by_version_key(wrapped.version, context.id.key()));
                let decision = Decision::reply(Reply::Accepted).event(Event::Rewrapped { wrapped });
                Ok(decision.unindex(BY_VERSION, old).index(BY_VERSION, new, Vec::new()).purge())
            }
            Self::Held(held) if held.version > from => Ok(Decision::reply(Reply::Accepted)),
            Self::Held(_) => Err(Error::conflict("The data key is wrapped under another version.")),
            Self::Absent => Err(Error::not_found("data key")),
            Self::Erased { .. } => Err(erased()),
        }
    }

    fn erase(&self, context: &Context) -> Decision<Self> {
        if let Self::Erased { .. } = self {
            return Decision::reply(self.answer());
        }
        let at = context.now;
        let mut decision = Decision::reply(Reply::Erased { at }).event(Event::Erased { at }).purge();
        if let Self::Held(held) = self {
            decision = decision.unindex(BY_VERSION, by_version_key(held.version, context.id.key()));
        }
        decision.audit(context, "data_key.erase", context.id.key(), "ok")
    }
}

fn erased() -> Error {
    Error::new(ErrorCode::Gone, "The person was erased.")
}
