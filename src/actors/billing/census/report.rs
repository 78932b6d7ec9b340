//! All censuses together.

use serde::Serialize;
use utoipa::ToSchema;

use super::protocol::{Command, Reply, View};
use super::{Census, Taker};
use crate::actors::billing::subscription;
use crate::actors::runtime::Router;
use crate::actors::runtime::feed::behind;
use crate::kernel::{Currency, Error, Origin, Timestamp};

/// Subscriptions of one plan in one state.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanCount {
    pub plan_id: String,
    pub plan_name: String,
    pub state: subscription::State,
    pub subscriptions: i64,
    /// Seats of them all.
    pub quantity: i64,
}

/// One month (UTC) in one currency; amounts in minor units.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct MonthCount {
    #[schema(example = "2026-01")]
    pub month: String,
    #[schema(value_type = String, example = "USD")]
    pub currency: Currency,
    /// Invoices issued in that month, without those that are void.
    pub invoices: i64,
    /// What they asked for.
    pub invoiced: i64,
    /// What was paid in that month, whenever it was invoiced.
    pub paid: i64,
    /// What was given back in that month.
    pub refunded: i64,
}

/// How billing stands.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BillingReport)]
pub struct Report {
    #[schema(value_type = String, format = DateTime)]
    pub generated_at: Timestamp,
    /// Changes of subscriptions and invoices that are not counted yet.
    pub behind: u64,
    /// By plan and state.
    pub subscriptions: Vec<PlanCount>,
    /// Oldest first.
    pub months: Vec<MonthCount>,
}

/// # Errors
/// `unavailable` when a census cannot be read now.
pub async fn report(router: &Router, taker: &Taker, origin: &Origin) -> Result<Report, Error> {
    let (mut sum, mut uncounted) = (View::default(), 0);
    for replica in router.replicas() {
        uncounted += behind(replica.state(), taker)?;
        let id = super::id(replica.id());
        let Reply::Census(view) = router.ask::<Census>(&id, Command::GetCensus, origin).await? else {
            return Err(Error::internal());
        };
        add(&mut sum, *view);
    }
    let plans = sum.plans.into_iter().map(|((plan_id, state), tally)| PlanCount {
        plan_id,
        plan_name: tally.plan_name,
        state,
        subscriptions: tally.subscriptions,
        quantity: tally.quantity,
    });
    let months = sum.months.into_iter().map(|((month, currency), of)| MonthCount {
        month,
        currency,
        invoices: of.invoices,
        invoiced: of.invoiced,
        paid: of.paid,
        refunded: of.refunded,
    });
    let (subscriptions, months) = (plans.collect(), months.collect());
    Ok(Report { generated_at: router.now(), behind: uncounted, subscriptions, months })
}

fn add(sum: &mut View, view: View) {
    for (key, tally) in view.plans {
        let all = sum.plans.entry(key).or_default();
        all.plan_name = tally.plan_name;
        all.subscriptions += tally.subscriptions;
        all.quantity += tally.quantity;
    }
    for (key, month) in view.months {
        let all = sum.months.entry(key).or_default();
        all.invoices += month.invoices;
        all.invoiced += month.invoiced;
        all.paid += month.paid;
        all.refunded += month.refunded;
    }
}
