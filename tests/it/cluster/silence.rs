//! One node that hears nobody, and one that accepts and never reads: it believes nothing that it cannot find out, and the
//! others notice little.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::between::Between;
use crate::http::{Answer, Client};
use crate::load::patient;
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::Person;

/// The contract's bound for what is over to be over everywhere.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(1);
/// An election, and a debug build on a busy machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(20);
/// The longest a request waits at the others once they have noticed.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// For how long a node does not read, and what is written meanwhile.
const SILENCE: Duration = Duration::from_secs(8);
const BODY_BYTES: usize = 4000;
const WRITERS: usize = 4;
/// What the others may grow by: caches and the states of entities, not what waits for a node that does not read.
const GROWTH_BYTES: u64 = 96 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nobody_believes_nobody_and_one_that_never_reads_harms_nobody() {
    let between = Between::new();
    let cluster = Cluster::of(3, |_| patient(Plan::sandbox()), Some(between.clone())).await;
    let mailbox = Maildir::of(cluster.outside());
    let mut people = Vec::new();
    for number in 0..3 {
        let email = format!("person{number}@example.com");
        people.push(Person::sign_up(&cluster.nodes[0], &mailbox, &email, "consumer").await);
    }
    hears_nobody(&cluster, &between, &people).await;
    never_reads(&cluster, &people).await;
}

/// What is over is over, also where nobody could say so.
async fn hears_nobody(cluster: &Cluster, between: &Between, people: &[Person]) {
    let cut_off: Vec<Client> = people.iter().map(|person| cluster.at(2).with_token(person.api.token())).collect();
    for client in &cut_off {
        client.get("/v1/me").await.expect(200);
    }
    let there = cluster.address(2);
    let others = [0, 1].map(|index| cluster.address(index));
    between.hold(others.into_iter().flat_map(|other| [(there, other), (other, there)]));
    for (person, client) in people.iter().zip(&cut_off) {
        // Asked all the time, so that what it remembers is as young as it can be.
        let over = async {
            let at = cluster.at(0).with_token(person.api.token());
            until_answered(|| at.delete("/v1/sessions/current")).await.expect(204);
            Instant::now()
        };
        let asking = async {
            loop {
                let asked = Instant::now();
                let answer = client.get("/v1/me").await;
                if answer.status == 200 {
                    continue;
                }
                assert!(matches!(answer.status, 401 | 503 | 504), "{}", answer.text);
                break asked;
            }
        };
        let (over, _) = tokio::join!(over, asking);
        while over.elapsed() < 2 * EVERYWHERE_WITHIN {
            let asked = over.elapsed();
            let answer = client.get("/v1/me").await;
            assert!(answer.status != 200 || asked < EVERYWHERE_WITHIN, "believed {asked:?} after the session ended");
        }
    }
    between.heal();
    for client in &cut_off {
        until_answered(|| client.get("/v1/me")).await.expect(401);
    }
}

/// A process that is stopped accepts connections and bytes for as long as its kernel has room.
async fn never_reads(cluster: &Cluster, people: &[Person]) {
    let operator = cluster.nodes[0].operator_api();
    for index in 0..2 {
        let client = cluster.at(index).with_token(operator.token());
        until_answered(|| client.get("/v1/users?limit=1")).await.expect(200);
    }
    let before: Vec<u64> = cluster.nodes.iter().map(Node::resident).collect();
    cluster.nodes[2].pause(true).await;
    let stopped = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let client = cluster.at(writer % 2).with_token(operator.token());
        async move {
            let (mut written, mut longest) = (0, Duration::ZERO);
            while stopped.elapsed() < SILENCE {
                let to = &people[written % people.len()].id;
                let note = json!({
                    "to": { "user_id": to }, "category": "transactional", "channels": ["in_app"],
                    "content": { "title": "a note", "body": "x".repeat(BODY_BYTES) },
                });
                let asked = Instant::now();
                until_answered(|| client.post("/v1/notifications", &note)).await.expect(202);
                longest = longest.max(asked.elapsed());
                written += 1;
            }
            (written, longest)
        }
    });
    let written = futures::future::join_all(writers).await;
    let grown: Vec<u64> = cluster
        .nodes
        .iter()
        .zip(&before)
        .take(2)
        .map(|(node, before)| node.resident().saturating_sub(*before))
        .collect();
    cluster.nodes[2].pause(false).await;
    println!("written and longest wait by writer: {written:?}; grown by {grown:?} bytes");
    for (count, longest) in &written {
        assert!(*count > 0 && *longest < ANSWERED_WITHIN, "{written:?}");
    }
    assert!(grown.iter().all(|grown| *grown < GROWTH_BYTES), "{grown:?}");
    // It comes back as if nothing had been.
    let back = cluster.at(2).with_token(operator.token());
    until_answered(|| back.get("/v1/users?limit=1")).await.expect(200);
}

/// Asks until the answer is more than that it cannot be answered now.
async fn until_answered<F: Future<Output = Answer>>(ask: impl Fn() -> F) -> Answer {
    let asking = async {
        loop {
            let answer = ask().await;
            if answer.status < 500 {
                return answer;
            }
        }
    };
    timeout(TAKEN_OVER_WITHIN, asking).await.expect("the others take over in time")
}
