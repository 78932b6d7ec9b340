//! A provider that never answers holds up its own effects and nothing else.

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
