//! Requests: what the gateway adds to hyper, and what an authenticated, limited read adds to that.

use std::net::SocketAddr;

use crate::load::{Load, Target};
use crate::raw::Raw;
use crate::support::node::Node;
use crate::support::{Goal, Measured, Run};

/// People whose tokens take turns.
const PEOPLE: usize = 16;

pub fn run(run: &Run) {
    if !run.wants("GET") {
        return;
    }
    let node = Node::start(&run.place);
    let hyper = Raw::start("hyper");
    let people = node.people(PEOPLE);
    let tokens: Vec<String> = people.into_iter().map(|person| person.token).collect();
    let target = |address: SocketAddr, pid, path, tokens: &[String]| Target::get(address, pid, path, tokens);
    let bare = target(hyper.address, hyper.pid(), "/livez", &[]);
    let livez = target(node.gateway, node.pid(), "/livez", &[]);
    let me = target(node.gateway, node.pid(), "/v1/me", &tokens);
    compare(run, "GET /livez", "bare hyper", &livez, &bare);
    compare(run, "GET /v1/me", "/livez", &me, &livez);
}

/// Two rows: requests a second, where the goal is, and the server's processor time, which clients do not blur.
fn compare(run: &Run, name: &str, to: &str, ours: &Target, raw: &Target) {
    let (mut cpu_ours, mut cpu_raw) = (Vec::new(), Vec::new());
    let measured =
        run.pairs(|| noted(&mut cpu_ours, ours.saturate(run.turn())), || noted(&mut cpu_raw, raw.saturate(run.turn())));
    measured.print(&format!("{name} / {to}, requests/s"), Goal::Ratio(0.8));
    let (ours, raw) = (crate::support::median(cpu_ours), crate::support::median(cpu_raw));
    let measured = Measured { ours, raw: Some(raw), ratio: Some(ours / raw) };
    measured.print(&format!("{name} / {to}, us of CPU each"), Goal::None);
}

fn noted(cpu: &mut Vec<f64>, load: Load) -> f64 {
    cpu.push(load.cpu.as_secs_f64() * 1e6);
    load.per_second
}
