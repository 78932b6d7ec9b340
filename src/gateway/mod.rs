//! The edge: HTTP and WebSocket in front of the actors.
//!
//! A request's life, file by file: `server.rs` (connections, deadlines, bounds) → `pipeline.rs` (one table, then
//! authentication, limits, idempotency) → a handler of `routes/` (typed [`Call`] in, [`Reply`] or
//! [`crate::kernel::Error`] out) → `reply.rs` (bytes, or a problem document).
//!
//! Architecture invariant: an endpoint is declared once, in the registry; dispatch, authorization, limits,
//! idempotency, documentation and the WebSocket `rpc` all read that one declaration. Handlers never name a warp type.

pub mod admission;
pub mod auth;
pub mod call;
mod cors;
pub mod exchange;
pub mod forwarded;
#[cfg(test)]
mod fuzz_tests;
pub mod idempotency;
pub mod openapi;
mod pace;
pub mod page;
pub mod pipeline;
#[cfg(test)]
mod pipeline_tests;
pub mod rate_limit;
pub mod registry;
pub mod reply;
pub mod request;
pub mod routes;
pub mod rpc;
pub mod server;
pub mod services;
pub mod table;
#[cfg(test)]
pub mod testing;
pub mod upstream;
pub mod validate;
pub mod websocket;

pub use admission::Class;
pub use auth::{Authenticator, Caller};
pub use call::{Call, Permissions, Upgrade};
pub use page::{List, PageQuery};
pub use pipeline::Gateway;
pub use registry::{Access, Endpoint, IdempotencyRule, LimitClass};
pub use reply::Reply;
pub use rpc::{Rpc, RpcReply};
pub use services::Services;
