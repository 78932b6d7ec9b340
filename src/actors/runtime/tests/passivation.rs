//! Idle entities leave memory and come back as they were.

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
        let live = || world.runtime.router.shards().map(|shard| shard.parts.directory.len()).sum::<usize>();
        let gone = async {
            while live() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("all are let go");
    }
}
