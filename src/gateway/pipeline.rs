//! The way of every request: table, caller, limit, access, body, idempotency, handler, answer.
//!
//! Invariants: nothing is read from a caller who may not call; a handler that may change something runs to its end or
//! its deadline even when its client is gone, so that an answer under an `Idempotency-Key` is always recorded; a panic in
//! a handler is one 500 and nothing more.

mod passing;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{ALLOW, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderName, Method};
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::admission::{Admission, Class, Permit};
use super::auth::{Authenticator, Caller, OperatorToken, SourceKey, bearer, challenge};
use super::call::{Call, Params, Upgrade};
use super::cors::Cors;
use super::exchange::Exchange;
use super::forwarded::TrustedProxies;
use super::idempotency::{Begun, Requests, Scope};
use super::pace::Pace;
use super::rate_limit::RateLimits;
use super::registry::{Access, BodyKind, Declaration, Endpoint, IdempotencyRule, LimitClass, Prepared};
use super::reply::{Reply, problem};
use super::request::{BodyBudget, BodyStream, Head, Request, read_body};
use super::server::App;
use super::services::Services;
use super::table::{Found, Table, TableError};
use super::upstream::Upstreams;
use crate::kernel::{Error, ErrorCode, Origin, Principal, fail_point};
use crate::settings::{Route, Settings};
use crate::telemetry;

/// Bodies of the largest size that are in memory at once.
const BODIES_AT_LIMIT: usize = 64;

/// What a gateway is made of.
pub struct Parts {
    pub endpoints: Vec<Endpoint>,
    pub services: Arc<Services>,
    pub authenticator: Arc<dyn Authenticator>,
    pub operator: Arc<OperatorToken>,
    /// The secret behind the pseudonyms of addresses; the same on every node.
    pub source_key: Vec<u8>,
    pub requests: Arc<Requests>,
    /// Upstreams behind this listener, to begin with.
    pub routes: Vec<Route>,
    /// Cancelled when the node begins to shut down.
    pub draining: CancellationToken,
}

/// Why a gateway cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("gateway.trusted_proxies: {0}")]
    Proxies(String),
    #[error("gateway.routes: {0}")]
    Routes(String),
}

/// One listener's endpoints and everything that stands before them.
pub struct Gateway {
    me: Weak<Gateway>,
    table: Table,
    services: Arc<Services>,
    authenticator: Arc<dyn Authenticator>,
    operator: Arc<OperatorToken>,
    source_key: SourceKey,
    proxies: TrustedProxies,
    cors: Cors,
    limits: RateLimits,
    upstreams: Upstreams,
    requests: Arc<Requests>,
    admission: Arc<Admission>,
    refusals: Pace,
    bodies: BodyBudget,
    draining: CancellationToken,
    max_body_bytes: usize,
    body_timeout: Duration,
    request_timeout: Duration,
}

/// A request on its way through, once its endpoint is known.
pub(super) struct Passage<'g> {
    pub(super) endpoint: &'g Endpoint,
    pub(super) params: Params,
    pub(super) head: Arc<Head>,
    pub(super) caller: Caller,
    pub(super) body: Bytes,
    pub(super) upgrade: Option<OnUpgrade>,
}

/// What a request has of the gateway's bounds, until its handler ends.
pub(super) struct Held {
    pub(super) _place: Option<Permit>,
    pub(super) _bytes: Option<OwnedSemaphorePermit>,
}

impl Gateway {
    /// # Errors
    /// [`GatewayError`] when the endpoints contradict each other or a setting cannot be read.
    pub fn new(parts: Parts) -> Result<Arc<Self>, GatewayError> {
        let settings: &Settings = &parts.services.settings;
        let table = Table::new(parts.endpoints)?;
        let proxies = TrustedProxies::new(&settings.gateway.trusted_proxies).map_err(GatewayError::Proxies)?;
        let cors = Cors::new(&settings.gateway.cors_origins);
        let limits = RateLimits::new(&settings.limits);
        let upstreams = Upstreams::new(&parts.routes, &parts.draining).map_err(GatewayError::Routes)?;
        let admission = Admission::new(settings.gateway.max_in_flight);
        let bodies = BodyBudget::new(settings.gateway.max_body_bytes.saturating_mul(BODIES_AT_LIMIT));
        let (max_body_bytes, body) = (settings.gateway.max_body_bytes, settings.gateway.body_timeout_ms);
        let request_timeout = Duration::from_millis(settings.gateway.request_timeout_ms);
        let max_connections = settings.gateway.max_connections;
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            table,
            services: parts.services,
            authenticator: parts.authenticator,
            operator: parts.operator,
            source_key: SourceKey::new(&parts.source_key),
            proxies,
            cors,
            limits,
            upstreams,
            requests: parts.requests,
            admission,
            refusals: Pace::new(max_connections),
            bodies,
            draining: parts.draining,
            max_body_bytes,
            body_timeout: Duration::from_millis(body),
            request_timeout,
        }))
    }

    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    #[must_use]
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Cancelled when the node begins to shut down; long-lived connections close then.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Replaces the routes to other services.
    ///
    /// # Errors
    /// What is wrong with one of them; then all stay as they were.
    pub fn set_routes(&self, routes: &[Route]) -> Result<(), String> {
        self.upstreams.set(routes)
    }

    /// Who holds this bearer token.
    ///
    /// # Errors
    /// `unauthenticated`, or `unavailable` when that cannot be found out.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        if self.operator.matches(bearer) {
            return Ok(Caller::operator());
        }
        self.authenticator.authenticate(bearer).await
    }

    /// Who a caller is by now that was let in with this token.
    ///
    /// # Errors
    /// As [`Gateway::authenticate`].
    pub async fn still(&self, principal: &Principal, bearer: &str) -> Result<Caller, Error> {
        if self.operator.matches(bearer) {
            return Ok(Caller::operator());
        }
        self.authenticator.still(principal, bearer).await
    }

    async fn answer(
        &self,
        head: &Arc<Head>,
        body: BodyStream,
        upgrade: Option<OnUpgrade>,
        exchange: &mut Exchange,
        seen: &mut Seen,
    ) -> Result<Reply, Error> {
        let (endpoint, params) = match self.table.find(&head.method, &head.path) {
            Found::Endpoint(endpoint, params) => (endpoint, params),
            Found::Methods(allow) => return Ok(other_method(head, exchange, seen, allow)),
            Found::Nothing => return self.pass_on(head, body, upgrade, exchange, seen).await,
        };
        let declaration = &endpoint.declaration;
        seen.endpoint = Some(endpoint.clone());
        telemetry::Scope::set_operation(declaration.operation);
        tracing::Span::current().record("operation", declaration.operation);
        let place = self.admit(declaration.class())?;
        let caller = self.identify(head, declaration.access, exchange).await?;
        self.limit(declaration.limit, &caller, exchange)?;
        caller.check(declaration.access)?;
        let (body, held) = match (declaration.body, &declaration.method) {
            (BodyKind::None, &Method::GET | &Method::DELETE) => (Bytes::new(), Held { _place: place, _bytes: None }),
            _ => {
                // A body that drips in takes a connection and its own bytes, not a place that others wait for.
                drop(place);
                let limit = declaration.body_limit.unwrap_or(self.max_body_bytes);
                let body = read_body(head, body, limit, self.body_timeout, &self.bodies).await?;
                (body.bytes, Held { _place: self.admit(declaration.class())?, _bytes: body.held })
            }
        };
        let (params, head) = (params, head.clone());
        let passage = Passage { endpoint: &endpoint, params, head, caller, body, upgrade };
        self.carry_out(passage, exchange, held).await
    }

    /// A place among the requests in flight.
    pub(super) fn admit(&self, class: Class) -> Result<Option<Permit>, Error> {
        self.admission.admit(class)
    }

    /// Who calls. Where anyone may, a bad token is no token.
    async fn identify(&self, head: &Head, access: Access, exchange: &mut Exchange) -> Result<Caller, Error> {
        let Some(token) = bearer(head) else { return Ok(Caller::anonymous()) };
        match self.authenticate(token).await {
            Ok(caller) => Ok(caller),
            Err(_) if access == Access::Public => Ok(Caller::anonymous()),
            Err(error) => {
                if error.code == ErrorCode::Unauthenticated {
                    self.limit(LimitClass::Auth, &Caller::anonymous(), exchange)?;
                }
                Err(error)
            }
        }
    }

    /// Counts the call: credentials by address, everything else by whoever calls.
    pub(super) fn limit(&self, class: LimitClass, caller: &Caller, exchange: &mut Exchange) -> Result<(), Error> {
        let key = match (&caller.principal, class) {
            (Principal::User { id, .. }, class) if class != LimitClass::Auth => id.as_str(),
            (Principal::Operator, class) if class != LimitClass::Auth => "operator",
            _ => exchange.source.as_str(),
        };
        match self.limits.check(class, key) {
            Ok(report) => {
                exchange.limit = report.or(exchange.limit.take());
                Ok(())
            }
            Err(limited) => {
                metrics::counter!("construct_http_limited_total", "class" => format!("{class:?}").to_lowercase())
                    .increment(1);
                let error = Error::from(&limited);
                exchange.limit = Some(limited.report);
                Err(error)
            }
        }
    }

    /// Types the body, takes care of the idempotency key, and runs the handler in a task of its own.
    pub(super) async fn carry_out(
        &self,
        passage: Passage<'_>,
        exchange: &mut Exchange,
        held: Held,
    ) -> Result<Reply, Error> {
        let Passage { endpoint, params, head, caller, body, upgrade } = passage;
        let declaration = &endpoint.declaration;
        if declaration.limit == LimitClass::Auth {
            self.limit_account(&body, exchange)?;
        }
        let scope = scope(declaration, &head, &body, &caller.principal, &exchange.source)?;
        let origin = Origin {
            principal: caller.principal.clone(),
            source: exchange.source.clone(),
            request_id: exchange.request_id.clone(),
            traceparent: Some(exchange.traceparent.clone()),
            idempotency: scope.as_ref().map(|scope| scope.id),
            reaches_all: caller.reaches_others(declaration),
        };
        let deadline = declaration.deadline.unwrap_or(self.request_timeout);
        let changes_nothing = head.is_safe() && scope.is_none();
        let call = Call {
            services: self.services.clone(),
            origin: origin.clone(),
            principal: caller.principal,
            permissions: caller.permissions,
            body: (),
            head,
            params,
            draining: self.draining.clone(),
        };
        let upgrade = match upgrade {
            Some(connection) => Some(Upgrade { connection, gateway: self.me.upgrade().ok_or_else(Error::internal)? }),
            None => None,
        };
        let work = endpoint.prepare(Prepared { call, body, upgrade })?;
        let requests = self.requests.clone();
        fail_point::reach("request.admitted");
        let task = async move {
            let _held = held;
            run(&requests, scope, work, &origin, deadline).await
        };
        let failed = |error: String| {
            tracing::error!(error, "a handler did not finish");
            Err(Error::internal())
        };
        if changes_nothing {
            // Nothing is lost when it ends with its client, so it needs no task of its own.
            let finished = AssertUnwindSafe(task).catch_unwind().await;
            return finished.unwrap_or_else(|_| failed("it panicked".to_owned()));
        }
        let finished = match telemetry::Scope::current() {
            Some(scope) => tokio::spawn(scope.run(task).in_current_span()).await,
            None => tokio::spawn(task.in_current_span()).await,
        };
        finished.unwrap_or_else(|error| failed(error.to_string()))
    }

    fn limit_account(&self, body: &[u8], exchange: &mut Exchange) -> Result<(), Error> {
        let Ok(serde_json::Value::Object(members)) = serde_json::from_slice(body) else { return Ok(()) };
        let account = ["email", "challenge_id", "user_id"].iter().find_map(|name| members.get(*name)?.as_str());
        let Some(account) = account else { return Ok(()) };
        self.limits.check_account(&exchange.source, account).map(drop).map_err(|limited| {
            let error = Error::from(&limited);
            exchange.limit = Some(limited.report);
            error
        })
    }
}

#[async_trait]
impl App for Gateway {
    async fn serve(&self, request: Request) -> Reply {
        let started = Instant::now();
        let Request { head, body, upgrade } = request;
        let source = self.source_key.pseudonym(self.proxies.client(&head));
        let mut exchange = Exchange::begin(&head, source, self.proxies.is_secure(&head));
        let mut seen = Seen::default();
        let scope = telemetry::Scope::new(&exchange.request_id, exchange.trace_id());
        let span = exchange.span(&head);
        let answering = self.answer(&head, body, upgrade, &mut exchange, &mut seen).instrument(span);
        let outcome = scope.run(answering).await;
        if let Err(error) = &outcome
            && matches!(error.code, ErrorCode::Overloaded | ErrorCode::RateLimited)
        {
            let told = Duration::from_secs(error.retry_after_seconds.unwrap_or(1).into());
            self.refusals.wait(told, &self.draining).await;
        }
        let mut reply = outcome.unwrap_or_else(|error| {
            let mut reply = problem(&error, &exchange.request_id);
            if let Some(challenge) = challenge(&error, bearer(&head).is_some()) {
                reply.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            reply
        });
        exchange.finish(&head, &mut reply);
        fail_point::reach("request.before_answer");
        self.cors.apply(&head, seen.allow.as_deref(), &mut reply.headers);
        if self.draining.is_cancelled() && reply.status != 101 {
            reply.headers.insert(HeaderName::from_static("connection"), HeaderValue::from_static("close"));
        }
        seen.count(reply.status.as_u16(), started.elapsed());
        reply
    }
}

/// What is known of a request when its answer is finished.
#[derive(Default)]
struct Seen {
    endpoint: Option<Arc<Endpoint>>,
    upstream: Option<String>,
    allow: Option<String>,
}

impl Seen {
    fn count(self, status: u16, elapsed: Duration) {
        let find = |operation: String| {
            let labels = [("operation", operation), ("status", status.to_string())];
            let calls = metrics::counter!("construct_http_requests_total", &labels);
            (calls, metrics::histogram!("construct_http_request_seconds", &labels))
        };
        if let Some(endpoint) = self.endpoint {
            let operation = endpoint.declaration.operation;
            tracing::debug!(operation, status, elapsed_us = elapsed.as_micros(), "answered");
            return endpoint.calls.record(status, elapsed, |_| find(operation.to_owned()));
        }
        let (calls, seconds) = find(self.upstream.unwrap_or_else(|| "none".to_owned()));
        calls.increment(1);
        seconds.record(elapsed.as_secs_f64());
    }
}

/// The answer to a method that a path does not have: OPTIONS is told which it has, all others are refused.
fn other_method(head: &Head, exchange: &Exchange, seen: &mut Seen, allow: String) -> Reply {
    let mut reply = if head.method == Method::OPTIONS {
        Reply::empty(204)
    } else {
        let error = Error::new(ErrorCode::MethodNotAllowed, format!("This path takes {allow}."));
        problem(&error, &exchange.request_id)
    };
    if let Ok(value) = HeaderValue::from_str(&allow) {
        reply.headers.insert(ALLOW, value);
    }
    seen.allow = Some(allow);
    reply
}

fn scope(
    declaration: &Declaration,
    head: &Head,
    body: &[u8],
    principal: &Principal,
    source: &str,
) -> Result<Option<Scope>, Error> {
    let key = head.headers.get("idempotency-key");
    match (declaration.idempotency, key) {
        (IdempotencyRule::Unused, _) | (IdempotencyRule::Optional, None) => Ok(None),
        (IdempotencyRule::Required, None) => {
            let detail = "Send the header Idempotency-Key: this moves money, and must happen once.";
            Err(Error::new(ErrorCode::Malformed, detail))
        }
        (_, Some(key)) => {
            let key = key.to_str().unwrap_or_default();
            Scope::new(key, head, body, principal, source).map(Some)
        }
    }
}

async fn run(
    requests: &Requests,
    scope: Option<Scope>,
    work: BoxFuture<'static, Result<Reply, Error>>,
    origin: &Origin,
    deadline: Duration,
) -> Result<Reply, Error> {
    let in_time = async {
        let late = |_| {
            let detail = "The deadline passed; whether the request took effect is not known.";
            Err(Error::new(ErrorCode::DeadlineExceeded, detail))
        };
        tokio::time::timeout(deadline, work).await.unwrap_or_else(late)
    };
    let Some(scope) = scope else { return in_time.await };
    let deadline_ms = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    match requests.begin(scope, origin, deadline_ms).await? {
        Begun::Replay(reply) => Ok(reply),
        Begun::Proceed(ticket) => {
            let reply = in_time.await.unwrap_or_else(|error| problem(&error, &origin.request_id));
            fail_point::reach("request.done");
            let answer = ticket.keep(&reply);
            requests.finish(ticket, answer).await;
            Ok(reply)
        }
    }
}
