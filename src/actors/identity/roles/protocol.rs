//! What can be asked of the role table. Persisted: enums grow only at the end.

use serde::{Deserialize, Serialize};

/// One role as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleView {
    pub name: String,
    /// Sorted, without repeats.
    pub permissions: Vec<String>,
    /// One of the four that always exist.
    pub declared: bool,
    /// Grows with every change of this role; 0 as shipped.
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    GetRoles,
    /// Replaces a role's permissions, or adds the role. `version`: only if it is still this one.
    PutRole {
        name: String,
        permissions: Vec<String>,
        version: Option<u64>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    RolePut { name: String, permissions: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Roles(Vec<RoleView>),
    Role(RoleView),
}
