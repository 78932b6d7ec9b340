//! The main job from the outside: a robot builder's first months, on the embedded defaults alone.
//! `peers::tour` walks the same way with programs made elsewhere at every edge.

use serde_json::{Value, json};

use crate::mail::{Mailbox, Maildir};
use crate::node::{Node, Plan};
use crate::person::{self, Person};
use crate::socket::{Listener, Socket};

const DAY: i64 = 86_400;

/// The other sides that a tour meets.
pub struct World<M, A> {
    pub node: Node,
    pub mailbox: M,
    /// The code that an authenticator app shows for a base32 secret at a time in seconds.
    pub authenticator: A,
    /// A test token whose card can be added and whose charges are declined.
    pub declining_card: &'static str,
}

/// Walks the main job; `listen` opens a real-time client with an access token.
pub async fn walk<M, A, L>(world: &World<M, A>, listen: impl AsyncFn(&Node, &str) -> L)
where
    M: Mailbox,
    A: AsyncFn(&str, i64) -> String,
    L: Listener,
{
    let mut builder = join(world, "ada@example.com").await;
    let mut listener = listen(&world.node, builder.api.token()).await;
    let subscription = subscribe(world, &builder, &mut listener).await;
    let period_end = renew(world, &mut builder, &subscription, &mut listener).await;
    decline(world, &mut builder, &subscription, &period_end, &mut listener).await;
    leave(world, &builder, &mut listener).await;
    audit(world, &builder).await;
    look_at_actors(world).await;
}

/// Signs up, turns on TOTP and signs in again with a code.
async fn join<M: Mailbox, A: AsyncFn(&str, i64) -> String>(world: &World<M, A>, email: &str) -> Person {
    let node = &world.node;
    let person = Person::sign_up(node, &world.mailbox, email, "robot_builder").await;
    let me = person.api.get("/v1/me").await;
    assert_eq!(me.expect(200)["email"], email);
    let begun = person.api.post_empty("/v1/mfa/totp").await;
    begun.expect(201);
    let secret = begun.text_at("/secret");
    assert!(begun.text_at("/otpauth_uri").starts_with("otpauth://totp/"));
    let code = (world.authenticator)(&secret, person::now(node).await.0).await;
    let confirmed = person.api.post("/v1/mfa/totp/confirm", &json!({ "code": code })).await;
    assert!(confirmed.expect(200)["recovery_codes"].as_array().is_some_and(|codes| codes.len() >= 8));

    let body = json!({ "email": email, "password": person::PASSWORD });
    let challenge = node.api().post("/v1/sessions", &body).await.text_at("/mfa/challenge_id");
    let again = json!({ "challenge_id": challenge, "method": "totp", "code": code });
    node.api().post("/v1/sessions/mfa", &again).await.expect(401);
    // The next code of the app; the one that was used is spent.
    person::advance_by(node, 30).await;
    let code = (world.authenticator)(&secret, person::now(node).await.0).await;
    person.sign_in_with_code(node, &code).await
}

/// Lists plans, adds a card, previews, subscribes; the receipt comes on the socket, in the inbox and by mail.
async fn subscribe<M: Mailbox, A, L: Listener>(world: &World<M, A>, person: &Person, listener: &mut L) -> Value {
    let plan = person::plan(&person.api, "Builder").await;
    let price = plan["prices"].as_array().expect("prices")[0]["unit_price"].clone();
    let card = person.add_card("pm_card_visa").await;
    let body = json!({ "plan_id": plan["id"], "payment_method_id": card });
    let preview = person.api.post("/v1/subscriptions/preview", &body).await;
    assert_eq!(preview.expect(200)["total"], price["amount"]);
    let subscription = person.subscribe(plan["id"].as_str().expect("an id"), &card).await;
    let heard = listener.hear("receipt").await;
    world.mailbox.wait_for(&person.email, "receipt", 1).await;
    let invoices = person.invoices().await;
    assert_eq!(invoices.len(), 1, "{invoices:#?}");
    assert_eq!((&invoices[0]["state"], &invoices[0]["total"]), (&json!("paid"), &preview.json["total"]));
    let inbox = person.inbox().await;
    assert!(inbox.iter().any(|item| item["id"] == heard["data"]["id"]), "{heard} is not in {inbox:#?}");
    let id = subscription["id"].as_str().expect("an id");
    let subscription = person.api.get(&format!("/v1/subscriptions/{id}")).await;
    assert_eq!(subscription.expect(200)["state"], "active");
    subscription.json
}

/// Advances past the end of the period: charged exactly once, with invoice and receipt. Answers the new end.
async fn renew<M: Mailbox, A, L: Listener>(
    world: &World<M, A>,
    person: &mut Person,
    subscription: &Value,
    listener: &mut L,
) -> String {
    let end = subscription["current_period_end"].as_str().expect("an end");
    person::advance_to(&world.node, end).await;
    person::advance_by(&world.node, DAY).await;
    *person = person.refreshed(&world.node).await;
    listener.renew(person.api.token()).await;
    listener.hear("receipt").await;
    world.mailbox.wait_for(&person.email, "receipt", 2).await;
    let invoices = person.invoices().await;
    assert_eq!(invoices.len(), 2, "{invoices:#?}");
    let mut numbers: Vec<_> = invoices.iter().map(|invoice| invoice["number"].to_string()).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 2, "each invoice has a number of its own: {numbers:?}");
    let id = subscription["id"].as_str().expect("an id");
    let renewed = person.api.get(&format!("/v1/subscriptions/{id}")).await;
    assert_eq!(renewed.expect(200)["current_period_start"], *end);
    renewed.text_at("/current_period_end")
}

/// Makes the card decline; the renewal fails and dunning begins.
async fn decline<M: Mailbox, A, L: Listener>(
    world: &World<M, A>,
    person: &mut Person,
    subscription: &Value,
    period_end: &str,
    listener: &mut L,
) {
    let old = person.api.get("/v1/payment-methods").await;
    let old = old.expect(200)["items"].as_array().expect("a list").clone();
    person.add_card(world.declining_card).await;
    for method in old {
        let id = method["id"].as_str().expect("an id");
        person.api.delete(&format!("/v1/payment-methods/{id}")).await.expect(204);
    }
    person::advance_to(&world.node, period_end).await;
    person::advance_by(&world.node, 3600).await;
    *person = person.refreshed(&world.node).await;
    listener.renew(person.api.token()).await;
    listener.hear("payment").await;
    world.mailbox.wait_for(&person.email, "payment", 1).await;
    let id = subscription["id"].as_str().expect("an id");
    let overdue = person.api.get(&format!("/v1/subscriptions/{id}")).await;
    assert_eq!(overdue.expect(200)["state"], "past_due");
    let invoices = person.invoices().await;
    let open = invoices.iter().filter(|invoice| invoice["state"] == "open").count();
    assert_eq!((invoices.len(), open), (3, 1), "{invoices:#?}");
}

/// Signs out everywhere; the token is dead and the socket closes.
async fn leave<M, A, L: Listener>(world: &World<M, A>, person: &Person, listener: &mut L) {
    person.api.delete("/v1/sessions").await.expect(204);
    let started = std::time::Instant::now();
    listener.closed().await;
    assert!(started.elapsed().as_secs() < 5, "the socket closed after {:?}", started.elapsed());
    person.api.get("/v1/me").await.expect(401);
    let body = json!({ "refresh_token": person.refresh_token });
    world.node.api().post("/v1/sessions/refresh", &body).await.expect(401);
}

/// The administrator reads all of it in the audit log, exports it and verifies the export offline.
async fn audit<M, A>(world: &World<M, A>, person: &Person) {
    let operator = world.node.operator_api();
    let mut actions = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = operator.get(&format!("/v1/audit/entries?limit=100{cursor}")).await;
        for entry in page.expect(200)["items"].as_array().expect("a list") {
            let ours = [&entry["actor"], &entry["target"]].iter().any(|value| **value == person.id);
            if ours || entry["actor"] == "system" {
                actions.push(entry["action"].as_str().expect("an action").to_owned());
            }
        }
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for part in ["sign_up", "session", "totp", "subscription", "invoice"] {
        assert!(actions.iter().any(|action| action.contains(part)), "nothing about {part} in {actions:?}");
    }
    let export = world.node.data().with_file_name("audit-export");
    let admin = format!("http://{}", world.node.admin);
    let token_file = world.node.data().join("admin-token");
    let (export, token_file) = (export.display().to_string(), token_file.display().to_string());
    let exported = ["audit", "export", "--output", &export, "--admin", &admin, "--token-file", &token_file];
    for arguments in [exported.as_slice(), &["audit", "verify", &export]] {
        let done = world.node.command(arguments).output().await.expect("the binary runs");
        let shown = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {shown}");
    }
    // Written from the RFCs, sharing no code with the product.
    let verifier = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/verify_audit.py");
    let judged = tokio::process::Command::new("python3").args([verifier, &export]).output().await;
    let judged = judged.expect("python3 runs");
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}

async fn look_at_actors<M, A>(world: &World<M, A>) {
    let operator = world.node.operator();
    let actors = operator.get("/admin/v1/actors").await;
    for kind in ["user", "subscription", "inbox"] {
        assert!(actors.expect(200).to_string().contains(kind), "no {kind} in {}", actors.text);
    }
    let metrics = operator.get("/metrics").await;
    metrics.expect(200);
    assert!(metrics.text.contains("process_resident_memory_bytes"), "{}", metrics.text);
}

/// RFC 6238 with the defaults of authenticator apps: SHA-1, six digits, thirty seconds.
pub fn totp(secret: &str, at: i64) -> String {
    let mut bits = 0_u64;
    let mut held = 0;
    let mut key = Vec::new();
    for letter in secret.trim_end_matches('=').bytes() {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|known| *known == letter).expect("base32");
        bits = (bits << 5 | value as u64) & 0xffff;
        held += 5;
        if held >= 8 {
            held -= 8;
            key.push(u8::try_from(bits >> held & 0xff).expect("a byte"));
        }
    }
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = ring::hmac::sign(&key, &(at / 30).to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 0xf);
    let word = tag.as_ref()[offset..offset + 4].try_into().expect("four bytes");
    format!("{:06}", (u32::from_be_bytes(word) & 0x7fff_ffff) % 1_000_000)
}

#[test]
fn the_authenticator_agrees_with_rfc_6238() {
    // Appendix B: the ASCII secret 12345678901234567890 in base32; the last six of eight digits.
    let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    assert_eq!([59, 1_111_111_109, 20_000_000_000].map(|at| totp(secret, at)), ["287082", "081804", "353130"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_on_embedded_defaults() {
    let mut node = Plan::sandbox().start().await;
    node.stop().await;
    node.start().await;
    let mailbox = Maildir::of(&node.data());
    let authenticator = async |secret: &str, at: i64| totp(secret, at);
    let world = World { node, mailbox, authenticator, declining_card: "pm_card_chargeDeclined" };
    walk(&world, async |node: &Node, token: &str| Socket::open(node.gateway, token).await).await;
}
