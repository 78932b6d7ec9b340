//! Subscriptions of the caller, and what they entitle to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::payment_methods::read_method;
use super::plans::{self, read_plan};
use super::views::{PreviewView, SubscriptionView, unexpected};
use super::wait::{self, Seen};
use crate::actors::billing::calendar::Interval;
use crate::actors::billing::invoice::{self, AttemptStatus, Reason};
use crate::actors::billing::plans::Price;
use crate::actors::billing::subscription::{
    self, CancelAt, ChangeRequest, Command, Reply as Answer, StartRequest, State, Subscription, View,
};
use crate::actors::billing::terms::terms;
use crate::actors::billing::wallet::{self, MethodStatus, Wallet};
use crate::actors::runtime::{Page, Router, Scope};
use crate::gateway::page::{List, OwnedQuery};
use crate::gateway::{Call, Endpoint, IdempotencyRule, LimitClass, Reply};
use crate::kernel::{Currency, EntityId, Error, ErrorCode, Origin, Timestamp};
use crate::providers::payment::declined;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let mut endpoints = vec![
        Endpoint::post("/v1/subscriptions", "createSubscription")
            .summary("Start a subscription")
            .description(
                "Answers when the first charge is settled; `incomplete` when it takes longer or needs the payer. Anyone \
                 may start a plan for users; one for providers needs the permission `provider-plans:subscribe`, which \
                 robot builders and developers have, and is refused at `/plan_id` without it.",
            )
            .tag("billing")
            .limit(LimitClass::Money)
            .idempotency(IdempotencyRule::Required)
            .body::<CreateSubscription>()
            .response::<SubscriptionView>(201, "The subscription")
            .problem(402)
            .problem(409)
            .handle(create),
        Endpoint::post("/v1/subscriptions/preview", "previewNewSubscription")
            .summary("What the first invoice of a new subscription would be")
            .tag("billing")
            .body::<CreateSubscription>()
            .response::<PreviewView>(200, "The invoice to the minor unit")
            .handle(preview_new),
        Endpoint::get("/v1/subscriptions", "listSubscriptions")
            .summary("List subscriptions, newest first")
            .tag("billing")
            .others("subscriptions:read")
            .query::<OwnedQuery>()
            .response::<List<SubscriptionView>>(200, "A page of subscriptions")
            .handle(list),
        Endpoint::get("/v1/subscriptions/{id}", "getSubscription")
            .summary("Read a subscription")
            .tag("billing")
            .others("subscriptions:read")
            .response::<SubscriptionView>(200, "The subscription")
            .problem(404)
            .handle(get),
        Endpoint::get("/v1/entitlements", "listEntitlements")
            .summary("What my running subscriptions entitle me to")
            .tag("billing")
            .response::<List<EntitlementView>>(200, "By subscription")
            .handle(entitlements),
    ];
    endpoints.extend(acts());
    endpoints
}

fn acts() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/subscriptions/{id}/preview", "previewSubscription")
            .summary("What a change would cost now; without a change, the next invoice")
            .tag("billing")
            .others("subscriptions:read")
            .optional_body::<ChangeSubscription>()
            .response::<PreviewView>(200, "The invoice to the minor unit")
            .problem(404)
            .problem(409)
            .handle(preview),
        Endpoint::post("/v1/subscriptions/{id}/change", "changeSubscription")
            .summary("Change plan, price, quantity or payment method")
            .description("A change that costs takes effect when it is paid; a declined one changes nothing.")
            .tag("billing")
            .others("subscriptions:write")
            .limit(LimitClass::Money)
            .idempotency(IdempotencyRule::Required)
            .body::<ChangeSubscription>()
            .response::<SubscriptionView>(200, "The subscription")
            .problem(402)
            .problem(404)
            .problem(409)
            .problem(412)
            .handle(change),
        Endpoint::post("/v1/subscriptions/{id}/cancel", "cancelSubscription")
            .summary("Cancel now or at the end of the period")
            .tag("billing")
            .others("subscriptions:write")
            .optional_body::<CancelSubscription>()
            .response::<SubscriptionView>(200, "The subscription")
            .problem(404)
            .handle(cancel),
        Endpoint::post("/v1/subscriptions/{id}/pause", "pauseSubscription")
            .summary("Stop the clock of a subscription")
            .tag("billing")
            .others("subscriptions:write")
            .response::<SubscriptionView>(200, "The subscription")
            .problem(404)
            .problem(409)
            .handle(pause),
        Endpoint::post("/v1/subscriptions/{id}/resume", "resumeSubscription")
            .summary("Go on after a pause, or take back a scheduled cancellation")
            .tag("billing")
            .others("subscriptions:write")
            .response::<SubscriptionView>(200, "The subscription")
            .problem(404)
            .problem(409)
            .handle(resume),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateSubscription {
    plan_id: String,
    /// The default payment method when not said.
    payment_method_id: Option<String>,
    /// Seats; 1 when not said.
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: Option<i64>,
    coupon: Option<String>,
    /// Which of the plan's prices; the first that fits when not said.
    interval: Option<Interval>,
    /// Of the prices that recur every so many intervals.
    #[schema(minimum = 1, maximum = 3650)]
    interval_count: Option<u16>,
    #[schema(value_type = Option<String>, pattern = "^[A-Z]{3}$", format = "currency")]
    currency: Option<Currency>,
    /// `false` starts without the plan's trial, `true` is refused when the caller has tried the plan before. When neither
    /// is said, a plan that was tried is charged at once.
    trial: Option<bool>,
}

#[derive(Debug, Default, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeSubscription {
    plan_id: Option<String>,
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: Option<i64>,
    /// As it is when not said.
    interval: Option<Interval>,
    /// As it is when neither this nor another interval is said.
    #[schema(minimum = 1, maximum = 3650)]
    interval_count: Option<u16>,
    payment_method_id: Option<String>,
    /// `prorate_at` of a preview of the last 15 minutes: charges exactly what it said.
    #[schema(value_type = Option<String>, format = DateTime)]
    prorate_at: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CancelSubscription {
    /// `period_end` when not said.
    at: Option<CancelAt>,
}

/// One thing a subscription entitles to.
#[derive(Debug, Serialize, ToSchema)]
struct EntitlementView {
    /// As the plan says it, such as `robots:5`.
    entitlement: String,
    subscription_id: String,
    plan_id: String,
    quantity: i64,
    /// Until then at least.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
}

/// A subscription as the caller may see it.
pub(super) async fn read(router: &Router, id: &str, origin: &Origin) -> Result<View, Error> {
    ask(router, id, Command::GetSubscription, &wait::reading(origin)).await
}

async fn ask(router: &Router, id: &str, command: Command, origin: &Origin) -> Result<View, Error> {
    match router.ask::<Subscription>(&subscription::id(id), command, origin).await? {
        Answer::Subscription(view) => Ok(*view),
        Answer::Preview(_) | Answer::Done => Err(unexpected()),
    }
}

fn shown(status: u16, view: &View) -> Reply {
    Reply::json(status, &SubscriptionView::from(view)).etag(view.version)
}

/// The body as a request, everything it names looked up.
async fn start_request(call: &Call<CreateSubscription>) -> Result<StartRequest, Error> {
    let (body, services) = (&call.body, &call.services);
    let user_id = call.user_id()?.to_owned();
    if body.coupon.is_some() {
        return Err(Error::invalid("/coupon", "there is no such coupon"));
    }
    let plan = read_plan(&services.router, &body.plan_id, &call.origin).await.map_err(|error| match error.code {
        ErrorCode::NotFound => Error::invalid("/plan_id", "there is no such plan"),
        _ => error,
    })?;
    if !plan.active {
        return Err(Error::invalid("/plan_id", "the plan is retired"));
    }
    plans::check_audience(call, &plan)?;
    let usual = services.settings.billing.currency;
    let has_usual = plan.spec.prices.iter().any(|price| price.unit_price.currency == usual);
    let currency = body.currency.or(has_usual.then_some(usual));
    let mut offer = plan.offer(body.interval, body.interval_count, currency, None)?;
    if body.trial == Some(false) {
        offer.trial_days = 0;
    }
    let quantity = body.quantity.unwrap_or(1);
    offer.priced(quantity).whole()?;
    if let Some(method_id) = &body.payment_method_id {
        known_method(&services.router, &user_id, method_id, &call.origin).await?;
    }
    let (method_id, terms) = (body.payment_method_id.clone(), terms(&services.settings));
    Ok(StartRequest { user_id, offer, quantity, method_id, terms })
}

pub(super) async fn known_method(
    router: &Router,
    user_id: &str,
    method_id: &str,
    origin: &Origin,
) -> Result<(), Error> {
    match read_method(router, user_id, method_id, origin).await {
        Ok((method, _)) if matches!(method.status, MethodStatus::Ready(_)) => Ok(()),
        Ok(_) => Err(Error::invalid("/payment_method_id", "the payment method is still being added")),
        Err(error) if error.code == ErrorCode::NotFound => {
            Err(Error::invalid("/payment_method_id", "there is no such payment method"))
        }
        Err(error) => Err(error),
    }
}

/// The trials of a person by plan, and of which subscription they are.
async fn trials(router: &Router, user_id: &str, origin: &Origin) -> Result<Vec<wallet::Trial>, Error> {
    let list = wallet::Command::ListTrials;
    match router.ask::<Wallet>(&wallet::id(user_id), list, &wait::reading(origin)).await? {
        wallet::Reply::Trials(trials) => Ok(trials),
        _ => Err(unexpected()),
    }
}

fn tried_before() -> Error {
    Error::invalid("/trial", "the plan was tried before")
}

async fn preview_new(call: Call<CreateSubscription>) -> Result<Reply, Error> {
    let mut request = start_request(&call).await?;
    if request.offer.trial_days > 0 {
        let trials = trials(&call.services.router, &request.user_id, &call.origin).await?;
        if trials.iter().any(|trial| trial.plan_id == request.offer.plan_id) {
            if call.body.trial == Some(true) {
                return Err(tried_before());
            }
            request.offer.trial_days = 0;
        }
    }
    let preview = subscription::preview_start(&request, call.services.clock.now())?;
    Ok(Reply::ok(&PreviewView::from(&preview)))
}

async fn create(call: Call<CreateSubscription>) -> Result<Reply, Error> {
    let mut request = start_request(&call).await?;
    let router = &call.services.router;
    let wallet = wallet::id(&request.user_id);
    let opened = router.ask::<Wallet>(&wallet, wallet::Command::OpenSubscription, &call.origin).await?;
    let wallet::Reply::Opened { id } = opened else { return Err(unexpected()) };
    if request.offer.trial_days > 0 && !take_trial(router, &wallet, &request.offer.plan_id, &id, &call.origin).await? {
        if call.body.trial == Some(true) {
            let ended = wallet::Command::SubscriptionEnded { id };
            router.ask::<Wallet>(&wallet, ended, &wait::reading(&call.origin)).await?;
            return Err(tried_before());
        }
        request.offer.trial_days = 0;
    }
    let view = ask(router, &id, Command::Start(Box::new(request)), &call.origin).await?;
    let Some(settling) = view.settling.clone() else { return Ok(shown(201, &view)) };
    let view = settled(router, view, &settling.invoice_id, &call.origin).await?;
    if view.state == State::Incomplete
        && let Some(code) = decline_code(router, &settling.invoice_id, &call.origin).await?
        && code != invoice::NO_PAYMENT_METHOD
    {
        return Err(declined(&code));
    }
    Ok(shown(201, &view))
}

/// Whether the subscription may be on trial; a repeat is answered as the first time.
async fn take_trial(
    router: &Router,
    wallet: &EntityId,
    plan_id: &str,
    subscription_id: &str,
    origin: &Origin,
) -> Result<bool, Error> {
    let (plan_id, subscription_id) = (plan_id.to_owned(), subscription_id.to_owned());
    let take = wallet::Command::TakeTrial { plan_id, subscription_id };
    match router.ask::<Wallet>(wallet, take, &wait::reading(origin)).await? {
        wallet::Reply::Trial(may) => Ok(may),
        _ => Err(unexpected()),
    }
}

/// The subscription once this invoice no longer holds it up, or waits for somebody outside.
async fn settled(router: &Router, view: View, invoice_id: &str, origin: &Origin) -> Result<View, Error> {
    let id = view.id;
    let look = || async {
        let view = read(router, &id, origin).await?;
        if view.settling.is_none() {
            return Ok(Seen::Done(view));
        }
        // The invoice comes into being a moment after the subscription says so.
        let invoice = match super::invoices::read(router, invoice_id, origin).await {
            Ok(invoice) => invoice,
            Err(error) if error.code == ErrorCode::NotFound => return Ok(Seen::NotYet(view)),
            Err(error) => return Err(error),
        };
        let stuck = invoice.state == invoice::State::Open
            && invoice.attempts.last().is_some_and(|attempt| {
                matches!(attempt.status, AttemptStatus::Failed { .. } | AttemptStatus::Pending { .. })
            });
        Ok(if stuck { Seen::Done(view) } else { Seen::NotYet(view) })
    };
    wait::until(look).await
}

/// Why this invoice was not paid, once that is certain.
async fn decline_code(router: &Router, invoice_id: &str, origin: &Origin) -> Result<Option<String>, Error> {
    match super::invoices::read(router, invoice_id, origin).await {
        Ok(invoice) => Ok(invoice.decline_code().map(str::to_owned)),
        Err(error) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let query: OwnedQuery = call.query()?;
    let (router, user_id) = (&call.services.router, call.owner(query.user_id.as_deref())?);
    let (limit, after) = (query.page().limit()?, query.page().after(call.list())?);
    let prefix = format!("{user_id}/");
    let page = Page { after, limit: limit + 1, reverse: true };
    let scope = Scope::ShardOf(wallet::id(user_id));
    let found = router.scan(scope, subscription::INDEX, prefix.as_bytes(), page).await?;
    let mut items = Vec::with_capacity(found.len());
    for (key, _) in found {
        let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        let view = read(router, &id, &call.origin).await?;
        items.push((key, SubscriptionView::from(&view)));
    }
    Ok(Reply::ok(&List::page(items, limit, call.list())))
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    Ok(shown(200, &read(&call.services.router, call.param("id"), &call.origin).await?))
}

/// The body as a change of `view`, everything it names looked up.
async fn change_request(call: &Call<ChangeSubscription>, view: &View) -> Result<ChangeRequest, Error> {
    let (router, origin) = (&call.services.router, &call.origin);
    let ChangeSubscription { plan_id, quantity, interval, interval_count, payment_method_id, prorate_at } =
        call.body.clone();
    let like = Price { every: view.offer.every, unit_price: view.offer.unit_price };
    let mut offer = None;
    let other_plan = plan_id.as_ref().is_some_and(|id| *id != view.offer.plan_id);
    let other_interval = interval.is_some_and(|interval| interval != view.offer.every.interval)
        || interval_count.is_some_and(|count| count != view.offer.every.count);
    if other_plan || other_interval {
        let wanted = plan_id.as_deref().unwrap_or(&view.offer.plan_id);
        let plan = read_plan(router, wanted, origin).await.map_err(|error| match error.code {
            ErrorCode::NotFound => Error::invalid("/plan_id", "there is no such plan"),
            _ => error,
        })?;
        if !plan.active {
            return Err(Error::invalid("/plan_id", "the plan is retired"));
        }
        if other_plan {
            plans::check_audience(call, &plan)?;
        }
        let mut other = plan.offer(interval, interval_count, Some(view.offer.unit_price.currency), Some(like))?;
        if other_plan && view.state == State::Trialing {
            let trials = trials(router, &view.user_id, origin).await?;
            let elsewhere = |trial: &wallet::Trial| trial.plan_id == other.plan_id && trial.subscription_id != view.id;
            if trials.iter().any(elsewhere) {
                other.trial_days = 0;
            }
        }
        offer = Some(other);
    }
    if let Some(method_id) = &payment_method_id {
        known_method(router, &view.user_id, method_id, origin).await?;
    }
    Ok(ChangeRequest { offer, quantity, method_id: payment_method_id, prorate_at })
}

async fn preview(call: Call<ChangeSubscription>) -> Result<Reply, Error> {
    let (router, id) = (&call.services.router, call.param("id"));
    let view = read(router, id, &call.origin).await?;
    let request = change_request(&call, &view).await?;
    let command = Command::PreviewChange(request);
    let origin = wait::reading(&call.origin);
    let Answer::Preview(preview) = router.ask::<Subscription>(&subscription::id(id), command, &origin).await? else {
        return Err(unexpected());
    };
    Ok(Reply::ok(&PreviewView::from(&*preview)))
}

async fn change(call: Call<ChangeSubscription>) -> Result<Reply, Error> {
    let (router, id) = (&call.services.router, call.param("id"));
    let before = read(router, id, &call.origin).await?;
    call.check_if_match(before.version)?;
    let request = change_request(&call, &before).await?;
    let view = ask(router, id, Command::Change(request), &call.origin).await?;
    let settling = view.settling.clone().filter(|settling| settling.reason == Reason::Change);
    let Some(settling) = settling else { return Ok(shown(200, &view)) };
    let view = settled(router, view, &settling.invoice_id, &call.origin).await?;
    if view.settling.is_none()
        && let Some(code) = decline_code(router, &settling.invoice_id, &call.origin).await?
    {
        return Err(declined(&code));
    }
    Ok(shown(200, &view))
}

async fn cancel(call: Call<CancelSubscription>) -> Result<Reply, Error> {
    let at = call.body.at.unwrap_or(CancelAt::PeriodEnd);
    act(&call, Command::Cancel { at }).await
}

async fn pause(call: Call<()>) -> Result<Reply, Error> {
    act(&call, Command::Pause).await
}

async fn resume(call: Call<()>) -> Result<Reply, Error> {
    act(&call, Command::Resume).await
}

async fn act<B>(call: &Call<B>, command: Command) -> Result<Reply, Error> {
    let (router, id) = (&call.services.router, call.param("id"));
    if call.if_match().is_some() {
        call.check_if_match(read(router, id, &call.origin).await?.version)?;
    }
    Ok(shown(200, &ask(router, id, command, &call.origin).await?))
}

async fn entitlements(call: Call<()>) -> Result<Reply, Error> {
    let (router, user_id) = (&call.services.router, call.user_id()?);
    let list = wallet::Command::ListSubscriptions;
    let answer = router.ask::<Wallet>(&wallet::id(user_id), list, &call.origin).await?;
    let wallet::Reply::Subscriptions(ids) = answer else { return Err(unexpected()) };
    let mut items = Vec::new();
    for id in ids {
        let view = match read(router, &id, &call.origin).await {
            Ok(view) => view,
            // Its id was given out, but it was never started.
            Err(error) if error.code == ErrorCode::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !matches!(view.state, State::Trialing | State::Active | State::PastDue) {
            continue;
        }
        items.extend(view.offer.entitlements.iter().map(|entitlement| EntitlementView {
            entitlement: entitlement.clone(),
            subscription_id: id.clone(),
            plan_id: view.offer.plan_id.clone(),
            quantity: view.quantity,
            until: view.period.end,
        }));
    }
    Ok(Reply::ok(&List::whole(items)))
}
