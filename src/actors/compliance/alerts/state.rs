//! The state machine of alerts.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::detect::{detect, is_recent};
use super::protocol::{Alert, Command, Detection, Event, Reply, Seen};
use crate::kernel::{Context, Decision, Entity, Error, ShardId, Timestamp};

/// Acts remembered for counting, and alerts kept.
const MAX_RECENT: usize = 2_000;
const MAX_ALERTS: usize = 500;
/// Acts of an open alert add to it for this long after the last one; then they raise another.
const SAME_ALERT_MINUTES: i64 = 60;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    offsets: BTreeMap<ShardId, u64>,
    recent: VecDeque<Seen>,
    /// Oldest first.
    alerts: VecDeque<Alert>,
}

impl Entity for Alerts {
    const KIND: &'static str = "alerts";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::GetOffsets => {
                let offsets = self.offsets.iter().map(|(shard, offset)| (*shard, *offset)).collect();
                Ok(Decision::reply(Reply::Offsets(offsets)))
            }
            Command::Report { shard, from, upto, seen } => self.report(shard, from, upto, seen, context),
            Command::List => Ok(Decision::reply(Reply::Alerts(self.alerts.iter().rev().cloned().collect()))),
            Command::Acknowledge { id } => self.acknowledge(&id, context),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Reported { shard, upto, seen } => {
                self.offsets.insert(*shard, *upto);
                for seen in seen {
                    self.remember(seen.clone());
                }
            }
            Event::Raised { alert } => {
                if self.alerts.len() >= MAX_ALERTS {
                    self.alerts.pop_front();
                }
                self.alerts.push_back(alert.clone());
            }
            Event::Grown { id, at } => {
                if let Some(alert) = self.alerts.iter_mut().find(|alert| alert.id == *id) {
                    alert.last_at = alert.last_at.max(*at);
                    alert.acts += 1;
                }
            }
            Event::Acknowledged { id, by, at } => {
                if let Some(alert) = self.alerts.iter_mut().find(|alert| alert.id == *id) {
                    alert.acknowledged = Some((by.clone(), *at));
                }
            }
        }
    }
}

impl Alerts {
    fn remember(&mut self, seen: Seen) {
        let now = seen.at;
        while self.recent.len() >= MAX_RECENT || self.recent.front().is_some_and(|old| !is_recent(old.at, now)) {
            self.recent.pop_front();
        }
        self.recent.push_back(seen);
    }

    fn report(
        &self,
        shard: ShardId,
        from: u64,
        upto: u64,
        seen: Vec<Seen>,
        context: &Context,
    ) -> Result<Decision<Self>, Error> {
        if self.offsets.get(&shard).copied().unwrap_or(0) != from || upto <= from {
            return Err(Error::conflict("The log was reported from elsewhere; ask for the offsets."));
        }
        let mut after = self.clone();
        let mut events = Vec::new();
        for (number, one) in seen.iter().enumerate() {
            after.remember(one.clone());
            let recent = after.recent.make_contiguous();
            for (detection, subject) in detect(recent) {
                let event = match after.open(detection, &subject, one.at) {
                    Some(id) => Event::Grown { id, at: one.at },
                    None => Event::Raised { alert: raise(detection, subject, one, number, context) },
                };
                after.apply(&event);
                events.push(event);
            }
        }
        let mut decision = Decision::reply(Reply::Done).event(Event::Reported { shard, upto, seen });
        decision.events.extend(events);
        Ok(decision)
    }

    /// The alert of this sort that one more act adds to.
    fn open(&self, detection: Detection, subject: &str, at: Timestamp) -> Option<String> {
        let same = |alert: &&Alert| {
            alert.detection == detection
                && alert.subject == subject
                && alert.acknowledged.is_none()
                && alert.last_at >= at.plus_minutes(-SAME_ALERT_MINUTES)
        };
        self.alerts.iter().rev().find(same).map(|alert| alert.id.clone())
    }

    fn acknowledge(&self, id: &str, context: &Context) -> Result<Decision<Self>, Error> {
        let alert = self.alerts.iter().find(|alert| alert.id == id).ok_or_else(|| Error::not_found("alert"))?;
        if alert.acknowledged.is_some() {
            return Ok(Decision::reply(Reply::Alert(alert.clone())));
        }
        let (by, at) = (context.origin.principal.audit_name().to_owned(), context.now);
        let acknowledged = Alert { acknowledged: Some((by.clone(), at)), ..alert.clone() };
        let event = Event::Acknowledged { id: id.to_owned(), by, at };
        Ok(Decision::reply(Reply::Alert(acknowledged)).event(event).audit(context, "alert.acknowledge", id, "ok"))
    }
}

fn raise(detection: Detection, subject: String, seen: &Seen, number: usize, context: &Context) -> Alert {
    Alert {
        id: context.new_id("alt", &format!("{number}:{detection:?}")),
        detection,
        subject,
        first_at: seen.at,
        last_at: seen.at,
        acts: 1,
        shard: seen.shard,
        index: seen.index,
        acknowledged: None,
    }
}
