//! Reports what matters in the audit logs of the shards this node leads to the alerts entity.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::protocol::{Act, Command, Reply, Seen};
use super::{Alerts, alerts_id};
use crate::actors::compliance::audit_log::AuditLog;
use crate::actors::compliance::audit_log::search::AuditEntry;
use crate::actors::runtime::Router;
use crate::kernel::{Error, ErrorCode, Origin, ShardId};

const PERIOD: Duration = Duration::from_millis(500);
/// Entries read at once.
const PAGE: u32 = 256;
/// Entries without anything of interest after which the offset is stored all the same.
const QUIET_ENTRIES: u64 = 2_000;

/// Follows the logs. What it has read but found uninteresting it reads again after a restart.
pub struct Monitor {
    router: Router,
    audit: Arc<AuditLog>,
}

/// How far one log was read and reported.
#[derive(Debug, Clone, Copy)]
struct Place {
    reported: u64,
    read: u64,
}

impl Monitor {
    #[must_use]
    pub fn new(router: Router, audit: Arc<AuditLog>) -> Self {
        Self { router, audit }
    }

    /// Runs until the node stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut places = BTreeMap::new();
        loop {
            if let Err(error) = self.pass(&mut places).await {
                tracing::debug!(%error, "the security monitor starts over");
                places.clear();
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn pass(&self, places: &mut BTreeMap<ShardId, Place>) -> Result<(), Error> {
        if places.is_empty() {
            *places = self.offsets().await?;
        }
        for led in self.router.led() {
            let shard = led.parts.log.shard();
            let mut place = places.get(&shard).copied().unwrap_or(Place { reported: 0, read: 0 });
            while place.read < led.parts.log.state().audit_size() {
                place = self.read_on(shard, place).await?;
                places.insert(shard, place);
            }
        }
        Ok(())
    }

    async fn offsets(&self) -> Result<BTreeMap<ShardId, Place>, Error> {
        let Reply::Offsets(offsets) = self.ask(Command::GetOffsets).await? else { return Err(Error::internal()) };
        Ok(offsets.into_iter().map(|(shard, offset)| (shard, Place { reported: offset, read: offset })).collect())
    }

    async fn read_on(&self, shard: ShardId, place: Place) -> Result<Place, Error> {
        let leaves = self.audit.entries(shard, place.read, PAGE).await?;
        let read = place.read + leaves.len() as u64;
        let seen: Vec<Seen> = leaves.iter().filter_map(|leaf| AuditEntry::from_leaf(leaf)).filter_map(seen).collect();
        if seen.is_empty() && read - place.reported < QUIET_ENTRIES {
            return Ok(Place { read, ..place });
        }
        let report = Command::Report { shard, from: place.reported, upto: read, seen };
        match self.ask(report).await {
            Ok(_) => Ok(Place { reported: read, read }),
            // Another node led the shard meanwhile, or an answer was lost: ask how far it is and go on from there.
            Err(error) if error.code == ErrorCode::Conflict => {
                let known = self.offsets().await?.get(&shard).copied();
                Ok(known.unwrap_or(Place { reported: 0, read: 0 }))
            }
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, command: Command) -> Result<Reply, Error> {
        self.router.ask::<Alerts>(&alerts_id(), command, &Origin::system("monitor")).await
    }
}

fn seen(entry: AuditEntry) -> Option<Seen> {
    let act = Act::of(&entry.action, &entry.outcome)?;
    let AuditEntry { index, shard, at, actor, target, source, .. } = entry;
    Some(Seen { act, at, actor, target, source, shard: ShardId(shard), index })
}
