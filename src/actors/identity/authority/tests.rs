mod guards;

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::actors::catalogue;
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::user::{SecondFactor, Status};
use crate::actors::runtime::clock::NodeClock;
use crate::actors::runtime::kinds::Kinds;
use crate::actors::runtime::log::ShardLog;
use crate::actors::runtime::testing::{MemoryKeys, MemoryLog};
use crate::actors::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use crate::kernel::{ErrorCode, ProviderKind, Secret, ShardId, codec};
use crate::providers::email::{EmailReceipt, EmailRequest};
use crate::providers::keys::FileKeys;
use crate::providers::{Provider, ProviderError};

const PASSWORD: &str = "brass lantern over quiet water";

/// Mails as they are handed over.
struct Outgoing(mpsc::UnboundedSender<EmailRequest>);

#[async_trait]
impl Provider for Outgoing {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Email
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let request: EmailRequest =
            codec::decode(request).map_err(|error| ProviderError::Unknown(error.to_string()))?;
        let _ = self.0.send(request);
        Ok(codec::encode(&EmailReceipt { message_id: key.to_owned() }).expect("encodes"))
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Ok(None)
    }
}

/// The real entities on logs in memory.
struct World {
    authority: Authority,
    runtime: Runtime,
    clock: Arc<NodeClock>,
    mails: mpsc::UnboundedReceiver<EmailRequest>,
    requests: AtomicI64,
    _keys: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let logs = (0..3).map(|shard| MemoryLog::start(ShardId(shard)) as Arc<dyn ShardLog>).collect();
        let clock = Arc::new(NodeClock::virtual_at("2026-01-31T10:00:00Z".parse().expect("a time")));
        let (sender, mails) = mpsc::unbounded_channel();
        let providers: Vec<Arc<dyn Provider>> = vec![Arc::new(Outgoing(sender))];
        let kinds = Kinds::new(&catalogue::kinds(), 2);
        let options = RuntimeOptions::default();
        let parts = RuntimeParts { logs, kinds, clock: Arc::clone(&clock), providers, options };
        let runtime = Runtime::start(parts).await.expect("starts");
        runtime.set_sealer(Arc::new(MemoryKeys::default()));
        runtime.go();
        let directory = tempfile::tempdir().expect("a directory");
        let keys = Arc::new(FileKeys::open(directory.path()).expect("keys"));
        let router = runtime.router.clone();
        let authority = Authority::new(router, Arc::clone(&clock) as Arc<dyn Clock>, keys, &Settings::embedded());
        authority.start().await.expect("makes a signing key");
        Self { authority, runtime, clock, mails, requests: AtomicI64::new(0), _keys: directory }
    }

    fn origin(&self) -> Origin {
        Origin {
            principal: Principal::Anonymous,
            source: "source".to_owned(),
            request_id: format!("req-{}", self.requests.fetch_add(1, Ordering::Relaxed)),
            traceparent: None,
            idempotency: None,
            reaches_all: false,
        }
    }

    fn advance(&self, seconds: i64) {
        self.clock.set(self.clock.now().plus_seconds(seconds));
    }

    async fn mail(&mut self) -> EmailRequest {
        tokio::time::timeout(Duration::from_secs(20), self.mails.recv()).await.expect("a mail").expect("a sender")
    }

    async fn sign_up(&self, email: &str, origin: &Origin) -> Result<(), Error> {
        let request = SignUpRequest {
            email: EmailAddress::parse(email).expect("an address"),
            password: Secret::new(PASSWORD.to_owned()),
            role: "consumer".to_owned(),
            display_name: Some("Ada".to_owned()),
            locale: "en".to_owned(),
            time_zone: "UTC".to_owned(),
        };
        self.authority.sign_up(request, origin).await
    }

    /// A verified user, signed in.
    async fn join(&mut self, email: &str) -> IssuedTokens {
        self.sign_up(email, &self.origin()).await.expect("accepted");
        let token = token_of(&self.mail().await);
        self.authority.verify_address(&token, Client::default(), &self.origin()).await.expect("verified")
    }

    async fn sign_in(&self, email: &str, password: &str) -> Result<SignInOutcome, Error> {
        let password = Secret::new(password.to_owned());
        self.authority.sign_in(email, password, Client::default(), &self.origin()).await
    }

    async fn tokens(&self, email: &str, password: &str) -> IssuedTokens {
        match self.sign_in(email, password).await.expect("signed in") {
            SignInOutcome::SignedIn(tokens) => *tokens,
            SignInOutcome::Challenged { .. } => panic!("no second factor is set up"),
        }
    }

    async fn holder(&self, tokens: &IssuedTokens) -> Result<Principal, Error> {
        let known = self.authority.authenticate(tokens.access_token.expose()).await?;
        Ok(known.principal)
    }

    async fn refresh(&self, tokens: &IssuedTokens) -> Result<IssuedTokens, Error> {
        self.authority.refresh(tokens.refresh_token.expose(), Client::default(), &self.origin()).await
    }
}

fn token_of(mail: &EmailRequest) -> String {
    let (_, rest) = mail.text.split_once("token=").expect("the text part has a link with a token");
    rest.split_whitespace().next().expect("a token").to_owned()
}

fn code<T>(result: Result<T, Error>) -> Option<ErrorCode> {
    result.err().map(|error| error.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_up_once_and_a_known_address_is_not_told() {
    let mut world = World::new().await;
    let (one, two) = (world.origin(), world.origin());
    let (first, second) = tokio::join!(world.sign_up("ada@example.org", &one), world.sign_up("ADA@example.org", &two));
    assert_eq!((first, second), (Ok(()), Ok(())));
    let (first, second) = (token_of(&world.mail().await), token_of(&world.mail().await));
    assert_eq!(first.split('.').next(), second.split('.').next(), "two sign-ups end in one user");
    assert_eq!(code(world.sign_in("ada@example.org", PASSWORD).await), Some(ErrorCode::Unauthenticated));
    let tokens = world.authority.verify_address(&first, Client::default(), &world.origin()).await.expect("verified");
    assert_eq!(tokens.user.as_ref().map(|user| user.status), Some(Status::Active));
    let again = world.authority.verify_address(&second, Client::default(), &world.origin()).await;
    assert_eq!(code(again), Some(ErrorCode::Invalid));
    world.sign_up("ada@example.org", &world.origin()).await.expect("the same answer");
    let known = world.mail().await;
    assert!(!known.text.contains("token="), "{}", known.text);
    for (email, password) in [("ada@example.org", "wrong"), ("bob@example.org", PASSWORD), ("no address", PASSWORD)] {
        let error = world.sign_in(email, password).await.expect_err("refused");
        assert_eq!(error, Error::unauthenticated("The e-mail address or the password is wrong."), "{email}");
    }
    let found = world.authority.users(None, 10, &world.origin()).await.expect("listed");
    assert_eq!(found.len(), 1);
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_live_as_long_as_their_session() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let other = world.tokens("ada@example.org", PASSWORD).await;
    let principal = world.holder(&tokens).await.expect("known");
    let user_id = principal.user_id().expect("a user").to_owned();

    let refreshed = world.refresh(&tokens).await.expect("rotated");
    assert_eq!(world.holder(&refreshed).await.as_ref(), Ok(&principal));
    assert_eq!(code(world.refresh(&tokens).await), Some(ErrorCode::Unauthenticated), "a spent token");
    assert_eq!(code(world.refresh(&refreshed).await), Some(ErrorCode::Unauthenticated), "its family is revoked");
    assert_eq!(code(world.holder(&tokens).await), Some(ErrorCode::Unauthenticated));
    assert_eq!(
        code(world.authority.refresh("x", Client::default(), &world.origin()).await),
        Some(ErrorCode::Unauthenticated)
    );

    let third = world.tokens("ada@example.org", PASSWORD).await;
    let stranger = world.authority.sign_out("usr_x", &third.session_id, &world.origin()).await;
    assert_eq!(code(stranger), Some(ErrorCode::NotFound));
    world.authority.sign_out(&user_id, &third.session_id, &world.origin()).await.expect("signed out");
    assert_eq!(code(world.holder(&third).await), Some(ErrorCode::Unauthenticated));
    assert!(world.holder(&other).await.is_ok());
    // A request that was let in just before its session ended is refused as one that came just after.
    let proof = Proof::Password(Secret::new(PASSWORD.to_owned()));
    let late = world.holder(&other).await.expect("known");
    world.authority.sign_out_everywhere(&user_id, &world.origin()).await.expect("signed out");
    let proved = world.authority.prove(&late, proof, &world.origin()).await;
    assert_eq!(code(proved), Some(ErrorCode::Unauthenticated));
    assert_eq!(code(world.holder(&other).await), Some(ErrorCode::Unauthenticated));
    assert_eq!(world.authority.sessions(&user_id, &world.origin()).await.map(|open| open.len()), Ok(0));

    let last = world.tokens("ada@example.org", PASSWORD).await;
    world.advance(900);
    assert_eq!(code(world.holder(&last).await), Some(ErrorCode::Unauthenticated), "expired");
    world.authority.rotate_signing_key(&world.origin()).await.expect("rotated");
    let renewed = world.refresh(&last).await.expect("rotated");
    assert!(world.holder(&renewed).await.is_ok());
    assert_eq!(world.authority.jwks().await.map(|keys| keys.len()), Ok(2));
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_under_an_idempotency_key_gets_the_same_session() {
    let mut world = World::new().await;
    world.join("ada@example.org").await;
    let origin = Origin { idempotency: Some([7; 32]), ..world.origin() };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let password = Secret::new(PASSWORD.to_owned());
        let outcome = world.authority.sign_in("ada@example.org", password, Client::default(), &origin).await;
        let Ok(SignInOutcome::SignedIn(tokens)) = outcome else { panic!("signed in") };
        seen.push((tokens.session_id.clone(), tokens.refresh_token.clone()));
    }
    assert_eq!(seen[0], seen[1]);
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_reset_by_mail_and_the_second_factor_stays() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let principal = world.holder(&tokens).await.expect("known");
    let user_id = principal.user_id().expect("a user").to_owned();
    let set_up = world.authority.begin_totp(&principal, None, &world.origin()).await.expect("begun");
    assert!(set_up.qr_svg.contains("<svg") && set_up.otpauth_uri.contains(&set_up.secret));
    let secret = totp_rs::Secret::try_from_base32(&set_up.secret).expect("base32");
    let app = totp_rs::Builder::new().with_secret(secret).build().expect("an authenticator");
    let code_now = |world: &World| app.generate(world.clock.now().as_seconds().unsigned_abs()).to_string();
    let wrong = world.authority.confirm_totp(&user_id, "000000".to_owned(), &world.origin()).await;
    assert_eq!(code(wrong), Some(ErrorCode::Invalid));
    let confirmed = world.authority.confirm_totp(&user_id, code_now(&world), &world.origin()).await;
    let recovery = confirmed.expect("confirmed");

    let email = EmailAddress::parse("ada@example.org").expect("an address");
    world.authority.forgot_password(&email, &world.origin()).await.expect("accepted");
    let token = loop {
        let mail = world.mail().await;
        if mail.text.contains("token=") {
            break token_of(&mail);
        }
    };
    let new = || Secret::new("a copper kettle in winter light".to_owned());
    let weak = world.authority.reset_password(&token, Secret::new("12345678".to_owned()), &world.origin()).await;
    assert_eq!(code(weak), Some(ErrorCode::Invalid));
    world.authority.reset_password(&token, new(), &world.origin()).await.expect("reset");
    assert_eq!(code(world.authority.reset_password(&token, new(), &world.origin()).await), Some(ErrorCode::Invalid));
    assert_eq!(code(world.holder(&tokens).await), Some(ErrorCode::Unauthenticated));
    assert_eq!(code(world.sign_in("ada@example.org", PASSWORD).await), Some(ErrorCode::Unauthenticated));

    world.advance(30);
    let Ok(SignInOutcome::Challenged { challenge, .. }) = world.sign_in("ada@example.org", new().expose()).await else {
        panic!("a second factor is due")
    };
    let answer = async |factor, code: &str| {
        let challenge = challenge.expose();
        world.authority.answer_challenge(challenge, factor, code, Client::default(), &world.origin()).await
    };
    assert_eq!(code(answer(SecondFactor::Totp, "12345").await), Some(ErrorCode::Unauthenticated));
    let tokens = answer(SecondFactor::RecoveryCode, &recovery[3]).await.expect("signed in");
    let principal = world.holder(&tokens).await.expect("known");
    world.advance(601);
    let late = world.authority.remove_totp(&principal, &world.origin()).await;
    assert_eq!(code(late), Some(ErrorCode::StepUpRequired));
    world.authority.prove(&principal, Proof::Password(new()), &world.origin()).await.expect("proven");
    world.authority.remove_totp(&principal, &world.origin()).await.expect("removed");
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_what_they_do_not_hold() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let principal = world.holder(&tokens).await.expect("known");
    let user_id = principal.user_id().expect("a user").to_owned();
    let patch = |role: &str| UserPatch { roles: Some(vec![role.to_owned()]), status: None };
    let origin = world.origin();
    let clerk = |permission: &str| permission.starts_with("users:") || permission.starts_with("topics:");
    let raised = world.authority.update_user(&user_id, patch("administrator"), None, clerk, &origin).await;
    assert_eq!(code(raised), Some(ErrorCode::Forbidden));
    let unknown = world.authority.update_user(&user_id, patch("wizard"), None, |_| true, &origin).await;
    assert_eq!(code(unknown), Some(ErrorCode::Invalid));
    let raised = world.authority.update_user(&user_id, patch("administrator"), None, |_| true, &origin).await;
    assert_eq!(raised.map(|user| user.roles), Ok(vec!["administrator".to_owned()]));
    let lowered = world.authority.update_user(&user_id, patch("consumer"), None, clerk, &origin).await;
    assert_eq!(code(lowered), Some(ErrorCode::Forbidden));
    let stale = world.authority.update_user(&user_id, patch("consumer"), Some(1), |_| true, &origin).await;
    assert_eq!(code(stale), Some(ErrorCode::PreconditionFailed));
    let grant = vec!["users:read".to_owned()];
    let put = world.authority.put_role("consumer", grant.clone(), None, |_| false, &origin).await;
    assert_eq!(code(put), Some(ErrorCode::Forbidden));
    world.authority.put_role("consumer", grant.clone(), None, |_| true, &origin).await.expect("put");
    assert_eq!(world.authority.permissions_of(&["consumer".to_owned()]).await, Ok(grant.into()));
    let stripped = world.authority.put_role("consumer", Vec::new(), None, |held| held == "roles:write", &origin).await;
    assert_eq!(code(stripped), Some(ErrorCode::Forbidden), "who takes a permission away must have it");

    let suspend = UserPatch { roles: None, status: Some(Status::Suspended) };
    world.authority.update_user(&user_id, suspend, None, |_| true, &origin).await.expect("suspended");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while world.holder(&tokens).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "a suspension ends the sessions");
        tokio::task::yield_now().await;
    }
    assert_eq!(code(world.sign_in("ada@example.org", PASSWORD).await), Some(ErrorCode::Unauthenticated));
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_does_what_its_scopes_and_its_person_may() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let user_id = world.holder(&tokens).await.expect("known").user_id().expect("a user").to_owned();
    let origin = world.origin();
    let new = |scopes: &[&str]| NewApiKey {
        name: "robot".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        expires_at: None,
    };
    let held = world.authority.permissions_of(&["consumer".to_owned()]).await.expect("known");
    let may = |permission: &str| held.iter().any(|known| known == permission);
    let raised = world.authority.create_api_key(&user_id, new(&["users:write"]), may, &origin).await;
    assert_eq!(code(raised.map(|_| ())), Some(ErrorCode::Forbidden));
    let unknown = world.authority.create_api_key(&user_id, new(&["x:y"]), may, &origin).await;
    assert_eq!(code(unknown.map(|_| ())), Some(ErrorCode::Invalid));
    let made = world.authority.create_api_key(&user_id, new(&["topics:subscribe"]), may, &origin).await;
    let (key, secret) = made.expect("made");
    let holder = world.authority.authenticate(secret.expose()).await.expect("known");
    assert_eq!(
        (holder.principal.user_id(), &*holder.permissions),
        (Some(user_id.as_str()), &["topics:subscribe".to_owned()][..])
    );
    assert_eq!(world.authority.api_keys(&user_id, None, 9).await.map(|keys| keys.len()), Ok(1));
    let stranger = world.authority.revoke_api_key("usr_x", &key.id, &origin).await;
    assert_eq!(code(stranger), Some(ErrorCode::NotFound));
    world.authority.revoke_api_key(&user_id, &key.id, &origin).await.expect("revoked");
    assert_eq!(code(world.authority.authenticate(secret.expose()).await), Some(ErrorCode::Unauthenticated));
    assert_eq!(code(world.authority.authenticate("key_x.y").await), Some(ErrorCode::Unauthenticated));
    assert_eq!(world.authority.api_keys(&user_id, None, 9).await.map(|keys| keys.len()), Ok(0));
    world.runtime.stop().await;
}
