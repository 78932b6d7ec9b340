//! A cluster of three real processes under faults: what was acknowledged stays, and nobody is shown what is over.
//!
//! Seeded; the seed is printed and `CONSTRUCT_TEST_SEED` runs it again, which repeats the faults and not the race between
//! threads. `CONSTRUCT_TEST_FAULT_SECONDS` says for how long.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Cluster;
use super::between::Between;
use super::nemesis::{ALL, Nemesis};
use super::registers::Registers;
use super::sales::Sales;
use crate::clock::SteppedClock;
use crate::load::{Dice, environment, patient, seed};
use crate::node::{Node, Plan};

const CLIENTS: usize = 6;

/// The clocks of three nodes, each under its own.
fn with_clocks() -> (Vec<SteppedClock>, impl Fn(usize) -> Plan) {
    let clocks: Vec<SteppedClock> = (0..3).map(|_| SteppedClock::new()).collect();
    let plans: Vec<Plan> =
        clocks.iter().map(|clock| clock.under(patient(Plan::sandbox()).set("clock", "system"))).collect();
    (clocks, move |place: usize| plans[place].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_lose_nothing_and_nobody_is_shown_what_is_over() {
    let seed = seed();
    let time = Duration::from_secs(environment("CONSTRUCT_TEST_FAULT_SECONDS", 20));
    let ((clocks, plan), between) = (with_clocks(), Between::new());
    let mut cluster = Cluster::of(3, plan, Some(between.clone())).await;
    let registers = Registers::of(&cluster).await;
    let mut sales = Sales::of(&cluster).await;
    let closed = watch::Sender::new(false);
    let mut nemesis =
        Nemesis { cluster: &mut cluster, between, clocks: &clocks, dice: Dice(seed), began: Instant::now() };
    let faults = async {
        let mut struck = 0;
        // Each kind in its turn, from a random one on.
        let first = usize::try_from(nemesis.dice.roll(ALL.len() as u64)).expect("small");
        while nemesis.began.elapsed() < time {
            nemesis.strike(ALL[(first + struck) % ALL.len()]).await;
            struck += 1;
            if let Err(why) = registers.served(CLIENTS).await {
                let logs: String = nemesis.cluster.nodes.iter().map(Node::log).collect();
                panic!("after {struck} faults {why}\n{logs}");
            }
        }
        closed.send_replace(true);
        struck
    };
    let working = watch::Sender::subscribe(&closed);
    let clients = futures::future::join_all((0..CLIENTS).map(|client| {
        let dice = Dice(seed ^ (client as u64 + 1) << 32);
        registers.work(client, dice, &working)
    }));
    let selling = sales.work(Dice(seed ^ 0xff << 40), closed.subscribe());
    let (struck, _, ()) = tokio::join!(faults, clients, selling);
    let operations = registers.explained(CLIENTS).await.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    sales.check(&cluster).await;
    let (sold, addresses) = (sales.sold.len(), sales.addresses.len());
    println!("{struck} faults, {operations} operations of registers: {:?}", registers.counts);
    println!("{sold} invoices and {addresses} addresses, each once");
}
