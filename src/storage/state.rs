//! The applied state of one shard.

pub struct ShardState;
