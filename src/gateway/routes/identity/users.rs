//! Users as administrators see them.

use serde::Deserialize;
use utoipa::ToSchema;

use super::view::UserBody;
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::authority::UserPatch;
use crate::actors::identity::user::Status;
use crate::gateway::{Access, Call, Class, Endpoint, List, PageQuery, Reply};
use crate::kernel::Error;

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/users", "listUsers")
            .class(Class::Bulk)
            .summary("Users, in the order they signed up")
            .tag("identity")
            .access(Access::Permission("users:read"))
            .query::<UsersQuery>()
            .response::<List<UserBody>>(200, "A page of users")
            .handle(list),
        Endpoint::get("/v1/users/{id}", "getUser")
            .summary("One user")
            .tag("identity")
            .access(Access::Permission("users:read"))
            .response::<UserBody>(200, "The user")
            .problem(404)
            .handle(get),
        Endpoint::patch("/v1/users/{id}", "updateUser")
            .summary("Change a user's roles or status")
            .description(
                "Reaches open sessions within a second; a suspension ends them. Nobody grants or takes what they do \
                 not hold themselves. Honours `If-Match`.",
            )
            .tag("identity")
            .access(Access::Permission("users:write"))
            .body::<UserUpdate>()
            .response::<UserBody>(200, "The user after it")
            .problem(404)
            .problem(409)
            .problem(412)
            .handle(update),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UsersQuery {
    /// How many items to answer at most, 1 to 100; 20 when it is not given.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[schema(format = "cursor")]
    cursor: Option<String>,
    /// Only the user with this address.
    #[serde(default)]
    #[schema(format = Email, max_length = 254)]
    email: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserUpdate {
    /// Replaces the roles.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 8)]
    roles: Option<Vec<String>>,
    #[serde(default)]
    status: Option<UserStatus>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum UserStatus {
    Active,
    Suspended,
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let query: UsersQuery = call.query()?;
    if let Some(email) = &query.email {
        let email = EmailAddress::parse(email).map_err(|error| error.at("/email"))?;
        let found = call.services.identity.user_by_email(&email, &call.origin).await?;
        let items: Vec<UserBody> = found.into_iter().map(UserBody::from).collect();
        return Ok(Reply::ok(&List::whole(items)));
    }
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let limit = page.limit()?;
    let found = call.services.identity.users(page.after(call.list())?, limit + 1, &call.origin).await?;
    let found = found.into_iter().map(|(key, user)| (key, UserBody::from(user))).collect();
    Ok(Reply::ok(&List::page(found, limit, call.list())))
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    let user = call.services.identity.user(call.param("id"), &call.origin).await?;
    let version = user.version;
    Ok(Reply::ok(&UserBody::from(user)).etag(version))
}

async fn update(call: Call<UserUpdate>) -> Result<Reply, Error> {
    let patch = UserPatch {
        roles: call.body.roles.clone(),
        status: call.body.status.map(|status| match status {
            UserStatus::Active => Status::Active,
            UserStatus::Suspended => Status::Suspended,
        }),
    };
    let (version, permissions) = (call.expected_version()?, call.permissions.clone());
    let may = |permission: &str| permissions.allows(permission);
    let user = call.services.identity.update_user(call.param("id"), patch, version, may, &call.origin).await?;
    let version = user.version;
    Ok(Reply::ok(&UserBody::from(user)).etag(version))
}
