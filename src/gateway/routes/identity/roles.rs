//! Roles and their permissions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::identity::roles::RoleView;
use crate::gateway::{Access, Call, Endpoint, List, PageQuery, Reply};
use crate::kernel::Error;

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/roles", "listRoles")
            .summary("Roles and what they may do")
            .tag("identity")
            .access(Access::Permission("roles:read"))
            .query::<PageQuery>()
            .response::<List<RoleBody>>(200, "Every role")
            .handle(list),
        Endpoint::put("/v1/roles/{name}", "putRole")
            .summary("Replace a role's permissions, or add a role")
            .description(
                "Takes effect within a second. `administrator` always has every permission. Nobody grants what they \
                 do not hold themselves. Honours `If-Match`.",
            )
            .tag("identity")
            .access(Access::Permission("roles:write"))
            .body::<RolePermissions>()
            .response::<RoleBody>(200, "The role after it")
            .problem(409)
            .problem(412)
            .handle(put),
    ]
}

#[derive(Serialize, ToSchema)]
#[schema(as = Role)]
struct RoleBody {
    name: String,
    permissions: Vec<String>,
    /// One of the four that always exist.
    declared: bool,
    version: u64,
}

impl From<RoleView> for RoleBody {
    fn from(role: RoleView) -> Self {
        Self { name: role.name, permissions: role.permissions, declared: role.declared, version: role.version }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RolePermissions {
    #[schema(max_items = 64, example = json!(["users:read"]))]
    permissions: Vec<String>,
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let table = call.services.identity.role_table().await?;
    let items: Vec<RoleBody> = table.iter().cloned().map(RoleBody::from).collect();
    Ok(Reply::ok(&List::part(items, &call.query()?, call.list())?))
}

async fn put(call: Call<RolePermissions>) -> Result<Reply, Error> {
    let (version, granted) = (call.expected_version()?, call.permissions.clone());
    let may = |permission: &str| granted.allows(permission);
    let (name, permissions) = (call.param("name"), call.body.permissions.clone());
    let role = call.services.identity.put_role(name, permissions, version, may, &call.origin).await?;
    let version = role.version;
    Ok(Reply::ok(&RoleBody::from(role)).etag(version))
}
