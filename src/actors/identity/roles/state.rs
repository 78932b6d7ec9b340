//! The role table's state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::permission::{ADMINISTRATOR, DECLARED, PERMISSIONS};
use super::protocol::{Command, Event, Reply, RoleView};
use crate::kernel::{Context, Decision, Entity, Error, ErrorCode};

/// Roles there may be.
const MAX_ROLES: usize = 64;

/// What was changed from the declared table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    changed: BTreeMap<String, Changed>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    permissions: BTreeSet<String>,
    version: u64,
}

impl Entity for Roles {
    const KIND: &'static str = "roles";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::GetRoles => Ok(Decision::reply(Reply::Roles(self.views()))),
            Command::PutRole { name, permissions, version } => self.put(context, name, permissions, version),
        }
    }

    fn apply(&mut self, event: &Event) {
        let Event::RolePut { name, permissions } = event;
        let role = self.changed.entry(name.clone()).or_default();
        role.permissions = permissions.iter().cloned().collect();
        role.version += 1;
    }
}

impl Roles {
    fn put(
        &self,
        context: &Context,
        name: String,
        permissions: Vec<String>,
        version: Option<u64>,
    ) -> Result<Decision<Self>, Error> {
        if !is_role_name(&name) {
            return Err(Error::invalid("/name", "must be 2 to 32 lower-case letters, digits or underscores"));
        }
        if name == ADMINISTRATOR {
            return Err(Error::conflict("The administrator role always has every permission."));
        }
        for (index, permission) in permissions.iter().enumerate() {
            if !PERMISSIONS.contains(&permission.as_str()) {
                return Err(Error::invalid(&format!("/permissions/{index}"), "is not a permission of this platform"));
            }
        }
        let current = self.view(&name);
        let current_version = current.as_ref().map_or(0, |role| role.version);
        if version.is_some_and(|version| version != current_version) {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The role was changed in the meantime."));
        }
        if current.is_none() && self.views().len() >= MAX_ROLES {
            return Err(Error::conflict("There are as many roles as there may be."));
        }
        let sorted: Vec<String> = permissions.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let declared = current.as_ref().is_some_and(|role| role.declared);
        let view = RoleView { name, permissions: sorted, declared, version: current_version + 1 };
        if current.is_some_and(|role| role.permissions == view.permissions) {
            return Ok(Decision::reply(Reply::Role(RoleView { version: current_version, ..view })));
        }
        let event = Event::RolePut { name: view.name.clone(), permissions: view.permissions.clone() };
        let target = format!("role:{}", view.name);
        Ok(Decision::reply(Reply::Role(view)).event(event).audit(context, "role.changed", &target, "ok"))
    }

    fn view(&self, name: &str) -> Option<RoleView> {
        self.views().into_iter().find(|role| role.name == name)
    }

    fn views(&self) -> Vec<RoleView> {
        let mut views: Vec<RoleView> = Vec::with_capacity(DECLARED.len() + self.changed.len());
        for (name, permissions) in DECLARED {
            let permissions = permissions.iter().map(|permission| (*permission).to_owned()).collect();
            views.push(RoleView { name: name.to_owned(), permissions, declared: true, version: 0 });
        }
        for (name, changed) in &self.changed {
            let permissions = changed.permissions.iter().cloned().collect();
            match views.iter_mut().find(|role| role.name == *name) {
                Some(role) => {
                    role.permissions = permissions;
                    role.version = changed.version;
                }
                None => {
                    let version = changed.version;
                    views.push(RoleView { name: name.clone(), permissions, declared: false, version });
                }
            }
        }
        views
    }
}

fn is_role_name(name: &str) -> bool {
    (2..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
