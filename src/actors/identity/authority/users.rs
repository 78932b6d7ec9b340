//! Profiles, and what administrators do with users and roles.
//!
//! Nobody grants what they do not have: whoever changes another person's roles or status, or a role's permissions,
//! must hold every permission involved.

use futures::future::join_all;

use super::Authority;
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::roles::{self, RoleView, Roles};
use crate::actors::identity::user::{self, ProfilePatch, Status, User, UserView};
use crate::actors::runtime::{Page, Scope};
use crate::kernel::{Error, ErrorCode, Origin};

/// What an administrator changes of a user.
#[derive(Debug, Clone, Default)]
pub struct UserPatch {
    pub roles: Option<Vec<String>>,
    pub status: Option<Status>,
}

impl Authority {
    /// # Errors
    /// `not_found`.
    pub async fn user(&self, user_id: &str, origin: &Origin) -> Result<UserView, Error> {
        self.ask_user(user_id, user::Command::GetUser, origin).await
    }

    /// # Errors
    /// `precondition_failed` when the profile is not at `version`.
    pub async fn update_profile(
        &self,
        user_id: &str,
        patch: ProfilePatch,
        version: Option<u64>,
        origin: &Origin,
    ) -> Result<UserView, Error> {
        self.ask_user(user_id, user::Command::UpdateProfile { patch, version }, origin).await
    }

    /// Users in the order they signed up, each with its place in the list; at most `limit`.
    ///
    /// # Errors
    /// `unavailable` when a shard has no leader.
    pub async fn users(
        &self,
        after: Option<Vec<u8>>,
        limit: usize,
        origin: &Origin,
    ) -> Result<Vec<(Vec<u8>, UserView)>, Error> {
        let page = Page { after, limit, reverse: false };
        let entries = self.router.scan(Scope::All, user::INDEX, b"", page).await?;
        let keys: Vec<Vec<u8>> = entries.into_iter().map(|(key, _)| key).collect();
        let asked = join_all(keys.iter().map(|key| async {
            let user_id = String::from_utf8_lossy(key);
            self.user(&user_id, origin).await
        }));
        let mut users = Vec::with_capacity(keys.len());
        for (key, user) in keys.iter().zip(asked.await) {
            match user {
                Ok(user) => users.push((key.clone(), user)),
                // Gone between the scan and the question.
                Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(users)
    }

    /// The user with this address, proven or not.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn user_by_email(&self, email: &EmailAddress, origin: &Origin) -> Result<Option<UserView>, Error> {
        let claim = email.claim_key(&self.index_key);
        let Some(user_id) = self.owner_of(&claim, origin).await? else { return Ok(None) };
        match self.user(&user_id, origin).await {
            Ok(user) => Ok(Some(user)),
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes another user's roles or status. `may`: whether the caller holds a permission.
    ///
    /// # Errors
    /// `forbidden` when the caller lacks a permission that the user has or would get; `precondition_failed`.
    pub async fn update_user(
        &self,
        user_id: &str,
        patch: UserPatch,
        version: Option<u64>,
        may: impl Fn(&str) -> bool,
        origin: &Origin,
    ) -> Result<UserView, Error> {
        let mut user = self.user(user_id, origin).await?;
        self.check_grant(&user.roles, &may).await?;
        let mut version = version;
        if let Some(roles) = patch.roles {
            let table = self.role_table().await?;
            for (index, name) in roles.iter().enumerate() {
                if !table.iter().any(|role| role.name == *name) {
                    return Err(Error::invalid(&format!("/roles/{index}"), "is not a role of this platform"));
                }
            }
            self.check_grant(&roles, &may).await?;
            user = self.ask_user(user_id, user::Command::SetRoles { roles, version }, origin).await?;
            version = version.map(|_| user.version);
        }
        if let Some(status) = patch.status {
            user = self.ask_user(user_id, user::Command::SetStatus { status, version }, origin).await?;
        }
        for session_id in self.session_ids(user_id, origin).await? {
            self.forget_session(&session_id);
        }
        Ok(user)
    }

    async fn check_grant(&self, roles: &[String], may: &impl Fn(&str) -> bool) -> Result<(), Error> {
        let involved = self.permissions_of(roles).await?;
        match involved.iter().find(|permission| !may(permission)) {
            None => Ok(()),
            Some(missing) => Err(Error::forbidden(format!("This needs the permission {missing}, which is involved."))),
        }
    }

    /// Replaces a role's permissions, or adds a role.
    ///
    /// # Errors
    /// `forbidden` when the caller lacks one of them, old or new; `invalid`, `conflict`, `precondition_failed`.
    pub async fn put_role(
        &self,
        name: &str,
        permissions: Vec<String>,
        version: Option<u64>,
        may: impl Fn(&str) -> bool,
        origin: &Origin,
    ) -> Result<RoleView, Error> {
        self.check_grant(&[name.to_owned()], &may).await?;
        let known = |permission: &&String| roles::permission::PERMISSIONS.contains(&permission.as_str());
        if let Some(missing) = permissions.iter().filter(known).find(|permission| !may(permission)) {
            return Err(Error::forbidden(format!("This needs the permission {missing}, which is to be granted.")));
        }
        let command = roles::Command::PutRole { name: name.to_owned(), permissions, version };
        match self.router.ask::<Roles>(&roles::id(), command, origin).await? {
            roles::Reply::Role(role) => {
                self.roles.forget();
                Ok(role)
            }
            roles::Reply::Roles(_) => Err(Error::internal()),
        }
    }

    async fn ask_user(&self, user_id: &str, command: user::Command, origin: &Origin) -> Result<UserView, Error> {
        if !crate::kernel::id::is_type_id("usr", user_id) {
            return Err(Error::not_found("user"));
        }
        match self.router.ask::<User>(&user::id(user_id), command, origin).await? {
            user::Reply::User(user) => Ok(user),
            _ => Err(Error::internal()),
        }
    }
}
