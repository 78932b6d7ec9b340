//! Follows the feed and keeps each shard's census.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::protocol::{Change, Command, Reply, Share, View};
use super::{Census, SHARES};
use crate::actors::billing::invoice::{self, Invoice, RefundStatus};
use crate::actors::billing::subscription::{self, Subscription};
use crate::actors::runtime::feed::{FeedConsumer, Opened};
use crate::actors::runtime::{Page, Router, Scope};
use crate::kernel::{Entity, EntityId, Error, ErrorCode, Origin, ShardId, Timestamp, codec};

/// Objects looked at before they are recorded together.
const CHUNK: usize = 200;
/// Tries to record against others who do, as when leadership moves; then the page comes again.
const TRIES: usize = 5;

/// The one who takes the census.
pub struct Taker {
    router: Router,
}

#[async_trait]
impl FeedConsumer for Taker {
    fn name(&self) -> &'static str {
        "billing-census"
    }

    fn wants(&self, kind: &str) -> bool {
        matches!(kind, Subscription::KIND | Invoice::KIND)
    }

    async fn handle(&self, entries: &[Opened]) -> Result<(), Error> {
        let Some(first) = entries.first() else { return Ok(()) };
        let shard = self.router.shard_of(&first.entity);
        if !self.census(shard).await?.complete {
            self.take_all(shard, &first.entity).await?;
        }
        let touched: BTreeSet<&EntityId> = entries.iter().map(|entry| &entry.entity).collect();
        self.look_at(shard, touched.into_iter().cloned().collect()).await
    }
}

impl Taker {
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router }
    }

    /// Takes the census of these shards anew.
    ///
    /// # Errors
    /// `unavailable` when something cannot be read now; the feed's next entry goes on with it.
    pub async fn rebuild(&self, shards: &[ShardId]) -> Result<(), Error> {
        for shard in shards {
            self.ask(*shard, Command::Clear).await?;
        }
        for kind in [subscription::INDEX, invoice::INDEX] {
            self.walk(Scope::All, kind).await?;
        }
        for shard in shards {
            self.ask(*shard, Command::Complete).await?;
        }
        Ok(())
    }

    /// Looks at every object of the shard that `one` is on: what the feed held before anybody followed it may be gone.
    async fn take_all(&self, shard: ShardId, one: &EntityId) -> Result<(), Error> {
        for kind in [subscription::INDEX, invoice::INDEX] {
            self.walk(Scope::ShardOf(one.clone()), kind).await?;
        }
        self.ask(shard, Command::Complete).await.map(drop)
    }

    async fn walk(&self, scope: Scope, index: &str) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = Page { after: after.take(), limit: CHUNK, reverse: false };
            let found = self.router.scan(scope.clone(), index, b"", page).await?;
            let more = found.len() == CHUNK;
            after = found.last().map(|(key, _)| key.clone());
            let mut by_shard = std::collections::BTreeMap::<ShardId, Vec<EntityId>>::new();
            for (key, _) in found {
                let key = String::from_utf8_lossy(&key).into_owned();
                let Some((_, id)) = key.rsplit_once('/') else { continue };
                let id = if index == subscription::INDEX { subscription::id(id) } else { invoice::id(id) };
                by_shard.entry(self.router.shard_of(&id)).or_default().push(id);
            }
            for (shard, ids) in by_shard {
                self.look_at(shard, ids).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Records what these objects, all of one shard, are now.
    async fn look_at(&self, shard: ShardId, ids: Vec<EntityId>) -> Result<(), Error> {
        for ids in ids.chunks(CHUNK) {
            let mut tries = 0;
            while !self.try_record(shard, ids).await? {
                tries += 1;
                if tries == TRIES {
                    return Err(Error::unavailable("Others take the census too."));
                }
            }
        }
        Ok(())
    }

    /// `false`: somebody else recorded in between.
    async fn try_record(&self, shard: ShardId, ids: &[EntityId]) -> Result<bool, Error> {
        let revision = self.census(shard).await?.revision;
        let mut changes = Vec::new();
        for id in ids {
            let Some(new) = self.share(id).await? else { continue };
            let old = self.recorded(shard, id.key()).await?;
            if old.as_ref() != Some(&new) {
                changes.push(Change { id: id.key().to_owned(), old, new });
            }
        }
        if changes.is_empty() {
            return Ok(true);
        }
        Ok(self.ask(shard, Command::Record { revision, changes }).await? != Reply::Stale)
    }

    async fn ask(&self, shard: ShardId, command: Command) -> Result<Reply, Error> {
        self.router.ask::<Census>(&super::id(shard), command, &Origin::system("billing census")).await
    }

    async fn census(&self, shard: ShardId) -> Result<View, Error> {
        match self.ask(shard, Command::GetCensus).await? {
            Reply::Census(view) => Ok(*view),
            Reply::Done | Reply::Stale => Err(Error::internal()),
        }
    }

    /// The share a row holds of an object. Ids are all of one length, so that nothing lies between an id and the one
    /// that is smaller by one in its last letter.
    async fn recorded(&self, shard: ShardId, id: &str) -> Result<Option<Share>, Error> {
        let mut before = id.as_bytes().to_vec();
        if let Some(last) = before.last_mut() {
            *last -= 1;
        }
        let page = Page { after: Some(before), limit: 1, reverse: false };
        let rows = self.router.rows(&super::id(shard), SHARES, page).await?;
        let row = rows.into_iter().find(|(key, _)| key == id.as_bytes());
        row.map(|(_, share)| codec::decode(&share).map_err(|_| Error::internal())).transpose()
    }

    /// What an object adds to the counts now. `None`: it does not exist.
    async fn share(&self, id: &EntityId) -> Result<Option<Share>, Error> {
        let origin = Origin::system("billing census");
        let share = if id.kind() == Subscription::KIND {
            let asked = self.router.ask::<Subscription>(id, subscription::Command::GetSubscription, &origin).await;
            asked.map(|reply| match reply {
                subscription::Reply::Subscription(view) => Some(of_subscription(&view)),
                _ => None,
            })
        } else {
            let asked = self.router.ask::<Invoice>(id, invoice::Command::GetInvoice, &origin).await;
            asked.map(|reply| match reply {
                invoice::Reply::Invoice(view) => Some(of_invoice(&view)),
                _ => None,
            })
        };
        match share {
            Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Gone) => Ok(None),
            other => other,
        }
    }
}

fn of_subscription(view: &subscription::View) -> Share {
    Share::Subscription {
        plan_id: view.offer.plan_id.clone(),
        plan_name: view.offer.plan_name.clone(),
        state: view.state,
        quantity: view.quantity,
    }
}

fn of_invoice(view: &invoice::View) -> Share {
    let total = view.draft.quote.total;
    let issued = view.issued_at.filter(|_| view.state != invoice::State::Void);
    let refunds = view.refunds.iter().filter(|refund| refund.status == RefundStatus::Succeeded);
    Share::Invoice {
        currency: view.draft.quote.currency,
        invoiced: issued.map(|at| (month(at), total)),
        paid: view.paid_at.map(|at| (month(at), total)),
        refunded: refunds.map(|refund| (month(refund.at), refund.amount)).collect(),
    }
}

/// The month of a time in UTC, such as `2026-01`.
fn month(at: Timestamp) -> String {
    at.to_string().chars().take(7).collect()
}
