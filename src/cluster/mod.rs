//! Shards as Raft groups, and (with more nodes) the links between them.

pub mod raft;
