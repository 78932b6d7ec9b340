//! Idle entities leave memory and come back as they were; beyond its window a shard refuses.

use super::*;

#[tokio::test]
async fn idle_entities_are_passivated_and_come_back() {
    let states = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options = RuntimeOptions { memory_budget_bytes: 0, idle_after_ms: 0, ..RuntimeOptions::default() };
    let world = World::over(states, Arc::default(), options).await;
    for round in 1..=3 {
        for key in 0..20 {
            assert_eq!(world.ask(&format!("k{key}"), Command::Add(1)).await.expect("is accepted").0, round);
        }
        let live = || world.runtime.router.led().iter().map(|shard| shard.parts.directory.len()).sum::<usize>();
        let gone = async {
            while live() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("all are let go");
    }
}

#[tokio::test]
async fn what_an_entity_holds_counts_against_the_budget() {
    let states: Vec<_> = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let world = World::over(states.clone(), Arc::default(), RuntimeOptions::default()).await;
    let held = |world: &World| {
        let live = world.runtime.router.led().into_iter().flat_map(|shard| shard.parts.directory.list());
        live.map(|(_, handle)| handle.vitals.bytes.load(Ordering::Relaxed)).sum::<usize>()
    };
    world.ask("a", Command::Add(1)).await.expect("is accepted");
    let little = held(&world);
    for _ in 0..40 {
        world.ask("a", Command::Add(1 << 40)).await.expect("is accepted");
    }
    let much = held(&world);
    assert!(0 < little && little < much, "{little} and then {much}");
    world.runtime.stop().await;
    let world = World::over(states, Arc::default(), RuntimeOptions::default()).await;
    world.ask("a", Command::Get).await.expect("answers");
    assert!(held(&world) > little, "{} of {much} once it is loaded again", held(&world));
}

#[tokio::test]
async fn beyond_its_window_a_shard_refuses_and_forgets_nothing() {
    let states = (0..3).map(|shard| MemoryLog::start(ShardId(shard)).state().clone()).collect();
    let options = RuntimeOptions { in_flight_outside: 4, ..RuntimeOptions::default() };
    let world = World::over(states, Arc::default(), options).await;
    let asks = (0..200).map(|_| world.ask("a", Command::Add(1)));
    let replies = futures::future::join_all(asks).await;
    let accepted = replies.iter().filter(|reply| reply.is_ok()).count();
    let refused = replies.iter().filter(|reply| matches!(reply, Err(error) if error.code == ErrorCode::Overloaded));
    assert_eq!(refused.count() + accepted, 200);
    assert!(accepted < 200, "the window is smaller than the burst");
    assert_eq!(world.ask("a", Command::Get).await.expect("answers").0, i64::try_from(accepted).expect("small"));
}
