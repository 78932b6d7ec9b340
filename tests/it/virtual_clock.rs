//! A data directory that ran on a virtual clock does not go on with the system's.

use crate::node::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ran_on_a_virtual_clock_refuses_the_systems_and_says_what_to_do() {
    let mut node = Plan::sandbox().start().await;
    node.stop().await;
    node.set("clock", "system");
    node.spawn();
    assert!(!node.ready_or_ended().await, "it does not serve");
    let log = node.log();
    assert!(log.contains("runs on a virtual clock, which stands at") && log.contains("Remedy: set clock"), "{log}");
    node.kill().await;
    node.set("clock", "virtual");
    node.start().await;
}
