//! A good call of every POST, with all it needs made first.

use serde_json::{Value, json};

use super::*;
use crate::mail::Mailbox;
use crate::tour::totp;

const NEW_PASSWORD: &str = "nine blue kettles hum at dusk";
const WEBHOOK_SECRET: &str = "whsec_walk";

/// A call that must be accepted.
pub struct Case {
    pub client: Client,
    pub path: String,
    pub body: Option<Value>,
    pub status: u16,
}

impl Case {
    fn new(client: &Client, path: impl Into<String>, body: Value, status: u16) -> Option<Self> {
        Some(Self {
            client: client.clone(),
            path: path.into(),
            body: Some(body).filter(|body| !body.is_null()),
            status,
        })
    }

    pub async fn send(&self, key: &str) -> Answer {
        self.client.send(Method::POST, &self.path, Some(key), self.body.as_ref()).await
    }
}

/// Who acts, and what they have.
pub struct World {
    pub node: Node,
    owner: Person,
    card: String,
    plan: String,
    administrator: Person,
}

impl World {
    pub async fn start() -> Self {
        let node = Plan::sandbox().set("payments.stripe.webhook_secret", WEBHOOK_SECRET).start().await;
        let owner = Person::sign_up(&node, &Maildir::of(&node.data()), "owner@example.com", "robot_builder").await;
        let card = owner.add_card("pm_card_visa").await;
        let plan = person::plan(&owner.api, "Builder").await["id"].as_str().expect("an id").to_owned();
        let administrator = administrator(&node).await;
        Self { node, owner, card, plan, administrator }
    }

    async fn somebody(&self, name: &str) -> Person {
        let email = format!("{name}@example.com");
        Person::sign_up(&self.node, &Maildir::of(&self.node.data()), &email, "robot_builder").await
    }

    async fn mailed(&self, email: &str, subject: &str) -> crate::mail::Mail {
        Maildir::of(&self.node.data()).wait_for(email, subject, 1).await.remove(0)
    }

    async fn code(&self, secret: &str) -> String {
        totp(secret, person::now(&self.node).await.0)
    }

    async fn with_totp(&self, name: &str) -> (Person, String) {
        let person = self.somebody(name).await;
        let secret = person.api.post_empty("/v1/mfa/totp").await.text_at("/secret");
        let code = self.code(&secret).await;
        person.api.post("/v1/mfa/totp/confirm", &json!({ "code": code })).await.expect(200);
        // The next code of the app; the one that was used is spent.
        person::advance_by(&self.node, 30).await;
        (person, secret)
    }

    async fn subscription(&self) -> String {
        let subscription = self.owner.subscribe(&self.plan, &self.card).await;
        format!("/v1/subscriptions/{}", subscription["id"].as_str().expect("an id"))
    }

    /// A device of this person that waits for its code: its id, and the code.
    async fn device(&self, person: &Person, number: &str) -> (String, String) {
        let body = json!({ "kind": "sms", "number": number });
        let device = person.api.post("/v1/devices", &body).await;
        device.expect(201);
        let texts = self.node.data().join("outbox/sms.jsonl");
        let sent =
            async || std::fs::read_to_string(&texts).unwrap_or_default().lines().any(|line| line.contains(number));
        super::until("the code is sent", sent).await;
        let texts = std::fs::read_to_string(&texts).expect("texts");
        let line: Value =
            serde_json::from_str(texts.lines().rfind(|line| line.contains(number)).expect("a text")).expect("JSON");
        let body = line["body"].as_str().expect("a body");
        let digits = |word: &&str| word.len() == 6 && word.bytes().all(|b| b.is_ascii_digit());
        let code = body.split(|c: char| !c.is_ascii_alphanumeric()).find(digits).expect("a code").to_owned();
        (device.text_at("/id"), code)
    }

    /// A good call of this operation; everything it needs is made first. `None`: nobody wrote one yet.
    pub async fn case(&self, operation: &str) -> Option<Case> {
        let (anyone, owner, administrator) = (&self.node.api(), &self.owner.api, &self.administrator.api);
        let nothing = Value::Null;
        match operation {
            "signUp" => {
                let body = json!({ "email": "new@example.com", "password": person::PASSWORD, "role": "consumer" });
                Case::new(anyone, "/v1/signup", body, 202)
            }
            "verifySignUp" => {
                let body = json!({ "email": "fresh@example.com", "password": person::PASSWORD, "role": "consumer" });
                anyone.post("/v1/signup", &body).await.expect(202);
                let token = self.mailed("fresh@example.com", "").await.token();
                Case::new(anyone, "/v1/signup/verify", json!({ "token": token }), 201)
            }
            "createSession" => {
                let body = json!({ "email": self.owner.email, "password": person::PASSWORD });
                Case::new(anyone, "/v1/sessions", body, 201)
            }
            "answerMfaChallenge" => {
                let (person, secret) = self.with_totp("answers").await;
                let body = json!({ "email": person.email, "password": person::PASSWORD });
                let challenge_id = anyone.post("/v1/sessions", &body).await.text_at("/mfa/challenge_id");
                let body = json!({ "challenge_id": challenge_id, "method": "totp", "code": self.code(&secret).await });
                Case::new(anyone, "/v1/sessions/mfa", body, 201)
            }
            "refreshSession" => {
                let session = self.owner.sign_in(&self.node).await;
                Case::new(anyone, "/v1/sessions/refresh", json!({ "refresh_token": session.refresh_token }), 200)
            }
            "proveIdentity" => {
                Case::new(owner, "/v1/sessions/current/proof", json!({ "password": person::PASSWORD }), 204)
            }
            "beginTotp" => Case::new(&self.somebody("begins").await.api, "/v1/mfa/totp", nothing, 201),
            "confirmTotp" => {
                let person = self.somebody("confirms").await;
                let secret = person.api.post_empty("/v1/mfa/totp").await.text_at("/secret");
                Case::new(&person.api, "/v1/mfa/totp/confirm", json!({ "code": self.code(&secret).await }), 200)
            }
            "replaceRecoveryCodes" => {
                Case::new(&self.with_totp("replaces").await.0.api, "/v1/mfa/recovery-codes", nothing, 200)
            }
            "changePassword" => {
                let body = json!({ "current_password": person::PASSWORD, "new_password": NEW_PASSWORD });
                Case::new(&self.somebody("changes").await.api, "/v1/me/password", body, 204)
            }
            "forgotPassword" => Case::new(anyone, "/v1/password/forgot", json!({ "email": self.owner.email }), 202),
            "resetPassword" => {
                let person = self.somebody("resets").await;
                anyone.post("/v1/password/forgot", &json!({ "email": person.email })).await.expect(202);
                let token = self.mailed(&person.email, "password").await.token();
                let body = json!({ "token": token, "new_password": NEW_PASSWORD });
                Case::new(anyone, "/v1/password/reset", body, 204)
            }
            "createApiKey" => {
                Case::new(owner, "/v1/api-keys", json!({ "name": "robot", "scopes": ["usage:write"] }), 201)
            }
            "acknowledgeSecurityAlert" => {
                let listed = async || administrator.get("/v1/security/alerts").await.json["items"].clone();
                super::until("the changed role is an alert", async || listed().await[0]["id"].is_string()).await;
                let id = listed().await[0]["id"].as_str().expect("an id").to_owned();
                Case::new(administrator, format!("/v1/security/alerts/{id}/acknowledge"), nothing, 200)
            }
            "registerDevice" => {
                Case::new(owner, "/v1/devices", json!({ "kind": "sms", "number": "+14155550100" }), 201)
            }
            "verifyDevice" => {
                // A person of its own: between two codes to one person there is a pause.
                let person = self.somebody("verifies").await;
                let (id, code) = self.device(&person, "+14155550199").await;
                Case::new(&person.api, format!("/v1/devices/{id}/verify"), json!({ "code": code }), 200)
            }
            "markInboxRead" => Case::new(owner, "/v1/inbox/read", json!({ "up_to": 1 }), 200),
            "sendNotification" => {
                let content = json!({ "title": "Hello", "body": "How are the robots?" });
                let body = json!({ "to": { "user_id": self.owner.id }, "category": "product", "content": content });
                Case::new(administrator, "/v1/notifications", body, 202)
            }
            "unsubscribe" => {
                let content = json!({ "title": "A new gripper", "body": "It holds eggs." });
                let to = json!({ "user_id": self.owner.id });
                let body = json!({ "to": to, "category": "product", "content": content, "channels": ["email"] });
                administrator.post("/v1/notifications", &body).await.expect(202);
                let link = self.mailed(&self.owner.email, "gripper").await.unsubscribe;
                let path = link.split_once("/u/").unwrap_or_else(|| panic!("no link in {link:?}")).1;
                Case::new(anyone, format!("/u/{path}"), nothing, 200)
            }
            _ => self.billing_case(operation).await,
        }
    }

    async fn billing_case(&self, operation: &str) -> Option<Case> {
        let (owner, administrator) = (&self.owner.api, &self.administrator.api);
        let (plan, nothing) = (&self.plan, Value::Null);
        match operation {
            "createPlan" => {
                let price = json!({ "interval": "month", "unit_price": { "amount": 100, "currency": "USD" } });
                let body = json!({ "key": "walk", "name": "Walk", "audience": "user", "prices": [price] });
                Case::new(administrator, "/v1/plans", body, 201)
            }
            "addPaymentMethod" => {
                Case::new(owner, "/v1/payment-methods", json!({ "token": "pm_card_mastercard" }), 201)
            }
            "makePaymentMethodDefault" => {
                Case::new(owner, format!("/v1/payment-methods/{}/default", self.card), nothing, 200)
            }
            "createSubscription" => Case::new(owner, "/v1/subscriptions", json!({ "plan_id": plan }), 201),
            "previewNewSubscription" => Case::new(owner, "/v1/subscriptions/preview", json!({ "plan_id": plan }), 200),
            "previewSubscription" => {
                Case::new(owner, self.subscription().await + "/preview", json!({ "quantity": 2 }), 200)
            }
            "changeSubscription" => {
                Case::new(owner, self.subscription().await + "/change", json!({ "quantity": 2 }), 200)
            }
            "cancelSubscription" => {
                Case::new(owner, self.subscription().await + "/cancel", json!({ "at": "period_end" }), 200)
            }
            "pauseSubscription" => Case::new(owner, self.subscription().await + "/pause", nothing, 200),
            "resumeSubscription" => {
                let subscription = self.subscription().await;
                owner.post_empty(&format!("{subscription}/pause")).await.expect(200);
                Case::new(owner, subscription + "/resume", nothing, 200)
            }
            "payInvoice" => {
                let person = self.somebody("pays").await;
                let card = person.add_card("pm_card_chargeDeclined").await;
                let body = json!({ "plan_id": plan, "payment_method_id": card });
                person.api.post("/v1/subscriptions", &body).await.expect(402);
                let invoice = person.invoices().await[0]["id"].as_str().expect("an id").to_owned();
                let good = person.add_card("pm_card_visa").await;
                let body = json!({ "payment_method_id": good });
                Case::new(&person.api, format!("/v1/invoices/{invoice}/pay"), body, 200)
            }
            "refundInvoice" => {
                self.subscription().await;
                let invoices = self.owner.invoices().await;
                let paid = invoices.iter().find(|invoice| invoice["state"] == "paid").expect("a paid invoice");
                let path = format!("/v1/invoices/{}/refunds", paid["id"].as_str().expect("an id"));
                Case::new(administrator, path, json!({ "amount": 100, "reason": "asked" }), 201)
            }
            "receiveStripeWebhook" => {
                let body = json!({ "id": "evt_walk", "type": "customer.created", "data": { "object": {} } });
                let signed = self.node.api().signed_as_stripe(WEBHOOK_SECRET, &body);
                Case::new(&signed, "/v1/webhooks/stripe", body, 200)
            }
            _ => None,
        }
    }
}

/// A good call of the admin listener.
pub async fn admin_case(node: &Node, operation: &str) -> Option<Case> {
    let operator = &node.operator();
    match operation {
        "unparkEntity" => Case::new(operator, "/admin/v1/actors/unpark", json!({ "entity": "user/nobody" }), 200),
        "advanceClock" => {
            let (at, _) = person::now(node).await;
            let to = jiff::Timestamp::from_second(at + 60).expect("a time");
            Case::new(operator, "/admin/v1/clock", json!({ "advance_to": to.to_string() }), 200)
        }
        "rebuildBillingReport" => Case::new(operator, "/admin/v1/billing/report/rebuild", Value::Null, 200),
        "createJoinToken" => Case::new(operator, "/admin/v1/cluster/tokens", json!({ "expires_in_seconds": 60 }), 201),
        "transferShard" => Case::new(operator, "/admin/v1/shards/1/transfer", json!({ "to": 1 }), 200),
        // Nobody could take over from the only member.
        "drainNode" => Case::new(operator, "/admin/v1/nodes/1/drain", Value::Null, 409),
        // A good one is another file each time.
        "takeBackup" => Case::new(operator, "/admin/v1/backups", json!({ "key": "too short" }), 422),
        "releaseHeldEffects" => Case::new(operator, "/admin/v1/held-effects/release", json!({}), 200),
        "dropHeldEffects" => Case::new(operator, "/admin/v1/held-effects/drop", json!({}), 200),
        "rebalance" => Case::new(operator, "/admin/v1/rebalance", Value::Null, 200),
        "rotateKeys" => Case::new(operator, "/admin/v1/keys/rotate", Value::Null, 200),
        _ => None,
    }
}
