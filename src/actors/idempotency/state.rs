//! Under way, answered, or forgotten.

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Executor, Reply};
use crate::kernel::{Context, Decision, Entity, EntityId, Error, ErrorCode, Timestamp};

/// How long an answer is remembered, in hours of domain time.
pub const REMEMBERED_HOURS: i64 = 24;
/// The deadline of a request is a time of the node that began it. When it lies further ahead than any request takes and
/// clocks may differ, one of them was stepped: waiting for it could take hours, and doing it again does no harm.
const CLOCKS_DIFFER_MINUTES: i64 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Idempotency {
    /// Whose request it is; the scope in the entity's id is theirs alone, so it never changes.
    user_id: Option<String>,
    phase: Phase,
}

#[derive(Debug, Default, Serialize, Deserialize)]
enum Phase {
    #[default]
    Unknown,
    Started {
        fingerprint: [u8; 32],
        executor: Executor,
        deadline: Timestamp,
    },
    Completed {
        fingerprint: [u8; 32],
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },
}

impl Idempotency {
    fn start(&self, command: Event, at: Timestamp, context: &Context) -> Result<Decision<Self>, Error> {
        let Event::Started { fingerprint, executor, deadline: own, .. } = &command else {
            return Err(Error::internal());
        };
        let known = match &self.phase {
            Phase::Unknown => None,
            Phase::Started { fingerprint, .. } | Phase::Completed { fingerprint, .. } => Some(fingerprint),
        };
        if known.is_some_and(|known| known != fingerprint) {
            let detail = "This Idempotency-Key was used for another request; choose a new one.";
            return Err(Error::new(ErrorCode::IdempotencyMismatch, detail));
        }
        match &self.phase {
            Phase::Completed { answer, .. } => return Ok(Decision::reply(Reply::Answered(answer.clone()))),
            Phase::Started { executor: holder, deadline, .. } => {
                let gone = holder.node == executor.node && holder.boot != executor.boot;
                let believed = *deadline <= own.plus_minutes(CLOCKS_DIFFER_MINUTES);
                if !gone && at < *deadline && believed {
                    let detail = "A request with this Idempotency-Key is under way.";
                    return Err(Error::new(ErrorCode::IdempotencyInProgress, detail).retry_after(1));
                }
            }
            Phase::Unknown => {}
        }
        let expires = context.now.plus_minutes(REMEMBERED_HOURS * 60);
        Ok(Decision::reply(Reply::Proceed).event(command).timer("expire", expires))
    }

    fn is_held_by(&self, executor: &Executor) -> bool {
        matches!(&self.phase, Phase::Started { executor: holder, .. } if holder == executor)
    }
}

impl Entity for Idempotency {
    const KIND: &'static str = "idempotency";
    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Start { fingerprint, user_id, executor, at, deadline_ms } => {
                let deadline = at.plus_millis(deadline_ms);
                self.start(Event::Started { fingerprint, user_id, executor, deadline }, at, context)
            }
            Command::Complete { executor, answer } if self.is_held_by(&executor) => {
                Ok(Decision::reply(Reply::Noted).event(Event::Completed { answer }))
            }
            Command::Abandon { executor } if self.is_held_by(&executor) => {
                Ok(Decision::reply(Reply::Noted).event(Event::Abandoned).clear_timer("expire").purge())
            }
            Command::Complete { .. } | Command::Abandon { .. } => Ok(Decision::reply(Reply::Noted)),
            Command::Expire => Ok(Decision::reply(Reply::Noted).event(Event::Expired).purge()),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Started { fingerprint, user_id, executor, deadline } => {
                self.user_id.clone_from(user_id);
                self.phase =
                    Phase::Started { fingerprint: *fingerprint, executor: executor.clone(), deadline: *deadline };
            }
            Event::Completed { answer } => {
                if let Phase::Started { fingerprint, .. } = self.phase {
                    self.phase = Phase::Completed { fingerprint, answer: answer.clone() };
                }
            }
            Event::Abandoned | Event::Expired => self.phase = Phase::Unknown,
        }
    }

    fn subject(&self, _id: &EntityId) -> Option<String> {
        self.user_id.clone()
    }

    fn on_timer(name: &str) -> Option<Command> {
        (name == "expire").then_some(Command::Expire)
    }
}
