//! What can be asked of the catalogue, what it remembers and what it answers. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

use crate::actors::billing::calendar::{Interval, Recurrence};
use crate::actors::billing::quote::Offer;
use crate::kernel::{Currency, Error, Money, Timestamp};

/// Whom a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Those who use robots.
    User,
    /// Those who offer robots or software.
    Provider,
}

/// One way to pay for a plan: `unit_price` every `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub every: Recurrence,
    pub unit_price: Money,
}

/// What an operator says of a plan. `key` is a stable name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub key: String,
    pub name: String,
    pub audience: Audience,
    pub tier: u32,
    pub trial_days: u16,
    pub prices: Vec<Price>,
    pub entitlements: Vec<String>,
}

/// What changes; `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    pub name: Option<String>,
    pub tier: Option<u32>,
    pub trial_days: Option<u16>,
    pub prices: Option<Vec<Price>>,
    pub entitlements: Option<Vec<String>>,
    /// `false` retires the plan: nobody can start it any more.
    pub active: Option<bool>,
}

/// A plan at one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: String,
    pub version: u32,
    pub active: bool,
    pub changed_at: Timestamp,
    pub spec: Spec,
}

impl Plan {
    /// The offer at the price of `interval` (every `count` of them) and `currency`. What is not said is as in the plan's
    /// first price, or in `like`, the price a subscription has now.
    ///
    /// # Errors
    /// A 422 at `/interval` when the plan has no such price.
    pub fn offer(
        &self,
        interval: Option<Interval>,
        count: Option<u16>,
        currency: Option<Currency>,
        like: Option<Price>,
    ) -> Result<Offer, Error> {
        let fits = |price: &&Price, interval: Option<Interval>, count: Option<u16>, currency: Option<Currency>| {
            interval.is_none_or(|wanted| price.every.interval == wanted)
                && count.is_none_or(|wanted| price.every.count == wanted)
                && currency.is_none_or(|wanted| price.unit_price.currency == wanted)
        };
        let preferred = like.and_then(|like| {
            let like_interval = interval.unwrap_or(like.every.interval);
            let same = like_interval == like.every.interval;
            let like_count = count.or(same.then_some(like.every.count));
            let like_currency = currency.unwrap_or(like.unit_price.currency);
            let alike = |price: &&Price| fits(price, Some(like_interval), like_count, Some(like_currency));
            self.spec.prices.iter().find(alike)
        });
        let found = preferred.or_else(|| self.spec.prices.iter().find(|price| fits(price, interval, count, currency)));
        let price = found.ok_or_else(|| Error::invalid("/interval", "the plan has no price like this"))?;
        Ok(Offer {
            plan_id: self.id.clone(),
            plan_version: self.version,
            plan_name: self.spec.name.clone(),
            entitlements: self.spec.entitlements.clone(),
            trial_days: self.spec.trial_days,
            every: price.every,
            unit_price: price.unit_price,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Adds the plans whose keys are not known yet.
    Seed {
        plans: Vec<Spec>,
    },
    CreatePlan(Spec),
    /// `expected_version`: refuse unless this is the plan's version.
    UpdatePlan {
        id: String,
        patch: Patch,
        expected_version: Option<u64>,
    },
    GetPlan {
        id: String,
    },
    ListPlans,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The plan is this now: new, or a new version.
    PlanPut(Plan),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Plan(Plan),
    Plans(Vec<Plan>),
}
