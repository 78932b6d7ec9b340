//! Changing, forgetting and resetting passwords.

use serde::Deserialize;
use utoipa::ToSchema;

use super::sign_up::MailOnItsWay;
use crate::actors::identity::address::EmailAddress;
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, Secret};

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/me/password", "changePassword")
            .summary("Set a new password")
            .description(
                "Needs `current_password`, or a proof of identity a short while ago. Every other session ends.",
            )
            .tag("identity")
            .limit(LimitClass::Auth)
            .body::<ChangeBody>()
            .no_content(204, "Changed")
            .problem(403)
            .handle(change),
        Endpoint::post("/v1/password/forgot", "forgotPassword")
            .summary("Ask for a link to set a new password")
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<ForgotBody>()
            .response::<MailOnItsWay>(202, "Accepted, whether or not the address is known")
            .handle(forgot),
        Endpoint::post("/v1/password/reset", "resetPassword")
            .summary("Set a new password with the token of the mailed link")
            .description("Signs out everywhere. The second factor stays as it is.")
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<ResetBody>()
            .no_content(204, "Changed")
            .handle(reset),
    ]
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangePassword)]
struct ChangeBody {
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, max_length = 256)]
    current_password: Option<Secret<String>>,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 256)]
    new_password: Secret<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ForgotPassword)]
struct ForgotBody {
    #[schema(format = Email, max_length = 254)]
    email: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResetPassword)]
struct ResetBody {
    #[schema(max_length = 200)]
    token: String,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 256)]
    new_password: Secret<String>,
}

async fn change(call: Call<ChangeBody>) -> Result<Reply, Error> {
    let (current, new) = (call.body.current_password.clone(), call.body.new_password.clone());
    call.services.identity.change_password(&call.principal, current, new, &call.origin).await?;
    Ok(Reply::empty(204))
}

async fn forgot(call: Call<ForgotBody>) -> Result<Reply, Error> {
    let email = EmailAddress::parse(&call.body.email).map_err(|error| error.at("/email"))?;
    call.services.identity.forgot_password(&email, &call.origin).await?;
    Ok(Reply::accepted(&MailOnItsWay { detail: "If there is an account, a mail says how to go on." }))
}

async fn reset(call: Call<ResetBody>) -> Result<Reply, Error> {
    let new = call.body.new_password.clone();
    call.services.identity.reset_password(&call.body.token, new, &call.origin).await?;
    Ok(Reply::empty(204))
}
