//! `email_claim/<keyed hash of the address>`: one address belongs to at most one user.
//!
//! A claim is pending until its user proves the address, and is freed when that does not happen in time; so two
//! concurrent sign-ups meet here and end in one user. Every attempt writes an event, also one that finds the address
//! taken, so that a known and an unknown address cost the same. Holds ids only, no personal data.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, EntityId, Error, Timestamp};
use crate::settings::VERIFICATION_TOKEN_SECONDS_MAX;

/// A claim that is not confirmed this long after its last attempt is free again. Its user gives it up before, when the
/// last link is over; this is for a sign-up that never came. No link outlives it, also one that is made a while after its
/// claim: its address would be gone to somebody else.
const PENDING_SECONDS: i64 = VERIFICATION_TOKEN_SECONDS_MAX + 3600;
const PENDING_TIMER: &str = "pending";

/// The entity of an address.
#[must_use]
pub fn id(claim_key: &str) -> EntityId {
    EntityId::new(EmailClaim::KIND, claim_key)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    GetOwner,
    /// Claims the address for a user, unless another has it.
    Claim {
        user_id: String,
    },
    /// The user proved the address.
    Confirm {
        user_id: String,
    },
    /// The user gives the address up.
    Release {
        user_id: String,
    },
    /// The timer of a pending claim.
    Lapse,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Attempted { user_id: String, at: Timestamp },
    Confirmed,
    Released,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Who has the address now, and whether it is proven. For `Claim`: maybe another than the one who asked.
    Owner(Option<Owner>),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub user_id: String,
    pub confirmed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailClaim {
    owner: Option<Owner>,
    attempted_at: Timestamp,
}

impl EmailClaim {
    fn is_owner(&self, user_id: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.user_id == user_id)
    }

    fn claim(&self, context: &Context, user_id: String) -> Decision<Self> {
        let owner = self.owner.clone().unwrap_or(Owner { user_id, confirmed: false });
        let event = Event::Attempted { user_id: owner.user_id.clone(), at: context.now };
        let decision = Decision::reply(Reply::Owner(Some(owner.clone()))).event(event);
        if owner.confirmed {
            return decision;
        }
        decision.timer(PENDING_TIMER, context.now.plus_seconds(PENDING_SECONDS))
    }
}

impl Entity for EmailClaim {
    const KIND: &'static str = "email_claim";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::GetOwner => Ok(Decision::reply(Reply::Owner(self.owner.clone()))),
            Command::Claim { user_id } => Ok(self.claim(context, user_id)),
            Command::Confirm { user_id } if !self.is_owner(&user_id) && self.owner.is_some() => {
                Err(Error::conflict("The address belongs to somebody else."))
            }
            Command::Confirm { user_id } => {
                let owner = Owner { user_id: user_id.clone(), confirmed: true };
                if self.owner.as_ref() == Some(&owner) {
                    return Ok(Decision::reply(Reply::Done));
                }
                let claimed = Event::Attempted { user_id, at: context.now };
                Ok(Decision::reply(Reply::Done).event(claimed).event(Event::Confirmed).clear_timer(PENDING_TIMER))
            }
            Command::Release { user_id } if self.is_owner(&user_id) => {
                Ok(Decision::reply(Reply::Done).event(Event::Released).clear_timer(PENDING_TIMER).purge())
            }
            Command::Lapse if self.owner.as_ref().is_some_and(|owner| !owner.confirmed) => {
                Ok(Decision::reply(Reply::Done).event(Event::Released).purge())
            }
            Command::Release { .. } | Command::Lapse => Ok(Decision::reply(Reply::Done)),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Attempted { user_id, at } => {
                self.attempted_at = *at;
                if self.owner.is_none() {
                    self.owner = Some(Owner { user_id: user_id.clone(), confirmed: false });
                }
            }
            Event::Confirmed => {
                if let Some(owner) = &mut self.owner {
                    owner.confirmed = true;
                }
            }
            Event::Released => *self = Self::default(),
        }
    }

    fn on_timer(name: &str) -> Option<Command> {
        (name == PENDING_TIMER).then_some(Command::Lapse)
    }
}
