//! Ten thousand WebSockets: what one costs while it is idle. What it costs to reach them all is in `fan_out.rs`.

use std::time::Duration;

use crate::fan_out::{self, Crowd};
use crate::raw::Raw;
use crate::support::node::{Node, Person};
use crate::support::process::resident;
use crate::support::{Goal, Measured, Run};

const SOCKETS: usize = 10_000;
/// Of the send loop while the node's are open too: a process may be allowed 20,000 files and no more.
const SOCKETS_BESIDE: usize = 9_900;
/// Each with a session of their own; sockets of one person are tabs and devices.
const PEOPLE: usize = 16;
const PEOPLE_IN_FULL: usize = 500;
/// Opened and closed before anything is counted: what the allocator and the runtime keep anyway is there then.
const WARM_UP: usize = 200;
/// The first check of a session comes after a second; in a whole run a ping has passed too.
const SETTLED: Duration = Duration::from_secs(3);
const SETTLED_IN_FULL: Duration = Duration::from_secs(40);

pub fn run(run: &Run) {
    let (memory, fan_out) = (run.wants("idle WebSocket"), run.wants("fan-out"));
    if !memory && !fan_out {
        return;
    }
    let (people, settled) = if run.quick { (PEOPLE, SETTLED) } else { (PEOPLE_IN_FULL, SETTLED_IN_FULL) };
    let node = Node::start(&run.place);
    let people = node.people(people);
    let raw = Raw::start("sockets");
    let (theirs, raw_memory) = idle(raw.pid(), SETTLED, |sockets| Crowd::of_raw(raw.address, sockets));
    drop(theirs);
    let (ours, our_memory) = idle(node.pid(), settled, |sockets| Crowd::of_the_node(&node, &people, sockets));
    if memory {
        let measured = Measured { ours: our_memory, raw: Some(raw_memory), ratio: Some(our_memory / raw_memory) };
        measured.print("idle WebSocket / bare socket, KB each", Goal::AtMost(12.0));
    }
    if fan_out {
        let (publisher, theirs): (&Person, _) = (&people[0], Crowd::of_raw(raw.address, SOCKETS_BESIDE));
        fan_out::run(run, (&node, &ours, publisher), (&raw, &theirs));
    }
}

/// Opens the sockets and says how many kilobytes the server grew for each.
fn idle(pid: u32, settled: Duration, open: impl Fn(usize) -> Crowd) -> (Crowd, f64) {
    drop(open(WARM_UP));
    wait(SETTLED);
    let before = resident(Some(pid));
    let crowd = open(SOCKETS);
    wait(settled);
    let grown = resident(Some(pid)).saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "bytes of one machine")]
    let each = grown as f64 / SOCKETS as f64 / 1024.0;
    (crowd, each)
}

fn wait(time: Duration) {
    let ends = std::time::Instant::now() + time;
    while let Some(rest) = ends.checked_duration_since(std::time::Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}
