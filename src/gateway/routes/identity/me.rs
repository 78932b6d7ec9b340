//! The profile of whoever calls.

use serde::Deserialize;
use utoipa::ToSchema;

use super::view::{UserBody, display_name, locale, present, signed_in, time_zone};
use crate::actors::identity::user::ProfilePatch;
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::Error;

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/me", "getMe")
            .summary("My account")
            .tag("identity")
            .response::<UserBody>(200, "The account")
            .problem(403)
            .problem(404)
            .handle(get_me),
        Endpoint::patch("/v1/me", "updateMe")
            .summary("Change my profile")
            .description("Members that are left out stay as they are. Honours `If-Match`.")
            .tag("identity")
            .body::<ProfileBody>()
            .response::<UserBody>(200, "The account after it")
            .problem(403)
            .problem(404)
            .problem(412)
            .handle(update_me),
    ]
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProfileUpdate)]
struct ProfileBody {
    /// `null` removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100, pattern = "^[^\\s\\u0000-\\u001F\\u007F-\\u009F]([^\\u0000-\\u001F\\u007F-\\u009F]*[^\\s\\u0000-\\u001F\\u007F-\\u009F])?$")]
    display_name: Option<Option<String>>,
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", max_length = 35)]
    locale: Option<String>,
    #[serde(default)]
    #[schema(format = "time-zone")]
    time_zone: Option<String>,
}

async fn get_me(call: Call<()>) -> Result<Reply, Error> {
    let user = call.services.identity.user(call.user_id()?, &call.origin).await?;
    let version = user.version;
    Ok(Reply::ok(&UserBody::from(user)).etag(version))
}

async fn update_me(call: Call<ProfileBody>) -> Result<Reply, Error> {
    let name = match &call.body.display_name {
        Some(Some(text)) => Some(Some(display_name(text)?)),
        Some(None) => Some(None),
        None => None,
    };
    let patch = ProfilePatch {
        display_name: name,
        locale: call.body.locale.as_deref().map(locale).transpose()?,
        time_zone: call.body.time_zone.as_deref().map(time_zone).transpose()?,
    };
    let version = call.expected_version()?;
    let user = call.services.identity.update_profile(signed_in(&call)?, patch, version, &call.origin).await?;
    let version = user.version;
    Ok(Reply::ok(&UserBody::from(user)).etag(version))
}
