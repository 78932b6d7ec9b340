//! Signing in and out, refreshing, and proving oneself again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::view::{SessionBody, TokensBody, signed_in};
use crate::actors::identity::authority::{IssuedTokens, Proof, SignInOutcome, client};
use crate::actors::identity::user::SecondFactor;
use crate::gateway::{Access, Call, Endpoint, LimitClass, List, PageQuery, Reply};
use crate::kernel::{Error, Principal, Secret, Timestamp};

pub fn endpoints() -> Vec<Endpoint> {
    let mut endpoints = signing_in();
    endpoints.extend(when_signed_in());
    endpoints
}

fn signing_in() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/sessions", "createSession")
            .summary("Sign in with a password")
            .description("A wrong password, an unknown and an unverified address are one 401.")
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<SignInBody>()
            .response::<TokensBody>(201, "Signed in")
            .response::<ChallengeBody>(200, "A second factor is due")
            .problem(401)
            .handle(create),
        Endpoint::post("/v1/sessions/mfa", "answerMfaChallenge")
            .summary("Answer the challenge of a sign-in with a code")
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<AnswerBody>()
            .response::<TokensBody>(201, "Signed in")
            .problem(401)
            .handle(answer),
        Endpoint::post("/v1/sessions/refresh", "refreshSession")
            .summary("Exchange a refresh token for new tokens")
            .description("A refresh token is good once. One that was used before ends its session.")
            .tag("identity")
            .access(Access::Public)
            .limit(LimitClass::Auth)
            .body::<RefreshBody>()
            .response::<TokensBody>(200, "New tokens")
            .problem(401)
            .handle(refresh),
    ]
}

fn when_signed_in() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/sessions", "listSessions")
            .summary("My open sessions, oldest first")
            .tag("identity")
            .query::<PageQuery>()
            .response::<List<SessionBody>>(200, "The sessions")
            .problem(403)
            .handle(list),
        Endpoint::delete("/v1/sessions", "signOutEverywhere")
            .summary("End all my sessions, this one too")
            .tag("identity")
            .no_content(204, "Signed out everywhere")
            .problem(403)
            .handle(sign_out_everywhere),
        Endpoint::delete("/v1/sessions/current", "signOut")
            .summary("End this session")
            .tag("identity")
            .no_content(204, "Signed out")
            .problem(403)
            .problem(404)
            .handle(sign_out),
        Endpoint::delete("/v1/sessions/{id}", "revokeSession")
            .summary("End one of my sessions")
            .tag("identity")
            .no_content(204, "Ended")
            .problem(403)
            .problem(404)
            .handle(revoke),
        Endpoint::post("/v1/sessions/current/proof", "proveIdentity")
            .summary("Prove again who I am, before a sensitive change")
            .description("With `password`, or with `code` (and `method`) where a second factor is set up.")
            .tag("identity")
            .limit(LimitClass::Auth)
            .body::<ProofBody>()
            .no_content(204, "Proven; sensitive changes are open for a while")
            .problem(403)
            .problem(404)
            .handle(prove),
    ]
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignIn)]
struct SignInBody {
    #[schema(format = Email, max_length = 254)]
    email: String,
    #[schema(value_type = String, format = Password, max_length = 256)]
    password: Secret<String>,
}

#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MfaMethod {
    Totp,
    RecoveryCode,
}

impl From<MfaMethod> for SecondFactor {
    fn from(method: MfaMethod) -> Self {
        match method {
            MfaMethod::Totp => Self::Totp,
            MfaMethod::RecoveryCode => Self::RecoveryCode,
        }
    }
}

/// What a sign-in still needs.
#[derive(Serialize, ToSchema)]
#[schema(as = MfaChallenge)]
struct ChallengeBody {
    mfa: Challenge,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MfaChallengeDetails)]
struct Challenge {
    challenge_id: String,
    methods: Vec<MfaMethod>,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MfaAnswer)]
struct AnswerBody {
    #[schema(max_length = 200)]
    challenge_id: String,
    method: MfaMethod,
    #[schema(max_length = 64)]
    code: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RefreshSession)]
struct RefreshBody {
    #[schema(value_type = String, max_length = 200)]
    refresh_token: Secret<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdentityProof)]
struct ProofBody {
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, max_length = 256)]
    password: Option<Secret<String>>,
    #[serde(default)]
    #[schema(max_length = 64)]
    code: Option<String>,
    /// `totp` when it is not given.
    #[serde(default)]
    method: Option<MfaMethod>,
}

fn issued(status: u16, tokens: IssuedTokens) -> Reply {
    Reply::json(status, &TokensBody::from(tokens)).header("cache-control", "no-store")
}

async fn create(call: Call<SignInBody>) -> Result<Reply, Error> {
    let client = client(call.header("user-agent"), &call.origin);
    let password = call.body.password.clone();
    match call.services.identity.sign_in(&call.body.email, password, client, &call.origin).await? {
        SignInOutcome::SignedIn(tokens) => Ok(issued(201, *tokens)),
        SignInOutcome::Challenged { challenge, expires_at } => {
            let challenge_id = challenge.expose().clone();
            let methods = vec![MfaMethod::Totp, MfaMethod::RecoveryCode];
            let body = ChallengeBody { mfa: Challenge { challenge_id, methods, expires_at } };
            Ok(Reply::ok(&body).header("cache-control", "no-store"))
        }
    }
}

async fn answer(call: Call<AnswerBody>) -> Result<Reply, Error> {
    let client = client(call.header("user-agent"), &call.origin);
    let AnswerBody { challenge_id, method, code } = &call.body;
    let identity = &call.services.identity;
    let tokens = identity.answer_challenge(challenge_id, (*method).into(), code.trim(), client, &call.origin).await?;
    Ok(issued(201, tokens))
}

async fn refresh(call: Call<RefreshBody>) -> Result<Reply, Error> {
    let client = client(call.header("user-agent"), &call.origin);
    let token = call.body.refresh_token.expose();
    let tokens = call.services.identity.refresh(token, client, &call.origin).await?;
    Ok(issued(200, tokens))
}

fn current(principal: &Principal) -> Result<&str, Error> {
    match principal {
        Principal::User { session: Some(session), .. } => Ok(session),
        _ => Err(Error::forbidden("This needs a signed-in session.")),
    }
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let open = call.services.identity.sessions(signed_in(&call)?, &call.origin).await?;
    let current = current(&call.principal).ok();
    let items = open.into_iter().map(|view| SessionBody::new(view, current)).collect();
    Ok(Reply::ok(&List::part(items, &call.query()?, call.list())?))
}

async fn sign_out(call: Call<()>) -> Result<Reply, Error> {
    let session_id = current(&call.principal)?;
    call.services.identity.sign_out(signed_in(&call)?, session_id, &call.origin).await?;
    Ok(Reply::empty(204))
}

async fn revoke(call: Call<()>) -> Result<Reply, Error> {
    call.services.identity.sign_out(signed_in(&call)?, call.param("id"), &call.origin).await?;
    Ok(Reply::empty(204))
}

async fn sign_out_everywhere(call: Call<()>) -> Result<Reply, Error> {
    call.services.identity.sign_out_everywhere(signed_in(&call)?, &call.origin).await?;
    Ok(Reply::empty(204))
}

async fn prove(call: Call<ProofBody>) -> Result<Reply, Error> {
    let proof = match &call.body {
        ProofBody { password: Some(password), code: None, method: None } => Proof::Password(password.clone()),
        ProofBody { password: None, code: Some(code), method } => {
            Proof::Code(method.unwrap_or(MfaMethod::Totp).into(), code.trim().to_owned())
        }
        _ => return Err(Error::invalid("", "must hold either password or code")),
    };
    call.services.identity.prove(&call.principal, proof, &call.origin).await?;
    Ok(Reply::empty(204))
}
