//! A provider that never answers, and what is sent in number, hold up their own and nothing else.

use std::future::pending;

use tokio::sync::Notify;

use super::*;

/// Answers nothing until it is told to, and then everything.
#[derive(Default)]
struct Stuck {
    open: std::sync::atomic::AtomicBool,
    opened: Notify,
    waiting: AtomicUsize,
    done: Mutex<Vec<String>>,
}

#[async_trait]
impl Provider for Stuck {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sms
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, _request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let opened = self.opened.notified();
        if !self.open.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            opened.await;
        }
        self.done.lock().expect("not poisoned").push(key.to_owned());
        Ok(vec![1])
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        pending().await
    }
}

#[tokio::test]
async fn a_stuck_provider_holds_up_only_its_own_effects_however_many_there_are() {
    let (window, calls) = (16, 200);
    let states: Vec<_> = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let provider = Arc::new(Stuck::default());
    let options = RuntimeOptions { outbox_window: window, outbox_lane: 4, ..RuntimeOptions::default() };
    let world = World::over_any(states, Arc::clone(&provider) as Arc<dyn Provider>, options).await;
    for call in 0..calls {
        world.ask(&format!("caller-{}", call % 50), Command::Call("hello".to_owned())).await.expect("is accepted");
    }
    // What comes after far more than a window of stuck calls is delivered all the same, in both directions.
    for amount in [3, 4] {
        world.ask("from", Command::Forward { to: "to".to_owned(), amount }).await.expect("is accepted");
    }
    assert_eq!(world.log_of("from", 2).await, ["told", "told"]);
    assert_eq!(world.ask("to", Command::Get).await.expect("answers").0, 7);
    assert_eq!(provider.waiting.load(Ordering::SeqCst), 8, "no more are under way than the lanes of two shards have");
    provider.open.store(true, Ordering::SeqCst);
    provider.opened.notify_waiters();
    for caller in 0..50 {
        let log = world.log_of(&format!("caller-{caller}"), calls / 50).await;
        assert!(log.iter().all(|line| line == "Done([1])"), "{log:?}");
    }
    let mut keys = provider.done.lock().expect("not poisoned").clone();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), calls, "each was called once");
}

/// Sends to whom it is told.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Flyer;

impl Entity for Flyer {
    const KIND: &'static str = "flyer";
    type Command = String;
    type Event = ();
    type Reply = ();

    fn decide(&self, to: String, _context: &Context) -> Result<Decision<Self>, Error> {
        let to = EntityId::new(Tally::KIND, &to);
        Ok(Decision::reply(()).effect(Effect::tell::<Tally>(to, &Command::Add(1), "")).bulk())
    }

    fn apply(&mut self, _event: &()) {}
}

#[tokio::test]
async fn what_is_sent_in_number_holds_up_nothing_that_others_send() {
    let (window, flyers) = (16, 200);
    let states: Vec<_> = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options = RuntimeOptions { outbox_window: window, park_after: 1, ..RuntimeOptions::default() };
    let world = World::over_any(states, Arc::new(Stuck::default()), options).await;
    world.ask("parked", Command::Crash).await.expect_err("it crashes");
    for flyer in 0..flyers {
        fly(&world, flyer).await.expect("is accepted");
    }
    world.ask("from", Command::Forward { to: "to".to_owned(), amount: 3 }).await.expect("is accepted");
    assert_eq!(world.log_of("from", 1).await, ["told"], "far more than a window of flyers wait before it");
    assert!(world.runtime.router.unpark(&EntityId::new(Tally::KIND, "parked")).await.expect("answers"));
    let told = async {
        while world.ask("parked", Command::Get).await.map_or(true, |(total, _)| total < flyers) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("flyers arrive when they can");
}

async fn fly(world: &World, flyer: i64) -> Result<(), Error> {
    let id = EntityId::new(Flyer::KIND, &format!("flyer-{flyer}"));
    world.runtime.router.ask::<Flyer>(&id, "parked".to_owned(), &user(None)).await
}

#[tokio::test]
async fn what_is_sent_in_number_is_refused_while_too_much_of_it_is_not_done() {
    let states: Vec<_> = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options = RuntimeOptions { outbox_most: 5, park_after: 1, ..RuntimeOptions::default() };
    let world = World::over_any(states, Arc::new(Stuck::default()), options).await;
    world.ask("parked", Command::Crash).await.expect_err("it crashes");
    let mut refused = 0;
    for flyer in 0..40 {
        match fly(&world, flyer).await {
            Ok(()) => {}
            Err(error) => {
                assert_eq!((error.code, error.retry_after_seconds), (ErrorCode::Overloaded, Some(10)));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 40 - 2 * 5, "two shards take five each");
    world.ask("from", Command::Forward { to: "to".to_owned(), amount: 3 }).await.expect("others are accepted");
    assert_eq!(world.log_of("from", 1).await, ["told"]);
}
