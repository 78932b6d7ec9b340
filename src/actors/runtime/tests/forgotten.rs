//! Calls that were decided so long ago that the other side has forgotten their keys.

use super::*;
use crate::actors::runtime::steady::wall_now;
use crate::kernel::{Op, OutboxChange, OutboxState};

/// Deduplicates by key, but not for ever; what a look-up says comes from a script, and then that nobody knows.
struct Forgetful {
    known: Mutex<Vec<Result<Option<Vec<u8>>, ProviderError>>>,
    calls: AtomicUsize,
}

#[async_trait]
impl Provider for Forgetful {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sms
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn keeps_keys(&self) -> Option<Duration> {
        Some(Duration::from_secs(20 * 3600))
    }

    async fn execute(&self, _key: &str, _request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(vec![1])
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        let mut known = self.known.lock().expect("not poisoned");
        if known.is_empty() { Err(ProviderError::Unknown("nobody knows".to_owned())) } else { known.remove(0) }
    }
}

/// A call that was decided so many hours ago on a node that died then, met by a provider; how it ended, and how often
/// the provider was called.
async fn after(hours: i64, known: Vec<Result<Option<Vec<u8>>, ProviderError>>) -> (String, usize) {
    let states: Vec<_> = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options = RuntimeOptions { retry_ms: (1, 1), provider_attempts: 3, ..RuntimeOptions::default() };
    let logs = states.iter().map(|state| MemoryLog::over(Arc::clone(state)) as Arc<dyn ShardLog>).collect();
    let clock = Arc::new(NodeClock::virtual_at(Timestamp::from_millis(1_000_000)));
    let kinds = Kinds::new(&[Kind::of::<Tally>()], 2);
    // Its outbox does not run: the record stays.
    let quiet = Runtime::start(RuntimeParts { logs, kinds, clock, providers: Vec::new(), options: options.clone() });
    let quiet = quiet.await.expect("starts");
    quiet.set_sealer(Arc::new(MemoryKeys::default()));
    let entity = EntityId::new("tally", "a");
    quiet.router.ask::<Tally>(&entity, Command::Call("hi".to_owned()), &user(None)).await.expect("is accepted");
    let replica = quiet.router.replica(quiet.router.shard_of(&entity)).expect("is here");
    let record = replica.state().outbox(0, 1).expect("reads").remove(0);
    let OutboxState::Waiting { not_before, .. } = record.state else { panic!("waits") };
    assert!(wall_now().millis_since(not_before) < 60_000, "when it was decided is known durably");
    let state = OutboxState::Waiting { attempts: 0, not_before: not_before.plus_seconds(-hours * 3600) };
    let change = vec![OutboxChange::Set { number: record.number, state }];
    replica.log.propose(1, Op::Outbox(change)).expect("is queued").await.expect("runs").expect("commits");
    quiet.stop().await;
    let provider = Arc::new(Forgetful { known: Mutex::new(known), calls: AtomicUsize::new(0) });
    let world = World::over_any(states, Arc::clone(&provider) as Arc<dyn Provider>, options).await;
    let log = world.log_of("a", 1).await.remove(0);
    (log, provider.calls.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_call_older_than_its_key_is_looked_up_before_it_is_made() {
    let cannot = || Err(ProviderError::Unknown("not now".to_owned()));
    let declined = || Err(ProviderError::Refused(Error::conflict("declined then")));
    assert_eq!(after(19, Vec::new()).await, ("Done([1])".to_owned(), 1), "its key is known: made again under it");
    assert_eq!(after(25, vec![Ok(Some(vec![2]))]).await, ("Done([2])".to_owned(), 0), "it was made then");
    assert_eq!(after(25, vec![Ok(None)]).await, ("Done([1])".to_owned(), 1), "it certainly was not");
    assert_eq!(after(25, vec![cannot(), Ok(Some(vec![2]))]).await, ("Done([2])".to_owned(), 0), "asked again");
    let (end, calls) = after(25, vec![declined()]).await;
    assert!(end.starts_with("Refused(") && calls == 0, "{end} after {calls} calls");
    let (end, calls) = after(25, Vec::new()).await;
    assert!(end.starts_with("Unknown(") && calls == 0, "never made blindly: {end} after {calls} calls");
}
