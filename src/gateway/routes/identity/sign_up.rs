//! Signing up and proving the address.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::view::{TokensBody, UserBody, display_name, locale, time_zone};
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::authority::{SignUpRequest, client};
use crate::actors::identity::roles::permission::may_sign_up_as;
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, Secret};

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/signup", "signUp")
            .summary("Sign up with an e-mail address and a password")
            .description(
                "Mails a verification link. The answer is the same, and takes as long, when the address is known; its \
                 owner then gets a mail that says so.",
            )
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<SignUpBody>()
            .response::<MailOnItsWay>(202, "Accepted, whether or not the address is known")
            .handle(sign_up),
        Endpoint::post("/v1/signup/verify", "verifySignUp")
            .summary("Prove the address with the token of the mailed link, and sign in")
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<VerifyBody>()
            .response::<Verified>(201, "Verified and signed in")
            .handle(verify),
    ]
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignUp)]
struct SignUpBody {
    #[schema(format = Email, max_length = 254, example = "ada@example.org")]
    email: String,
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 256)]
    password: Secret<String>,
    /// `consumer`, `robot_builder` or `developer`.
    #[schema(example = "robot_builder", pattern = "^(consumer|robot_builder|developer)$")]
    role: String,
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\u0000-\\u001F\\u007F-\\u009F]([^\\u0000-\\u001F\\u007F-\\u009F]*[^\\s\\u0000-\\u001F\\u007F-\\u009F])?$"
    )]
    display_name: Option<String>,
    /// BCP 47; `en` when it is not given.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", max_length = 35)]
    locale: Option<String>,
    /// IANA time zone; `UTC` when it is not given.
    #[serde(default)]
    #[schema(format = "time-zone")]
    time_zone: Option<String>,
}

/// Says nothing about whether there is an account.
#[derive(Serialize, ToSchema)]
pub struct MailOnItsWay {
    pub detail: &'static str,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VerifySignUp)]
struct VerifyBody {
    #[schema(max_length = 200)]
    token: String,
}

#[derive(Serialize, ToSchema)]
struct Verified {
    user: UserBody,
    #[serde(flatten)]
    tokens: TokensBody,
}

async fn sign_up(call: Call<SignUpBody>) -> Result<Reply, Error> {
    let body = &call.body;
    let email = EmailAddress::parse(&body.email).map_err(|error| error.at("/email"))?;
    if !may_sign_up_as(&body.role) {
        return Err(Error::invalid("/role", "must be consumer, robot_builder or developer"));
    }
    let request = SignUpRequest {
        email,
        password: body.password.clone(),
        role: body.role.clone(),
        display_name: body.display_name.as_deref().map(display_name).transpose()?,
        locale: locale(body.locale.as_deref().unwrap_or("en"))?,
        time_zone: time_zone(body.time_zone.as_deref().unwrap_or("UTC"))?,
    };
    call.services.identity.sign_up(request, &call.origin).await?;
    Ok(Reply::accepted(&MailOnItsWay { detail: "A mail to this address says how to go on." }))
}

async fn verify(call: Call<VerifyBody>) -> Result<Reply, Error> {
    let client = client(call.header("user-agent"), &call.origin);
    let mut tokens = call.services.identity.verify_address(&call.body.token, client, &call.origin).await?;
    let user = tokens.user.take().ok_or_else(Error::internal)?;
    Ok(Reply::created(&Verified { user: user.into(), tokens: tokens.into() }).header("cache-control", "no-store"))
}
