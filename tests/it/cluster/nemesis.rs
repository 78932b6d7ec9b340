//! What goes wrong: one node, or the way between two, or all at once; and that it is put right again.

use std::time::Duration;

use tokio::time::Instant;

use super::Cluster;
use super::between::Between;
use super::registers::pause;
use crate::clock::SteppedClock;
use crate::load::Dice;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` and a start at once.
    Kill,
    /// `kill -9`, and again while it recovers.
    KillTwice,
    /// `kill -9` of all, and a start.
    KillAll,
    /// SIGSTOP past the lease.
    Pause,
    /// SIGSTOP for moments, again and again.
    Stutter,
    /// One node is cut off from the two others, whatever it leads.
    Isolate,
    /// Two nodes hear each other only through what the third has heard.
    Bridge,
    /// What one node says is not heard.
    Mute,
    /// One node hears nothing.
    Deaf,
    /// A cut between two nodes, and a kill of the third.
    BridgeBroken,
    /// One node is cut off, and meanwhile another killed.
    IsolateAndKill,
    /// A restart with a disk that takes its time.
    SlowDisk,
    /// The clock of one node is stepped.
    StepClock,
}

pub const ALL: [Fault; 13] = [
    Fault::Kill,
    Fault::Pause,
    Fault::Isolate,
    Fault::Bridge,
    Fault::Mute,
    Fault::Deaf,
    Fault::BridgeBroken,
    Fault::IsolateAndKill,
    Fault::Stutter,
    Fault::KillTwice,
    Fault::StepClock,
    Fault::SlowDisk,
    Fault::KillAll,
];

/// Brings faults over a cluster of three.
pub struct Nemesis<'a> {
    pub cluster: &'a mut Cluster,
    pub between: Between,
    pub clocks: &'a [SteppedClock],
    pub dice: Dice,
    pub began: Instant,
}

impl Nemesis<'_> {
    fn node(&mut self) -> usize {
        usize::try_from(self.dice.roll(self.cluster.nodes.len() as u64)).expect("small")
    }

    fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.dice.roll(most - least))
    }

    /// Both directions between a node and others.
    fn cut(&self, node: usize, others: &[usize]) -> Vec<(std::net::IpAddr, std::net::IpAddr)> {
        let here = self.cluster.address(node);
        let pairs = others.iter().map(|other| self.cluster.address(*other));
        pairs.flat_map(|there| [(here, there), (there, here)]).collect()
    }

    /// Lets it go wrong for a while, and puts it right.
    pub async fn strike(&mut self, fault: Fault) {
        let node = self.node();
        let [second, third] = [1, 2].map(|step| (node + step) % 3);
        let (here, others) = (self.cluster.address(node), [second, third].map(|other| self.cluster.address(other)));
        println!("after {:.1?}: {fault:?} at node {}", self.began.elapsed(), node + 1);
        match fault {
            Fault::Kill => {
                self.cluster.nodes[node].kill().await;
                let down = self.milliseconds(0, 2000);
                pause(down).await;
                self.cluster.nodes[node].start().await;
            }
            Fault::KillTwice => {
                self.cluster.nodes[node].kill().await;
                self.cluster.nodes[node].spawn();
                let life = self.milliseconds(50, 1500);
                pause(life).await;
                self.cluster.nodes[node].crash().await;
            }
            Fault::KillAll => self.kill_all().await,
            Fault::Pause => {
                let time = self.milliseconds(1100, 6000);
                self.stop(node, time).await;
            }
            Fault::Stutter => {
                for _ in 0..8 {
                    let (stopped, going) = (self.milliseconds(50, 900), self.milliseconds(20, 300));
                    self.stop(node, stopped).await;
                    pause(going).await;
                }
            }
            Fault::Isolate => self.part(self.cut(node, &[second, third])).await,
            Fault::Bridge => self.part(self.cut(node, &[second])).await,
            Fault::Mute => self.part(others.map(|there| (here, there)).into()).await,
            Fault::Deaf => self.part(others.map(|there| (there, here)).into()).await,
            Fault::BridgeBroken => self.part_and_kill(self.cut(node, &[second]), third).await,
            Fault::IsolateAndKill => self.part_and_kill(self.cut(node, &[second, third]), second).await,
            Fault::SlowDisk => self.slow_disk(node).await,
            Fault::StepClock => {
                let seconds = [-7200, -5, 5, 7200][usize::try_from(self.dice.roll(4)).expect("small")];
                self.clocks[node].step(seconds);
                let time = self.milliseconds(1000, 4000);
                pause(time).await;
                self.clocks[node].step(0);
            }
        }
    }

    async fn stop(&self, node: usize, time: Duration) {
        self.cluster.nodes[node].pause(true).await;
        pause(time).await;
        self.cluster.nodes[node].pause(false).await;
    }

    async fn part(&mut self, directions: Vec<(std::net::IpAddr, std::net::IpAddr)>) {
        self.between.hold(directions);
        let time = self.milliseconds(1500, 7000);
        pause(time).await;
        self.between.heal();
    }

    async fn part_and_kill(&mut self, directions: Vec<(std::net::IpAddr, std::net::IpAddr)>, killed: usize) {
        self.between.hold(directions);
        let time = self.milliseconds(0, 2500);
        pause(time).await;
        self.cluster.nodes[killed].kill().await;
        self.cluster.nodes[killed].spawn();
        let time = self.milliseconds(1000, 5000);
        pause(time).await;
        self.between.heal();
        self.cluster.nodes[killed].wait_ready().await;
    }

    async fn kill_all(&mut self) {
        for node in &mut self.cluster.nodes {
            node.kill().await;
        }
        for node in &mut self.cluster.nodes {
            node.spawn();
        }
        for node in &mut self.cluster.nodes {
            node.wait_ready().await;
        }
    }

    async fn slow_disk(&mut self, node: usize) {
        let point = ["wal.before_write", "wal.written"][usize::try_from(self.dice.roll(2)).expect("small")];
        let (percent, milliseconds) = (5 + self.dice.roll(40), 20 + self.dice.roll(1500));
        let slow = &mut self.cluster.nodes[node];
        slow.delay(point, percent, milliseconds);
        slow.crash().await;
        let time = self.milliseconds(2000, 6000);
        pause(time).await;
        let slow = &mut self.cluster.nodes[node];
        slow.disarm();
        slow.crash().await;
    }
}
