//! openraft's own suite, over this log and a state machine in memory that does just what the suite asks of one.

use std::io;

use futures::{Stream, TryStreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, RaftTypeConfig, StorageError, StoredMembership};

use super::*;
use crate::storage::types::{ShardReply, TypeConfig};

type Leader = openraft::vote::leader_id_adv::LeaderId<u64, u64>;
type Membership = StoredMembership<Leader, u64, openraft::BasicNode>;
type Meta = SnapshotMeta<Leader, u64, openraft::BasicNode>;

/// Remembers what was applied last, and nothing else.
#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: Membership,
    snapshot: Option<Meta>,
}

impl Applied {
    fn meta(&self) -> Meta {
        Meta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Applied {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<Leader, u64, openraft::BasicNode, ()>> {
        Ok(Snapshot { meta: self.meta(), snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Applied {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.last = Some(entry.log_id());
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = Membership::new(self.last, membership);
            }
            if let Some(responder) = responder {
                responder.send(ShardReply { outcomes: Vec::new() });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.snapshot = Some(self.meta());
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, (): ()) -> io::Result<()> {
        (self.last, self.membership) = (meta.last_log_id, meta.last_membership.clone());
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<Leader, u64, openraft::BasicNode, ()>>> {
        Ok(self.snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, GroupLog, Applied, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, GroupLog, Applied), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let (wal, _) = open(dir.path(), small());
        Ok((dir, wal.group(3), Applied::default()))
    }
}

#[test]
fn openraft_suite_passes() {
    type Runtime = <TypeConfig as RaftTypeConfig>::AsyncRuntime;
    let run = Suite::test_all(Builder);
    <Runtime as openraft::AsyncRuntime>::run(run).expect("the suite passes");
}
