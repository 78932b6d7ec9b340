//! What a handler is given.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::page::ListId;
use super::pipeline::Gateway;
use super::request::Head;
use super::services::Services;
use super::validate;
use crate::kernel::id::is_type_id;
use crate::kernel::{Error, ErrorCode, Origin, Principal};

/// What a caller may do: permission names such as `users:read`; `users:*` and `*` stand for many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions(Arc<[String]>);

impl Permissions {
    #[must_use]
    pub fn new(names: impl Into<Arc<[String]>>) -> Self {
        Self(names.into())
    }

    /// Everything: what an operator may.
    #[must_use]
    pub fn all() -> Self {
        Self(Arc::new(["*".to_owned()]))
    }

    #[must_use]
    pub fn allows(&self, permission: &str) -> bool {
        self.0.iter().any(|granted| match granted.strip_suffix('*') {
            Some(prefix) => permission.starts_with(prefix),
            None => granted == permission,
        })
    }
}

/// A connection that is to speak another protocol after the answer 101.
pub struct Upgrade {
    /// Await it in a task of its own: it resolves once the 101 is on its way.
    pub connection: OnUpgrade,
    /// For what comes over the connection: `authenticate`, `rpc`, `draining`.
    pub gateway: Arc<Gateway>,
}

/// A request that passed authentication, limits and validation. `B` is the declared body.
pub struct Call<B> {
    pub services: Arc<Services>,
    pub origin: Origin,
    pub principal: Principal,
    pub permissions: Permissions,
    pub body: B,
    pub head: Arc<Head>,
    pub params: Params,
    /// Cancelled when the node begins to shut down; answers without end stop then.
    pub draining: CancellationToken,
}

/// The values of the path's `{names}`, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(pub(super) Vec<(&'static str, String)>);

impl Params {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }
}

impl<B> Call<B> {
    /// The value of `{name}` in the endpoint's path.
    ///
    /// # Panics
    /// When the declared path has no such name: a mistake in the code that any call shows.
    #[must_use]
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).expect("the endpoint's path declares the parameter")
    }

    /// The query as `T`; declare it with `Endpoint::query` too.
    ///
    /// # Errors
    /// `invalid`, naming the parameter.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, Error> {
        validate::form(self.head.query.as_bytes())
    }

    /// Which list is asked for: the path and the query's filter, as this caller sees them.
    #[must_use]
    pub fn list(&self) -> ListId {
        ListId::of(&self.head.path, &self.head.query, self.principal.user_id())
    }

    /// A request header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    #[must_use]
    pub fn if_match(&self) -> Option<&str> {
        self.head.header("if-match")
    }

    /// The version that `If-Match` demands, for entities that check it themselves. `None`: any will do.
    ///
    /// # Errors
    /// `precondition_failed` when it names tags that no version of ours has.
    pub fn expected_version(&self) -> Result<Option<u64>, Error> {
        let Some(sent) = self.if_match() else { return Ok(None) };
        if sent.trim() == "*" {
            return Ok(None);
        }
        let tag = sent.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        tag.and_then(|tag| tag.parse().ok()).map(Some).ok_or_else(stale)
    }

    /// Refuses when `If-Match` was sent and does not name `current` (RFC 9110 §13.1.1, strong comparison).
    ///
    /// # Errors
    /// `precondition_failed`.
    pub fn check_if_match(&self, current: u64) -> Result<(), Error> {
        let Some(sent) = self.if_match() else { return Ok(()) };
        let current = super::reply::etag(current);
        if sent.split(',').map(str::trim).any(|tag| tag == "*" || tag == current) { Ok(()) } else { Err(stale()) }
    }

    /// The id of the user who calls.
    ///
    /// # Errors
    /// `forbidden` when the caller is not a user but an operator, say.
    pub fn user_id(&self) -> Result<&str, Error> {
        self.principal.user_id().ok_or_else(|| Error::forbidden("This needs a user's access token."))
    }

    /// Whose objects are asked for: the caller's own, or those of `wanted`.
    ///
    /// # Errors
    /// `invalid` when `wanted` is no id; `forbidden` when it is somebody else and the caller lacks the permission the endpoint declares for that,
    /// or when nobody is named by a caller who is not a user.
    pub fn owner<'a>(&'a self, wanted: Option<&'a str>) -> Result<&'a str, Error> {
        match wanted {
            Some(wanted) if !is_type_id("usr", wanted) => Err(Error::invalid("/user_id", "is not the id of a user")),
            Some(wanted) if self.origin.reaches(wanted) => Ok(wanted),
            Some(_) => Err(Error::forbidden("You may ask for what is yours only.")),
            None => self.user_id(),
        }
    }

    /// Whether the caller holds the permission.
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        self.permissions.allows(permission)
    }

    /// # Errors
    /// `forbidden` when the caller does not hold the permission.
    pub fn require(&self, permission: &str) -> Result<(), Error> {
        if self.may(permission) {
            return Ok(());
        }
        Err(Error::forbidden(format!("This needs the permission {permission}.")))
    }

    /// The same call with another body.
    #[must_use]
    pub fn with_body<C>(self, body: C) -> Call<C> {
        let Self { services, origin, principal, permissions, head, params, draining, .. } = self;
        Call { services, origin, principal, permissions, body, head, params, draining }
    }
}

fn stale() -> Error {
    Error::new(ErrorCode::PreconditionFailed, "The object has changed since; read it again.")
}
