//! Keys, scopes and what is kept, over the entity in memory.

use std::collections::HashMap;
use std::sync::Mutex;

use http::Method;

use super::*;
use crate::actors::runtime::clock::NodeClock;
use crate::actors::runtime::testing::Given;

/// The entities of all keys, without a runtime.
#[derive(Default)]
pub struct MemoryStore {
    pub entities: Mutex<HashMap<String, Given<Idempotency>>>,
    kept: Mutex<Vec<Vec<u8>>>,
}

#[async_trait]
impl Store for MemoryStore {
    async fn ask(&self, id: &EntityId, command: Command, _: &Origin) -> Result<Kept, Error> {
        if let Command::Complete { answer, .. } = &command {
            self.kept.lock().expect("unpoisoned").push(answer.clone());
        }
        let mut entities = self.entities.lock().expect("unpoisoned");
        let entity = entities.entry(id.key().to_owned()).or_insert_with(|| Given::new(id.key()));
        entity.when(command).map(|decision| decision.reply)
    }
}

fn head(path: &str) -> Head {
    Head::new(Method::POST, path)
}

fn user(id: &str) -> Principal {
    Principal::User { id: id.to_owned(), session: None, roles: Vec::new() }
}

fn requests(store: &Arc<MemoryStore>) -> Requests {
    Requests::new(store.clone(), Arc::new(NodeClock::system()), 1)
}

fn body(reply: &Reply) -> &[u8] {
    match &reply.body {
        Body::Full(bytes) => bytes,
        Body::Stream(_) => panic!("a whole body"),
    }
}

#[test]
fn a_scope_belongs_to_its_caller() {
    let id = |principal: &Principal, source, path| {
        Scope::new("key-1", &head(path), b"{}", principal, source).expect("a scope").id
    };
    assert_eq!(id(&user("usr_1"), "here", "/v1/a"), id(&user("usr_1"), "there", "/v1/b"));
    assert_ne!(id(&user("usr_1"), "here", "/v1/a"), id(&user("usr_2"), "here", "/v1/a"));
    assert_ne!(id(&Principal::Anonymous, "here", "/v1/a"), id(&Principal::Anonymous, "there", "/v1/a"));
    assert_ne!(id(&Principal::Anonymous, "here", "/v1/a"), id(&Principal::Anonymous, "here", "/v1/b"));
    for bad in ["", "\"\"", "has space", "é", &"x".repeat(256)] {
        assert!(Scope::new(bad, &head("/"), b"", &Principal::Anonymous, "").is_err(), "{bad}");
    }
}

#[tokio::test]
async fn an_answer_is_kept_unreadable_and_replayed_whole() {
    for principal in [user("usr_1"), Principal::Anonymous] {
        let store = Arc::new(MemoryStore::default());
        let requests = requests(&store);
        let origin = Origin::system("first");
        let scope = || Scope::new("key-1", &head("/v1/sessions"), b"{}", &principal, "here").expect("a scope");
        let Ok(Begun::Proceed(ticket)) = requests.begin(scope(), &origin, 1000).await else { panic!("proceeds") };
        let under_way = requests.begin(scope(), &origin, 1000).await.err().map(|error| error.code);
        assert_eq!(under_way, Some(ErrorCode::IdempotencyInProgress));
        let reply = Reply::json(201, &serde_json::json!({"access_token": "secret-token"})).etag(3);
        let answer = ticket.keep(&reply);
        requests.finish(ticket, answer).await;
        let Ok(Begun::Replay(replay)) = requests.begin(scope(), &origin, 1000).await else { panic!("replays") };
        assert_eq!((replay.status, body(&replay)), (reply.status, body(&reply)));
        assert_eq!(replay.headers["idempotency-replayed"], "true");
        assert_eq!(replay.headers["etag"], "\"3\"");
        let kept = store.kept.lock().expect("unpoisoned").pop().expect("kept");
        let readable = kept.windows(12).any(|window| window == b"secret-token");
        assert_eq!(readable, principal.user_id().is_some(), "a user's answer is sealed by the runtime instead");
        let other = Scope::new("key-1", &head("/v1/sessions"), b"{\"a\":1}", &principal, "here").expect("a scope");
        let mismatch = requests.begin(other, &origin, 1000).await.err().map(|error| error.code);
        assert_eq!(mismatch, Some(ErrorCode::IdempotencyMismatch));
    }
}

#[tokio::test]
async fn what_may_pass_is_not_kept() {
    let store = Arc::new(MemoryStore::default());
    let requests = requests(&store);
    let origin = Origin::system("first");
    for status in [503, 429] {
        let scope = Scope::new("key-1", &head("/"), b"", &user("usr_1"), "here").expect("a scope");
        let Ok(Begun::Proceed(ticket)) = requests.begin(scope, &origin, 1000).await else { panic!("proceeds") };
        let answer = ticket.keep(&Reply::empty(status));
        assert_eq!(answer, None);
        requests.finish(ticket, answer).await;
    }
}
