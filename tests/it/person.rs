//! What a person does with the product, step by step, over its public edges.

use serde_json::{Value, json};

use crate::http::{Answer, Client};
use crate::mail::Mailbox;
use crate::node::Node;

pub const PASSWORD: &str = "seven green kettles sing at dawn";

/// Somebody with an account and a session.
#[derive(Debug, Clone)]
pub struct Person {
    pub email: String,
    pub id: String,
    /// The gateway, with this person's access token.
    pub api: Client,
    pub refresh_token: String,
}

impl Person {
    fn from_tokens(email: &str, id: String, api: &Client, tokens: &Value) -> Self {
        let text = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("no {name} in {tokens}")).to_owned();
        Self {
            email: email.to_owned(),
            id,
            api: api.with_token(&text("access_token")),
            refresh_token: text("refresh_token"),
        }
    }

    /// Signs up and takes the link from the verification mail.
    pub async fn sign_up(node: &Node, mailbox: &impl Mailbox, email: &str, role: &str) -> Self {
        let api = node.api();
        let body = json!({ "email": email, "password": PASSWORD, "role": role, "display_name": "Ada" });
        api.post("/v1/signup", &body).await.expect(202);
        let mail = mailbox.wait_for(email, "", 1).await.remove(0);
        let verified = api.post("/v1/signup/verify", &json!({ "token": mail.token() })).await;
        Self::verified(email, &api, &verified)
    }

    /// Who has just taken the link, by the answer to that.
    pub fn verified(email: &str, api: &Client, verified: &Answer) -> Self {
        let tokens = verified.expect(201).clone();
        Self::from_tokens(email, verified.text_at("/user/id"), api, &tokens)
    }

    /// The same person with the same tokens at another node.
    pub fn at(&self, node: &Node) -> Self {
        Self { api: node.api().with_token(self.api.token()), ..self.clone() }
    }

    /// Signs in with the password alone.
    pub async fn sign_in(&self, node: &Node) -> Self {
        let body = json!({ "email": self.email, "password": PASSWORD });
        let answer = node.api().post("/v1/sessions", &body).await;
        Self::from_tokens(&self.email, self.id.clone(), &node.api(), answer.expect(201))
    }

    /// Signs in with the password and a code.
    pub async fn sign_in_with_code(&self, node: &Node, code: &str) -> Self {
        let api = node.api();
        let body = json!({ "email": self.email, "password": PASSWORD });
        let challenge = api.post("/v1/sessions", &body).await;
        challenge.expect(200);
        let methods = challenge.json["mfa"]["methods"].to_string();
        assert!(methods.contains("totp"), "{methods}");
        let challenge_id = challenge.text_at("/mfa/challenge_id");
        let body = json!({ "challenge_id": challenge_id, "method": "totp", "code": code });
        let answer = api.post("/v1/sessions/mfa", &body).await;
        Self::from_tokens(&self.email, self.id.clone(), &api, answer.expect(201))
    }

    /// Trades the refresh token for fresh ones.
    pub async fn refreshed(&self, node: &Node) -> Self {
        let body = json!({ "refresh_token": self.refresh_token });
        let answer = node.api().post("/v1/sessions/refresh", &body).await;
        let tokens = if answer.status == 201 { answer.expect(201) } else { answer.expect(200) };
        Self::from_tokens(&self.email, self.id.clone(), &node.api(), tokens)
    }

    /// Adds a payment method of the sandbox or Stripe by its test token as the default, and answers its id.
    pub async fn add_card(&self, token: &str) -> String {
        let answer = self.api.post("/v1/payment-methods", &json!({ "token": token, "default": true })).await;
        answer.expect(201);
        answer.text_at("/id")
    }

    /// Starts a subscription and answers it.
    pub async fn subscribe(&self, plan_id: &str, payment_method_id: &str) -> Value {
        let body = json!({ "plan_id": plan_id, "payment_method_id": payment_method_id });
        self.api.post("/v1/subscriptions", &body).await.expect(201).clone()
    }

    pub async fn invoices(&self) -> Vec<Value> {
        let answer = self.api.get("/v1/invoices?limit=100").await;
        answer.expect(200)["items"].as_array().expect("a list").clone()
    }

    pub async fn inbox(&self) -> Vec<Value> {
        let answer = self.api.get("/v1/inbox?limit=100").await;
        answer.expect(200)["items"].as_array().expect("a list").clone()
    }
}

/// The node's virtual time, in seconds and as text.
pub async fn now(node: &Node) -> (i64, String) {
    let answer = node.operator().get("/admin/v1/clock").await;
    answer.expect(200);
    let text = answer.text_at("/now");
    let at: jiff::Timestamp = text.parse().expect("an RFC 3339 time");
    (at.as_second(), text)
}

/// Advances the virtual clock to a time; answers when everything due by then is done.
pub async fn advance_to(node: &Node, at: &str) {
    let answer = node.operator().post("/admin/v1/clock", &json!({ "advance_to": at })).await;
    answer.expect(200);
}

/// Advances the virtual clock by some seconds.
pub async fn advance_by(node: &Node, seconds: i64) {
    let (at, _) = now(node).await;
    let then = jiff::Timestamp::from_second(at + seconds).expect("a time");
    advance_to(node, &then.to_string()).await;
}

/// The plan of that name, from the catalogue.
pub async fn plan(api: &Client, name: &str) -> Value {
    let answer = api.get("/v1/plans").await;
    let plans = answer.expect(200)["items"].as_array().expect("a list of plans").clone();
    plans.into_iter().find(|plan| plan["name"] == name).unwrap_or_else(|| panic!("no plan {name} in {}", answer.text))
}
