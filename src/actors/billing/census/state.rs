//! The counts, and how a change of an object moves them.

use serde::{Deserialize, Serialize};

use super::SHARES;
use super::protocol::{Change, Command, Event, Month, Reply, Share, View};
use crate::kernel::{Context, Currency, Decision, Entity, Error, codec};

/// The counts of one shard's objects. At most a line per plan and state, and one per month and currency.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Census {
    view: View,
}

impl Entity for Census {
    const KIND: &'static str = "census";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, _: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::GetCensus => Ok(Decision::reply(Reply::Census(Box::new(self.view.clone())))),
            Command::Record { revision, .. } if revision != self.view.revision => Ok(Decision::reply(Reply::Stale)),
            Command::Record { changes, .. } => record(changes),
            Command::Complete if self.view.complete => Ok(Decision::reply(Reply::Done)),
            Command::Complete => Ok(Decision::reply(Reply::Done).event(Event::Completed)),
            Command::Clear => {
                let revision = self.view.revision + 1;
                Ok(Decision::reply(Reply::Done).event(Event::Cleared { revision }).purge())
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Recorded { changes } => {
                self.view.revision += 1;
                for change in changes {
                    if let Some(old) = &change.old {
                        self.view.count(old, -1);
                    }
                    self.view.count(&change.new, 1);
                }
                self.view.plans.retain(|_, tally| tally.subscriptions != 0);
            }
            Event::Completed => self.view.complete = true,
            Event::Cleared { revision } => self.view = View { revision: *revision, ..View::default() },
        }
    }
}

fn record(changes: Vec<Change>) -> Result<Decision<Census>, Error> {
    let mut decision = Decision::reply(Reply::Done);
    for change in &changes {
        let share = codec::encode(&change.new).map_err(|_| Error::internal())?;
        decision = decision.row(SHARES, change.id.as_bytes(), Some(share));
    }
    Ok(decision.event(Event::Recorded { changes }))
}

impl View {
    fn month(&mut self, month: &str, currency: Currency) -> &mut Month {
        self.months.entry((month.to_owned(), currency)).or_default()
    }

    /// Puts a share in (`sign` 1) or takes it out (−1).
    pub(super) fn count(&mut self, share: &Share, sign: i64) {
        match share {
            Share::Subscription { plan_id, plan_name, state, quantity } => {
                let tally = self.plans.entry((plan_id.clone(), *state)).or_default();
                tally.plan_name.clone_from(plan_name);
                tally.subscriptions += sign;
                tally.quantity += sign * quantity;
            }
            Share::Invoice { currency, invoiced, paid, refunded } => {
                if let Some((month, amount)) = invoiced {
                    let month = self.month(month, *currency);
                    month.invoices += sign;
                    month.invoiced += sign * amount;
                }
                if let Some((month, amount)) = paid {
                    self.month(month, *currency).paid += sign * amount;
                }
                for (month, amount) in refunded {
                    self.month(month, *currency).refunded += sign * amount;
                }
            }
        }
    }
}
