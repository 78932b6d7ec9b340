//! The second factor of whoever calls.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::view::signed_in;
use crate::gateway::{Call, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, Secret};

pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/mfa/totp", "beginTotp")
            .summary("Begin to set up an authenticator app")
            .description(
                "Needs a proof of identity a short while ago (signing in is one), or the right `password` with it. It \
                 counts only once a code of it is confirmed, which needs no further proof.",
            )
            .tag("identity")
            .limit(LimitClass::Auth)
            .optional_body::<BeginBody>()
            .response::<TotpSetUpBody>(201, "What the app needs; shown once")
            .problem(403)
            .problem(409)
            .handle(begin),
        Endpoint::post("/v1/mfa/totp/confirm", "confirmTotp")
            .summary("Turn the second factor on with a first code")
            .tag("identity")
            .limit(LimitClass::Auth)
            .body::<CodeBody>()
            .response::<RecoveryCodes>(200, "On; the recovery codes are shown once")
            .problem(403)
            .problem(409)
            .handle(confirm),
        Endpoint::delete("/v1/mfa/totp", "removeTotp")
            .summary("Turn the second factor off")
            .description("Needs a proof of identity a short while ago.")
            .tag("identity")
            .no_content(204, "Off")
            .problem(403)
            .problem(404)
            .handle(remove),
        Endpoint::post("/v1/mfa/recovery-codes", "replaceRecoveryCodes")
            .summary("Replace the recovery codes")
            .description("Needs a proof of identity a short while ago. The old codes are void.")
            .tag("identity")
            .response::<RecoveryCodes>(200, "New codes, shown once")
            .problem(403)
            .problem(409)
            .handle(replace),
    ]
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BeginTotp)]
struct BeginBody {
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, max_length = 256)]
    password: Option<Secret<String>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TotpSetUp)]
struct TotpSetUpBody {
    /// RFC 4648 base32.
    secret: String,
    otpauth_uri: String,
    /// The same as a picture to scan.
    qr_svg: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TotpCode)]
struct CodeBody {
    #[schema(max_length = 16, example = "287082")]
    code: String,
}

/// Each works once, in place of a code.
#[derive(Serialize, ToSchema)]
struct RecoveryCodes {
    recovery_codes: Vec<String>,
}

async fn begin(call: Call<BeginBody>) -> Result<Reply, Error> {
    let password = call.body.password.clone();
    let set_up = call.services.identity.begin_totp(&call.principal, password, &call.origin).await?;
    let body = TotpSetUpBody { secret: set_up.secret, otpauth_uri: set_up.otpauth_uri, qr_svg: set_up.qr_svg };
    Ok(Reply::created(&body).header("cache-control", "no-store"))
}

async fn confirm(call: Call<CodeBody>) -> Result<Reply, Error> {
    let code = call.body.code.trim().to_owned();
    let recovery_codes = call.services.identity.confirm_totp(signed_in(&call)?, code, &call.origin).await?;
    Ok(Reply::ok(&RecoveryCodes { recovery_codes }).header("cache-control", "no-store"))
}

async fn remove(call: Call<()>) -> Result<Reply, Error> {
    call.services.identity.remove_totp(&call.principal, &call.origin).await?;
    Ok(Reply::empty(204))
}

async fn replace(call: Call<()>) -> Result<Reply, Error> {
    let recovery_codes = call.services.identity.replace_recovery_codes(&call.principal, &call.origin).await?;
    Ok(Reply::ok(&RecoveryCodes { recovery_codes }).header("cache-control", "no-store"))
}
