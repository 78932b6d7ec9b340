//! The routes to other services of the platform, read and changed while the node serves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::identity::roles::permission::PERMISSIONS;
use crate::actors::routes::{self, Command, Reply as Answer, RouteView, Routes, Spec};
use crate::gateway::page::{List, PageQuery};
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::Error;
use crate::settings::{Route, route_faults};

/// Endpoints of the admin listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/routes", "listRoutes")
            .summary("The routes to other services, by name")
            .operations()
            .query::<PageQuery>()
            .response::<List<RouteBody>>(200, "The routes")
            .handle(list),
        Endpoint::get("/admin/v1/routes/{name}", "getRoute")
            .summary("A route to other services")
            .operations()
            .response::<RouteBody>(200, "The route")
            .problem(404)
            .handle(get),
        Endpoint::put("/admin/v1/routes/{name}", "putRoute")
            .summary("Add a route to other services, or replace it")
            .description(
                "In force on every node within a second; calls under way end as they began. Honours `If-Match`.",
            )
            .operations()
            .body::<RouteInput>()
            .response::<RouteBody>(200, "The route after it")
            .problem(409)
            .problem(412)
            .handle(put),
        Endpoint::delete("/admin/v1/routes/{name}", "deleteRoute")
            .summary("Delete a route to other services")
            .description("A configured route stays deleted, also after a restart. Honours `If-Match`.")
            .operations()
            .no_content(204, "Nothing is forwarded by it any more")
            .problem(404)
            .problem(412)
            .handle(delete),
    ]
}

const fn timeout_ms() -> u64 {
    15_000
}

const fn retries() -> u32 {
    1
}

fn access() -> String {
    "user".to_owned()
}

/// Which requests go where, and who may send them.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RouteInput)]
struct RouteInput {
    /// Begins with `/`; or empty, with a host.
    #[serde(default)]
    #[schema(max_length = 512, example = "/catalogue/")]
    prefix: String,
    /// Only requests for this host, when it is not empty.
    #[serde(default)]
    #[schema(max_length = 253)]
    host: String,
    /// `http://HOST[:PORT][/PATH]`; requests go to them in turn.
    #[schema(min_items = 1, max_items = 64)]
    upstreams: Vec<String>,
    /// `public`, `user`, or a permission.
    #[serde(default = "access")]
    #[schema(max_length = 64)]
    access: String,
    /// Whether the upstream sees the path without the prefix.
    #[serde(default)]
    strip_prefix: bool,
    #[serde(default = "timeout_ms")]
    #[schema(minimum = 10, maximum = 3_600_000)]
    timeout_ms: u64,
    /// Of safe requests, on another upstream.
    #[serde(default = "retries")]
    #[schema(maximum = 5)]
    retries: u32,
    /// Asked now and then; an upstream that answers 400 or more gets no requests. Empty: not asked.
    #[serde(default)]
    #[schema(max_length = 512)]
    health_path: String,
    /// Whether WebSocket connections pass through.
    #[serde(default)]
    websocket: bool,
}

/// A route as it is in force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Route)]
struct RouteBody {
    name: String,
    prefix: String,
    host: String,
    upstreams: Vec<String>,
    access: String,
    strip_prefix: bool,
    timeout_ms: u64,
    retries: u32,
    health_path: String,
    websocket: bool,
    /// As configured; a changed configuration changes it at the next start.
    seeded: bool,
    version: u64,
}

impl From<RouteView> for RouteBody {
    fn from(view: RouteView) -> Self {
        let RouteView { route, seeded, version } = view;
        let Spec { name, prefix, host, upstreams, access, strip_prefix, timeout_ms, retries, health_path, websocket } =
            route;
        Self {
            name,
            prefix,
            host,
            upstreams,
            access,
            strip_prefix,
            timeout_ms,
            retries,
            health_path,
            websocket,
            seeded,
            version,
        }
    }
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let routes = routes::list(&call.services.router, &call.origin).await?;
    Ok(Reply::ok(&List::part(routes.into_iter().map(RouteBody::from).collect(), &call.query()?, call.list())?))
}

async fn ask<B>(call: &Call<B>, command: Command) -> Result<Answer, Error> {
    call.services.router.ask::<Routes>(&routes::id(), command, &call.origin).await
}

fn shown(answer: Answer) -> Result<Reply, Error> {
    let Answer::Route(view) = answer else { return Err(Error::internal()) };
    let version = view.version;
    Ok(Reply::ok(&RouteBody::from(view)).etag(version))
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    shown(ask(&call, Command::GetRoute { name: call.param("name").to_owned() }).await?)
}

async fn put(call: Call<RouteInput>) -> Result<Reply, Error> {
    let (version, body) = (call.expected_version()?, call.body.clone());
    let route = Route {
        name: call.param("name").to_owned(),
        prefix: body.prefix,
        host: body.host,
        upstreams: body.upstreams,
        access: body.access,
        strip_prefix: body.strip_prefix,
        timeout_ms: body.timeout_ms,
        retries: body.retries,
        health_path: body.health_path,
        websocket: body.websocket,
    };
    if let Some((member, detail)) = route_faults(&route).into_iter().next() {
        return Err(Error::invalid(&format!("/{member}"), detail));
    }
    let named = matches!(route.access.as_str(), "public" | "user") || PERMISSIONS.contains(&route.access.as_str());
    if !named {
        return Err(Error::invalid("/access", "expected \"public\", \"user\" or one of the declared permissions"));
    }
    shown(ask(&call, Command::PutRoute { route: Spec::from(&route), version }).await?)
}

async fn delete(call: Call<()>) -> Result<Reply, Error> {
    let (name, version) = (call.param("name").to_owned(), call.expected_version()?);
    ask(&call, Command::DeleteRoute { name, version }).await?;
    Ok(Reply::empty(204))
}
