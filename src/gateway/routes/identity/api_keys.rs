//! API keys of whoever calls. Making and ending them needs a signed-in session: a key cannot make keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::view::{display_name, signed_in};
use crate::actors::identity::api_key::KeyView;
use crate::actors::identity::authority::NewApiKey;
use crate::gateway::{Call, Endpoint, List, PageQuery, Reply};
use crate::kernel::{Error, Timestamp};

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/api-keys", "createApiKey")
            .summary("Make an API key")
            .description(
                "Send its secret as a bearer token. With it a program does what I may do to what is mine, and of \
                 permissions only the scopes, as long as I hold them myself.",
            )
            .tag("identity")
            .body::<NewKeyBody>()
            .response::<CreatedKey>(201, "Made; the secret is shown once")
            .problem(403)
            .problem(409)
            .handle(create),
        Endpoint::get("/v1/api-keys", "listApiKeys")
            .summary("My API keys, oldest first")
            .tag("identity")
            .query::<PageQuery>()
            .response::<List<KeyBody>>(200, "The keys, without their secrets")
            .problem(403)
            .handle(list),
        Endpoint::delete("/v1/api-keys/{id}", "revokeApiKey")
            .summary("Revoke an API key")
            .tag("identity")
            .no_content(204, "Revoked")
            .problem(403)
            .problem(404)
            .handle(revoke),
    ]
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey)]
struct NewKeyBody {
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// Permissions, such as `usage:write`.
    #[schema(max_items = 64)]
    scopes: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
struct KeyBody {
    #[schema(example = "key_01h455vb4pex5vsknk084sn02q")]
    id: String,
    name: String,
    scopes: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

impl From<KeyView> for KeyBody {
    fn from(key: KeyView) -> Self {
        Self {
            id: key.id,
            name: key.grant.name,
            scopes: key.grant.scopes,
            created_at: key.created_at,
            expires_at: key.grant.expires_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = NewApiKeyWithSecret)]
struct CreatedKey {
    #[serde(flatten)]
    key: KeyBody,
    /// The bearer token.
    secret: String,
}

async fn create(call: Call<NewKeyBody>) -> Result<Reply, Error> {
    let user_id = signed_in(&call)?;
    let name = display_name(&call.body.name).map_err(|mut error| {
        for field in &mut error.errors {
            "/name".clone_into(&mut field.pointer);
        }
        error
    })?;
    if call.body.scopes.len() > 64 {
        return Err(Error::invalid("/scopes", "must name at most 64 permissions"));
    }
    let new = NewApiKey { name, scopes: call.body.scopes.clone(), expires_at: call.body.expires_at };
    let granted = call.permissions.clone();
    let may = |permission: &str| granted.allows(permission);
    let (key, secret) = call.services.identity.create_api_key(user_id, new, may, &call.origin).await?;
    let body = CreatedKey { key: key.into(), secret: secret.expose().clone() };
    Ok(Reply::created(&body).header("cache-control", "no-store"))
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let user_id = signed_in(&call)?;
    let page: PageQuery = call.query()?;
    let limit = page.limit()?;
    let found = call.services.identity.api_keys(user_id, page.after(call.list())?, limit + 1).await?;
    let found = found.into_iter().map(|(key, view)| (key, KeyBody::from(view))).collect();
    Ok(Reply::ok(&List::page(found, limit, call.list())))
}

async fn revoke(call: Call<()>) -> Result<Reply, Error> {
    call.services.identity.revoke_api_key(signed_in(&call)?, call.param("id"), &call.origin).await?;
    Ok(Reply::empty(204))
}
