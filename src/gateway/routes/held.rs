//! Effects that wait for an operator, on the admin listener: after a restore, what the old cluster may have sent.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, ShardId};

/// Effects decided about by one request at most.
const AT_ONCE: usize = 256;
const DEADLINE: Duration = Duration::from_secs(40);

/// Endpoints of the admin listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/held-effects", "listHeldEffects")
            .summary(
                "Mails, texts and pushes that the cluster before this one may have sent: they wait for an operator",
            )
            .description("At most 256 of each shard; the next ones show once these are decided.")
            .tag("operations")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(DEADLINE)
            .response::<HeldList>(200, "What is held")
            .handle(list),
        Endpoint::post("/admin/v1/held-effects/release", "releaseHeldEffects")
            .summary("Let held effects happen")
            .tag("operations")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(DEADLINE)
            .optional_body::<Choice>()
            .response::<Decided>(200, "How many were released")
            .handle(release),
        Endpoint::post("/admin/v1/held-effects/drop", "dropHeldEffects")
            .summary("Give held effects up: whether they happened stays unknown")
            .tag("operations")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(DEADLINE)
            .optional_body::<Choice>()
            .response::<Decided>(200, "How many were dropped")
            .handle(drop_held),
    ]
}

/// An effect that waits for an operator.
#[derive(Debug, Serialize, ToSchema)]
struct HeldView {
    /// `<shard>/<number>`.
    id: String,
    /// `email`, `sms` or `push`.
    provider: &'static str,
    /// The entity that decided it.
    source: String,
    /// The id of the person it is for, if it is for one.
    user_id: Option<String>,
}

/// What is held.
#[derive(Debug, Serialize, ToSchema)]
struct HeldList {
    items: Vec<HeldView>,
    next_cursor: Option<String>,
}

/// Which held effects are meant.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Choice {
    /// Their ids; all when it is not given.
    #[schema(max_items = 256)]
    ids: Option<Vec<String>>,
}

/// What was decided.
#[derive(Debug, Serialize, ToSchema)]
struct Decided {
    done: usize,
    /// Whether others that are meant are left: ask again.
    more: bool,
}

async fn held(call: &Call<impl Sized>) -> Result<Vec<(ShardId, HeldView, u64)>, Error> {
    let router = &call.services.router;
    let mut all = Vec::new();
    for shard in router.shard_ids() {
        for effect in router.held(shard, 0).await? {
            let view = HeldView {
                id: format!("{shard}/{}", effect.number),
                provider: effect.provider.as_str(),
                source: effect.source.to_string(),
                user_id: effect.subject,
            };
            all.push((shard, view, effect.number));
        }
    }
    Ok(all)
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let items = held(&call).await?.into_iter().map(|(_, view, _)| view).collect();
    Ok(Reply::ok(&HeldList { items, next_cursor: None }))
}

async fn decide(call: Call<Choice>, release: bool) -> Result<Reply, Error> {
    let chosen = call.body.ids.as_ref();
    if chosen.is_some_and(|ids| ids.len() > AT_ONCE) {
        return Err(Error::invalid("/ids", format!("at most {AT_ONCE} at once")));
    }
    let meant = |view: &HeldView| chosen.is_none_or(|ids| ids.contains(&view.id));
    let all = held(&call).await?.into_iter().filter(|(_, view, _)| meant(view)).collect::<Vec<_>>();
    let more = all.len() > AT_ONCE;
    let mut done = 0;
    for (shard, _, number) in all.into_iter().take(AT_ONCE) {
        done += usize::from(call.services.router.decide_held(shard, number, release).await?);
    }
    tracing::info!(done, release, "an operator decided about held effects");
    Ok(Reply::ok(&Decided { done, more }))
}

async fn release(call: Call<Choice>) -> Result<Reply, Error> {
    decide(call, true).await
}

async fn drop_held(call: Call<Choice>) -> Result<Reply, Error> {
    decide(call, false).await
}
