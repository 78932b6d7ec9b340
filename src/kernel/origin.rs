//! Who asks, from where, and under which idempotency scope. Travels with every command.

use serde::{Deserialize, Serialize};

/// On whose authority a command runs. Authorization happened before; entities use it for ownership and audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principal {
    Anonymous,
    User {
        id: String,
        session: Option<String>,
        roles: Vec<String>,
    },
    /// The holder of the administrator token of the node's data directory.
    Operator,
    /// The runtime itself: timers, outbox deliveries, provider outcomes.
    System,
}

impl Principal {
    /// How the audit log names it: an id, `anonymous`, `operator` or `system`. Never personal data.
    #[must_use]
    pub fn audit_name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User { id, .. } => id,
            Self::Operator => "operator",
            Self::System => "system",
        }
    }

    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        match self {
            Self::User { id, .. } => Some(id),
            _ => None,
        }
    }
}

/// The provenance of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub principal: Principal,
    /// A keyed pseudonym of the caller's network address; never the address itself.
    pub source: String,
    pub request_id: String,
    /// W3C trace context of the request, if any.
    pub traceparent: Option<String>,
    /// Scope of the request's `Idempotency-Key`; commands sent under it take effect once.
    pub idempotency: Option<[u8; 32]>,
    /// Whether other people's objects are reached too: decided at the edge, by the permission the endpoint declares.
    pub reaches_all: bool,
}

impl Origin {
    /// Whether an object of `owner` exists for whoever asks. What is not reached is answered as if it were not there.
    #[must_use]
    pub fn reaches(&self, owner: &str) -> bool {
        match &self.principal {
            Principal::System => true,
            Principal::User { id, .. } => id == owner || self.reaches_all,
            Principal::Operator => self.reaches_all,
            Principal::Anonymous => false,
        }
    }

    /// The runtime acting by itself.
    #[must_use]
    pub fn system(request_id: impl Into<String>) -> Self {
        Self {
            principal: Principal::System,
            source: String::new(),
            request_id: request_id.into(),
            traceparent: None,
            idempotency: None,
            reaches_all: false,
        }
    }
}
