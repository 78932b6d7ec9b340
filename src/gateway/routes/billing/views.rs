//! The JSON shapes of billing. Amounts are minor units; absent things are null.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::billing::calendar::{Interval, Recurrence};
use crate::actors::billing::invoice::{self, AttemptStatus, RefundState, RefundStatus};
use crate::actors::billing::plans::{Audience, Plan, Price};
use crate::actors::billing::proration::Line;
use crate::actors::billing::subscription::{self, Preview};
use crate::actors::billing::wallet::{Method, MethodStatus};
use crate::actors::compliance::Texts;
use crate::kernel::{Currency, Error, Money, Timestamp};

/// An amount of money.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// In minor units: cents for USD.
    pub amount: i64,
    /// ISO 4217.
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", format = "currency", example = "USD")]
    pub currency: Currency,
}

impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        Self { amount: money.amount, currency: money.currency }
    }
}

fn one() -> u16 {
    1
}

/// One way to pay for a plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceView {
    pub interval: Interval,
    /// Every so many intervals; 1 when not said.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 3650)]
    pub interval_count: u16,
    pub unit_price: Amount,
}

impl From<&Price> for PriceView {
    fn from(price: &Price) -> Self {
        Self { interval: price.every.interval, interval_count: price.every.count, unit_price: price.unit_price.into() }
    }
}

impl From<PriceView> for Price {
    fn from(view: PriceView) -> Self {
        let Amount { amount, currency } = view.unit_price;
        Self {
            every: Recurrence { interval: view.interval, count: view.interval_count },
            unit_price: Money::new(amount, currency),
        }
    }
}

/// A plan at its current version.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanView {
    id: String,
    /// A stable name of its own.
    key: String,
    name: String,
    audience: Audience,
    /// Higher is more.
    tier: u32,
    trial_days: u16,
    prices: Vec<PriceView>,
    entitlements: Vec<String>,
    /// Grows with every change; subscriptions keep the version they were started with.
    version: u32,
    /// Whether it can be started.
    active: bool,
}

impl From<&Plan> for PlanView {
    fn from(plan: &Plan) -> Self {
        Self {
            id: plan.id.clone(),
            key: plan.spec.key.clone(),
            name: plan.spec.name.clone(),
            audience: plan.spec.audience,
            tier: plan.spec.tier,
            trial_days: plan.spec.trial_days,
            prices: plan.spec.prices.iter().map(PriceView::from).collect(),
            entitlements: plan.spec.entitlements.clone(),
            version: plan.version,
            active: plan.active,
        }
    }
}

/// A payment method as it may be shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct PaymentMethodView {
    id: String,
    /// The payment processor that keeps it.
    provider: String,
    /// `ready`, or `pending` while the processor has not answered.
    status: &'static str,
    brand: Option<String>,
    last4: Option<String>,
    /// Year and month, such as `2034-12`.
    expires: Option<String>,
    default: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl PaymentMethodView {
    #[must_use]
    pub fn new(method: &Method, provider: &str, default: bool) -> Self {
        let card = match &method.status {
            MethodStatus::Ready(card) => Some(card),
            MethodStatus::Pending | MethodStatus::Failed(_) => None,
        };
        Self {
            id: method.id.clone(),
            provider: provider.to_owned(),
            status: if card.is_some() { "ready" } else { "pending" },
            brand: card.map(|card| card.brand.clone()),
            last4: card.map(|card| card.last4.clone()),
            expires: card.map(|card| format!("{:04}-{:02}", card.expires_year, card.expires_month)),
            default,
            created_at: method.added_at,
        }
    }
}

/// A change that takes effect once its invoice is paid.
#[derive(Debug, Serialize, ToSchema)]
pub struct PendingChangeView {
    plan_id: String,
    quantity: i64,
    invoice_id: Option<String>,
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriptionView {
    id: String,
    plan_id: String,
    plan_version: u32,
    plan_name: String,
    state: subscription::State,
    quantity: i64,
    unit_price: Amount,
    interval: Interval,
    interval_count: u16,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    current_period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    current_period_end: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    trial_end: Option<Timestamp>,
    /// When it will end, or ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    cancel_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    canceled_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    paused_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_invoice_at: Option<Timestamp>,
    payment_method_id: Option<String>,
    latest_invoice_id: Option<String>,
    pending_change: Option<PendingChangeView>,
    /// Credit from earlier changes, in minor units; the next invoices use it up.
    credit: i64,
    version: u64,
}

impl From<&subscription::View> for SubscriptionView {
    fn from(view: &subscription::View) -> Self {
        let invoice_id = view.settling.as_ref().map(|settling| settling.invoice_id.clone());
        Self {
            id: view.id.clone(),
            plan_id: view.offer.plan_id.clone(),
            plan_version: view.offer.plan_version,
            plan_name: view.offer.plan_name.clone(),
            state: view.state,
            quantity: view.quantity,
            unit_price: view.offer.unit_price.into(),
            interval: view.offer.every.interval,
            interval_count: view.offer.every.count,
            started_at: view.started_at,
            current_period_start: view.period.start,
            current_period_end: view.period.end,
            trial_end: view.trial_end,
            cancel_at: view.cancel_at,
            canceled_at: view.canceled_at,
            paused_at: view.paused_at,
            next_invoice_at: view.next_invoice_at,
            payment_method_id: view.method_id.clone(),
            latest_invoice_id: view.last_invoice_id.clone(),
            pending_change: view.pending.as_ref().map(|pending| PendingChangeView {
                plan_id: pending.offer.plan_id.clone(),
                quantity: pending.quantity,
                invoice_id,
            }),
            credit: view.balance,
            version: view.version,
        }
    }
}

/// A line of an invoice or preview.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineView {
    description: String,
    quantity: i64,
    amount: i64,
    #[schema(value_type = String, format = DateTime)]
    period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    period_end: Timestamp,
}

impl From<&Line> for LineView {
    fn from(line: &Line) -> Self {
        Self {
            description: line.description.clone(),
            quantity: line.quantity,
            amount: line.amount,
            period_start: line.period.start,
            period_end: line.period.end,
        }
    }
}

/// What an invoice will be, to the minor unit.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewView {
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", format = "currency")]
    currency: Currency,
    subtotal: i64,
    tax: i64,
    total: i64,
    amount_due: i64,
    lines: Vec<LineView>,
    #[schema(value_type = String, format = DateTime)]
    period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    period_end: Timestamp,
    /// Send it with the change to be charged exactly this.
    #[schema(value_type = String, format = DateTime)]
    prorate_at: Timestamp,
    /// When the invoice would be issued.
    #[schema(value_type = String, format = DateTime)]
    invoice_at: Timestamp,
    credit_before: i64,
    credit_after: i64,
}

impl From<&Preview> for PreviewView {
    fn from(preview: &Preview) -> Self {
        let quote = &preview.quote;
        Self {
            currency: quote.currency,
            subtotal: quote.subtotal,
            tax: quote.tax,
            total: quote.total,
            amount_due: quote.total,
            lines: quote.lines.iter().map(LineView::from).collect(),
            period_start: quote.period.start,
            period_end: quote.period.end,
            prorate_at: preview.prorate_at,
            invoice_at: preview.invoice_at,
            credit_before: quote.balance_before,
            credit_after: quote.balance_after,
        }
    }
}

/// What the payer has to do before an attempt can succeed.
#[derive(Debug, Serialize, ToSchema)]
pub struct NextActionView {
    /// `three_d_secure`.
    r#type: &'static str,
    /// For the processor's own client library.
    client_secret: String,
}

/// An attempt to collect an invoice.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptView {
    number: u32,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `in_progress`, `unknown`, `requires_action`, `processing`, `failed` or `succeeded`.
    status: &'static str,
    decline_code: Option<String>,
    payment_method_id: Option<String>,
}

/// An invoice.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvoiceView {
    id: String,
    /// Gapless within its series; null while it is a draft.
    number: Option<String>,
    state: invoice::State,
    subscription_id: String,
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", format = "currency")]
    currency: Currency,
    subtotal: i64,
    tax: i64,
    total: i64,
    amount_due: i64,
    amount_refunded: i64,
    lines: Vec<LineView>,
    #[schema(value_type = String, format = DateTime)]
    period_start: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    period_end: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    issued_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    paid_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    next_action: Option<NextActionView>,
    attempts: Vec<AttemptView>,
    /// Payments that nothing was owed for (any more), on their way back or back.
    returns: Vec<ReturnView>,
}

/// A payment that goes back.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReturnView {
    amount: i64,
    status: RefundStatus,
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
}

impl From<&invoice::Return> for ReturnView {
    fn from(back: &invoice::Return) -> Self {
        Self { amount: back.amount, status: back.status, received_at: back.at }
    }
}

impl From<&invoice::View> for InvoiceView {
    fn from(view: &invoice::View) -> Self {
        let quote = &view.draft.quote;
        let returned = view.refunds.iter().filter(|refund| refund.status == RefundStatus::Succeeded);
        let open = matches!(view.state, invoice::State::Open | invoice::State::Uncollectible);
        let next_action = match view.attempts.last().map(|attempt| &attempt.status) {
            Some(AttemptStatus::Pending { client_secret: Some(secret) }) if open => {
                Some(NextActionView { r#type: "three_d_secure", client_secret: secret.clone() })
            }
            _ => None,
        };
        Self {
            id: view.id.clone(),
            number: view.number.clone(),
            state: view.state,
            subscription_id: view.draft.subscription_id.clone(),
            currency: quote.currency,
            subtotal: quote.subtotal,
            tax: quote.tax,
            total: quote.total,
            amount_due: view.amount_due(),
            amount_refunded: returned.map(|refund| refund.amount).sum(),
            lines: quote.lines.iter().map(LineView::from).collect(),
            period_start: quote.period.start,
            period_end: quote.period.end,
            created_at: view.created_at,
            issued_at: view.issued_at,
            paid_at: view.paid_at,
            next_attempt_at: view.next_attempt_at,
            next_action,
            attempts: view.attempts.iter().map(attempt).collect(),
            returns: view.returns.iter().map(ReturnView::from).collect(),
        }
    }
}

fn attempt(attempt: &invoice::Attempt) -> AttemptView {
    let (status, decline_code) = match &attempt.status {
        AttemptStatus::Resolving | AttemptStatus::Charging => ("in_progress", None),
        AttemptStatus::Unknown => ("unknown", None),
        AttemptStatus::Pending { client_secret: Some(_) } => ("requires_action", None),
        AttemptStatus::Pending { client_secret: None } => ("processing", None),
        AttemptStatus::Failed { code } => ("failed", Some(code.clone())),
        AttemptStatus::Succeeded => ("succeeded", None),
    };
    let (number, at, payment_method_id) = (attempt.number, attempt.at, attempt.method_id.clone());
    AttemptView { number, at, status, decline_code, payment_method_id }
}

/// Where the reasons of an invoice's refunds lie.
pub fn reason_place(invoice_id: &str) -> String {
    format!("reason of a refund of {invoice_id}")
}

/// Money given back; a credit note once it has a number.
#[derive(Debug, Serialize, ToSchema)]
pub struct RefundView {
    id: String,
    number: Option<String>,
    invoice_id: String,
    amount: Amount,
    /// Sealed under the payer's key; empty once they were erased.
    reason: String,
    status: RefundStatus,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl RefundView {
    #[must_use]
    pub fn new(refund: &RefundState, invoice_id: &str, currency: Currency, texts: &Texts) -> Self {
        Self {
            id: refund.id.clone(),
            number: refund.number.clone(),
            invoice_id: invoice_id.to_owned(),
            amount: Money::new(refund.amount, currency).into(),
            reason: texts.open(&reason_place(invoice_id), &refund.reason),
            status: refund.status,
            created_at: refund.at,
        }
    }
}

/// A reply of another kind than the command has.
pub fn unexpected() -> Error {
    tracing::error!("an entity answered with a reply of another command");
    Error::internal()
}
