//! What billing tells a person, through the delivery service. Each is an effect of the decision it reports, so it is
//! sent exactly when that decision is durable, and once.

use crate::actors::notifications::delivery::{self, Category, Delivery, SendRequest};
use crate::kernel::{Context, Effect, EntityId, Money, Timestamp};

use super::calendar::Period;

/// A notification about `user_id`'s billing. `label` tells the notices of one decision apart.
fn notice(context: &Context, label: &str, user_id: &str, template: &str, data: &[(&str, &str)]) -> Effect {
    let id = EntityId::new("delivery", &context.new_id("ntf", label));
    let request = SendRequest::template(user_id, Category::Billing, template, data);
    Effect::tell::<Delivery>(id, &delivery::Command::Send(request), "")
}

/// The day of a time, as it is shown.
fn day(at: Timestamp) -> String {
    at.to_string()[..10].to_owned()
}

/// What an invoice's notices show of it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub user_id: &'a str,
    pub plan: &'a str,
    pub number: &'a str,
    pub invoice_id: &'a str,
    pub total: Money,
    pub period: Period,
}

/// The invoice is paid.
#[must_use]
pub fn receipt(context: &Context, about: About<'_>) -> Effect {
    let (total, start, end) = (about.total.to_string(), day(about.period.start), day(about.period.end));
    let data = [
        ("plan", about.plan),
        ("total", total.as_str()),
        ("number", about.number),
        ("invoice_id", about.invoice_id),
        ("period_start", start.as_str()),
        ("period_end", end.as_str()),
    ];
    notice(context, "receipt", about.user_id, "receipt", &data)
}

/// A payment failed for `reason`; `next_attempt` says when it is tried again, if it is.
#[must_use]
pub fn payment_failed(context: &Context, about: About<'_>, reason: &str, next_attempt: Option<Timestamp>) -> Effect {
    let (total, reason) = (about.total.to_string(), reason.replace('_', " "));
    let next_attempt = next_attempt.map(day).unwrap_or_default();
    let data = [
        ("plan", about.plan),
        ("total", total.as_str()),
        ("number", about.number),
        ("invoice_id", about.invoice_id),
        ("reason", reason.as_str()),
        ("next_attempt", next_attempt.as_str()),
    ];
    notice(context, "payment_failed", about.user_id, "payment_failed", &data)
}

/// The trial of `plan` ends at `trial_end`; then `total` is charged.
#[must_use]
pub fn trial_ending(context: &Context, user_id: &str, plan: &str, trial_end: Timestamp, total: Money) -> Effect {
    let (trial_end, total) = (day(trial_end), total.to_string());
    let data = [("plan", plan), ("trial_end", trial_end.as_str()), ("total", total.as_str())];
    notice(context, "trial_ending", user_id, "trial_ending", &data)
}

/// The subscription to `plan` is over, or will be at `ends_at`.
#[must_use]
pub fn subscription_canceled(
    context: &Context,
    user_id: &str,
    plan: &str,
    ends_at: Option<Timestamp>,
    reason: &str,
) -> Effect {
    let ends_at = ends_at.map(day).unwrap_or_default();
    let data = [("plan", plan), ("ends_at", ends_at.as_str()), ("reason", reason)];
    notice(context, "subscription_canceled", user_id, "subscription_canceled", &data)
}
