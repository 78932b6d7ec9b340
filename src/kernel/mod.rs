//! The vocabulary every other layer speaks: entities, decisions, batches, ids, time, money, errors, secrets.
//!
//! Architecture invariant: no IO, no async runtime and no ambient time or randomness. Everything here is a pure
//! function of its arguments, so that every decision of the product can be replayed and tested alone. (The fail points,
//! which only tests compile in, are here because every layer has some.)

pub mod batch;
pub mod clock;
pub mod codec;
#[cfg(test)]
pub mod dice;
pub mod entity;
pub mod error;
pub mod fail_point;
#[cfg(test)]
pub mod fuzz_tests;
pub mod id;
pub mod merkle;
pub mod money;
pub mod origin;
pub mod pan;
pub mod secret;
pub mod snapshot;

pub use batch::{AuditRecord, Batch, DedupeKey, Op, OpOutcome, OutboxChange, OutboxRecord, OutboxState, Target};
pub use clock::{Clock, Timestamp};
pub use entity::{Change, Context, Decision, Effect, Entity, Outcome, ProviderKind};
pub use error::{Error, ErrorCode, FieldError};
pub use id::{EntityId, ShardId, Slot, made_at};
pub use money::{Currency, Money};
pub use origin::{Origin, Principal};
pub use secret::Secret;
