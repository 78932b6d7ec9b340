//! Effects that follow from before the beginning of a cluster that was made from another one's earlier state
//! ([`Aftermath`]): the old cluster may have done them.
//!
//! Mails, texts and pushes are held until an operator releases or drops them. A payment is looked up first, and done only
//! when it certainly was not; one that cannot be looked up stays unknown. So is, whoever asked for it, every charge of an
//! invoice that the old cluster may have had.

use super::delivery::{Attempt, Courier};
use crate::actors::runtime::aftermath::Aftermath;
use crate::actors::runtime::steady::wall_now;
use crate::kernel::{Error, Origin, OutboxRecord, OutboxState, Outcome, ProviderKind};
use crate::providers::{Provider, ProviderError};

impl Courier {
    /// What the record's key is to the other side.
    pub(super) fn key(&self, record: &OutboxRecord) -> String {
        let parts = &self.shard.parts;
        parts.aftermath().map_or_else(|| record.key(), |aftermath| aftermath.key(parts.log.shard(), record))
    }

    /// On whose behalf a record is delivered. What follows from before goes on doing so.
    pub(super) fn origin(&self, record: &OutboxRecord) -> Origin {
        let traceparent = self.past(record).map(Aftermath::traceparent).or_else(|| record.traceparent.clone());
        Origin { traceparent, ..Origin::system(record.key()) }
    }

    /// The aftermath that the record belongs to.
    fn past(&self, record: &OutboxRecord) -> Option<&Aftermath> {
        let parts = &self.shard.parts;
        parts.aftermath().filter(|aftermath| aftermath.is_past(parts.log.shard(), record))
    }

    /// What becomes of a call that the old cluster may have made; `None`: it is made.
    pub(super) async fn of_before(
        &self,
        record: &OutboxRecord,
        provider: &dyn Provider,
        request: &[u8],
        tried: u32,
    ) -> Option<Attempt> {
        let (aftermath, past) = (self.shard.parts.aftermath()?, self.past(record).is_some());
        let payment = provider.kind() == ProviderKind::Payment;
        let doubtful = past || (payment && aftermath.may_have_held(record.source.key()));
        if !doubtful || matches!(record.state, OutboxState::Released { .. }) {
            return None;
        }
        let sent = matches!(record.state, OutboxState::Sending { .. });
        if !payment && !sent {
            return Some(self.hold(record).await);
        }
        if !provider.can_find(request) {
            let why = "the cluster before this one may have done it, and it cannot be looked up";
            return if past { Some(self.finish(record, Outcome::Unknown(why.to_owned())).await) } else { None };
        }
        match provider.reconcile(&self.key(record), request).await {
            Ok(Some(receipt)) => Some(self.finish(record, Outcome::Done(receipt)).await),
            Ok(None) if payment => None,
            Ok(None) => Some(self.hold(record).await),
            Err(ProviderError::Refused(error)) => Some(self.finish(record, Outcome::Refused(error)).await),
            Err(error) if payment => Some(self.again(record, provider.idempotent(), tried, &error.to_string()).await),
            Err(error) => Some(self.finish(record, Outcome::Unknown(error.to_string())).await),
        }
    }

    async fn hold(&self, record: &OutboxRecord) -> Attempt {
        if !self.set(record, OutboxState::Held { since: wall_now() }).await {
            return Attempt::Later(self.pause(0));
        }
        tracing::info!(record = record.key(), "held: the cluster before this one may have sent it");
        Attempt::Held
    }

    /// Lets a held record be delivered, as it is then, or gives it up.
    pub(super) async fn decide_held(&self, record: OutboxRecord, release: bool) -> Result<Option<OutboxRecord>, Error> {
        if !release {
            let why = "dropped by an operator: it may have been sent before";
            self.finish(&record, Outcome::Unknown(why.to_owned())).await;
            return Ok(None);
        }
        let state = OutboxState::Released { attempts: 0 };
        if !self.set(&record, state.clone()).await {
            return Err(Error::unavailable("It cannot be committed now."));
        }
        Ok(Some(OutboxRecord { state, ..record }))
    }
}
