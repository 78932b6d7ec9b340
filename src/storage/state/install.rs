//! Takes a snapshot into the database: into a tree beside the one in use, whose place it then takes in a moment.
//!
//! While the tree is filled, which may take long, the node goes on: rounds are flushed, other shards are read and written,
//! and this one is read as it was. A crash before the exchange leaves the state as it was, one after it the new state;
//! what either leaves beside them goes at the next opening.

use super::base::Base;
use super::store::{Pause, Shared};
use super::{ShardState, StateError, StateStore, database};
use crate::kernel::{ShardId, fail_point};

/// For as long as it lives, the database is not exchanged for a copy that would lack the tree.
struct Installing<'a> {
    shared: &'a Shared,
    /// No snapshot of the shard is made, and nothing of it is flushed.
    _pause: Pause<'a>,
}

impl Drop for Installing<'_> {
    fn drop(&mut self) {
        self.shared.gate().installing -= 1;
    }
}

impl StateStore {
    /// Exchanges the shard's tree for what `fill` writes, and the state for the tree. Nothing may be applied meanwhile.
    ///
    /// # Errors
    /// What `fill` says, and then the state is as it was; [`StateError`] when the exchange failed, and with it the state.
    pub(super) fn replace(
        &self,
        state: &ShardState,
        fill: impl FnOnce(&Base) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let shard = state.shard();
        let _installing = self.shared.begin_install(shard);
        let (db, generation) = {
            let gate = self.shared.gate();
            (gate.db.clone(), database::generation(&gate.db, shard)? + 1)
        };
        let base = self.shared.base_at(database::empty_tree(&db, shard, generation)?);
        fail_point::reach("install.begun");
        fill(&base)?;
        db.flush()?;
        fail_point::reach("install.filled");
        let before = {
            let mut gate = self.shared.gate();
            let before = self.shared.base(&gate, shard)?;
            state.replace(|| {
                // The last round is of the tree before.
                gate.redo.clear()?;
                fail_point::reach("install.without_redo");
                database::set_generation(&gate.db, shard, generation)?;
                gate.db.flush()?;
                Ok(base.clone())
            })?;
            before
        };
        fail_point::reach("install.exchanged");
        // Piece by piece: to drop it whole would hold up others.
        before.0.clear()?;
        fail_point::reach("install.cleared");
        database::drop_tree(&db, shard, generation - 1)?;
        fail_point::reach("install.ended");
        Ok(())
    }
}

impl Shared {
    fn begin_install(&self, shard: ShardId) -> Installing<'_> {
        let mut gate = self.gate_of(shard);
        gate.compacting.abandon("a snapshot of a shard is installed");
        gate.installing += 1;
        gate.paused.insert(shard);
        Installing { shared: self, _pause: Pause { shared: self, shard } }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::super::StoreOptions;
    use super::super::tests::{batch, id};
    use super::*;
    use crate::kernel::Op;

    const INSTALLED: ShardId = ShardId(1);
    const OTHER: ShardId = ShardId(2);
    /// Who waits this long for what another thread does waits for ever.
    const NEVER: Duration = Duration::from_secs(60);

    fn open(dir: &Path) -> (Arc<StateStore>, Arc<ShardState>, Arc<ShardState>) {
        let options = StoreOptions { flush_every: Duration::from_secs(3600), ..StoreOptions::default() };
        let store = StateStore::open(dir, options).unwrap();
        let (installed, other) = (store.shard(INSTALLED).unwrap(), store.shard(OTHER).unwrap());
        (store, installed, other)
    }

    fn write(state: &ShardState, index: u64, name: &str) {
        state.apply(index, &[Op::Batch(Box::new(batch(name, 0)))]).unwrap();
    }

    fn has(state: &ShardState, name: &str) -> bool {
        state.entity(&id(name)).unwrap().is_some()
    }

    /// What another replica has, as a snapshot file of it holds it.
    fn snapshot() -> Vec<(Vec<u8>, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let (store, state, _) = open(dir.path());
        write(&state, 7, "new");
        let pairs = store.still(&state, |base| {
            let pair = |item: Result<(sled::IVec, sled::IVec), StateError>| {
                let (key, stored) = item?;
                Ok((key.to_vec(), base.decode(&key, &stored)?))
            };
            base.range(&[], &[u8::MAX]).map(pair).collect()
        });
        pairs.unwrap()
    }

    fn fill(base: &Base, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StateError> {
        pairs.iter().try_for_each(|(key, value)| base.write(key, Some(value)))
    }

    #[test]
    fn everything_goes_on_while_a_snapshot_is_installed() {
        let (dir, pairs) = (tempfile::tempdir().unwrap(), snapshot());
        let (store, installed, other) = open(dir.path());
        write(&installed, 1, "old");
        store.flush().unwrap();
        let (half_way, at_half) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn({
                let (store, installed, pairs) = (&store, &installed, &pairs);
                move || {
                    let done = store.replace(installed, |base| {
                        fill(base, &pairs[..1])?;
                        half_way.send(()).unwrap();
                        goes_on.recv_timeout(NEVER).map_err(|_| io::Error::other("nobody went on"))?;
                        fill(base, &pairs[1..])
                    });
                    done.unwrap();
                }
            });
            at_half.recv_timeout(NEVER).expect("it begins");
            let (done, is_done) = mpsc::channel();
            scope.spawn({
                let (store, installed, other) = (&store, &installed, &other);
                move || {
                    // What requests and metrics read and write.
                    write(other, 1, "a");
                    store.flush().unwrap();
                    assert!(has(other, "a") && has(installed, "old") && !has(installed, "new"));
                    let counted = [installed, other].map(|state| state.counts().entities);
                    assert_eq!((counted, installed.next_timer().unwrap().is_some()), ([1, 1], false));
                    assert_eq!(other.durable().map(|at| at.index), Some(1));
                    done.send(()).unwrap();
                }
            });
            let went_on = is_done.recv_timeout(NEVER / 4);
            go_on.send(()).unwrap();
            went_on.expect("nobody waits for the installation");
        });
        assert!(has(&installed, "new") && !has(&installed, "old"));
        assert_eq!(installed.position().unwrap().0.map(|at| at.index), Some(7));
        write(&installed, 8, "newer");
        store.close().unwrap();
        drop((store, installed, other));
        let (_store, installed, other) = open(dir.path());
        assert!(has(&installed, "new") && has(&installed, "newer") && !has(&installed, "old") && has(&other, "a"));
    }

    #[test]
    fn a_crash_in_the_middle_leaves_what_there_was_and_nothing_beside_it() {
        let (dir, pairs) = (tempfile::tempdir().unwrap(), snapshot());
        let (store, installed, other) = open(dir.path());
        write(&installed, 1, "old");
        store.flush().unwrap();
        let broken = store.replace(&installed, |base| {
            fill(base, &pairs[..1])?;
            Err(io::Error::other("the power goes").into())
        });
        assert!(broken.is_err() && has(&installed, "old"), "it is as it was");
        store.fail();
        drop((store, installed, other));
        let (store, installed, other) = open(dir.path());
        assert!(has(&installed, "old") && !has(&installed, "new"));
        for _ in 0..2 {
            store.replace(&installed, |base| fill(base, &pairs)).unwrap();
            assert!(has(&installed, "new") && !has(&installed, "old"));
            let trees = store.shared.gate().db.tree_names().len();
            assert_eq!(trees, 3, "of each shard one, and the database's own");
        }
        drop((store, installed, other));
        let (_store, installed, _) = open(dir.path());
        assert!(has(&installed, "new"));
    }
}
