//! A feed consumer sees every batch in order, again after a failure, and goes on where it was after a stop.

use super::*;
use crate::actors::runtime::feed::Opened;
use crate::kernel::codec;

#[derive(Default)]
struct Reader {
    seen: Mutex<Vec<i64>>,
    failures: AtomicUsize,
}

#[async_trait]
impl FeedConsumer for Reader {
    fn name(&self) -> &'static str {
        "reader"
    }

    fn wants(&self, kind: &str) -> bool {
        kind == "tally"
    }

    async fn handle(&self, entries: &[Opened]) -> Result<(), Error> {
        if self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::unavailable("not now"));
        }
        let events = entries.iter().flat_map(|entry| &entry.events);
        let added = events.map(|bytes| match codec::decode::<Event>(bytes).expect("an event") {
            Event::Added(amount) => amount,
            Event::Logged(_) => 0,
        });
        self.seen.lock().expect("not poisoned").extend(added);
        Ok(())
    }
}

async fn seen(reader: &Reader, count: usize) -> Vec<i64> {
    let enough = async {
        loop {
            let seen = reader.seen.lock().expect("not poisoned").clone();
            if seen.len() >= count {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), enough).await.expect("the consumer follows")
}

#[tokio::test]
async fn a_consumer_sees_events_in_order_and_resumes_at_its_offset() {
    let reader = Arc::new(Reader { failures: AtomicUsize::new(1), ..Reader::default() });
    let logs = (0..3).map(|shard| MemoryLog::start(ShardId(shard))).collect();
    let following = Some(Arc::clone(&reader) as Arc<dyn FeedConsumer>);
    let world = World::on(logs, Arc::new(Scripted::default()), RuntimeOptions::default(), following).await;
    for amount in 1..=20 {
        world.ask("secret-a", Command::Add(amount)).await.expect("is accepted");
    }
    assert_eq!(seen(&reader, 20).await, (1..=20).collect::<Vec<_>>(), "opened, in order, despite a failure");
    let shard = world.runtime.router.shard_of(&EntityId::new("tally", "secret-a"));
    let state = world.runtime.router.replica(shard).expect("is here").state();
    let caught_up = async {
        while state.consumed("reader").expect("reads") < state.feed_head() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), caught_up).await.expect("the offset is stored");
    world.runtime.stop().await;

    let resumed = Arc::new(Reader::default());
    let logs = world.states.iter().map(|state| MemoryLog::over(Arc::clone(state))).collect();
    let following = Some(Arc::clone(&resumed) as Arc<dyn FeedConsumer>);
    let again = World::on(logs, Arc::new(Scripted::default()), RuntimeOptions::default(), following).await;
    for amount in 21..=25 {
        again.ask("secret-a", Command::Add(amount)).await.expect("is accepted");
    }
    assert_eq!(seen(&resumed, 5).await, (21..=25).collect::<Vec<_>>(), "only what it had not seen");
}
