//! Advancing the virtual clock: from one due timer to the next, each time until all that followed from it is done.

use std::time::Duration;

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
        let mut earliest = None;
        for shard in self.router.shard_ids() {
            let next = self.router.next_due(shard, to).await?;
            earliest = [earliest, next].into_iter().flatten().min();
        }
        Ok(earliest)
    }

    /// Returns once nothing is due, under way or waiting, seen twice with nothing applied in between.
    async fn rest(&self) -> Result<(), Error> {
        let give_up = Instant::now() + STEP;
        let mut seen = None;
        loop {
            let (mut quiet, mut applied) = (true, 0);
            for shard in self.router.shard_ids() {
                let (at_rest, at) = self.router.at_rest(shard, self.clock.now()).await?;
                (quiet, applied) = (quiet && at_rest, applied + at);
            }
            if quiet && seen == Some(applied) {
                return Ok(());
            }
            seen = quiet.then_some(applied);
            if Instant::now() > give_up {
                let detail = format!("Work due at {} has not ended yet; advance again later.", self.clock.now());
                return Err(Error::unavailable(detail));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
