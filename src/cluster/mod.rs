//! Shards as Raft groups, and (with more nodes) the links between them.
