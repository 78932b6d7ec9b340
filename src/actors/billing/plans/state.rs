//! The catalogue: seeding, new plans, new versions, and what makes a plan valid.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Patch, Plan, Reply, Spec};
use crate::actors::billing::proration::MOST_AMOUNT;
use crate::kernel::id::type_id;
use crate::kernel::{Context, Decision, Entity, Error, ErrorCode, Slot, Timestamp};

/// The most plans a catalogue holds.
pub const MOST_PLANS: usize = 1000;
const MOST_PRICES: usize = 40;
const MOST_ENTITLEMENTS: usize = 100;

/// All plans, in the order they were made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Catalogue {
    plans: Vec<Plan>,
}

/// The public id of the plan with this key: the same on every node and after every start.
#[must_use]
pub fn plan_id_of_key(key: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("plan:{key}").as_bytes());
    let mut random = [0; 8];
    random.copy_from_slice(&digest.as_ref()[..8]);
    type_id("pln", Timestamp::ZERO, Slot::of(key), random)
}

impl Entity for Catalogue {
    const KIND: &'static str = "plans";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Seed { plans } => self.seed(plans, context),
            Command::CreatePlan(spec) => self.create(spec, context),
            Command::UpdatePlan { id, patch, expected_version } => self.update(&id, patch, expected_version, context),
            Command::GetPlan { id } => Ok(Decision::reply(Reply::Plan(self.plan(&id)?.clone()))),
            Command::ListPlans => Ok(Decision::reply(Reply::Plans(self.plans.clone()))),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::PlanPut(plan) = event;
        match self.plans.iter_mut().find(|known| known.id == plan.id) {
            Some(known) => *known = plan.clone(),
            None => self.plans.push(plan.clone()),
        }
    }
}

impl Catalogue {
    fn plan(&self, id: &str) -> Result<&Plan, Error> {
        self.plans.iter().find(|plan| plan.id == id).ok_or_else(|| Error::not_found("plan"))
    }

    fn seed(&self, specs: Vec<Spec>, context: &Context) -> Result<Decision<Self>, Error> {
        let mut known: HashSet<String> = self.plans.iter().map(|plan| plan.spec.key.clone()).collect();
        let mut events = Vec::new();
        for spec in specs {
            if !known.insert(spec.key.clone()) {
                continue;
            }
            check(&spec)?;
            self.room(events.len() + 1)?;
            events.push(Event::PlanPut(first_version(spec, context)));
        }
        let mut decision = Decision::reply(Reply::Plans(Vec::new()));
        decision.events = events;
        if !decision.events.is_empty() {
            decision = decision.audit(context, "plans.seeded", "catalogue", "ok");
        }
        Ok(decision)
    }

    fn create(&self, spec: Spec, context: &Context) -> Result<Decision<Self>, Error> {
        check(&spec)?;
        self.room(1)?;
        if self.plans.iter().any(|plan| plan.spec.key == spec.key) {
            return Err(Error::conflict("There is a plan with this key already."));
        }
        let plan = first_version(spec, context);
        Ok(Decision::reply(Reply::Plan(plan.clone()))
            .audit(context, "plan.created", &plan.id, "ok")
            .event(Event::PlanPut(plan)))
    }

    fn update(
        &self,
        id: &str,
        patch: Patch,
        expected_version: Option<u64>,
        context: &Context,
    ) -> Result<Decision<Self>, Error> {
        let plan = self.plan(id)?;
        if expected_version.is_some_and(|expected| expected != u64::from(plan.version)) {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The plan was changed in the meantime."));
        }
        let mut next = plan.clone();
        let Patch { name, tier, trial_days, prices, entitlements, active } = patch;
        next.spec.name = name.unwrap_or(next.spec.name);
        next.spec.tier = tier.unwrap_or(next.spec.tier);
        next.spec.trial_days = trial_days.unwrap_or(next.spec.trial_days);
        next.spec.prices = prices.unwrap_or(next.spec.prices);
        next.spec.entitlements = entitlements.unwrap_or(next.spec.entitlements);
        next.active = active.unwrap_or(next.active);
        check(&next.spec)?;
        if next == *plan {
            return Ok(Decision::reply(Reply::Plan(next)));
        }
        next.version += 1;
        next.changed_at = context.now;
        Ok(Decision::reply(Reply::Plan(next.clone()))
            .audit(context, "plan.updated", id, "ok")
            .event(Event::PlanPut(next)))
    }

    fn room(&self, more: usize) -> Result<(), Error> {
        if self.plans.len() + more <= MOST_PLANS {
            return Ok(());
        }
        Err(Error::conflict(format!("The catalogue holds at most {MOST_PLANS} plans.")))
    }
}

fn first_version(spec: Spec, context: &Context) -> Plan {
    Plan { id: plan_id_of_key(&spec.key), version: 1, active: true, changed_at: context.now, spec }
}

fn check(spec: &Spec) -> Result<(), Error> {
    let named = |text: &str, most: usize| (1..=most).contains(&text.trim().chars().count());
    let key_letters = spec.key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if !named(&spec.key, 64) || !key_letters {
        return Err(Error::invalid("/key", "expected 1 to 64 lower-case letters, digits, - or _"));
    }
    if !named(&spec.name, 100) {
        return Err(Error::invalid("/name", "expected 1 to 100 characters"));
    }
    if spec.trial_days > 730 {
        return Err(Error::invalid("/trial_days", "expected 0 to 730"));
    }
    if spec.prices.is_empty() || spec.prices.len() > MOST_PRICES {
        return Err(Error::invalid("/prices", format!("expected 1 to {MOST_PRICES} prices")));
    }
    let mut seen = HashSet::new();
    for (index, price) in spec.prices.iter().enumerate() {
        let at = |member: &str| format!("/prices/{index}/{member}");
        price.every.check(&at("interval_count"))?;
        if !(0..=MOST_AMOUNT).contains(&price.unit_price.amount) {
            return Err(Error::invalid(&at("unit_price/amount"), format!("expected 0 to {MOST_AMOUNT}")));
        }
        if !price.unit_price.currency.is_money() {
            return Err(Error::invalid(&at("unit_price/currency"), "expected a currency that people pay in"));
        }
        if !seen.insert((price.every, price.unit_price.currency)) {
            return Err(Error::invalid(&at("interval"), "there is a price for this interval and currency already"));
        }
    }
    let entitled = spec.entitlements.iter().all(|text| named(text, 100));
    if !entitled || spec.entitlements.len() > MOST_ENTITLEMENTS {
        let expected = format!("expected at most {MOST_ENTITLEMENTS} texts of 1 to 100 characters");
        return Err(Error::invalid("/entitlements", expected));
    }
    Ok(())
}
