//! What the node shows, held against what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Load;
use super::customer::Customer;
use super::guest::{Guest, texts};
use crate::http::Client;
use crate::mail::{Mail, Mailbox, Maildir};
use crate::node::Node;
use crate::person::PASSWORD;

/// What leaves the node in clear, as it must.
const OUTSIDE: [&str; 2] = ["outbox", "node.log"];

/// Items of an inbox that are kept at least.
const INBOX_KEEPS: usize = 1000;

pub async fn all(load: &Load, node: &Node) {
    let mails = Maildir::of(&node.data()).all().await;
    let (mut numbers, mut credit_notes) = (Vec::new(), Vec::new());
    let mut money = Money::default();
    for customer in &load.customers {
        notifications(customer, &mails).await;
        invoices(customer, &mut numbers, &mut money).await;
        refunds(customer, &mut credit_notes, &mut money).await;
        let me = customer.person.api.get("/v1/me").await;
        let shown: u64 = me.expect(200)["display_name"].as_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        assert!(shown >= customer.renamed, "renamed to {} and is {shown}", customer.renamed);
    }
    let books = node.operator().get("/admin/v1/ledger/verify").await;
    assert_eq!(books.expect(200)["fault_count"], 0, "{}", books.text);
    gapless(&mut numbers);
    gapless(&mut credit_notes);
    let journal = Money::of_journal(&node.data());
    assert_eq!(journal.charged, money.charged, "what was charged is what is paid");
    assert_eq!(journal.refunded, money.refunded, "what was given back is what was asked for");
    for guest in load.guests.iter().flat_map(|guests| &guests.guests) {
        left(guest, node, &mails).await;
    }
    unreadable(node);
    one_key_version(&node.data());
}

async fn notifications(customer: &Customer, mails: &[Mail]) {
    let email = &customer.person.email;
    let inbox = list(&customer.person.api, "/v1/inbox").await;
    let offsets: BTreeSet<_> = inbox.iter().map(|item| item["offset"].as_u64()).collect();
    assert_eq!(offsets.len(), inbox.len(), "each offset of {email} is used once");
    let titles = counts(inbox.iter().filter_map(|item| item["title"].as_str()));
    let mine = mails.iter().filter(|mail| mail.to.contains(email.as_str()));
    let subjects = counts(mine.map(|mail| mail.subject.as_str()));
    // A full inbox has trimmed its oldest items.
    let numbers = titles.keys().filter_map(|title| number(title));
    let oldest = if inbox.len() < INBOX_KEEPS { 0 } else { numbers.min().unwrap_or(0) };
    for (title, id) in &customer.notified {
        let (shown, mailed) = (titles.get(title.as_str()), subjects.get(title.as_str()));
        if number(title) < Some(oldest) && (shown, mailed) == (None, Some(&1)) {
            continue;
        }
        if (shown, mailed) != (Some(&1), Some(&1)) {
            let journal = customer.operator().get(&format!("/v1/notifications/{id}")).await;
            panic!("{title} for {email}: {shown:?} times in the inbox, {mailed:?} by mail: {}", journal.text);
        }
    }
    let unknown = titles.keys().filter(|title| title.starts_with("note ") && !customer.notified.contains_key(**title));
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&&str>::new(), "nobody asked for these");
}

/// The last part of `note 0-17`.
fn number(title: &str) -> Option<u64> {
    title.strip_prefix("note ")?.split_once('-')?.1.parse().ok()
}

async fn invoices(customer: &Customer, numbers: &mut Vec<String>, money: &mut Money) {
    let (api, email) = (&customer.person.api, &customer.person.email);
    let listed = list(api, "/v1/subscriptions").await;
    let ids: BTreeSet<String> = listed.iter().map(id).collect();
    assert_eq!(ids, customer.subscriptions.keys().cloned().collect(), "the subscriptions of {email}");
    for subscription in &listed {
        let (plan, _) = &customer.subscriptions[&id(subscription)];
        let unsure = customer.unsure.contains(&id(subscription));
        if !unsure && subscription["plan_id"] != json!(plan) {
            let (asked, invoices) = (&customer.changes, list(api, "/v1/invoices").await);
            panic!("{subscription} is not on {plan}: {asked:#?}, {invoices:#?}");
        }
    }
    let invoices = list(api, "/v1/invoices").await;
    let mut periods = BTreeMap::<(String, String), u64>::new();
    for invoice in &invoices {
        numbers.extend(invoice["number"].as_str().map(str::to_owned));
        if invoice["state"] == "void" {
            // The clock was moved past the time a first payment may take before it was tried, while its payment method
            // was looked up, or while it was charged, which then came too late and was given back.
            let attempts = invoice["attempts"].as_array().expect("attempts");
            assert!(attempts.iter().all(|attempt| attempt["decline_code"] == "canceled"), "{invoice}");
            continue;
        }
        assert_eq!(invoice["state"], "paid", "{invoice}");
        assert!(invoice["number"].is_string(), "{invoice}");
        let subscription = text(invoice, "subscription_id");
        *periods.entry((subscription, text(invoice, "period_start"))).or_default() += 1;
        if invoice["total"].as_i64() > Some(0) {
            *money.charged.entry(id(invoice)).or_default() += 1;
        }
    }
    for ((subscription, period), times) in periods {
        let changes = customer.subscriptions[&subscription].1;
        assert!(times <= 1 + changes, "{subscription} was invoiced {times} times from {period} on: {invoices:#?}");
    }
    assert!(invoices.len() >= listed.len(), "each subscription of {email} has its first invoice");
}

async fn refunds(customer: &Customer, numbers: &mut Vec<String>, money: &mut Money) {
    let notes = list(&customer.person.api, "/v1/credit-notes").await;
    let mut given = BTreeMap::<String, u64>::new();
    for note in &notes {
        assert_eq!(note["status"], "succeeded", "{note}");
        let amount = note["amount"]["amount"].as_u64().expect("an amount");
        *given.entry(text(note, "invoice_id")).or_default() += amount;
        money.refunded.push(amount);
        numbers.extend(note["number"].as_str().map(str::to_owned));
    }
    money.refunded.sort_unstable();
    assert_eq!(notes.len(), given.len(), "one refund of an invoice each: {notes:#?}");
    assert_eq!(given, customer.refunded, "what {} got back", customer.person.email);
}

/// A guest who left: everything was sent once, nothing is left, nobody gets in.
async fn left(guest: &Guest, node: &Node, mails: &[Mail]) {
    let mine: Vec<&Mail> = mails.iter().filter(|mail| mail.to.contains(guest.email.as_str())).collect();
    let about = |words: &str| mine.iter().filter(|mail| mail.text.contains(words)).count();
    assert_eq!(about("/verify"), guest.sign_ups, "{guest:?} verified one address: {mine:#?}");
    let twice = counts(mine.iter().map(|mail| mail.text.as_str())).into_iter().find(|(_, times)| *times > 1);
    assert_eq!(twice, None, "{guest:?} got a mail twice");
    let sent: Vec<_> = texts(&node.data()).into_iter().filter(|(to, _)| *to == guest.number).collect();
    let (texts, codes): (Vec<_>, Vec<_>) =
        sent.iter().partition(|(_, body)| body.contains(&format!("to {}", guest.number)));
    assert_eq!(texts.len(), 1, "{guest:?} was texted {sent:?}");
    let distinct = counts(codes.iter().map(|(_, body)| body.as_str()));
    assert!(!codes.is_empty() && distinct.len() == codes.len(), "{guest:?} was texted {sent:?}");
    let api = node.api();
    api.with_token(&guest.token).get("/v1/me").await.expect(401);
    let body = json!({ "email": guest.email, "password": PASSWORD });
    api.post("/v1/sessions", &body).await.expect(401);
    let farewell = mine.iter().filter(|mail| mail.subject.to_lowercase().contains("erased")).count();
    assert_eq!(farewell, 1, "{guest:?} got a farewell: {:?}", mine.iter().map(|m| &m.subject).collect::<Vec<_>>());
}

/// Nothing in the data directory holds an address or a number in clear.
fn unreadable(node: &Node) {
    for path in files(&node.data()) {
        // The store removes files of its own while this looks.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for (first, rest) in [(b'@', &b"example.com"[..]), (b'+', b"1415")] {
            let found = bytes.split(|byte| *byte == first).skip(1).any(|after| after.starts_with(rest));
            assert!(!found, "{} holds personal data in clear", path.display());
        }
    }
}

fn files(data: &Path) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![data.to_owned()], Vec::new());
    while let Some(path) = open.pop() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if OUTSIDE.contains(&name) {
            continue;
        }
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else {
            found.push(path);
        }
    }
    found
}

/// After a whole rotation the keyset holds no older version.
fn one_key_version(data: &Path) {
    let keyset: Value = serde_json::from_slice(&std::fs::read(data.join("keyset")).expect("a keyset")).expect("JSON");
    assert_eq!(keyset["keks"].as_object().map(serde_json::Map::len), Some(1), "{:?}", keyset["keks"]);
}

/// Charges by invoice, and every refund.
#[derive(Debug, Default)]
struct Money {
    charged: BTreeMap<String, u32>,
    refunded: Vec<u64>,
}

impl Money {
    /// As the sandbox processor wrote them down. A charge that was given back whole came too late for its invoice
    /// (the load itself never gives back so much): it counts as not charged.
    fn of_journal(data: &Path) -> Self {
        let (mut charges, mut money) = (BTreeMap::new(), Self::default());
        let journals = files(data).into_iter().filter(|path| path.ends_with("journal.jsonl"));
        for line in journals.flat_map(|path| lines(&path)) {
            if let Some(receipt) = line.pointer("/what/charge/receipt")
                && receipt["status"].to_string().contains("Succeeded")
            {
                // The invoice, and the number of the attempt.
                let reference = text(receipt, "reference");
                let invoice = reference.split('/').next().expect("a first part");
                charges.insert(text(receipt, "id"), (invoice.to_owned(), receipt["amount"].clone()));
            }
            if let Some(refund) = line.pointer("/what/refund") {
                let charge = text(refund, "charge");
                if charges.get(&charge).is_some_and(|(_, amount)| *amount == refund["amount"]) {
                    charges.remove(&charge);
                } else {
                    money.refunded.push(refund["amount"]["amount"].as_u64().expect("an amount"));
                }
            }
        }
        for (invoice, _) in charges.into_values() {
            *money.charged.entry(invoice).or_default() += 1;
        }
        money.refunded.sort_unstable();
        money
    }
}

/// How often each invoice was charged, as the sandbox processor wrote it down.
#[cfg(all(feature = "failpoints", feature = "peers"))]
pub fn charged(data: &Path) -> BTreeMap<String, u32> {
    Money::of_journal(data).charged
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the processor's journal");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Every page of a list.
pub async fn list(client: &Client, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("{path}?limit=100{cursor}")).await;
        items.extend(page.expect(200)["items"].as_array().expect("a list").iter().cloned());
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

fn id(object: &Value) -> String {
    text(object, "id")
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned()
}

fn counts<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts
}

/// Numbers of a series follow each other without a gap and without a repeat.
pub fn gapless(numbers: &mut [String]) {
    numbers.sort();
    let value = |number: &String| -> u64 {
        let digits = number.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
        digits.parse().unwrap_or_else(|_| panic!("{number} ends in a number"))
    };
    let values: Vec<u64> = numbers.iter().map(value).collect();
    for pair in values.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "numbers have no gap and no repeat: {numbers:?}");
    }
}
