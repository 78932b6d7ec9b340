//! Lists the entries of all shards' logs, newest first, by filters.
//!
//! The logs have no index beside their order, on purpose: what is not stored cannot disagree. A search walks back
//! through every log at once, taking the newest entry of all, and looks at a bounded number of entries a page; the
//! cursor says how far each log has been walked, so pages neither repeat nor skip while entries are being added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AuditLog;
use crate::kernel::merkle::leaf_hash;
use crate::kernel::{Error, ShardId, Timestamp, codec};

/// Entries one page looks at before it answers with what it found.
const BUDGET: usize = 10_000;
/// Entries fetched from a log at once.
const CHUNK: u64 = 128;

/// One act that mattered for security.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its place in the shard's log.
    pub index: u64,
    pub shard: u16,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The id of who did it, or `anonymous`, `operator`, `system`.
    pub actor: String,
    #[schema(example = "session.create")]
    pub action: String,
    /// The id of what it was done to.
    pub target: String,
    #[schema(example = "ok")]
    pub outcome: String,
    /// A keyed pseudonym of the caller's network address.
    pub source: String,
    pub request_id: String,
    /// SHA-256(0x00 ‖ canonical entry) in hexadecimal: the leaf of the Merkle tree (RFC 9162).
    #[serde(default)]
    pub leaf_hash: String,
}

impl AuditEntry {
    /// Reads the leaf bytes of an entry. `None` when they are not one.
    #[must_use]
    pub fn from_leaf(leaf: &[u8]) -> Option<Self> {
        let mut entry: Self = serde_json::from_slice(leaf).ok()?;
        entry.leaf_hash = hex::encode(leaf_hash(leaf));
        Some(entry)
    }
}

/// Which entries are wanted; all of what is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    /// Entries with this id as actor or target.
    pub about: Option<String>,
    pub shard: Option<ShardId>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Filter {
    fn matches(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.actor, &entry.actor)
            && is(&self.action, &entry.action)
            && is(&self.target, &entry.target)
            && self.about.as_deref().is_none_or(|id| id == entry.actor || id == entry.target)
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at <= until)
    }
}

/// How far back each log has been walked: entries from here on have been seen.
type Positions = BTreeMap<ShardId, u64>;

/// One page.
#[derive(Debug)]
pub struct Found {
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts; `None` when every log was walked to its beginning. A page may be short, or empty,
    /// and still have a next one.
    pub cursor: Option<Vec<u8>>,
}

/// One log being walked back.
struct Walk {
    shard: ShardId,
    /// Entries below this are not walked yet.
    end: u64,
    /// The entries just below `end`, oldest first.
    fetched: Vec<AuditEntry>,
}

impl Walk {
    /// Makes sure that the newest unseen entry is fetched, if there is one.
    async fn fill(&mut self, log: &AuditLog) -> Result<(), Error> {
        if !self.fetched.is_empty() || self.end == 0 {
            return Ok(());
        }
        let from = self.end.saturating_sub(CHUNK);
        let leaves = log.entries(self.shard, from, u32::try_from(self.end - from).unwrap_or(u32::MAX)).await?;
        for leaf in leaves {
            let entry = AuditEntry::from_leaf(&leaf).ok_or_else(|| {
                tracing::error!(shard = %self.shard, "an entry of the audit log cannot be read");
                Error::internal()
            })?;
            self.fetched.push(entry);
        }
        Ok(())
    }

    fn next_key(&self) -> Option<(Timestamp, ShardId)> {
        self.fetched.last().map(|entry| (entry.at, self.shard))
    }

    fn take(&mut self) -> Option<AuditEntry> {
        let entry = self.fetched.pop()?;
        self.end = entry.index;
        Some(entry)
    }
}

/// Up to `limit` matching entries, newest first, from where `cursor` says.
///
/// # Errors
/// `invalid` for a cursor that was not made here; `not_found` for an unknown shard; `unavailable`.
pub async fn search(log: &AuditLog, filter: &Filter, cursor: Option<&[u8]>, limit: usize) -> Result<Found, Error> {
    let mut walks = start(log, filter, cursor).await?;
    let (mut entries, mut looked_at) = (Vec::new(), 0);
    while entries.len() < limit && looked_at < BUDGET {
        for walk in &mut walks {
            walk.fill(log).await?;
        }
        let Some(newest) = walks.iter_mut().max_by_key(|walk| walk.next_key()) else { break };
        let Some(entry) = newest.take() else { break };
        looked_at += 1;
        if filter.since.is_some_and(|since| entry.at < since) {
            // What is left of this log is older still.
            (newest.end, newest.fetched) = (0, Vec::new());
            continue;
        }
        if filter.matches(&entry) {
            entries.push(entry);
        }
    }
    let positions: Positions = walks.iter().map(|walk| (walk.shard, walk.end)).collect();
    let more = positions.values().any(|end| *end > 0);
    let cursor = if more { Some(codec::encode(&positions).map_err(|_| Error::internal())?) } else { None };
    Ok(Found { entries, cursor })
}

async fn start(log: &AuditLog, filter: &Filter, cursor: Option<&[u8]>) -> Result<Vec<Walk>, Error> {
    let shards = filter.shard.map_or_else(|| log.shards(), |shard| vec![shard]);
    let positions = match cursor {
        Some(bytes) => {
            let bad = |_| Error::invalid("/cursor", "is not a cursor of this list");
            Some(codec::decode::<Positions>(bytes).map_err(bad)?)
        }
        None => None,
    };
    let mut walks = Vec::with_capacity(shards.len());
    for shard in shards {
        let (size, _) = log.head(shard, None).await?;
        let end = match &positions {
            Some(positions) => positions.get(&shard).copied().unwrap_or(0).min(size),
            None => size,
        };
        walks.push(Walk { shard, end, fetched: Vec::new() });
    }
    Ok(walks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::AuditRecord;
    use crate::kernel::merkle::leaf_bytes;

    #[test]
    fn an_entry_reads_back_from_its_leaf_and_filters_combine() {
        let record = AuditRecord {
            at: Timestamp::from_millis(1_700_000_000_123),
            actor: "usr_1".into(),
            action: "session.create".into(),
            target: "ses_1".into(),
            outcome: "ok".into(),
            source: "src".into(),
            request_id: "req".into(),
        };
        let leaf = leaf_bytes(ShardId(3), 5, &record);
        let entry = AuditEntry::from_leaf(&leaf).expect("an entry");
        assert_eq!((entry.index, entry.shard, entry.at), (5, 3, record.at));
        assert_eq!(entry.leaf_hash, hex::encode(leaf_hash(&leaf)));
        assert!(AuditEntry::from_leaf(b"{}").is_none());

        let text = |text: &str| Some(text.to_owned());
        let all = Filter::default();
        assert!(all.matches(&entry));
        assert!(Filter { actor: text("usr_1"), action: text("session.create"), ..all.clone() }.matches(&entry));
        assert!(!Filter { actor: text("usr_1"), action: text("session.revoke"), ..all.clone() }.matches(&entry));
        assert!(Filter { about: text("ses_1"), ..all.clone() }.matches(&entry));
        assert!(!Filter { about: text("usr_2"), ..all.clone() }.matches(&entry));
        assert!(!Filter { since: Some(record.at.plus_millis(1)), ..all.clone() }.matches(&entry));
        assert!(!Filter { until: Some(record.at.plus_millis(-1)), ..all }.matches(&entry));
    }
}
