//! `kek/versions` on the meta shard: numbers of versions, given out once each.

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error};

/// The one entity of this kind.
#[must_use]
pub fn id() -> EntityId {
    EntityId::new(Versions::KIND, "versions")
}

/// What is agreed. All 0 before the first rotation: then whatever a member has is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The last number given out.
    pub introduced: u32,
    /// The version that wraps: a majority of the members has it on disk, and every other one can ask for it.
    pub active: u32,
    /// Versions below are needed by nothing, and destroyed on every member that hears so.
    pub retired_below: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// Gives out a number above `above` that nobody else was given.
    Introduce {
        above: u32,
    },
    /// Every member wraps under this version from now on. Refused with `conflict` when a newer one is in use.
    Activate {
        version: u32,
    },
    /// Nothing that is stored needs a version below this one.
    Retire {
        below: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Introduced { version: u32 },
    Activated { version: u32 },
    Retired { below: u32 },
}

impl Entity for Versions {
    const KIND: &'static str = "kek";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    /// What is agreed then.
    type Reply = Self;

    fn decide(&self, command: Command, _context: &Context) -> Result<Decision<Self>, Error> {
        let event = match command {
            Command::Introduce { above } => {
                let version = self.introduced.max(above).checked_add(1);
                Event::Introduced { version: version.ok_or_else(|| Error::conflict("There are no more versions."))? }
            }
            Command::Activate { version } if version < self.active => {
                return Err(Error::conflict("Another rotation overtook this one."));
            }
            Command::Activate { version } if version > self.introduced => return Err(Error::not_found("version")),
            Command::Activate { version } if version > self.active => Event::Activated { version },
            Command::Retire { below } if below > self.active => return Err(Error::conflict("The version is in use.")),
            Command::Retire { below } if below > self.retired_below => Event::Retired { below },
            Command::Get | Command::Activate { .. } | Command::Retire { .. } => return Ok(Decision::reply(*self)),
        };
        let mut after = *self;
        after.apply(&event);
        Ok(Decision::reply(after).event(event))
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Introduced { version } => self.introduced = *version,
            Event::Activated { version } => self.active = *version,
            Event::Retired { below } => self.retired_below = *below,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;
    use crate::kernel::ErrorCode;

    #[test]
    fn a_number_is_given_out_once_and_what_is_agreed_only_rises() {
        let mut given = Given::<Versions>::new("versions");
        let mut ask = |command| given.when(command).map(|decision| decision.reply);
        assert_eq!(ask(Command::Introduce { above: 4 }).expect("given").introduced, 5);
        assert_eq!(ask(Command::Introduce { above: 4 }).expect("given").introduced, 6);
        let code = |result: Result<Versions, Error>| result.err().map(|error| error.code);
        assert_eq!(code(ask(Command::Activate { version: 7 })), Some(ErrorCode::NotFound));
        assert_eq!(code(ask(Command::Retire { below: 6 })), Some(ErrorCode::Conflict), "the old one is in use");
        assert_eq!(ask(Command::Activate { version: 6 }).expect("active").active, 6);
        assert_eq!(ask(Command::Activate { version: 6 }).expect("a repeat").active, 6);
        assert_eq!(code(ask(Command::Activate { version: 5 })), Some(ErrorCode::Conflict), "overtaken");
        assert_eq!(ask(Command::Retire { below: 6 }).expect("retired").retired_below, 6);
        assert_eq!(ask(Command::Retire { below: 5 }).expect("late").retired_below, 6);
        assert_eq!(ask(Command::Get), Ok(Versions { introduced: 6, active: 6, retired_below: 6 }));
    }
}
