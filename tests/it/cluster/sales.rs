//! What must be there once: an account of an address that several sign up with, a charge, a number of an invoice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Cluster;
use super::registers::pause;
use crate::http::{Answer, Client, fresh_key};
use crate::load::{self, Dice};
use crate::mail::{Mailbox, Maildir};
use crate::person::{self, PASSWORD, Person};

/// Whatever goes wrong meanwhile, and however often.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_millis(100);
/// Between two addresses: each costs two slow password hashes.
const BETWEEN: Duration = Duration::from_secs(4);
/// Somebody may have 200 subscriptions.
const MOST: usize = 190;

/// Buyers and addresses, and what was acknowledged.
pub struct Sales {
    at: Vec<Client>,
    person: Person,
    order: Value,
    pub sold: BTreeSet<String>,
    pub addresses: Vec<String>,
}

impl Sales {
    pub async fn of(cluster: &Cluster) -> Self {
        let mailbox = Maildir::of(cluster.outside());
        let person = Person::sign_up(&cluster.nodes[0], &mailbox, "buyer@example.com", "consumer").await;
        let card = person.add_card("pm_card_visa").await;
        let plan = person::plan(&person.api, "Plus").await;
        let order = json!({ "plan_id": plan["id"], "payment_method_id": card });
        let at = cluster.nodes.iter().map(|node| node.api()).collect();
        Self { at, person, order, sold: BTreeSet::new(), addresses: Vec::new() }
    }

    /// Buys and signs up, each thing until it is answered, until `closed`.
    pub async fn work(&mut self, mut dice: Dice, mut closed: watch::Receiver<bool>) {
        while !*closed.borrow() {
            let turn = usize::try_from(dice.roll(self.at.len() as u64)).expect("small");
            if self.sold.len() < MOST {
                let buyers: Vec<Client> = self.at.iter().map(|api| api.with_token(self.person.api.token())).collect();
                let sold = wanted(&buyers, turn, "/v1/subscriptions", &self.order).await;
                sold.expect(201);
                assert!(self.sold.insert(sold.text_at("/id")), "two orders got one subscription: {}", sold.text);
            }
            let email = format!("unique{}@example.com", self.addresses.len());
            let body = json!({ "email": email, "password": PASSWORD, "role": "consumer" });
            let (first, second) = tokio::join!(
                wanted(&self.at, turn, "/v1/signup", &body),
                wanted(&self.at, turn + 1, "/v1/signup", &body),
            );
            first.expect(202);
            second.expect(202);
            self.addresses.push(email);
            let _ = tokio::time::timeout(BETWEEN, closed.wait_for(|closed| *closed)).await;
        }
    }

    /// Holds what there is against what was acknowledged.
    pub async fn check(&self, cluster: &Cluster) {
        let buyer = cluster.at(1).with_token(self.person.api.token());
        let listed = load::check::list(&buyer, "/v1/subscriptions").await;
        let ids: BTreeSet<String> = listed.iter().map(|sold| sold["id"].as_str().expect("an id").to_owned()).collect();
        assert_eq!(ids, self.sold, "what was sold is there, and nothing else");
        let invoices = load::check::list(&buyer, "/v1/invoices").await;
        assert_eq!(invoices.len(), self.sold.len(), "an invoice each");
        let mut numbers = Vec::new();
        let mut due = BTreeMap::new();
        for invoice in &invoices {
            assert_eq!(invoice["state"], "paid", "{invoice}");
            numbers.push(invoice["number"].as_str().expect("a number").to_owned());
            due.insert(invoice["id"].as_str().expect("an id").to_owned(), 1);
        }
        load::check::gapless(&mut numbers);
        assert_eq!(load::check::charged(cluster.outside()), due, "each invoice was charged once");
        let books = cluster.nodes[2].operator().get("/admin/v1/ledger/verify").await;
        assert_eq!(books.expect(200)["fault_count"], 0, "{}", books.text);
        let mails = Maildir::of(cluster.outside()).all().await;
        for email in &self.addresses {
            let links = mails.iter().filter(|mail| mail.to.contains(email.as_str()) && mail.text.contains("/verify"));
            let mut owners = BTreeSet::new();
            for mail in links {
                let verified = self.at[0].post("/v1/signup/verify", &json!({ "token": mail.token() })).await;
                if verified.status == 201 {
                    owners.insert(verified.text_at("/user/id"));
                }
            }
            assert_eq!(owners.len(), 1, "{email} belongs to one account: {owners:?}");
        }
    }
}

/// Asks at one node after the other under one key until there is an answer.
pub async fn wanted(at: &[Client], mut turn: usize, path: &str, body: &Value) -> Answer {
    let (key, until, mut heard) = (fresh_key(), Instant::now() + ANSWERED_WITHIN, Vec::new());
    loop {
        let answer = at[turn % at.len()].try_send(reqwest::Method::POST, path, Some(&key), Some(body)).await;
        match answer {
            Some(answer) if answer.status < 500 && answer.status != 409 => return answer,
            other => heard.push(other.map(|answer| (turn % at.len() + 1, answer.status, answer.text))),
        }
        assert!(Instant::now() < until, "{path} is not answered: {:#?}", &heard[heard.len().saturating_sub(12)..]);
        pause(AGAIN).await;
        turn += 1;
    }
}
