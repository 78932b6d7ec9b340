//! The declaration of an endpoint: method, path, operation, who may, how often, what goes in and comes out, and the
//! handler behind one type-erased function.
//!
//! ```ignore
//! Endpoint::post("/v1/sessions", "createSession").summary("Sign in").tag("identity")
//!     .access(Access::Public).limit(LimitClass::Auth)
//!     .body::<SignIn>().response::<Tokens>(201, "Signed in").problem(401)
//!     .handle(create_session)
//! ```

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::admission::Class;
use super::call::{Call, Upgrade};
use super::reply::Reply;
use super::request::Head;
use super::validate;
use crate::kernel::{Error, ErrorCode};
use crate::telemetry::Meter;

/// Who may call. Checked in one place, before the body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone; a valid token is still recognized.
    Public,
    /// Any signed-in user.
    User,
    /// Whoever holds the permission.
    Permission(&'static str),
    /// The holder of the administrator token, or a user with the role `administrator`.
    Operator,
}

/// Which of the configured limits counts the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitClass {
    /// Credentials are tried: few, by source and by account.
    Auth,
    /// Calls without an account: documents, webhooks of other systems.
    Public,
    Read,
    Write,
    /// Whatever moves money.
    Money,
    /// Health checks only.
    Unlimited,
}

/// What `Idempotency-Key` means for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdempotencyRule {
    /// Honoured when sent: every POST and PATCH.
    Optional,
    /// Refused without: whatever moves money.
    Required,
    /// Not looked at: methods that are idempotent by themselves, and webhooks with their own deduplication.
    Unused,
}

/// The schema of a type, by function, so that a registry costs nothing until it is documented.
#[derive(Clone, Copy)]
pub struct SchemaOf {
    pub name: fn() -> Cow<'static, str>,
    pub schema: fn() -> RefOr<Schema>,
    pub collect: fn(&mut Vec<(String, RefOr<Schema>)>),
    /// Types of other crates have no name of their own in the document.
    pub inline: bool,
}

impl SchemaOf {
    fn new<T: ToSchema>() -> Self {
        let inline = !std::any::type_name::<T>().starts_with(concat!(env!("CARGO_CRATE_NAME"), "::"));
        Self { name: T::name, schema: T::schema, collect: T::schemas, inline }
    }
}

/// How the body travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    None,
    Json { optional: bool },
    Form,
    Raw(&'static [&'static str]),
}

/// One documented answer.
#[derive(Clone)]
pub struct ResponseSpec {
    pub status: u16,
    pub description: &'static str,
    pub content_type: &'static str,
    pub schema: Option<SchemaOf>,
}

/// A call before its body is typed.
pub struct Prepared {
    pub call: Call<()>,
    pub body: Bytes,
    pub upgrade: Option<Upgrade>,
}

/// Types the body now and answers the work still to do: the future has not started.
type Handler = Arc<dyn Fn(Prepared) -> Result<BoxFuture<'static, Result<Reply, Error>>, Error> + Send + Sync>;

/// Everything declared about an endpoint but its handler.
#[derive(Clone)]
pub struct Declaration {
    pub method: Method,
    /// Segments in braces are parameters: `/v1/users/{id}`.
    pub path: &'static str,
    /// The OpenAPI operationId; also the method name of the WebSocket `rpc`.
    pub operation: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub tag: &'static str,
    pub access: Access,
    /// The permission with which other people's objects are reached through it; without it they do not exist.
    pub others: Option<&'static str>,
    pub limit: LimitClass,
    /// Other than what `limit` says.
    pub class: Option<Class>,
    pub idempotency: IdempotencyRule,
    pub body: BodyKind,
    pub body_schema: Option<SchemaOf>,
    /// Larger or smaller than the listener's limit.
    pub body_limit: Option<usize>,
    /// Longer or shorter than the listener's request deadline.
    pub deadline: Option<Duration>,
    pub query: Option<SchemaOf>,
    pub responses: Vec<ResponseSpec>,
    pub problems: Vec<u16>,
    pub upgrade: bool,
    /// Left out of the OpenAPI document.
    pub hidden: bool,
}

impl Declaration {
    /// What comes first when there are too many requests.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class.unwrap_or(Class::of(self.limit))
    }
}

/// A declared endpoint with its handler.
#[derive(Clone)]
pub struct Endpoint {
    pub declaration: Declaration,
    handler: Handler,
    /// Its calls by status.
    pub(super) calls: Arc<Meter<u16>>,
}

impl Endpoint {
    pub fn get(path: &'static str, operation: &'static str) -> Draft<()> {
        Draft::new(Method::GET, path, operation)
    }

    pub fn post(path: &'static str, operation: &'static str) -> Draft<()> {
        Draft::new(Method::POST, path, operation)
    }

    pub fn put(path: &'static str, operation: &'static str) -> Draft<()> {
        Draft::new(Method::PUT, path, operation)
    }

    pub fn patch(path: &'static str, operation: &'static str) -> Draft<()> {
        Draft::new(Method::PATCH, path, operation)
    }

    pub fn delete(path: &'static str, operation: &'static str) -> Draft<()> {
        Draft::new(Method::DELETE, path, operation)
    }

    /// Types the body; the future that answers has not started yet.
    ///
    /// # Errors
    /// `unsupported_media_type`, `malformed` or `invalid`: nothing was done.
    pub fn prepare(&self, prepared: Prepared) -> Result<BoxFuture<'static, Result<Reply, Error>>, Error> {
        (self.handler)(prepared)
    }
}

/// From the bytes of the body to its declared type.
type Parse<B> = fn(BodyKind, &Head, Bytes) -> Result<B, Error>;

/// An endpoint under declaration; [`Draft::handle`] or [`Draft::upgrade`] completes it.
#[must_use]
pub struct Draft<B> {
    declaration: Declaration,
    parse: Parse<B>,
}

impl Draft<()> {
    fn new(method: Method, path: &'static str, operation: &'static str) -> Self {
        let reads = method == Method::GET;
        let declaration = Declaration {
            path,
            operation,
            summary: "",
            description: "",
            tag: "",
            access: Access::User,
            others: None,
            limit: if reads { LimitClass::Read } else { LimitClass::Write },
            class: None,
            idempotency: match method {
                Method::POST | Method::PATCH => IdempotencyRule::Optional,
                _ => IdempotencyRule::Unused,
            },
            body: BodyKind::None,
            body_schema: None,
            body_limit: None,
            deadline: None,
            query: None,
            responses: Vec::new(),
            problems: Vec::new(),
            upgrade: false,
            hidden: false,
            method,
        };
        Self { declaration, parse: parse_nothing }
    }

    /// A JSON body. Give the type `#[serde(deny_unknown_fields)]`.
    pub fn body<B: DeserializeOwned + ToSchema>(self) -> Draft<B> {
        self.typed(BodyKind::Json { optional: false }, Some(SchemaOf::new::<B>()), parse_json::<B>)
    }

    /// A JSON body that may be left out: then `B::default()`.
    pub fn optional_body<B: DeserializeOwned + ToSchema + Default>(self) -> Draft<B> {
        self.typed(BodyKind::Json { optional: true }, Some(SchemaOf::new::<B>()), parse_optional_json::<B>)
    }

    /// An `application/x-www-form-urlencoded` body, as OAuth has it.
    pub fn form<B: DeserializeOwned + ToSchema>(self) -> Draft<B> {
        self.typed(BodyKind::Form, Some(SchemaOf::new::<B>()), parse_form::<B>)
    }

    /// The bytes as they came, for signed webhooks; `media_types` may be `["*/*"]`. Not searched for card numbers.
    pub fn raw_body(self, media_types: &'static [&'static str]) -> Draft<Bytes> {
        self.typed(BodyKind::Raw(media_types), None, parse_raw)
    }

    fn typed<B>(self, kind: BodyKind, schema: Option<SchemaOf>, parse: Parse<B>) -> Draft<B> {
        let mut declaration = self.declaration;
        declaration.body = kind;
        declaration.body_schema = schema;
        Draft { declaration, parse }
    }

    /// Completes an endpoint that leaves HTTP: the handler answers 101 and then owns the connection.
    pub fn upgrade<F, Fut>(mut self, handler: F) -> Endpoint
    where
        F: Fn(Call<Upgrade>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        self.declaration.upgrade = true;
        let handler: Handler = Arc::new(move |prepared: Prepared| {
            let Some(upgrade) = prepared.upgrade else {
                let detail = "Ask for an upgrade of the connection (RFC 9110 §7.8).";
                return Err(Error::new(ErrorCode::Malformed, detail));
            };
            Ok(handler(prepared.call.with_body(upgrade)).boxed())
        });
        Endpoint { declaration: self.declaration, handler, calls: Arc::new(Meter::new()) }
    }
}

impl<B> Draft<B> {
    pub fn summary(mut self, text: &'static str) -> Self {
        self.declaration.summary = text;
        self
    }

    pub fn description(mut self, text: &'static str) -> Self {
        self.declaration.description = text;
        self
    }

    pub fn tag(mut self, tag: &'static str) -> Self {
        self.declaration.tag = tag;
        self
    }

    /// Who may call; [`Access::User`] when not said.
    pub fn access(mut self, access: Access) -> Self {
        self.declaration.access = access;
        self
    }

    /// What an operator does on the admin listener: counted by no limit.
    pub fn operations(self) -> Self {
        self.tag("operations").access(Access::Operator).limit(LimitClass::Unlimited)
    }

    /// With this permission other people's objects are reached too. Handlers ask [`Call::owner`] and entities
    /// [`Origin::reaches`](crate::kernel::Origin::reaches).
    pub fn others(mut self, permission: &'static str) -> Self {
        self.declaration.others = Some(permission);
        self
    }

    /// Which limit counts it; [`LimitClass::Read`] for GET, else [`LimitClass::Write`], when not said.
    pub fn limit(mut self, class: LimitClass) -> Self {
        self.declaration.limit = class;
        self
    }

    /// What it is to the platform under overload; follows from the limit when not said.
    pub fn class(mut self, class: Class) -> Self {
        self.declaration.class = Some(class);
        self
    }

    /// [`IdempotencyRule::Optional`] for POST and PATCH, else [`IdempotencyRule::Unused`], when not said.
    pub fn idempotency(mut self, rule: IdempotencyRule) -> Self {
        self.declaration.idempotency = rule;
        self
    }

    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.declaration.body_limit = Some(bytes);
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.declaration.deadline = Some(deadline);
        self
    }

    /// Documents the query; the handler reads it with [`Call::query`].
    pub fn query<Q: ToSchema>(mut self) -> Self {
        self.declaration.query = Some(SchemaOf::new::<Q>());
        self
    }

    /// An answer with a JSON body.
    pub fn response<T: ToSchema>(self, status: u16, description: &'static str) -> Self {
        self.answer(status, description, "application/json", Some(SchemaOf::new::<T>()))
    }

    /// An answer without a body.
    pub fn no_content(self, status: u16, description: &'static str) -> Self {
        self.answer(status, description, "", None)
    }

    /// An answer of another media type.
    pub fn content(self, status: u16, description: &'static str, content_type: &'static str) -> Self {
        self.answer(status, description, content_type, None)
    }

    fn answer(
        mut self,
        status: u16,
        description: &'static str,
        content_type: &'static str,
        schema: Option<SchemaOf>,
    ) -> Self {
        self.declaration.responses.push(ResponseSpec { status, description, content_type, schema });
        self
    }

    /// A refusal particular to this endpoint; those of authentication, limits and validation are added by themselves.
    pub fn problem(mut self, status: u16) -> Self {
        self.declaration.problems.push(status);
        self
    }

    pub fn hidden(mut self) -> Self {
        self.declaration.hidden = true;
        self
    }

    /// Completes the endpoint.
    pub fn handle<F, Fut>(self, handler: F) -> Endpoint
    where
        B: Send + 'static,
        F: Fn(Call<B>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let (kind, parse) = (self.declaration.body, self.parse);
        let handler: Handler = Arc::new(move |prepared: Prepared| {
            let body = parse(kind, &prepared.call.head, prepared.body)?;
            Ok(handler(prepared.call.with_body(body)).boxed())
        });
        Endpoint { declaration: self.declaration, handler, calls: Arc::new(Meter::new()) }
    }
}

const JSON: &[&str] = &["application/json"];
const FORM: &[&str] = &["application/x-www-form-urlencoded"];

fn parse_nothing(_: BodyKind, _: &Head, body: Bytes) -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    if !body.is_empty() {
        validate::json::<Nothing>(&body)?;
    }
    Ok(())
}

fn parse_json<B: DeserializeOwned>(_: BodyKind, head: &Head, body: Bytes) -> Result<B, Error> {
    validate::check_media_type(head, JSON)?;
    validate::json(&body)
}

fn parse_optional_json<B: DeserializeOwned + Default>(kind: BodyKind, head: &Head, body: Bytes) -> Result<B, Error> {
    if body.is_empty() { Ok(B::default()) } else { parse_json(kind, head, body) }
}

fn parse_form<B: DeserializeOwned>(_: BodyKind, head: &Head, body: Bytes) -> Result<B, Error> {
    validate::check_media_type(head, FORM)?;
    validate::form(&body)
}

fn parse_raw(kind: BodyKind, head: &Head, body: Bytes) -> Result<Bytes, Error> {
    if let BodyKind::Raw(accepted) = kind
        && !accepted.contains(&"*/*")
    {
        validate::check_media_type(head, accepted)?;
    }
    Ok(body)
}
