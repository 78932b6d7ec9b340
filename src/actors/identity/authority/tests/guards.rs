//! What holds between two steps of a flow, and against who has only a token.

use std::sync::atomic::AtomicUsize;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::join_all;
use zeroize::Zeroizing;

use super::*;
use crate::actors::identity::api_key::places::MAX_KEYS;
use crate::actors::identity::user::{self, SignIn, SignedIn, User};
use crate::providers::keys::{KeyError, WrappedKey};

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_alone_ties_no_authenticator_to_the_account() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let principal = world.holder(&tokens).await.expect("known");
    world.advance(601);
    let begin = |password: Option<&str>| {
        let password = password.map(|password| Secret::new(password.to_owned()));
        let (authority, principal, origin) = (&world.authority, principal.clone(), world.origin());
        async move { authority.begin_totp(&principal, password, &origin).await.map(|_| ()) }
    };
    assert_eq!(code(begin(None).await), Some(ErrorCode::StepUpRequired));
    assert_eq!(code(begin(Some("wrong")).await), Some(ErrorCode::Invalid));
    assert_eq!(begin(Some(PASSWORD)).await, Ok(()), "the password is a proof");
    assert_eq!(code(begin(None).await), Some(ErrorCode::StepUpRequired), "of this request alone");
    let proof = Proof::Password(Secret::new(PASSWORD.to_owned()));
    world.authority.prove(&principal, proof, &world.origin()).await.expect("proven");
    assert_eq!(begin(None).await, Ok(()));
    let key = Principal::User { id: principal.user_id().expect("a user").to_owned(), session: None, roles: Vec::new() };
    let password = Some(Secret::new(PASSWORD.to_owned()));
    let by_key = world.authority.begin_totp(&key, password, &world.origin()).await;
    assert_eq!(code(by_key.map(|_| ())), Some(ErrorCode::Forbidden));
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_the_roles_of_that_moment() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let user_id = world.holder(&tokens).await.expect("known").user_id().expect("a user").to_owned();
    let router = &world.runtime.router;
    let attempt = SignIn {
        password_matches: true,
        credential_version: 1,
        challenge: TokenHash::of("challenge"),
        challenge_seconds: 300,
        client: Client::default(),
    };
    let signed_in = router.ask::<User>(&user::id(&user_id), user::Command::SignIn(attempt), &world.origin()).await;
    let Ok(user::Reply::SignedIn(signed_in)) = signed_in else { panic!("signed in, not {signed_in:?}") };
    let SignedIn { session_id, .. } = &*signed_in;
    let patch = UserPatch { roles: Some(vec!["administrator".to_owned()]), status: None };
    world.authority.update_user(&user_id, patch, None, |_| true, &world.origin()).await.expect("raised");
    // The session is told, and has not begun.
    let state = router.replica(router.shard_of(&session::id(session_id))).expect("is here").state();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !state.outbox(0, 1).expect("reads").is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the outbox empties");
        tokio::task::yield_now().await;
    }
    // The second time under the key of the first, as a client does that lost the answer.
    let origin = Origin { idempotency: Some([9; 32]), ..world.origin() };
    for _ in 0..2 {
        let started = world.authority.start_session((*signed_in).clone(), Client::default(), &origin).await;
        let Principal::User { roles, .. } = world.holder(&started.expect("started")).await.expect("known") else {
            panic!("a user")
        };
        assert_eq!(roles, ["administrator"]);
    }
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_made_at_once_keep_to_the_bound_and_are_all_listed() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let user_id = world.holder(&tokens).await.expect("known").user_id().expect("a user").to_owned();
    let make = || {
        let new = NewApiKey { name: "robot".to_owned(), scopes: Vec::new(), expires_at: None };
        let (authority, user_id, origin) = (&world.authority, &user_id, world.origin());
        async move { authority.create_api_key(user_id, new, |_| true, &origin).await.map(|(key, _)| key.id) }
    };
    let made = join_all((0..MAX_KEYS + 10).map(|_| make())).await;
    let refused = made.iter().filter(|made| made.as_ref().is_err_and(|error| error.code == ErrorCode::Conflict));
    assert_eq!(refused.count(), 10, "{made:?}");
    let mut made: Vec<String> = made.into_iter().flatten().collect();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = world.authority.api_keys(&user_id, after, 20).await.expect("listed");
        after = page.last().map(|(key, _)| key.clone());
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|(_, view)| view.id));
    }
    made.sort();
    assert_eq!(listed, made);
    world.authority.revoke_api_key(&user_id, &made[17], &world.origin()).await.expect("revoked");
    make().await.expect("its place is free at once");
    assert_eq!(code(make().await), Some(ErrorCode::Conflict));
    // One that is refused takes no place.
    world.authority.revoke_api_key(&user_id, &made[18], &world.origin()).await.expect("revoked");
    let past = NewApiKey { name: "late".to_owned(), scopes: Vec::new(), expires_at: Some(Timestamp::ZERO) };
    let late = world.authority.create_api_key(&user_id, past, |_| true, &world.origin()).await;
    assert_eq!(code(late.map(|_| ())), Some(ErrorCode::Invalid));
    make().await.expect("the place is still free");
    world.runtime.stop().await;
}

/// Counts how often a key is opened, which is once whenever the set of signing keys is asked for.
struct Counting {
    keys: FileKeys,
    opened: AtomicUsize,
}

#[async_trait]
impl KeyWrapper for Counting {
    async fn wrap(&self, owner: &str, key: &[u8; 32]) -> Result<WrappedKey, KeyError> {
        self.keys.wrap(owner, key).await
    }

    async fn unwrap(&self, owner: &str, wrapped: &WrappedKey) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.keys.unwrap(owner, wrapped).await
    }

    fn current_version(&self) -> u32 {
        self.keys.current_version()
    }

    fn versions(&self) -> Vec<u32> {
        self.keys.versions()
    }

    async fn make(&self, version: u32) -> Result<(), KeyError> {
        self.keys.make(version).await
    }

    async fn wrap_under(&self, version: u32) -> Result<(), KeyError> {
        self.keys.wrap_under(version).await
    }

    async fn hand_out(&self, version: u32) -> Result<Vec<u8>, KeyError> {
        self.keys.hand_out(version).await
    }

    async fn take_in(&self, version: u32, sealed: &[u8]) -> Result<(), KeyError> {
        self.keys.take_in(version, sealed).await
    }

    async fn destroy_below(&self, version: u32) -> Result<(), KeyError> {
        self.keys.destroy_below(version).await
    }

    fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        self.keys.derive(label)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_unknown_keys_ask_for_the_keys_once_a_second_at_most() {
    let mut world = World::new().await;
    let tokens = world.join("ada@example.org").await;
    let keys = FileKeys::open(world._keys.path()).expect("keys");
    let counting = Arc::new(Counting { keys, opened: AtomicUsize::new(0) });
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let (router, wrapper) = (world.runtime.router.clone(), Arc::clone(&counting) as Arc<dyn KeyWrapper>);
    let other_node = Authority::new(router, clock, wrapper, &Settings::embedded());
    other_node.start().await.expect("takes the signing key");
    let since = tokio::time::Instant::now();
    let (_, rest) = tokens.access_token.expose().split_once('.').expect("a JWT");
    for n in 0..500 {
        let header = format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"invented{n}"}}"#);
        let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
        assert_eq!(code(other_node.authenticate(&forged).await), Some(ErrorCode::Unauthenticated));
    }
    let (opened, seconds) = (counting.opened.load(Ordering::Relaxed), since.elapsed().as_secs());
    assert!(opened as u64 <= 2 + seconds, "{opened} times in {seconds} s");

    world.authority.rotate_signing_key(&world.origin()).await.expect("rotated");
    let renewed = world.refresh(&tokens).await.expect("signed with the new key");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while other_node.authenticate(renewed.access_token.expose()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the other node hears of the new key");
        tokio::task::yield_now().await;
    }
    world.runtime.stop().await;
}
