//! `kill -9` at random moments of a mixed load, held against a model: nothing acknowledged is lost; nothing is
//! charged, mailed, delivered or numbered twice.
//!
//! The seed is printed; `CONSTRUCT_TEST_SEED` runs it again, `CONSTRUCT_TEST_KILLS` changes how often.

use std::time::Duration;

use tokio::time::timeout;

use crate::load::{self, Dice, Floor, Load, environment, seed};

/// A round that acknowledges nothing for so long is stuck.
const ROUND_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_and_repeat_nothing() {
    let seed = seed();
    let kills = environment("CONSTRUCT_TEST_KILLS", 20);
    println!("CONSTRUCT_TEST_KILLS={kills}");
    let mut dice = Dice(seed);
    let mut node = load::plan().start().await;
    let mut load = Load::begin(&node, seed).await;
    for round in 0..kills {
        if dice.roll(4) == 0 {
            // Killed while it recovers from the last time.
            node.kill().await;
            node.spawn();
            node.kill().await;
            node.start().await;
        }
        let floor = Floor::new(false);
        let target = 1 + dice.roll(60);
        let killer = node.killer();
        let killing = async {
            let stuck = timeout(ROUND_WITHIN, floor.reaches(target)).await.is_err();
            killer.await;
            stuck
        };
        let ((), stuck) = tokio::join!(load.work(&floor), killing);
        assert!(!stuck, "round {round} is stuck\n{}", node.log());
        node.kill().await;
        node.start().await;
    }
    load.finish(&node).await;
}
