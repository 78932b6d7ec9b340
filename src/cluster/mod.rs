//! Shards as Raft groups, and (with more nodes) the links between them.

pub mod entities;
pub mod join;
pub mod link;
pub mod raft;
