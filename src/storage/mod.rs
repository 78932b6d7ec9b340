//! What a node keeps on disk: the Raft log of all its shards in one write-ahead log, and their state in sled. And what is
//! kept of a whole cluster elsewhere: backups.

pub mod backup;
pub mod data_dir;
pub mod pace;
pub mod seal;
pub mod state;
pub mod sync_range;
pub mod types;
pub mod wal;
