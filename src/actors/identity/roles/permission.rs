//! The closed list of permissions and what the four roles have of them before anybody changes it.

/// Every permission an endpoint may ask for. `<resource>:<action>`; a role cannot be given any other.
pub const PERMISSIONS: &[&str] = &[
    "audit:read",
    "billing:read",
    "campaigns:write",
    "cluster:read",
    "cluster:write",
    "compliance:read",
    "invoices:read",
    "invoices:refund",
    "invoices:write",
    "notifications:read",
    "notifications:send",
    "oauth-clients:write",
    "plans:write",
    "provider-plans:subscribe",
    "roles:read",
    "roles:write",
    "routes:read",
    "routes:write",
    "security:read",
    "security:write",
    "subscriptions:read",
    "subscriptions:write",
    "templates:read",
    "templates:write",
    "topics:publish",
    "topics:subscribe",
    "usage:write",
    "users:read",
    "users:write",
];

pub const CONSUMER: &str = "consumer";
pub const ROBOT_BUILDER: &str = "robot_builder";
pub const DEVELOPER: &str = "developer";
pub const ADMINISTRATOR: &str = "administrator";

/// What those who offer robots or software may.
const PROVIDER: &[&str] =
    &["oauth-clients:write", "provider-plans:subscribe", "topics:publish", "topics:subscribe", "usage:write"];

/// The roles that always exist, with their permissions as shipped.
pub const DECLARED: [(&str, &[&str]); 4] =
    [(CONSUMER, &["topics:subscribe"]), (ROBOT_BUILDER, PROVIDER), (DEVELOPER, PROVIDER), (ADMINISTRATOR, PERMISSIONS)];

/// Whether a person may choose the role at sign-up. `administrator` is granted, never asked for.
#[must_use]
pub fn may_sign_up_as(role: &str) -> bool {
    matches!(role, CONSUMER | ROBOT_BUILDER | DEVELOPER)
}
