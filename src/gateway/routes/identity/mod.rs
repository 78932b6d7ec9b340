//! Endpoints of the identity service, one file per resource, and how its tokens are recognized.

mod api_keys;
mod me;
mod mfa;
mod password;
mod roles;
mod sessions;
mod sign_up;
mod users;
mod view;

use async_trait::async_trait;

use crate::actors::identity::Authority;
use crate::gateway::Endpoint;
use crate::gateway::auth::{Authenticator, Caller};
use crate::gateway::call::Permissions;
use crate::kernel::{Error, Principal};

/// Every endpoint of the identity service.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let parts = [
        sign_up::endpoints(),
        sessions::endpoints(),
        me::endpoints(),
        password::endpoints(),
        mfa::endpoints(),
        users::endpoints(),
        roles::endpoints(),
        api_keys::endpoints(),
    ];
    parts.into_iter().flatten().collect()
}

#[async_trait]
impl Authenticator for Authority {
    async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        let known = Authority::authenticate(self, bearer).await?;
        Ok(Caller { principal: known.principal, permissions: Permissions::new(known.permissions) })
    }

    async fn still(&self, principal: &Principal, bearer: &str) -> Result<Caller, Error> {
        let Principal::User { id, session: Some(session), .. } = principal else {
            return Authenticator::authenticate(self, bearer).await;
        };
        let over = || Error::unauthenticated("The session is over; sign in again.");
        let session = self.live_session(session).await?.filter(|session| session.user_id == *id).ok_or_else(over)?;
        let permissions = self.permissions_of(&session.roles).await?;
        let principal =
            Principal::User { id: id.clone(), session: Some(session.id.clone()), roles: session.roles.clone() };
        Ok(Caller { principal, permissions: Permissions::new(permissions) })
    }
}

#[cfg(test)]
mod tests {
    use super::endpoints;
    use crate::actors::identity::roles::permission::PERMISSIONS;
    use crate::gateway::registry::Access;
    use crate::gateway::routes;
    use crate::gateway::table::Table;

    #[test]
    fn the_endpoints_fit_one_table_and_ask_for_declared_permissions_only() {
        assert!(Table::new(endpoints()).is_ok());
        for endpoint in routes::endpoints() {
            if let Access::Permission(permission) = endpoint.declaration.access {
                assert!(PERMISSIONS.contains(&permission), "{permission} is not declared in roles/permission.rs");
            }
            if let Some(permission) = endpoint.declaration.others {
                assert!(PERMISSIONS.contains(&permission), "{permission} is not declared in roles/permission.rs");
            }
        }
    }
}
