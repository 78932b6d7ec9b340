use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, Decision};
use crate::providers::keys::FileKeys;

/// Real keyrings in a map, without the runtime. Counts questions; `on_get` runs after an answer was taken.
#[derive(Default)]
struct InMemory {
    keyrings: Mutex<HashMap<String, Given<Keyring>>>,
    fence: Mutex<Option<Given<KeyFence>>>,
    rows: Mutex<HashMap<String, WrappedKey>>,
    asked: AtomicUsize,
    on_get: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[async_trait]
impl Keyrings for InMemory {
    async fn ask(&self, user_id: &str, command: Command) -> Result<Reply, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let is_get = command == Command::Get;
        let answer = {
            let mut keyrings = self.keyrings.lock().expect("not poisoned");
            let given = keyrings.entry(user_id.to_owned()).or_insert_with(|| Given::new(user_id));
            given.when(command).map(|decision| self.keep(user_id, decision))
        };
        if let Some(action) = self.on_get.lock().expect("not poisoned").take_if(|_| is_get) {
            action();
        }
        answer
    }

    async fn announce(&self, user_id: &str, version: u32) -> Result<fence::Reply, Error> {
        let mut fence = self.fence.lock().expect("not poisoned");
        let command = fence::Command::Announce { user_id: user_id.to_owned(), version };
        fence.get_or_insert_with(|| Given::new("shard")).when(command).map(|decision| decision.reply)
    }

    async fn wrapped(&self, user_id: &str) -> Result<Option<WrappedKey>, Error> {
        Ok(self.rows.lock().expect("not poisoned").get(user_id).cloned())
    }
}

impl InMemory {
    /// Does to the rows what the shard's state would do.
    fn keep(&self, user_id: &str, decision: Decision<Keyring>) -> Reply {
        let mut rows = self.rows.lock().expect("not poisoned");
        for change in decision.changes {
            match change {
                Change::Row { value: Some(value), .. } => {
                    rows.insert(user_id.to_owned(), codec::decode(&value).expect("a wrapped key"));
                }
                Change::Row { value: None, .. } => drop(rows.remove(user_id)),
                _ => {}
            }
        }
        decision.reply
    }

    /// Asks without the hook, from within it.
    fn tell(&self, user_id: &str, command: Command) {
        let decision = {
            let mut keyrings = self.keyrings.lock().expect("not poisoned");
            keyrings.get_mut(user_id).expect("there").when(command).expect("accepted")
        };
        self.keep(user_id, decision);
    }
}

struct Fixture {
    _directory: tempfile::TempDir,
    keyrings: Arc<InMemory>,
    sealer: Arc<KeyringSealer>,
}

fn fixture(capacity: usize) -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = Arc::new(FileKeys::open(directory.path()).expect("keys"));
    let (keyrings, sealer) = (Arc::new(InMemory::default()), Arc::new(KeyringSealer::new(keys, capacity)));
    sealer.connect(Arc::clone(&keyrings) as Arc<dyn Keyrings>);
    Fixture { _directory: directory, keyrings, sealer }
}

impl Fixture {
    async fn key(&self, user_id: &str, create: bool) -> Option<[u8; 32]> {
        self.sealer.key(user_id, create).await.expect("answered").map(|key| *key.expose())
    }

    fn asked(&self) -> usize {
        self.keyrings.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn one_key_per_person_and_none_without_being_asked_to_make_it() {
    let fixture = fixture(8);
    assert_eq!(fixture.key("usr_a", false).await, None);
    let first = fixture.key("usr_a", true).await.expect("made");
    let asked = fixture.asked();
    assert_eq!(fixture.key("usr_a", false).await, Some(first));
    assert_eq!(fixture.asked(), asked, "a remembered key costs nothing");
    fixture.sealer.forget("usr_a");
    assert_eq!(fixture.key("usr_a", true).await, Some(first), "the keyring still has it");
    assert_ne!(fixture.key("usr_b", true).await, Some(first));
}

#[tokio::test]
async fn after_erasure_nothing_opens_and_nothing_is_made() {
    let fixture = fixture(8);
    fixture.key("usr_a", true).await.expect("made");
    fixture.keyrings.ask("usr_a", Command::Erase).await.expect("erased");
    fixture.sealer.forget("usr_a");
    assert_eq!(fixture.key("usr_a", false).await, None);
    assert_eq!(fixture.key("usr_a", true).await, None);
}

#[tokio::test]
async fn a_key_erased_while_it_is_fetched_is_not_remembered() {
    let fixture = fixture(8);
    fixture.key("usr_a", true).await.expect("made");
    fixture.sealer.forget("usr_a");
    let (sealer, keyrings) = (Arc::clone(&fixture.sealer), Arc::clone(&fixture.keyrings));
    *fixture.keyrings.on_get.lock().expect("not poisoned") = Some(Box::new(move || {
        keyrings.tell("usr_a", Command::Erase);
        sealer.forget("usr_a");
    }));
    assert_eq!(fixture.key("usr_a", false).await, None, "the row went before it was read");
    assert_eq!(fixture.key("usr_a", false).await, None);
}

#[tokio::test]
async fn a_key_fetched_before_it_was_forgotten_is_not_remembered() {
    let mut cache = KeyCache::new(8);
    let fetching_since = cache.generation;
    cache.forget("usr_b");
    cache.put("usr_a", &DataKey::new([1; 32]), fetching_since);
    assert!(cache.get("usr_a").is_none());
    cache.put("usr_a", &DataKey::new([1; 32]), cache.generation);
    assert!(cache.get("usr_a").is_some());
}

#[tokio::test]
async fn callers_that_race_for_the_first_key_get_the_same_one() {
    let fixture = fixture(8);
    let rival = Arc::clone(&fixture.sealer.keys).wrap("usr_a", &[9; 32]).await.expect("wrapped");
    let keyrings = Arc::clone(&fixture.keyrings);
    *fixture.keyrings.on_get.lock().expect("not poisoned") = Some(Box::new(move || {
        keyrings.tell("usr_a", Command::Create { wrapped: rival });
    }));
    assert_eq!(fixture.key("usr_a", true).await, Some([9; 32]));
}

#[tokio::test]
async fn the_memory_is_bounded_and_keeps_what_is_used() {
    let fixture = fixture(8);
    for number in 0..100 {
        fixture.key(&format!("usr_{number}"), true).await.expect("made");
        fixture.key("usr_0", true).await.expect("remembered or fetched");
        let cache = fixture.sealer.cache();
        assert!(cache.young.len() + cache.old.len() <= 8);
        assert!(cache.young.contains_key("usr_0"));
    }
    let unconnected = KeyringSealer::new(Arc::clone(&fixture.sealer.keys), 8);
    assert_eq!(unconnected.key("usr_a", true).await.err().map(|error| error.code), Some(ErrorCode::Unavailable));
}
