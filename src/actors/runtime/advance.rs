//! Advancing the virtual clock: from one due timer to the next, each time until all that followed from it is done.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::Instant;

use super::Runtime;
use super::clock::{ClockCommand, ClockMode, VirtualClock};
use crate::kernel::{Clock, Error, Origin, Timestamp, fail_point};

/// The longest one step may take to come to rest. Effects that wait for a retry do not count as work under way.
const STEP: Duration = Duration::from_secs(60);

impl Runtime {
    /// Moves the virtual clock to `to`, stopping at every due time on the way, and answers once every timer due by then
    /// has fired and its work is done. Advances wait for each other.
    ///
    /// # Errors
    /// `conflict` when the clock is the system's; `invalid` when `to` lies in the past; `unavailable` when the work of
    /// a step does not end, with the clock left at that step.
    pub async fn advance(&self, to: Timestamp, origin: &Origin) -> Result<Timestamp, Error> {
        if self.clock.mode() != ClockMode::Virtual {
            return Err(Error::conflict("The clock is the system's; start the node with clock = \"virtual\"."));
        }
        let _turn = self.advancing.lock().await;
        if to < self.clock.now() {
            let detail = format!("The clock stands at {} and only moves forward.", self.clock.now());
            return Err(Error::invalid("/advance_to", detail));
        }
        tracing::info!(from = %self.clock.now(), %to, "the virtual clock advances");
        self.rest().await?;
        while let Some(due) = self.next_due(to).await? {
            self.step(due, origin).await?;
        }
        self.step(to, origin).await?;
        Ok(to)
    }

    async fn step(&self, to: Timestamp, origin: &Origin) -> Result<(), Error> {
        let origin = Origin { idempotency: None, ..origin.clone() };
        self.router.ask::<VirtualClock>(&VirtualClock::id(), ClockCommand::Advance(to), &origin).await?;
        fail_point::reach("clock.advance_committed");
        self.clock.set(to);
        fail_point::reach("clock.advanced");
        self.rest().await
    }

    /// The earliest due time after now and up to `to`.
    async fn next_due(&self, to: Timestamp) -> Result<Option<Timestamp>, Error> {
        let asked = self.router.shard_ids().map(|shard| self.router.next_due(shard, to));
        Ok(try_join_all(asked).await?.into_iter().flatten().min())
    }

    /// Returns once nothing is due, under way or waiting, seen twice with nothing applied in between. All shards are asked at
    /// once: a cluster that others go on using is at rest for moments only.
    async fn rest(&self) -> Result<(), Error> {
        let give_up = Instant::now() + STEP;
        let mut seen = None;
        loop {
            let now = self.clock.now();
            let shards = try_join_all(self.router.shard_ids().map(|shard| self.router.at_rest(shard, now))).await?;
            let (quiet, applied) =
                (shards.iter().all(|(quiet, _)| *quiet), shards.iter().map(|(_, at)| at).sum::<u64>());
            if quiet && seen == Some(applied) {
                return Ok(());
            }
            seen = quiet.then_some(applied);
            if Instant::now() > give_up {
                let busy = self.router.shard_ids().zip(&shards).filter(|(_, (quiet, _))| !quiet);
                let busy: Vec<String> = busy.map(|(shard, _)| shard.to_string()).collect();
                let on = if busy.is_empty() { "one after the other".to_owned() } else { busy.join(", ") };
                let detail = format!("Work due at {now} has not ended yet, on shards {on}; advance again later.");
                return Err(Error::unavailable(detail));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
