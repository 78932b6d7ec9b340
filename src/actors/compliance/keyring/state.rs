//! The keyring's state machine: absent (and perhaps barred to old versions), held, or erased, and never back.

use serde::{Deserialize, Serialize};

use super::{BY_VERSION, Command, Event, ROW, Reply, TABLE, by_version_key};
use crate::kernel::{Context, Decision, Entity, Error, ErrorCode, Timestamp, codec};
use crate::providers::keys::WrappedKey;

/// The state of one person's key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keyring {
    #[default]
    Absent,
    Held {
        version: u32,
    },
    Erased {
        at: Timestamp,
    },
    /// As absent, but a first key under a version below `lowest` comes too late.
    Barred {
        lowest: u32,
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
            Command::Bar { from, lowest } => self.bar(from, lowest, context),
        }
    }

    /// Every event says the whole state, so that the one left by a purge is enough.
    fn apply(&mut self, event: &Event) {
        *self = match event {
            Event::Created { version } | Event::Rewrapped { version } => Self::Held { version: *version },
            Event::Erased { at } => Self::Erased { at: *at },
            Event::Barred { lowest } => Self::Barred { lowest: *lowest },
        };
    }
}

impl Keyring {
    fn answer(&self) -> Reply {
        match self {
            Self::Absent | Self::Barred { .. } => Reply::Absent,
            Self::Held { version } => Reply::Held { version: *version },
            Self::Erased { at } => Reply::Erased { at: *at },
        }
    }

    fn create(&self, wrapped: WrappedKey, context: &Context) -> Result<Decision<Self>, Error> {
        match self {
            Self::Held { .. } => Err(Error::conflict("There is a data key already.")),
            Self::Erased { .. } => Err(erased()),
            Self::Barred { lowest } if wrapped.version < *lowest => Ok(Decision::reply(Reply::Superseded)),
            Self::Absent | Self::Barred { .. } => {
                let version = wrapped.version;
                let decision =
                    Decision::reply(Reply::Accepted).event(Event::Created { version }).row(TABLE, ROW, row(&wrapped));
                Ok(decision.index(BY_VERSION, by_version_key(version, context.id.key()), Vec::new()))
            }
        }
    }

    fn rewrap(&self, from: u32, wrapped: WrappedKey, context: &Context) -> Result<Decision<Self>, Error> {
        match self {
            Self::Held { version } if *version == from && wrapped.version > from => {
                let (user_id, version) = (context.id.key(), wrapped.version);
                let decision = Decision::reply(Reply::Accepted).event(Event::Rewrapped { version });
                let decision = decision.row(TABLE, ROW, row(&wrapped));
                let decision = decision.unindex(BY_VERSION, by_version_key(from, user_id));
                Ok(decision.index(BY_VERSION, by_version_key(version, user_id), Vec::new()))
            }
            Self::Held { version } if *version > from => Ok(Decision::reply(Reply::Accepted)),
            Self::Held { .. } => Err(Error::conflict("The data key is wrapped under another version.")),
            Self::Absent | Self::Barred { .. } => Err(Error::not_found("data key")),
            Self::Erased { .. } => Err(erased()),
        }
    }

    fn bar(&self, from: u32, lowest: u32, context: &Context) -> Result<Decision<Self>, Error> {
        let mut decision = Decision::reply(Reply::Accepted).unindex(BY_VERSION, by_version_key(from, context.id.key()));
        let barred = match self {
            Self::Held { version } if *version == from => {
                return Err(Error::conflict("There is a data key under that version."));
            }
            Self::Held { .. } | Self::Erased { .. } => false,
            Self::Barred { lowest: before } => *before < lowest,
            Self::Absent => true,
        };
        if barred {
            decision = decision.event(Event::Barred { lowest });
        }
        Ok(decision)
    }

    fn erase(&self, context: &Context) -> Decision<Self> {
        if let Self::Erased { .. } = self {
            return Decision::reply(self.answer());
        }
        let at = context.now;
        let mut decision = Decision::reply(Reply::Erased { at }).event(Event::Erased { at }).purge();
        if let Self::Held { version } = self {
            decision = decision.row(TABLE, ROW, None);
            decision = decision.unindex(BY_VERSION, by_version_key(*version, context.id.key()));
        }
        decision.audit(context, "data_key.erase", context.id.key(), "ok")
    }
}

fn row(wrapped: &WrappedKey) -> Option<Vec<u8>> {
    Some(codec::encode(wrapped).expect("a wrapped key is small and serializable"))
}

fn erased() -> Error {
    Error::new(ErrorCode::Gone, "The person was erased.")
}
