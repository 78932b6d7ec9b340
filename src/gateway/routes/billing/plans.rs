//! The plan catalogue.

use serde::Deserialize;
use utoipa::ToSchema;

use super::views::{PlanView, PriceView, unexpected};
use crate::actors::billing::plans::{self, Audience, Catalogue, Command, Patch, Plan, Reply as Answer, Spec};
use crate::actors::billing::terms::check_charged;
use crate::gateway::page::{List, PageQuery};
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, Origin, Principal};

/// What it takes to start a plan for providers.
const PROVIDER_PLANS: &str = "provider-plans:subscribe";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/plans", "listPlans")
            .summary("List the plans that the caller can start")
            .description(
                "Without a token: the price list, all plans. With one: plans for users, and those for providers when \
                 its holder has the permission `provider-plans:subscribe`. Holders of `plans:write` see every plan, \
                 also retired ones.",
            )
            .tag("billing")
            .access(Access::Public)
            .limit(LimitClass::Read)
            .query::<PlanQuery>()
            .response::<List<PlanView>>(200, "The plans that can be started")
            .handle(list_plans),
        Endpoint::get("/v1/plans/{id}", "getPlan")
            .summary("Read a plan")
            .tag("billing")
            .access(Access::Public)
            .limit(LimitClass::Read)
            .response::<PlanView>(200, "The plan at its current version")
            .problem(404)
            .handle(get_plan),
        Endpoint::post("/v1/plans", "createPlan")
            .summary("Add a plan")
            .tag("billing")
            .access(Access::Permission("plans:write"))
            .body::<CreatePlan>()
            .response::<PlanView>(201, "The new plan")
            .problem(409)
            .handle(create_plan),
        Endpoint::patch("/v1/plans/{id}", "updatePlan")
            .summary("Make a new version of a plan")
            .description("Running subscriptions keep the version they were started or last changed with.")
            .tag("billing")
            .access(Access::Permission("plans:write"))
            .body::<UpdatePlan>()
            .response::<PlanView>(200, "The plan at its new version")
            .problem(404)
            .problem(412)
            .handle(update_plan),
    ]
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PlanQuery {
    /// Only plans for these.
    audience: Option<Audience>,
    /// How many items to answer at most, 1 to 100; 20 when it is not given.
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    #[schema(format = "cursor")]
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreatePlan {
    /// A stable name: lower-case letters, digits, `-` and `_`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[a-z0-9_-]+$")]
    key: String,
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    audience: Audience,
    #[serde(default)]
    tier: u32,
    #[serde(default)]
    #[schema(maximum = 730)]
    trial_days: u16,
    #[schema(min_items = 1, max_items = 40)]
    prices: Vec<PriceView>,
    #[serde(default)]
    #[schema(max_items = 100)]
    entitlements: Vec<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdatePlan {
    #[schema(min_length = 1, max_length = 100)]
    name: Option<String>,
    tier: Option<u32>,
    #[schema(maximum = 730)]
    trial_days: Option<u16>,
    #[schema(min_items = 1, max_items = 40)]
    prices: Option<Vec<PriceView>>,
    #[schema(max_items = 100)]
    entitlements: Option<Vec<String>>,
    /// `false` retires the plan: nobody can start it any more.
    active: Option<bool>,
}

async fn list_plans(call: Call<()>) -> Result<Reply, Error> {
    let query: PlanQuery = call.query()?;
    let answer = call.services.router.ask::<Catalogue>(&plans::id(), Command::ListPlans, &call.origin).await?;
    let Answer::Plans(plans) = answer else { return Err(unexpected()) };
    let (all, anyone) = (call.may("plans:write"), call.principal == Principal::Anonymous);
    let shown = plans.iter().filter(|plan| all || (plan.active && (anyone || is_for(&call, plan))));
    let shown = shown.filter(|plan| query.audience.is_none_or(|audience| audience == plan.spec.audience));
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    Ok(Reply::ok(&List::part(shown.map(PlanView::from).collect(), &page, call.list())?))
}

async fn get_plan(call: Call<()>) -> Result<Reply, Error> {
    let plan = read_plan(&call.services.router, call.param("id"), &call.origin).await?;
    Ok(shown(200, &plan))
}

async fn create_plan(call: Call<CreatePlan>) -> Result<Reply, Error> {
    let CreatePlan { key, name, audience, tier, trial_days, prices, entitlements } = call.body;
    let prices: Vec<_> = prices.into_iter().map(Into::into).collect();
    check_charged(&call.services.settings, &prices)?;
    let spec = Spec { key, name, audience, tier, trial_days, prices, entitlements };
    let answer = call.services.router.ask::<Catalogue>(&plans::id(), Command::CreatePlan(spec), &call.origin).await?;
    let Answer::Plan(plan) = answer else { return Err(unexpected()) };
    Ok(shown(201, &plan))
}

async fn update_plan(call: Call<UpdatePlan>) -> Result<Reply, Error> {
    let (id, expected_version) = (call.param("id").to_owned(), call.expected_version()?);
    let UpdatePlan { name, tier, trial_days, prices, entitlements, active } = call.body;
    let prices: Option<Vec<_>> = prices.map(|prices| prices.into_iter().map(Into::into).collect());
    check_charged(&call.services.settings, prices.as_deref().unwrap_or_default())?;
    let patch = Patch { name, tier, trial_days, prices, entitlements, active };
    let command = Command::UpdatePlan { id, patch, expected_version };
    let answer = call.services.router.ask::<Catalogue>(&plans::id(), command, &call.origin).await?;
    let Answer::Plan(plan) = answer else { return Err(unexpected()) };
    Ok(shown(200, &plan))
}

/// Whether the caller may start this plan: everyone uses robots, not everyone offers them.
fn is_for<B>(call: &Call<B>, plan: &Plan) -> bool {
    match plan.spec.audience {
        Audience::User => true,
        Audience::Provider => call.may(PROVIDER_PLANS),
    }
}

/// # Errors
/// A 422 at `/plan_id` when the plan is not for the caller.
pub(super) fn check_audience<B>(call: &Call<B>, plan: &Plan) -> Result<(), Error> {
    if is_for(call, plan) {
        return Ok(());
    }
    Err(Error::invalid("/plan_id", format!("the plan is for providers; it needs the permission {PROVIDER_PLANS}")))
}

fn shown(status: u16, plan: &Plan) -> Reply {
    Reply::json(status, &PlanView::from(plan)).etag(u64::from(plan.version))
}

/// A plan of the catalogue.
///
/// # Errors
/// `not_found`, or that the catalogue cannot be reached.
pub(super) async fn read_plan(
    router: &crate::actors::runtime::Router,
    id: &str,
    origin: &Origin,
) -> Result<Plan, Error> {
    let command = Command::GetPlan { id: id.to_owned() };
    let answer = router.ask::<Catalogue>(&plans::id(), command, &super::wait::reading(origin)).await?;
    let Answer::Plan(plan) = answer else { return Err(unexpected()) };
    Ok(plan)
}
