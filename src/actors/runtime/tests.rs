//! The runtime on logs in memory, with one entity kind that does everything an entity can do.

mod feed;
mod forgotten;
mod leadership;
mod passivation;
mod stuck;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::clock::{NodeClock, VirtualClock};
use super::feed::FeedConsumer;
use super::kinds::{Kind, Kinds};
use super::log::ShardLog;
use super::testing::{MemoryKeys, MemoryLog};
use super::{Page, Runtime, RuntimeOptions, RuntimeParts, Scope};
use crate::kernel::{
    Clock, Context, Decision, Effect, Entity, EntityId, Error, ErrorCode, Origin, Outcome, Principal, ProviderKind,
    ShardId, Timestamp,
};
use crate::providers::{Provider, ProviderError};
use crate::storage::state::ShardState;

/// A box that counts, forwards, rings, calls and crashes.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tally {
    total: i64,
    log: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Command {
    Add(i64),
    Get,
    Forward { to: String, amount: i64 },
    RingAt(Timestamp),
    Rang,
    Call(String),
    Called(Outcome),
    Told(Outcome),
    Crash,
    Note(String),
}

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Added(i64),
    Logged(String),
}

impl Entity for Tally {
    const KIND: &'static str = "tally";
    const SNAPSHOT_EVERY: u64 = 3;
    type Command = Command;
    type Event = Event;
    type Reply = (i64, Vec<String>);

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let reply = (self.total, self.log.clone());
        Ok(match command {
            Command::Get => Decision::reply(reply),
            Command::Add(amount) if amount < 0 => return Err(Error::invalid("/amount", "must not be negative")),
            Command::Add(amount) => Decision::reply((self.total + amount, Vec::new()))
                .event(Event::Added(amount))
                .index("tallies", context.id.key().as_bytes(), b"1".to_vec()),
            Command::Forward { to, amount } => Decision::reply(reply).effect(Effect::tell::<Tally>(
                EntityId::new("tally", &to),
                &Command::Add(amount),
                "told",
            )),
            Command::RingAt(at) => Decision::reply(reply).timer("bell", at),
            Command::Rang => Decision::reply(reply).event(Event::Logged(format!("rang at {}", context.now))),
            Command::Call(text) => Decision::reply(reply).effect(Effect::call(ProviderKind::Sms, &text, "called")),
            Command::Called(outcome) => Decision::reply(reply).event(Event::Logged(format!("{outcome:?}"))),
            Command::Told(outcome) => {
                let text = if matches!(outcome, Outcome::Done(_)) { "told" } else { "refused" };
                Decision::reply(reply).event(Event::Logged(text.to_owned()))
            }
            Command::Crash => panic!("as told"),
            Command::Note(text) => Decision::reply(reply)
                .row("notes", text.as_bytes(), Some(text.clone().into_bytes()))
                .event(Event::Logged(text)),
        })
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Added(amount) => self.total += amount,
            Event::Logged(text) => self.log.push(text.clone()),
        }
    }

    fn subject(&self, id: &EntityId) -> Option<String> {
        id.key().starts_with("secret").then(|| "usr_ada".to_owned())
    }

    fn on_timer(name: &str) -> Option<Command> {
        (name == "bell").then_some(Command::Rang)
    }

    fn on_outcome(tag: &str, outcome: Outcome) -> Option<Command> {
        match tag {
            "called" => Some(Command::Called(outcome)),
            "told" => Some(Command::Told(outcome)),
            _ => None,
        }
    }
}

/// Answers in the order of its script, counting what really happened.
#[derive(Default)]
struct Scripted {
    script: Mutex<Vec<Result<Vec<u8>, ProviderError>>>,
    calls: AtomicUsize,
    keys: Mutex<Vec<String>>,
    idempotent: bool,
}

#[async_trait]
impl Provider for Scripted {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sms
    }

    fn idempotent(&self) -> bool {
        self.idempotent
    }

    async fn execute(&self, key: &str, _request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.keys.lock().expect("not poisoned").push(key.to_owned());
        let mut script = self.script.lock().expect("not poisoned");
        if script.is_empty() { Ok(vec![1]) } else { script.remove(0) }
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Err(ProviderError::Unknown("nobody knows".to_owned()))
    }
}

struct World {
    runtime: Runtime,
    keys: Arc<MemoryKeys>,
    states: Vec<Arc<ShardState>>,
    logs: Vec<Arc<MemoryLog>>,
}

impl World {
    async fn new(provider: Arc<Scripted>) -> Self {
        let states = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
        Self::over(states, provider, RuntimeOptions { retry_ms: (1, 5), ..RuntimeOptions::default() }).await
    }

    async fn over(states: Vec<Arc<ShardState>>, provider: Arc<Scripted>, options: RuntimeOptions) -> Self {
        Self::over_any(states, provider, options).await
    }

    async fn over_any(states: Vec<Arc<ShardState>>, provider: Arc<dyn Provider>, options: RuntimeOptions) -> Self {
        let logs = states.iter().map(|state| MemoryLog::over(Arc::clone(state))).collect();
        Self::on(logs, provider, options, None).await
    }

    async fn on(
        memory: Vec<Arc<MemoryLog>>,
        provider: Arc<dyn Provider>,
        options: RuntimeOptions,
        consumer: Option<Arc<dyn FeedConsumer>>,
    ) -> Self {
        let states = memory.iter().map(|log| Arc::clone(log.state())).collect();
        let logs = memory.iter().map(|log| Arc::clone(log) as Arc<dyn ShardLog>).collect();
        let kinds = Kinds::new(&[Kind::of::<Tally>(), Kind::of::<stuck::Flyer>(), Kind::of::<VirtualClock>()], 2);
        let clock = Arc::new(NodeClock::virtual_at(Timestamp::from_millis(1_000_000)));
        let providers: Vec<Arc<dyn Provider>> = vec![provider];
        let parts = RuntimeParts { logs, kinds, clock, providers, options };
        let runtime = Runtime::start(parts).await.expect("starts");
        let keys = Arc::new(MemoryKeys::default());
        runtime.set_sealer(Arc::clone(&keys) as Arc<dyn super::sealer::Sealer>);
        consumer.into_iter().for_each(|consumer| runtime.follow(consumer));
        runtime.go();
        Self { runtime, keys, states, logs: memory }
    }

    async fn ask(&self, key: &str, command: Command) -> Result<(i64, Vec<String>), Error> {
        self.runtime.router.ask::<Tally>(&EntityId::new("tally", key), command, &user(None)).await
    }

    async fn log(&self, key: &str) -> Vec<String> {
        self.ask(key, Command::Get).await.expect("answers").1
    }

    /// Polls until the entity's log has `lines` lines.
    async fn log_of(&self, key: &str, lines: usize) -> Vec<String> {
        let seen = async {
            loop {
                let log = self.log(key).await;
                if log.len() >= lines {
                    return log;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the log grows")
    }
}

fn user(idempotency: Option<[u8; 32]>) -> Origin {
    let principal = Principal::User { id: "usr_1".to_owned(), session: None, roles: Vec::new() };
    Origin { principal, idempotency, ..Origin::system("test") }
}

#[tokio::test]
async fn commands_of_one_entity_are_ordered_and_survive_a_restart() {
    let world = World::new(Arc::default()).await;
    let asks = (1..=100).map(|amount| world.ask("a", Command::Add(amount)));
    let mut totals: Vec<i64> =
        futures::future::join_all(asks).await.into_iter().map(|reply| reply.expect("is accepted").0).collect();
    totals.dedup();
    assert!(totals.is_sorted() && totals.len() == 100, "each reply saw its own predecessors: {totals:?}");
    assert_eq!(world.ask("a", Command::Add(-1)).await.expect_err("is refused").code, ErrorCode::Invalid);
    world.runtime.stop().await;
    let again = World::over(world.states, Arc::default(), RuntimeOptions::default()).await;
    assert_eq!(again.ask("a", Command::Get).await.expect("answers").0, 5050);
    let page = Page { limit: 10, ..Page::default() };
    let listed = again.runtime.router.scan(Scope::All, "tallies", b"", page).await.expect("scans");
    assert_eq!(listed, vec![(b"a".to_vec(), b"1".to_vec())]);
}

#[tokio::test]
async fn under_one_idempotency_key_a_command_takes_effect_once() {
    let world = World::new(Arc::default()).await;
    let id = EntityId::new("tally", "a");
    for _ in 0..3 {
        let reply = world.runtime.router.ask::<Tally>(&id, Command::Add(5), &user(Some([1; 32]))).await;
        assert_eq!(reply.expect("answers").0, 5, "the first reply is repeated");
    }
    let both = [user(Some([2; 32])), user(Some([2; 32]))];
    let asks = both.iter().map(|origin| world.runtime.router.ask::<Tally>(&id, Command::Add(5), origin));
    for reply in futures::future::join_all(asks).await {
        assert_eq!(reply.expect("answers").0, 10, "concurrent repeats too");
    }
}

#[tokio::test]
async fn a_message_takes_effect_once_and_its_outcome_comes_back() {
    let world = World::new(Arc::default()).await;
    for amount in [3, -1] {
        world.ask("from", Command::Forward { to: "to".to_owned(), amount }).await.expect("is accepted");
    }
    assert_eq!(world.log_of("from", 2).await, ["told", "refused"]);
    assert_eq!(world.ask("to", Command::Get).await.expect("answers").0, 3);
    assert!(world.states.iter().all(|state| state.outbox(0, 10).expect("reads").is_empty()), "all is settled");
}

#[tokio::test]
async fn provider_calls_retry_under_one_key_and_unknown_outcomes_are_not_repeated() {
    let down = || Err(ProviderError::Retry("down".to_owned()));
    let lost = || Err(ProviderError::Unknown("lost".to_owned()));
    for (script, idempotent, calls, end) in [
        (vec![down(), down()], false, 3, "Done([1])"),
        (vec![lost()], true, 2, "Done([1])"),
        (vec![lost()], false, 1, "Unknown(\"lost\")"),
        (vec![Err(ProviderError::Refused(Error::conflict("no")))], false, 1, "Refused("),
    ] {
        let provider = Arc::new(Scripted { script: Mutex::new(script), idempotent, ..Scripted::default() });
        let world = World::new(Arc::clone(&provider)).await;
        world.ask("a", Command::Call("hello".to_owned())).await.expect("is accepted");
        let log = world.log_of("a", 1).await;
        assert!(log[0].starts_with(end), "{log:?} ends with {end}");
        assert_eq!(provider.calls.load(Ordering::SeqCst), calls, "{end}");
        let mut keys = provider.keys.lock().expect("not poisoned").clone();
        keys.dedup();
        assert_eq!(keys.len(), 1, "one key for all attempts");
    }
}

#[tokio::test]
async fn an_attempt_found_begun_after_a_crash_stays_unknown_without_a_second_call() {
    let never = Arc::new(Scripted::default());
    let world = World::new(Arc::clone(&never)).await;
    world.runtime.stop().await;
    // The outbox does not run: the record stays. Mark it as begun, as the courier does before a call.
    let entity = EntityId::new("tally", "a");
    let asked = world.runtime.router.clone();
    let states = world.states.clone();
    let shard = asked.shard_of(&entity);
    let options = RuntimeOptions { retry_ms: (1, 5), ..RuntimeOptions::default() };
    let logs: Vec<Arc<dyn ShardLog>> =
        states.iter().map(|state| MemoryLog::over(Arc::clone(state)) as Arc<dyn ShardLog>).collect();
    let kinds = Kinds::new(&[Kind::of::<Tally>()], 2);
    let clock = Arc::new(NodeClock::virtual_at(Timestamp::from_millis(1_000_000)));
    let quiet = Runtime::start(RuntimeParts { logs, kinds, clock, providers: Vec::new(), options: options.clone() });
    let quiet = quiet.await.expect("starts");
    quiet.set_sealer(Arc::new(MemoryKeys::default()));
    quiet.router.ask::<Tally>(&entity, Command::Call("hi".to_owned()), &user(None)).await.expect("is accepted");
    let state = quiet.router.replica(shard).expect("is here").state();
    let number = state.outbox(0, 1).expect("reads")[0].number;
    let begun = crate::kernel::OutboxState::Sending { attempts: 0, since: Timestamp::ZERO };
    let change = vec![crate::kernel::OutboxChange::Set { number, state: begun }];
    let log = &quiet.router.replica(shard).expect("is here").log;
    log.propose(1, crate::kernel::Op::Outbox(change)).expect("is queued").await.expect("runs").expect("commits");
    quiet.stop().await;
    let provider = Arc::new(Scripted::default());
    let world = World::over(states, Arc::clone(&provider), options).await;
    assert!(world.log_of("a", 1).await[0].starts_with("Unknown("));
    assert_eq!(provider.calls.load(Ordering::SeqCst), 0, "never called again blindly");
}

/// A provider that deduplicates by key and fails in every way, by the numbers it draws.
struct Flaky {
    draw: Mutex<u64>,
    done: Mutex<HashMap<String, u32>>,
}

impl Flaky {
    fn draw(&self) -> u64 {
        let mut draw = self.draw.lock().expect("not poisoned");
        *draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *draw >> 33
    }
}

#[async_trait]
impl Provider for Flaky {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sms
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, _request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        match self.draw() % 4 {
            0 => Err(ProviderError::Retry("down".to_owned())),
            1 => {
                self.done.lock().expect("not poisoned").entry(key.to_owned()).or_insert(1);
                Err(ProviderError::Unknown("lost on the way back".to_owned()))
            }
            _ => {
                self.done.lock().expect("not poisoned").entry(key.to_owned()).or_insert(1);
                Ok(vec![1])
            }
        }
    }

    async fn reconcile(&self, key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        let done = self.done.lock().expect("not poisoned").contains_key(key);
        Ok(done.then(|| vec![1]))
    }
}

/// Runs commands that forward, ring and call, and stops the runtime in the middle of it again and again. In the end
/// everything acknowledged has happened, once.
async fn simulate(seed: u64) {
    let provider = Arc::new(Flaky { draw: Mutex::new(seed), done: Mutex::default() });
    let states: Vec<_> = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options =
        RuntimeOptions { retry_ms: (1, 2), idle_after_ms: 0, provider_attempts: 1000, ..RuntimeOptions::default() };
    let (mut forwarded, mut rung, mut called) = (0usize, 0usize, 0usize);
    for life in 0..12 {
        let provider = Arc::clone(&provider) as Arc<dyn Provider>;
        let world = World::over_any(states.clone(), provider.clone(), options.clone()).await;
        let now = world.runtime.clock.now();
        for step in 0..provider_steps(seed, life) {
            let key = format!("k{}", (seed + life + step) % 5);
            let (command, count) = match (seed.wrapping_mul(31) + life * 7 + step * 3) % 3 {
                0 => (Command::Forward { to: "sink".to_owned(), amount: 1 }, &mut forwarded),
                1 => (Command::RingAt(now), &mut rung),
                _ => (Command::Call(format!("{life}/{step}")), &mut called),
            };
            let key = if matches!(command, Command::RingAt(_)) { format!("bell-{life}-{step}") } else { key };
            if world.ask(&key, command).await.is_ok() {
                *count += 1;
            }
        }
        world.runtime.stop().await;
    }
    let world = World::over_any(states, provider.clone(), options).await;
    let rest = async {
        while !(world.runtime.router.replicas().all(|here| here.led().is_some_and(|led| led.is_quiet()))
            && world.states.iter().all(|s| s.outbox(0, 1).expect("reads").is_empty()))
        {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), rest).await.is_err() {
        for state in &world.states {
            println!("{:?}", state.outbox(0, 100).expect("reads"));
            println!("{:?}", state.timers_due(world.runtime.clock.now(), 100).expect("reads"));
        }
        panic!("seed {seed}: does not come to rest");
    }
    let total = world.ask("sink", Command::Get).await.expect("answers").0;
    assert_eq!(usize::try_from(total), Ok(forwarded), "seed {seed}: forwarded");
    let mut told = 0;
    let mut answered = 0;
    for key in 0..5 {
        let log = world.log(&format!("k{key}")).await;
        told += log.iter().filter(|line| *line == "told").count();
        answered += log.iter().filter(|line| line.starts_with("Done")).count();
    }
    assert_eq!(told, forwarded, "seed {seed}: outcomes of messages");
    assert_eq!(answered, called, "seed {seed}: outcomes of calls");
    assert_eq!(provider.done.lock().expect("not poisoned").len(), called, "seed {seed}: done at the provider");
    let mut rang = 0;
    for (life, step) in (0..12).flat_map(|life| (0..20).map(move |step| (life, step))) {
        rang += world.log(&format!("bell-{life}-{step}")).await.len();
    }
    assert_eq!(rang, rung, "seed {seed}: timers");
}

fn provider_steps(seed: u64, life: u64) -> u64 {
    5 + (seed ^ life) % 15
}

#[tokio::test]
async fn whatever_was_acknowledged_happens_once_however_often_the_runtime_stops() {
    for seed in 1..=8 {
        simulate(seed).await;
    }
}

#[tokio::test]
async fn timers_fire_once_each_in_the_order_of_virtual_time() {
    let world = World::new(Arc::default()).await;
    let start = world.runtime.clock.now();
    for (key, minutes) in [("late", 60), ("early", 5), ("never", 600)] {
        world.ask(key, Command::RingAt(start.plus_minutes(minutes))).await.expect("is accepted");
    }
    let to = start.plus_minutes(120);
    assert_eq!(world.runtime.advance(to, &user(None)).await, Ok(to));
    assert_eq!(world.log("early").await, [format!("rang at {}", start.plus_minutes(5))]);
    assert_eq!(world.log("late").await, [format!("rang at {}", start.plus_minutes(60))]);
    assert!(world.log("never").await.is_empty());
    let back = world.runtime.advance(start, &user(None)).await;
    assert_eq!(back.expect_err("is refused").code, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_poison_command_parks_its_entity_and_its_neighbours_go_on() {
    let states = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options = RuntimeOptions { restart_ms: (0, 0), park_after: 3, ..RuntimeOptions::default() };
    let world = World::over(states, Arc::default(), options).await;
    world.ask("poison", Command::Add(1)).await.expect("is accepted");
    let mut codes = HashMap::new();
    while !codes.contains_key("parked") {
        let error = world.ask("poison", Command::Crash).await.expect_err("is refused");
        *codes.entry(error.code.as_str()).or_insert(0) += 1;
    }
    assert_eq!(codes.get("internal"), Some(&3), "one internal error for each crash: {codes:?}");
    assert_eq!(world.ask("neighbour", Command::Add(1)).await.expect("goes on").0, 1);
    let id = EntityId::new("tally", "poison");
    let replica = world.runtime.router.replica(world.runtime.router.shard_of(&id)).expect("is here");
    let shard = replica.shard().expect("is led here");
    let reports = shard.crashes().await;
    assert!(reports[0].parked && reports[0].reason.contains("as told"), "{reports:?}");
    assert!(shard.unpark(&id).await);
    assert_eq!(world.ask("poison", Command::Get).await.expect("is back").0, 1, "nothing was lost");
}

#[tokio::test]
async fn personal_data_is_sealed_on_disk_and_gone_with_its_key() {
    let world = World::new(Arc::default()).await;
    let id = EntityId::new("tally", "secret-1");
    for _ in 0..4 {
        world.ask("secret-1", Command::Note("ada@example.org".to_owned())).await.expect("is accepted");
    }
    let shard = world.runtime.router.shard_of(&id);
    let state = world.runtime.router.replica(shard).expect("is here").state();
    let stored = format!("{:?}", state.entity(&id).expect("reads"));
    let rows = format!(
        "{:?}",
        state.rows(&id, "notes", None, 10, false).expect("reads").iter().map(|(_, v)| v.clone()).collect::<Vec<_>>()
    );
    let plain = format!("{:?}", b"ada@example.org").trim_matches(['[', ']']).to_owned();
    assert!(!stored.contains(&plain) && !rows.contains(&plain), "sealed");
    let page = || Page { limit: 10, ..Page::default() };
    let opened = world.runtime.router.rows(&id, "notes", page()).await.expect("opens");
    assert_eq!(opened[0].1, b"ada@example.org");
    world.keys.erase("usr_ada");
    world.runtime.stop().await;
    let again = World::over(world.states, Arc::default(), RuntimeOptions::default()).await;
    again.keys.erase("usr_ada");
    assert_eq!(again.ask("secret-1", Command::Get).await.expect_err("is gone").code, ErrorCode::Gone);
    assert_eq!(again.runtime.router.rows(&id, "notes", page()).await.expect_err("is gone").code, ErrorCode::Gone);
}
