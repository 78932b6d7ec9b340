//! The versions of the key-encryption key as all members agree on them, and how a version comes to each.
//!
//! [`Versions`], on the meta shard, says which version wraps and which are destroyed; never a key. A key travels from member
//! to member over their authenticated streams, encrypted under the root key that all have ([`sharing`]), and lies in nothing
//! but their keysets: in a log or a snapshot it would outlive its destruction (ADR 105).

pub mod sharing;
mod state;

pub use sharing::SharedKeys;
pub use state::{Command, Versions, id};
