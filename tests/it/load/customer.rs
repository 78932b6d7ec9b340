//! A customer: notified, subscribed, moved between plans, refunded, renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::wish::{Came, Wish, code};
use super::{Dice, Floor};
use crate::http::{Answer, Client};
use crate::mail::Maildir;
use crate::node::Node;
use crate::person::{self, PASSWORD, Person};

/// The most given back of one invoice, in minor units; far below its total.
const REFUND: u64 = 50;
/// More would only make every month longer.
const MOST_SUBSCRIPTIONS: usize = 12;
/// A change that is refused for so long although its subscription could take it is a defect.
const REFUSED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
enum Kind {
    /// A notification with this title, into the inbox and by mail.
    Notify(String),
    /// A subscription to the cheaper plan.
    Subscribe,
    /// A subscription moves to this plan.
    Change(String, String),
    /// So much of an invoice is given back.
    Refund(String, u64),
    /// The display name becomes this number.
    Rename(u64),
}

/// One person's client and what it knows to be acknowledged.
pub struct Customer {
    pub person: Person,
    index: usize,
    operator: Client,
    anonymous: Client,
    plans: [String; 2],
    card: String,
    dice: Dice,
    pending: Option<(Kind, Wish)>,
    /// The pending request was sent before, and its answer lost.
    in_doubt: bool,
    /// Since when the change that is asked for is refused.
    refused: Option<Instant>,
    next_number: u64,
    /// Titles that were accepted, with the id of their notification.
    pub notified: BTreeMap<String, String>,
    /// Subscriptions with the plan they were last moved to, and how often.
    pub subscriptions: BTreeMap<String, (String, u64)>,
    /// Those that a change was given up of whose first answer was lost: it may have been made.
    pub unsure: BTreeSet<String>,
    /// Invoices with what was given back of them; one refund each.
    pub refunded: BTreeMap<String, u64>,
    refunds_asked: BTreeSet<String>,
    pub renamed: u64,
    /// What was answered to changes of plans and when they were given up, for whoever asks why.
    pub changes: Vec<String>,
}

impl Customer {
    pub async fn join(node: &Node, index: usize, dice: Dice) -> Self {
        let email = format!("person{index}@example.com");
        let person = Person::sign_up(node, &Maildir::of(&node.data()), &email, "consumer").await;
        let card = person.add_card("pm_card_visa").await;
        let mut plans = [String::new(), String::new()];
        for (plan, name) in plans.iter_mut().zip(["Plus", "Pro"]) {
            *plan = person::plan(&person.api, name).await["id"].as_str().expect("an id").to_owned();
        }
        Self {
            index,
            operator: node.operator_api(),
            anonymous: node.api(),
            plans,
            card,
            person,
            dice,
            pending: None,
            in_doubt: false,
            refused: None,
            next_number: 0,
            notified: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            unsure: BTreeSet::new(),
            refunded: BTreeMap::new(),
            refunds_asked: BTreeSet::new(),
            renamed: 0,
            changes: Vec::new(),
        }
    }

    pub fn operator(&self) -> &Client {
        &self.operator
    }

    /// Works until the node is gone or the floor closed.
    pub async fn work(&mut self, floor: &Floor) {
        while floor.is_open() {
            let turn = floor.turn(&format!("customer {}", self.index)).await;
            if self.pending.is_none() && self.make_wish(floor).await.is_none() {
                break;
            }
            if !self.try_pending(floor).await {
                break;
            }
            drop(turn);
            floor.rest().await;
        }
        floor.close();
    }

    pub async fn have_last_wish(&mut self, floor: &Floor) {
        while self.pending.is_some() {
            assert!(self.try_pending(floor).await, "the node answers");
        }
    }

    /// `None`: the node is gone.
    async fn make_wish(&mut self, floor: &Floor) -> Option<()> {
        self.next_number += 1;
        let number = self.next_number;
        let kind = match self.dice.roll(20) {
            12 | 13 if self.subscriptions.len() < MOST_SUBSCRIPTIONS => Kind::Subscribe,
            14 | 15 => self.change().unwrap_or(Kind::Rename(number)),
            16 | 17 => self.refund(floor).await?.unwrap_or(Kind::Rename(number)),
            18 | 19 => Kind::Rename(number),
            _ => Kind::Notify(format!("note {}-{number}", self.index)),
        };
        let wish = match &kind {
            Kind::Notify(title) => Wish::post("/v1/notifications", self.note(title)),
            Kind::Subscribe => {
                let body = json!({ "plan_id": self.plans[0], "payment_method_id": self.card });
                Wish::post("/v1/subscriptions", body)
            }
            Kind::Change(id, plan) => Wish::post(&format!("/v1/subscriptions/{id}/change"), json!({ "plan_id": plan })),
            Kind::Refund(id, amount) => {
                self.refunds_asked.insert(id.clone());
                Wish::post(&format!("/v1/invoices/{id}/refunds"), json!({ "amount": amount, "reason": "a test" }))
            }
            Kind::Rename(number) => Wish::patch("/v1/me", json!({ "display_name": number.to_string() })),
        };
        self.pending = Some((kind, wish));
        Some(())
    }

    fn change(&mut self) -> Option<Kind> {
        let nth = usize::try_from(self.dice.roll(self.subscriptions.len().max(1) as u64)).expect("small");
        let (id, (plan, _)) = self.subscriptions.iter().nth(nth).filter(|(id, _)| !self.unsure.contains(*id))?;
        let other = self.plans.iter().find(|other| *other != plan).expect("two plans");
        Some(Kind::Change(id.clone(), other.clone()))
    }

    /// An invoice that was paid by card and of which nothing was given back yet.
    async fn refund(&mut self, floor: &Floor) -> Option<Option<Kind>> {
        let amount = 1 + self.dice.roll(REFUND);
        let asking = floor.asking(format!("GET /v1/invoices for customer {}", self.index));
        let invoices = self.person.api.try_get("/v1/invoices?limit=100").await?;
        drop(asking);
        let items = invoices.json["items"].as_array().cloned().unwrap_or_default();
        let fits = |invoice: &&Value| {
            let id = invoice["id"].as_str().unwrap_or_default();
            invoice["state"] == "paid"
                && invoice["total"].as_u64() >= Some(2 * REFUND)
                && !self.refunds_asked.contains(id)
        };
        let id = items.iter().find(fits).and_then(|invoice| invoice["id"].as_str());
        Some(id.map(|id| Kind::Refund(id.to_owned(), amount)))
    }

    fn note(&self, title: &str) -> Value {
        json!({
            "to": { "user_id": self.person.id }, "category": "transactional", "channels": ["in_app", "email"],
            "content": { "title": title, "body": format!("This is {title}.") },
        })
    }

    /// False: the node is gone.
    async fn try_pending(&mut self, floor: &Floor) -> bool {
        let Some((kind, wish)) = self.pending.clone() else { return true };
        let client = match kind {
            Kind::Notify(_) | Kind::Refund(..) => &self.operator,
            Kind::Subscribe | Kind::Change(..) | Kind::Rename(_) => &self.person.api,
        };
        // Also when this try is dropped while it waits.
        let in_doubt = std::mem::replace(&mut self.in_doubt, true);
        let answer = match wish.send(client, floor).await {
            Came::Answer(answer) => answer,
            Came::NotNow => return pause().await,
            Came::Gone => return false,
        };
        self.in_doubt = in_doubt;
        if answer.status == 401 {
            // The clock was moved past the end of the access token.
            return self.sign_in_again(floor).await;
        }
        if let (Kind::Change(id, _), "conflict") = (&kind, code(&answer)) {
            return self.refused(&id.clone(), &answer, floor).await;
        }
        if let (Kind::Change(..), 402) = (&kind, answer.status)
            && answer.json.pointer("/errors/0/detail").is_some_and(|detail| detail == "canceled")
        {
            // The clock was moved past the time that the change had to be paid in, before its charge was asked for.
            self.give_up_change();
            return true;
        }
        assert!((200..300).contains(&answer.status), "{wish:?}: {} {}", answer.status, answer.text);
        self.pending = None;
        self.in_doubt = false;
        self.refused = None;
        self.note_answer(kind, &answer);
        floor.acknowledged();
        true
    }

    fn note_answer(&mut self, kind: Kind, answer: &Answer) {
        if let Kind::Change(..) | Kind::Subscribe = &kind {
            self.changes.push(format!("{kind:?}: {} {}", answer.status, answer.text));
        }
        match kind {
            Kind::Notify(title) => drop(self.notified.insert(title, answer.text_at("/id"))),
            Kind::Subscribe => drop(self.subscriptions.insert(answer.text_at("/id"), (self.plans[0].clone(), 0))),
            Kind::Change(id, plan) => {
                let moved = self.subscriptions.get_mut(&id).expect("a subscription of ours");
                *moved = (plan, moved.1 + 1);
                // Accepted, and made once it is paid: the clock may outrun the payment.
                if !answer.json["pending_change"].is_null() {
                    self.unsure.insert(id);
                }
            }
            Kind::Refund(id, amount) => drop(self.refunded.insert(id, amount)),
            Kind::Rename(number) => self.renamed = number,
        }
    }

    /// A request is known by its key for a day or two; after that, what the clock outran cannot be told any more.
    fn give_up_change(&mut self) {
        self.refused = None;
        let in_doubt = std::mem::take(&mut self.in_doubt);
        self.changes.push(format!("{:?} given up, in doubt: {in_doubt}", self.pending));
        if let Some((Kind::Change(id, _), _)) = self.pending.take().filter(|_| in_doubt) {
            self.subscriptions.get_mut(&id).expect("a subscription of ours").1 += 1;
            self.unsure.insert(id);
        }
    }

    /// A change may have to wait for an invoice; one of a subscription that has ended is given up.
    async fn refused(&mut self, id: &str, answer: &Answer, floor: &Floor) -> bool {
        let _asking = floor.asking(format!("GET {id}"));
        let Some(now) = self.person.api.try_get(&format!("/v1/subscriptions/{id}")).await else { return false };
        if now.status == 200 && !matches!(now.json["state"].as_str(), Some("active" | "trialing")) {
            self.give_up_change();
            return true;
        }
        let since = *self.refused.get_or_insert_with(Instant::now);
        assert!(since.elapsed() < REFUSED_WITHIN, "{id} cannot be changed: {} although {}", answer.text, now.text);
        pause().await
    }

    async fn sign_in_again(&mut self, floor: &Floor) -> bool {
        let body = json!({ "email": self.person.email, "password": PASSWORD });
        match Wish::post("/v1/sessions", body).send(&self.anonymous, floor).await {
            Came::Answer(answer) => {
                answer.expect(201);
                self.person.api = self.anonymous.with_token(&answer.text_at("/access_token"));
                true
            }
            Came::NotNow => pause().await,
            Came::Gone => false,
        }
    }
}

/// A moment between two tries of the same request.
pub async fn pause() -> bool {
    let mut again = tokio::time::interval(Duration::from_millis(10));
    again.tick().await;
    again.tick().await;
    true
}
