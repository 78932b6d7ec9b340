//! A lost majority: a new cluster from what is left, which has everything acknowledged as long as a majority of disks is.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use reqwest::Method;
use serde_json::json;

use super::restoring::{charges, eventually, held, note, restored, verified};
use super::text;
use crate::cluster::Cluster;
use crate::http::{Client, fresh_key};
use crate::mail::{Mailbox, Maildir};
use crate::node::Plan;
use crate::person::{self, Person};

/// Sends numbered notifications until the nodes are gone, and counts what was acknowledged.
async fn send(api: Client, person: Person, gone: Arc<AtomicBool>, acknowledged: Arc<AtomicU32>) {
    while !gone.load(Ordering::Relaxed) {
        let body = note(&person, &fresh_key());
        let answer = api.try_send(Method::POST, "/v1/notifications", Some(&fresh_key()), Some(&body)).await;
        match answer {
            Some(answer) if answer.status == 202 => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
            Some(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
            None => return,
        }
    }
}

fn recover_from<'a>(dirs: &'a [&'a str], data: &'a str, until: &'a str) -> Vec<&'a str> {
    let from = dirs.iter().flat_map(|dir| ["--from", dir]);
    ["cluster", "recover"].into_iter().chain(from).chain(["--data-dir", data, "--until", until]).collect()
}

fn said(out: &std::process::Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_majority_of_disks_holds_is_a_cluster_again() {
    let mut old = Cluster::start(3).await;
    let outside = old.outside().to_owned();
    let mailbox = Maildir::of(&outside);
    let ada = Person::sign_up(&old.nodes[0], &mailbox, "ada@example.com", "robot_builder").await;
    let card = ada.add_card("pm_card_visa").await;
    let plan = person::plan(&ada.api, "Plus").await;
    ada.subscribe(plan["id"].as_str().expect("an id"), &card).await;
    mailbox.wait_for(&ada.email, "receipt", 1).await;
    let (gone, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let sending: Vec<_> = old
        .nodes
        .iter()
        .map(|node| tokio::spawn(send(node.operator_api(), ada.clone(), Arc::clone(&gone), Arc::clone(&acknowledged))))
        .collect();
    eventually("work under way", async || acknowledged.load(Ordering::Relaxed) > 60).await;
    let (_, until) = person::now(&old.nodes[0]).await;
    let kills = old.nodes.iter().map(crate::node::Node::killer);
    futures::future::join_all(kills).await;
    gone.store(true, Ordering::Relaxed);
    for node in &mut old.nodes {
        node.kill().await;
    }
    for task in sending {
        task.await.expect("only 202 and 503 were answered");
    }
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    let (mails, taken) = (mailbox.all().await.len(), charges(&outside));

    // The first node's disk is gone. What is asked for by mistake is refused, and costs nothing.
    let dirs: Vec<String> = old.nodes[1..].iter().map(|node| text(&node.data())).collect();
    let [second, third] = [dirs[0].as_str(), dirs[1].as_str()];
    let mut node = restored(&outside);
    let data = text(&node.data());
    let run = async |arguments: &[&str]| node.command(arguments).output().await.expect("the binary runs");
    let refused = run(&recover_from(&[second, third], &data, &until)).await;
    assert!(!refused.status.success() && said(&refused).contains("--accept-loss"), "{}", said(&refused));
    let nowhere = tempfile::TempDir::new().expect("a directory");
    let empty = text(nowhere.path());
    let refused = run(&[recover_from(&[second, &empty], &data, &until), vec!["--accept-loss"]].concat()).await;
    assert!(said(&refused).contains("is not the data directory of a node"), "{}", said(&refused));
    assert_eq!(std::fs::read_dir(Path::new(&empty)).expect("a directory").count(), 0, "nothing was made there");
    old.nodes[2].spawn();
    let listens = old.nodes[2].cluster;
    eventually("the process", async || tokio::net::TcpStream::connect(listens).await.is_ok()).await;
    let refused = run(&[recover_from(&[second, third], &data, &until), vec!["--accept-loss"]].concat()).await;
    assert!(said(&refused).contains("is in use"), "{}", said(&refused));
    old.nodes[2].kill().await;
    let made = run(&[recover_from(&[second, third], &data, &until), vec!["--accept-loss"]].concat()).await;
    assert!(made.status.success(), "{}", said(&made));
    println!("{acknowledged} acknowledged\n{}", said(&made));
    let again = run(&[recover_from(&[second, third], &data, &until), vec!["--accept-loss"]].concat()).await;
    assert!(said(&again).contains("is in use"), "{}", said(&again));

    node.start().await;
    person::advance_by(&node, 1).await;
    let ada = ada.sign_in(&node).await;
    let invoices = ada.invoices().await;
    assert!(invoices.len() == 1 && invoices[0]["state"] == "paid", "{invoices:#?}");
    // A notification that was accepted is in the inbox, or its delivery is under way.
    eventually("everything acknowledged", async || {
        let unread = ada.api.get("/v1/inbox/unread-count").await.expect(200).to_string();
        let unread: u32 = unread.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number");
        unread > acknowledged
    })
    .await;
    let audited = node.operator_api().get("/v1/audit/entries?action=cluster.recovered").await;
    assert_eq!(audited.expect(200)["items"][0]["target"], "nodes:2,3", "{}", audited.text);
    assert_eq!(charges(&outside), taken, "nothing is charged again");
    let more: Vec<_> = mailbox.all().await.into_iter().skip(mails).collect();
    assert!(more.is_empty(), "nothing is mailed again: {more:#?}");
    let waiting = held(&node).await;
    println!("{} effects wait for an operator", waiting.len());
    verified(&node, &["ledger", "verify"]).await;

    // It grows, and bills as ever.
    let token = node.operator().post("/admin/v1/cluster/tokens", &json!({})).await;
    token.expect(201);
    let mut other = Plan::sandbox()
        .set("node.id", "2")
        .set("node.sandbox_dir", outside.to_str().expect("a path"))
        .set("gateway.public_url", "http://127.0.0.1:1")
        .set("cluster.join", &node.cluster.to_string())
        .set("cluster.token", &token.text_at("/token"))
        .prepare();
    other.start().await;
    person::advance_by(&other, 32 * 86_400).await;
    eventually("the renewal", async || charges(&outside) == taken + 1).await;
    mailbox.wait_for(&ada.email, "receipt", 2).await;
}
