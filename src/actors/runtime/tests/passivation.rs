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
