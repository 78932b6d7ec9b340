//! Carries open erasures on: waits between their steps until nothing of the person's is left in the outbox.
//!
//! A reconciler: it keeps nothing that cannot be read again, so a crash at any point costs a pass. It works on the
//! shards this node leads, where the person's entities, outbox records and keyring all are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Command, Erasure, OPEN, Phase, Reply, erasure_id};
use crate::actors::compliance::keyring::{self, Keyring};
use crate::actors::compliance::sealer::KeyringSealer;
use crate::actors::runtime::follow::Follower;
use crate::actors::runtime::log::unreadable;
use crate::actors::runtime::replica::Replica;
use crate::actors::runtime::shard::Shard;
use crate::actors::runtime::{Followed, Router};
use crate::kernel::{Entity as _, Error, Op, Origin, OutboxChange, codec, fail_point};

/// Erasures and outbox records read at once.
const PAGE: usize = 256;
/// Pause between passes while an erasure is under way.
const BUSY: Duration = Duration::from_millis(50);
/// Pause otherwise, unless woken.
const IDLE: Duration = Duration::from_secs(5);

/// Begins erasures and carries them on.
pub struct Eraser {
    router: Router,
    sealer: Arc<KeyringSealer>,
    wake: Notify,
    /// People whose key is being destroyed: their actors are to be stopped once it is.
    sealing: Mutex<BTreeSet<String>>,
}

impl Eraser {
    #[must_use]
    pub fn new(router: Router, sealer: Arc<KeyringSealer>) -> Self {
        Self { router, sealer, wake: Notify::new(), sealing: Mutex::default() }
    }

    /// Begins the erasure of a person, or says how far it is.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn begin(&self, user_id: &str, origin: &Origin) -> Result<Reply, Error> {
        let reply = self.router.ask::<Erasure>(&erasure_id(user_id), Command::Begin, origin).await?;
        fail_point::reach("erasure.begun");
        self.wake.notify_one();
        Ok(reply)
    }

    /// Runs until the node stops.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken) {
        loop {
            let mut open = 0;
            for shard in self.router.led() {
                match self.pass(&shard).await {
                    Ok(found) => open += found,
                    Err(error) => tracing::warn!(%error, "erasures are put off"),
                }
            }
            let pause = if open > 0 { BUSY } else { IDLE };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Forgets keys that are erased on whatever node leads their shard, and stops the actors here that hold what they
    /// sealed.
    pub async fn forget_erased(self: Arc<Self>, replica: Arc<Replica>, stopping: CancellationToken) {
        let kinds = vec![Followed { kind: Keyring::KIND.to_owned(), events: true }];
        let mut follower = Follower::anywhere(self.router.clone(), replica, kinds);
        while let Some(Some(news)) = stopping.run_until_cancelled(follower.next()).await {
            for entry in news.entries.iter().filter(|entry| entry.entity.kind() == Keyring::KIND) {
                let erased = |event: &Vec<u8>| matches!(codec::decode(event), Ok(keyring::Event::Erased { .. }));
                if entry.events.iter().any(erased) {
                    self.forget(entry.entity.key());
                }
            }
        }
    }

    fn forget(&self, user_id: &str) {
        self.sealer.forget(user_id);
        // Answers kept under idempotency keys are sealed with the person's key too, and live on any shard.
        self.router.led().iter().for_each(|shard| shard.evict(user_id));
    }

    /// Carries on the open erasures of one shard; how many there are.
    async fn pass(&self, shard: &Shard) -> Result<usize, Error> {
        if shard.barrier().await.is_err() {
            return Ok(0);
        }
        let (mut found, mut after): (usize, Option<Vec<u8>>) = (0, None);
        loop {
            let page = shard.parts.log.state().index_scan(OPEN, b"", after.as_deref(), PAGE, false);
            let page = page.map_err(|error| unreadable(&error))?;
            for (key, _) in &page {
                found += 1;
                self.carry_on(shard, &String::from_utf8_lossy(key)).await?;
            }
            if page.len() < PAGE {
                return Ok(found + self.stop_sealed(shard).await?);
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
        }
    }

    async fn carry_on(&self, shard: &Shard, user_id: &str) -> Result<(), Error> {
        let phase = self.phase(user_id).await?;
        let waits = matches!(phase, Phase::Settling | Phase::Destroying | Phase::Sealing);
        if matches!(phase, Phase::Destroying | Phase::Sealing) {
            self.sealing.lock().unwrap_or_else(PoisonError::into_inner).insert(user_id.to_owned());
        }
        if waits && self.is_settled(shard, user_id).await? {
            if phase == Phase::Settling {
                fail_point::reach("erasure.before_account");
            } else {
                fail_point::reach("erasure.before_key");
            }
            self.ask(user_id, Command::Settled).await?;
            fail_point::reach("erasure.advanced");
        }
        Ok(())
    }

    /// Stops the actors of those whose key is gone; how many are still to come.
    async fn stop_sealed(&self, shard: &Shard) -> Result<usize, Error> {
        let sealing: Vec<String> = {
            let sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
            let here = |id: &&String| self.router.shard_of(&erasure_id(id)) == shard.parts.log.shard();
            sealing.iter().filter(here).cloned().collect()
        };
        let mut left = 0;
        for user_id in sealing {
            if self.phase(&user_id).await? != Phase::Completed {
                left += 1;
                continue;
            }
            fail_point::reach("erasure.key_gone");
            self.forget(&user_id);
            self.sealing.lock().unwrap_or_else(PoisonError::into_inner).remove(&user_id);
            tracing::info!(user_id, "a person was erased");
        }
        Ok(left)
    }

    /// Whether no outbox record of the shard is sealed with this person's key. One that waits for an operator is given up:
    /// nobody is left whom it could be sent to.
    async fn is_settled(&self, shard: &Shard, user_id: &str) -> Result<bool, Error> {
        let (state, mut after, mut settled) = (shard.parts.log.state(), 0, true);
        loop {
            let records = state.outbox(after, PAGE).map_err(|error| unreadable(&error))?;
            for record in records.iter().filter(|record| record.subject.as_deref() == Some(user_id)) {
                settled = false;
                if record.is_held() {
                    let given_up = Op::Outbox(vec![OutboxChange::Settle { number: record.number }]);
                    // If it is not committed, the next pass finds it again.
                    let _ = shard.parts.propose(given_up);
                }
            }
            match records.last() {
                Some(last) if records.len() == PAGE => after = last.number,
                _ => return Ok(settled),
            }
        }
    }

    async fn phase(&self, user_id: &str) -> Result<Phase, Error> {
        let Reply::Progress { phase, .. } = self.ask(user_id, Command::Get).await?;
        Ok(phase)
    }

    async fn ask(&self, user_id: &str, command: Command) -> Result<Reply, Error> {
        self.router.ask::<Erasure>(&erasure_id(user_id), command, &Origin::system("eraser")).await
    }
}
