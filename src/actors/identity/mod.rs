//! Users, sessions, credentials and roles.

pub mod address;
pub mod api_key;
pub mod authority;
pub mod email_claim;
pub mod opaque;
pub mod passwords;
pub mod roles;
pub mod session;
pub mod signing_keys;
pub mod tokens;
pub mod totp;
pub mod user;

pub use authority::{Authenticated, Authority};
