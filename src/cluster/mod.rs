//! Shards as Raft groups, where they should be and what takes them there, and the links between nodes.

pub mod backup;
pub mod beginning;
mod collector;
pub mod coordinator;
pub mod entities;
pub mod join;
pub mod level;
pub mod link;
pub mod operations;
pub mod placement;
mod planner;
pub mod raft;
pub mod recovery;
pub mod restore;
pub mod secrets;
#[cfg(test)]
mod simulation;
