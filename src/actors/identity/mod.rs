//! Users, sessions, credentials and roles.
