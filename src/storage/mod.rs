//! What a node keeps on disk: the Raft log of all its shards in one write-ahead log, and their state in sled.

pub mod data_dir;
pub mod seal;
pub mod state;
pub mod sync_range;
pub mod types;
pub mod wal;
