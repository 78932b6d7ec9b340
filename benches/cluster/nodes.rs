//! Three nodes of the product, each in a process: what they cost when nobody asks for anything, and for how long somebody's
//! writes stop when a node is killed that leads their shards.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::client::{call, try_call};
use super::support::node::{Node, until};
use super::support::{Goal, Measured, Run, median, percentile, process};
use super::writing::Writing;

const NODES: usize = 3;
/// Percent of a core of each node at most.
const IDLE_PERCENT: f64 = 2.0;
/// Seconds without a write at most, of 99 in a hundred kills.
const GAP_SECONDS: f64 = 1.5;
/// Milliseconds without a write at most, of 99 in a hundred people, while two nodes join and two leave.
const PAUSE_MILLIS: f64 = 500.0;
const KILLS: usize = 50;
const KILLS_QUICK: usize = 6;
pub const SETTLES_WITHIN: Duration = Duration::from_secs(120);

pub fn run(run: &Run) {
    if !["idle node", "write gap", "pause"].iter().any(|name| run.wants(name)) {
        return;
    }
    let mut nodes = start(&run.place);
    if run.wants("idle node") {
        let (turn, before) = (run.turn() * 3, busy(&nodes));
        thread::park_timeout(turn);
        let spent = busy(&nodes).into_iter().zip(before).map(|(now, before)| (now - before).as_secs_f64());
        let most = spent.fold(0.0, f64::max) * 100.0 / turn.as_secs_f64();
        Measured::alone(most).print("idle node of three, % of a core", Goal::AtMost(IDLE_PERCENT));
    }
    if !run.wants("write gap") && !run.wants("pause") {
        return;
    }
    let writing = Writing::start(&nodes);
    if run.wants("write gap") {
        let kills = if run.quick { KILLS_QUICK } else { KILLS };
        let mut gaps = gaps(&mut nodes, kills, &writing);
        let seconds = gaps.iter().map(Duration::as_secs_f64).collect();
        Measured::alone(median(seconds)).print("write gap after a leader's kill, s, median", Goal::None);
        let most = percentile(&mut gaps, 0.99).as_secs_f64();
        Measured::alone(most)
            .print(&format!("write gap after a leader's kill, s, p99 of {kills}"), Goal::AtMost(GAP_SECONDS));
    }
    if run.wants("pause") {
        let most = percentile(&mut rebalance(&run.place, &mut nodes, &writing), 0.99).as_secs_f64() * 1e3;
        Measured::alone(most).print("pause of a writer, nodes coming and going, ms p99", Goal::AtMost(PAUSE_MILLIS));
    }
    writing.stop();
}

/// Two nodes join and two others leave, while people write; for each of them the longest time between two answers.
fn rebalance(place: &Path, nodes: &mut Vec<Node>, writing: &Writing) -> Vec<Duration> {
    let mut longest = Vec::new();
    let mut ended = |what: &str, began: Instant| {
        writing.written_since(Instant::now());
        let now = writing.longest(began);
        let millis: Vec<u128> = now.iter().map(Duration::as_millis).collect();
        eprintln!("  {what} ({:.1} s): longest pauses in ms: {millis:?}", began.elapsed().as_secs_f64());
        longest.push(now);
    };
    let began = Instant::now();
    for _ in 0..2 {
        let number = nodes.len() + 1;
        nodes.push(join(place, &nodes[0], number));
    }
    settled(nodes);
    ended("two nodes join", began);
    let mut left = Vec::new();
    for id in 1..=2 {
        let began = Instant::now();
        // It is not asked any more, and runs on: mails of all nodes are in the directory of the first.
        left.push(nodes.remove(0));
        writing.ask(&*nodes);
        let (admin, operator) = (nodes[0].admin, nodes[0].operator());
        for (method, path) in
            [("POST", format!("/admin/v1/nodes/{id}/drain")), ("DELETE", format!("/admin/v1/nodes/{id}"))]
        {
            until(Instant::now() + SETTLES_WITHIN, "a node leaves", || {
                let (status, progress) = call(admin, method, &path, Some(&operator), None);
                (status == 404 || progress["done"] == true).then_some(())
            });
        }
        ended(&format!("node {id} leaves"), began);
    }
    let began = Instant::now();
    settled(nodes);
    ended("the rest", began);
    let people = longest[0].len();
    (0..people).map(|person| longest.iter().map(|phase| phase[person]).max().unwrap_or_default()).collect()
}

/// Three nodes, settled, whose mails are in one place.
fn start(place: &Path) -> Vec<Node> {
    let first = Node::start_with(place, named(1, &[]));
    let mut nodes = vec![first];
    for number in 2..=NODES {
        nodes.push(join(place, &nodes[0], number));
    }
    settled(&nodes);
    nodes
}

fn join(place: &Path, first: &Node, number: usize) -> Node {
    let (status, token) =
        call(first.admin, "POST", "/admin/v1/cluster/tokens", Some(&first.operator()), Some(&json!({})));
    assert_eq!(status, 201, "{token}");
    let join = [
        ("CLUSTER__JOIN", first.cluster.to_string()),
        ("CLUSTER__TOKEN", token["token"].as_str().expect("a token").to_owned()),
        ("NODE__SANDBOX_DIR", first.data().display().to_string()),
    ];
    Node::start_with(place, named(number, &join))
}

fn named(number: usize, more: &[(&str, String)]) -> Vec<(String, String)> {
    let mut set = vec![
        ("NODE__ID".to_owned(), number.to_string()),
        ("GATEWAY__PUBLIC_URL".to_owned(), "http://127.0.0.1:1".to_owned()),
        // The writers' sessions outlast the kills without a refresh.
        ("IDENTITY__ACCESS_TOKEN_SECONDS".to_owned(), "86400".to_owned()),
    ];
    set.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    set
}

/// Waits until every shard has its replicas and the leader that it should have.
fn settled(nodes: &[Node]) {
    until(Instant::now() + SETTLES_WITHIN, "the shards settle", || {
        let (_, shards) = try_call(nodes[0].admin, "GET", "/admin/v1/shards", Some(&nodes[0].operator()), None).ok()?;
        let shards = shards["items"].as_array()?.clone();
        let settled = shards.iter().all(|shard| {
            let replicas = shard["replicas"].as_array().map_or(0, Vec::len);
            // Every member has the meta shard.
            let wanted = if shard["id"] == 0 { nodes.len() } else { NODES };
            replicas == wanted && shard["placement"]["leader"] == shard["leader"]
        });
        (settled && !shards.is_empty()).then_some(())
    });
}

fn busy(nodes: &[Node]) -> Vec<Duration> {
    nodes.iter().map(|node| process::cpu(Some(node.pid()))).collect()
}

/// Kills each node in turn while people write at the others; of each kill the longest that one of them was not answered.
fn gaps(nodes: &mut [Node], kills: usize, writing: &Writing) -> Vec<Duration> {
    let mut gaps = Vec::new();
    for kill in 0..kills {
        let killed = kill % nodes.len();
        // Whoever asks a node that is about to be killed learns of it by a broken connection; that is not the gap.
        writing.ask(nodes.iter().enumerate().filter(|(number, _)| *number != killed).map(|(_, node)| node));
        let at = Instant::now();
        nodes[killed].kill();
        writing.written_since(at);
        nodes[killed].restart();
        settled(nodes);
        gaps.extend(writing.longest(at).into_iter().max());
    }
    gaps
}
