//! Everything durable, as supervised actors: the runtime and the entities of each service.

pub mod billing;
pub mod catalogue;
pub mod compliance;
pub mod idempotency;
pub mod identity;
pub mod members;
pub mod notifications;
pub mod restoration;
pub mod routes;
pub mod runtime;
