//! The applied state of one shard: the seam; the store itself replaces this file.
#![expect(unused_variables, clippy::pedantic)]

use crate::kernel::{DedupeKey, EntityId, OutboxRecord, Timestamp};

pub struct ShardState;

#[derive(Debug, thiserror::Error)]
#[error("state")]
pub struct StateError;

pub struct StoredEntity {
    pub sequence: u64,
    pub subject: Option<String>,
    pub snapshot: Option<(u64, Vec<u8>)>,
    pub tail: Vec<(u64, Vec<u8>)>,
}
#[derive(Debug, Clone)]
pub struct TimerEntry {
    pub entity: EntityId,
    pub name: String,
    pub due: Timestamp,
}
pub struct FeedEntry {
    pub position: u64,
    pub entity: EntityId,
    pub first_sequence: u64,
    pub subject: Option<String>,
    pub events: Vec<Vec<u8>>,
    pub at: Timestamp,
}
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    pub applied_index: u64,
    pub feed_head: u64,
    pub outbox_head: u64,
    pub timers_changed: u64,
}
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
impl ShardState {
    pub fn entity(&self, id: &EntityId) -> Result<Option<StoredEntity>, StateError> {
        Err(StateError)
    }
    pub fn remembered(&self, entity: &EntityId, key: &DedupeKey) -> Result<Option<Vec<u8>>, StateError> {
        Err(StateError)
    }
    pub fn timer(&self, entity: &EntityId, name: &str) -> Result<Option<Timestamp>, StateError> {
        Err(StateError)
    }
    pub fn timers_due(&self, now: Timestamp, limit: usize) -> Result<Vec<TimerEntry>, StateError> {
        Err(StateError)
    }
    pub fn next_timer(&self) -> Result<Option<Timestamp>, StateError> {
        Err(StateError)
    }
    pub fn outbox(&self, after: u64, limit: usize) -> Result<Vec<OutboxRecord>, StateError> {
        Err(StateError)
    }
    pub fn outbox_record(&self, number: u64) -> Result<Option<OutboxRecord>, StateError> {
        Err(StateError)
    }
    pub fn settled_below(&self) -> Result<u64, StateError> {
        Err(StateError)
    }
    pub fn index_get(&self, index: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Err(StateError)
    }
    pub fn index_scan(
        &self,
        index: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Pairs, StateError> {
        Err(StateError)
    }
    pub fn rows(
        &self,
        entity: &EntityId,
        table: &str,
        after: Option<&[u8]>,
        limit: usize,
        reverse: bool,
    ) -> Result<Pairs, StateError> {
        Err(StateError)
    }
    pub fn row(&self, entity: &EntityId, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Err(StateError)
    }
    pub fn feed(&self, after: u64, limit: usize) -> Result<Vec<FeedEntry>, StateError> {
        Err(StateError)
    }
    pub fn feed_head(&self) -> u64 {
        0
    }
    pub fn consumed(&self, consumer: &str) -> Result<u64, StateError> {
        Err(StateError)
    }
    pub fn audit_size(&self) -> u64 {
        0
    }
    pub fn audit_entry(&self, index: u64) -> Result<Option<Vec<u8>>, StateError> {
        Err(StateError)
    }
    pub fn audit_node(&self, level: u8, index: u64) -> Result<Option<[u8; 32]>, StateError> {
        Err(StateError)
    }
    pub fn applied(&self) -> tokio::sync::watch::Receiver<Progress> {
        tokio::sync::watch::channel(Progress::default()).1
    }
}
