//! The compliance service on the real runtime, with logs in memory that remember every byte a disk would see.

mod rotation;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::watch;

use super::audit_log::search::{Filter, search};
use super::audit_log::{AuditLog, Query, export};
use super::erasure::{Phase, Reply as Progress, erasure_id};
use super::{Eraser, Erasure, Keyring, KeyringSealer, keyring};
use crate::actors::catalogue;
use crate::actors::identity::email_claim;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::{self, Client, Session};
use crate::actors::identity::user::{self, User};
use crate::actors::runtime::clock::NodeClock;
use crate::actors::runtime::kinds::Kinds;
use crate::actors::runtime::log::{Completion, Leadership, LogError, LogStatus, ShardLog};
use crate::actors::runtime::sealer::Sealer;
use crate::actors::runtime::testing::MemoryLog;
use crate::actors::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use crate::kernel::merkle::{leaf_hash, verify_consistency, verify_inclusion};
use crate::kernel::{
    EntityId, Error, ErrorCode, Op, Origin, Principal, ProviderKind, Secret, ShardId, Slot, Timestamp, codec,
    id::type_id,
};
use crate::providers::email::{EmailReceipt, EmailRequest};
use crate::providers::keys::{FileKeys, KeyWrapper};
use crate::providers::{Provider, ProviderError};
use crate::storage::state::ShardState;

const EMAIL: &str = "ada.lovelace@example.org";
const NAME: &str = "Augusta Ada";

/// What every log was asked to write, as it would go to the write-ahead log.
type Disk = Arc<Mutex<Vec<u8>>>;

struct RecordingLog {
    inner: Arc<MemoryLog>,
    disk: Disk,
}

#[async_trait]
impl ShardLog for RecordingLog {
    fn shard(&self) -> ShardId {
        self.inner.shard()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership()
    }

    fn propose_then(&self, term: u64, op: Op, done: Completion) -> Result<(), LogError> {
        self.disk.lock().expect("not poisoned").extend(codec::encode(&op).expect("encodes"));
        self.inner.propose_then(term, op, done)
    }

    async fn read_barrier(&self, term: u64) -> Result<(), LogError> {
        self.inner.read_barrier(term).await
    }

    fn state(&self) -> &Arc<ShardState> {
        self.inner.state()
    }

    fn votes(&self) -> bool {
        true
    }

    fn status(&self) -> LogStatus {
        self.inner.status()
    }
}

/// Mails that were handed over.
#[derive(Default)]
struct Mailbox(Mutex<Vec<EmailRequest>>);

#[async_trait]
impl Provider for Mailbox {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Email
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, _key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        self.0.lock().expect("not poisoned").push(codec::decode(request).expect("an e-mail"));
        Ok(codec::encode(&EmailReceipt { message_id: "1".to_owned() }).expect("encodes"))
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Ok(None)
    }
}

struct World {
    _directory: tempfile::TempDir,
    keys: Arc<FileKeys>,
    runtime: Runtime,
    mailbox: Arc<Mailbox>,
    disk: Disk,
    sealer: Arc<KeyringSealer>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = Arc::new(FileKeys::open(directory.path()).expect("keys"));
        let disk = Disk::default();
        let log = |shard| {
            let inner = MemoryLog::start(ShardId(shard));
            Arc::new(RecordingLog { inner, disk: Arc::clone(&disk) }) as Arc<dyn ShardLog>
        };
        let mailbox = Arc::new(Mailbox::default());
        let parts = RuntimeParts {
            logs: (0..3).map(log).collect(),
            kinds: Kinds::new(&catalogue::kinds(), 2),
            clock: Arc::new(NodeClock::virtual_at(Timestamp::from_millis(1_700_000_000_000))),
            providers: vec![Arc::clone(&mailbox) as Arc<dyn Provider>],
            options: RuntimeOptions { retry_ms: (1, 5), ..RuntimeOptions::default() },
        };
        let runtime = Runtime::start(parts).await.expect("starts");
        let sealer = Arc::new(KeyringSealer::new(Arc::clone(&keys) as Arc<dyn KeyWrapper>, 100));
        sealer.connect(Arc::new(runtime.router.clone()));
        runtime.set_sealer(Arc::clone(&sealer) as Arc<dyn Sealer>);
        runtime.go();
        Self { _directory: directory, keys, runtime, mailbox, disk, sealer }
    }

    async fn user(&self, id: &str, command: user::Command) -> Result<user::Reply, Error> {
        self.runtime.router.ask::<User>(&EntityId::new("user", id), command, &origin(id)).await
    }

    /// A person who signed up, proved their address and is signed in: their id and session.
    async fn person(&self, seed: u8) -> (String, String) {
        let id = type_id("usr", self.runtime.clock_now(), Slot(u16::from(seed)), [seed; 8]);
        let sign_up = user::SignUp {
            email: EMAIL.to_owned(),
            claim: format!("claim{seed}"),
            password: Secret::new("$argon2id$stored".to_owned()),
            role: "consumer".to_owned(),
            display_name: Some(NAME.to_owned()),
            locale: "en".to_owned(),
            time_zone: "UTC".to_owned(),
            token: Secret::new("link".to_owned()),
            token_seconds: 3600,
        };
        let claim = email_claim::Command::Claim { user_id: id.clone() };
        let claimed = email_claim::id(&format!("claim{seed}"));
        self.runtime.router.ask::<email_claim::EmailClaim>(&claimed, claim, &origin(&id)).await.expect("claimed");
        self.user(&id, user::Command::SignUp(Box::new(sign_up))).await.expect("signed up");
        let verify = user::Command::Verify { token: TokenHash::of("link"), client: Client::default() };
        let user::Reply::SignedIn(signed_in) = self.user(&id, verify).await.expect("verified") else {
            panic!("signed in");
        };
        let start = session::Start {
            user_id: id.clone(),
            roles: vec!["consumer".to_owned()],
            methods: signed_in.methods.clone(),
            client: Client::default(),
            refresh: TokenHash::of("refresh"),
            idle_seconds: 3600,
        };
        let session = session::id(&signed_in.session_id);
        self.runtime
            .router
            .ask::<Session>(&session, session::Command::Start(start), &origin(&id))
            .await
            .expect("started");
        (id, signed_in.session_id)
    }

    async fn phase(&self, id: &str) -> Phase {
        let get = super::erasure::Command::Get;
        let asked = self.runtime.router.ask::<Erasure>(&erasure_id(id), get, &origin(id)).await;
        let Progress::Progress { phase, .. } = asked.expect("answers");
        phase
    }

    fn on_disk(&self, text: &[u8]) -> bool {
        self.disk.lock().expect("not poisoned").windows(text.len()).any(|window| window == text)
    }
}

trait ClockNow {
    fn clock_now(&self) -> Timestamp;
}

impl ClockNow for Runtime {
    fn clock_now(&self) -> Timestamp {
        self.router.now()
    }
}

fn origin(id: &str) -> Origin {
    let principal = Principal::User { id: id.to_owned(), session: None, roles: Vec::new() };
    Origin { principal, ..Origin::system("test") }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn no_personal_data_reaches_the_disk_in_clear() {
    let world = World::new().await;
    let (id, _) = world.person(1).await;
    until("the verification mail", || async { !world.mailbox.0.lock().expect("not poisoned").is_empty() }).await;
    for plain in [EMAIL, NAME, "$argon2id$", "link"] {
        assert!(!world.on_disk(plain.as_bytes()), "{plain} is on disk");
    }
    assert!(world.on_disk(id.as_bytes()), "ids are, so the search finds what is there");
}

#[tokio::test]
async fn an_erased_person_cannot_be_read_while_the_log_still_proves_every_entry() {
    let world = World::new().await;
    let keys = Arc::clone(&world.keys) as Arc<dyn KeyWrapper>;
    let log = AuditLog::open(world.runtime.router.clone(), keys, "example.org").await.expect("opens");
    let ((id, session_id), (other, _)) = (world.person(1).await, world.person(3).await);
    let shard = world.runtime.router.shard_of(&erasure_id(&id));
    let before = log.checkpoint(shard, None).await.expect("signed");

    let eraser = Arc::new(Eraser::new(world.runtime.router.clone(), Arc::clone(&world.sealer)));
    let running = tokio::spawn(Arc::clone(&eraser).run(world.runtime.stopping()));
    eraser.begin(&id, &origin(&id)).await.expect("begun");
    until("completed", || async { world.phase(&id).await == Phase::Completed }).await;
    let gone = |asked: Result<user::Reply, Error>| asked.err().is_some_and(|error| error.code == ErrorCode::Gone);
    until("gone", || async { gone(world.user(&id, user::Command::GetUser).await) }).await;

    let session = session::id(&session_id);
    let asked = world.runtime.router.ask::<Session>(&session, session::Command::GetSession, &origin(&id)).await;
    assert_eq!(asked.err().map(|error| error.code), Some(ErrorCode::Gone));
    assert!(world.user(&other, user::Command::GetUser).await.is_ok(), "their shard-mate is untouched");
    let owner = email_claim::Command::GetOwner;
    let claim = email_claim::id("claim1");
    let owner = world.runtime.router.ask::<email_claim::EmailClaim>(&claim, owner, &origin(&other)).await;
    assert_eq!(owner.expect("answers"), email_claim::Reply::Owner(None), "the address is free");
    let farewells: Vec<String> = {
        let mails = world.mailbox.0.lock().expect("not poisoned");
        mails.iter().filter(|mail| mail.subject.contains("erased")).map(|mail| mail.to.clone()).collect()
    };
    assert_eq!(farewells, [EMAIL], "one farewell, while the address could still be read");

    let state = world.runtime.router.replica(shard).expect("is here").state();
    let keyring_id = keyring::keyring_id(&id);
    assert!(state.rows(&keyring_id, keyring::TABLE, None, 10, false).expect("reads").is_empty());
    let asked = world.runtime.router.ask::<Keyring>(&keyring_id, keyring::Command::Get, &origin(&id)).await;
    assert!(matches!(asked, Ok(keyring::Reply::Erased { .. })));

    let after = log.checkpoint(shard, None).await.expect("signed");
    let (old, new) = (before.checkpoint.size, after.checkpoint.size);
    let proof = log.proof(shard, &Query::Consistency { old, new }).await.expect("proved");
    assert_eq!(verify_consistency(old, new, &before.checkpoint.root, &after.checkpoint.root, &proof), Ok(()));
    let leaves = log.entries(shard, 0, 500).await.expect("read");
    assert_eq!(leaves.len() as u64, new);
    for (index, leaf) in leaves.iter().enumerate() {
        let index = index as u64;
        let proof = log.proof(shard, &Query::Inclusion { index, size: new }).await.expect("proved");
        assert_eq!(verify_inclusion(index, new, &leaf_hash(leaf), &proof, &after.checkpoint.root), Ok(()));
    }
    world.runtime.stop().await;
    running.await.expect("stops");
}

#[tokio::test]
async fn entries_are_listed_newest_first_over_all_shards_and_exported_verifiably() {
    let world = World::new().await;
    let keys = Arc::clone(&world.keys) as Arc<dyn KeyWrapper>;
    let log = AuditLog::open(world.runtime.router.clone(), Arc::clone(&keys), "example.org").await.expect("opens");
    let log = Arc::new(log);
    let mut people = Vec::new();
    for seed in 1..5 {
        people.push(world.person(seed).await.0);
    }
    let all = search(&log, &Filter::default(), None, 1000).await.expect("found");
    assert!(all.cursor.is_none() && all.entries.is_sorted_by_key(|entry| std::cmp::Reverse(entry.at)));
    let (mut paged, mut cursor) = (Vec::new(), None);
    loop {
        let page = search(&log, &Filter::default(), cursor.as_deref(), 3).await.expect("found");
        paged.extend(page.entries);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(paged, all.entries, "pages neither repeat nor skip");
    let about = Filter { about: Some(people[0].clone()), ..Filter::default() };
    let mine = search(&log, &about, None, 1000).await.expect("found").entries;
    assert!(!mine.is_empty() && mine.iter().all(|entry| entry.actor == people[0] || entry.target == people[0]));

    let pieces: Vec<_> = export::lines(Arc::clone(&log), world.runtime.router.now()).collect().await;
    let file: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.expect("exported")).collect();
    let verified = export::verify(file.as_slice(), &[]).expect("verifies");
    assert_eq!(verified.logs.iter().map(|log| log.entries).sum::<u64>(), all.entries.len() as u64);
    let again = AuditLog::open(world.runtime.router.clone(), keys, "another.name").await.expect("opens");
    assert_eq!(again.verifier(ShardId(1)), log.verifier(ShardId(1)), "name and key stay");
}
