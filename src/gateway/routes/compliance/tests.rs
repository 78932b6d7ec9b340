//! The compliance routes through the whole pipeline, on a runtime in memory.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use serde_json::{Value, json};

use super::{admin_endpoints, endpoints};
use crate::actors::compliance::audit_log::export::verify;
use crate::actors::compliance::audit_log::note::Verifier;
use crate::actors::identity::authority::NewApiKey;
use crate::actors::identity::user;
use crate::actors::notifications::delivery::Category;
use crate::actors::notifications::inbox::{self, Inbox};
use crate::gateway::pipeline::Gateway;
use crate::gateway::testing::{Answered, OPERATOR, account, gateway, send};
use crate::kernel::id::type_id;
use crate::kernel::merkle::{Hash, verify_consistency, verify_inclusion};
use crate::kernel::{AuditRecord, EntityId, Origin, Slot, Timestamp};
use crate::settings::Settings;

fn person(seed: u8) -> String {
    type_id("usr", Timestamp::from_millis(1_700_000_000_000), Slot(u16::from(seed)), [seed; 8])
}

async fn get(gateway: &Gateway, bearer: &str, path: &str) -> Answered {
    send(gateway, Method::GET, path, &[&format!("authorization: Bearer {bearer}")], "").await
}

async fn put(gateway: &Gateway, bearer: &str, body: &str, header: &str) -> Answered {
    let authorization = format!("authorization: Bearer {bearer}");
    let headers = [authorization.as_str(), "content-type: application/json", header];
    send(gateway, Method::PUT, "/v1/me/consents", &headers, body).await
}

fn hash(value: &serde_json::Value) -> Hash {
    let bytes = BASE64.decode(value.as_str().expect("text")).expect("base64");
    bytes.try_into().expect("32 bytes")
}

fn hashes(value: &serde_json::Value) -> Vec<Hash> {
    value.as_array().expect("a list").iter().map(hash).collect()
}

const GRANT: &str = r#"{"consents":[{"purpose":"usage_analytics","granted":true}]}"#;

#[tokio::test]
async fn consents_are_set_read_and_guarded_by_their_version() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let me = format!("{}:consumer", person(1));
    let first = get(&gateway, &me, "/v1/me/consents").await;
    assert_eq!((first.status, first.header("etag")), (200, "\"0\""));
    assert!(first.json()["consents"].as_array().expect("a list").iter().all(|consent| consent["granted"] == false));
    let set = put(&gateway, &me, GRANT, "if-match: \"0\"").await;
    assert_eq!((set.status, set.header("etag")), (200, "\"1\""));
    assert_eq!(put(&gateway, &me, GRANT, "if-match: \"0\"").await.status, 412);
    let twice =
        r#"{"consents":[{"purpose":"usage_analytics","granted":true},{"purpose":"usage_analytics","granted":false}]}"#;
    assert_eq!(put(&gateway, &me, twice, "x-none: 1").await.status, 422);
    assert_eq!(put(&gateway, &me, r#"{"consents":[]}"#, "x-none: 1").await.status, 422);
}

#[tokio::test]
async fn entries_are_proved_by_what_the_routes_answer() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let me = format!("{}:consumer", person(1));
    let auditor = format!("{}:audit.read", person(2));
    assert_eq!(get(&gateway, &me, "/v1/audit/entries").await.status, 403);
    for granted in ["true", "false", "true"] {
        put(&gateway, &me, &GRANT.replace("true", granted), "x-none: 1").await;
    }
    let entries = get(&gateway, &auditor, &format!("/v1/audit/entries?actor={}", person(1))).await.json();
    let entry = &entries["items"][1];
    assert_eq!(entry["action"], "consent.withdraw");
    let (shard, index) = (entry["shard"].as_u64().expect("a number"), entry["index"].as_u64().expect("a number"));

    let checkpoint = get(&gateway, &auditor, &format!("/v1/audit/checkpoint?shard={shard}")).await.json();
    let checkpoint = &checkpoint["items"][0];
    let verifier = Verifier::parse(checkpoint["verifier"].as_str().expect("text")).expect("a key");
    let signed = verifier.open(checkpoint["note"].as_str().expect("text")).expect("signed");
    let size = signed.size;
    let path = format!("/v1/audit/proofs/inclusion?shard={shard}&index={index}&size={size}");
    let proof = get(&gateway, &auditor, &path).await.json();
    let leaf = hash(&proof["leaf_hash"]);
    assert_eq!(hex::encode(leaf), entry["leaf_hash"]);
    assert_eq!(verify_inclusion(index, size, &leaf, &hashes(&proof["hashes"]), &signed.root), Ok(()));
    let path = format!("/v1/audit/proofs/consistency?shard={shard}&from=1&to={size}");
    let proof = get(&gateway, &auditor, &path).await.json();
    let roots = (hash(&proof["from_root"]), hash(&proof["to_root"]));
    assert_eq!(verify_consistency(1, size, &roots.0, &roots.1, &hashes(&proof["hashes"])), Ok(()));
    assert_eq!(roots.1, signed.root);
    for bad in
        ["inclusion?shard=1&index=99999", "consistency?shard=1&from=99999", "inclusion?shard=1&index=0&size=99999"]
    {
        assert_eq!(get(&gateway, &auditor, &format!("/v1/audit/proofs/{bad}")).await.status, 422, "{bad}");
    }
    assert_eq!(get(&gateway, &auditor, "/v1/audit/checkpoint?shard=77").await.status, 404);
    assert_eq!(get(&gateway, &auditor, "/v1/audit/entries?cursor=AAAA").await.status, 422);
}

#[tokio::test]
async fn an_export_holds_what_is_held_and_erasing_needs_proof() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let (id, me) = (person(1), format!("{}:consumer", person(1)));
    let services = gateway.services();
    account(services, &id).await;
    let origin = Origin::system("test");
    let item = |n| inbox::NewItem {
        id: format!("ntf_{n}"),
        category: Category::Product,
        title: format!("Number {n}"),
        body: "text".to_owned(),
        url: None,
    };
    let read = inbox::Command::Read { ids: vec!["ntf_1".to_owned()] };
    for command in [inbox::Command::Append(item(1)), inbox::Command::Append(item(2)), read] {
        services.router.ask::<Inbox>(&EntityId::new("inbox", &id), command, &origin).await.expect("accepted");
    }
    let key = NewApiKey { name: "robot".to_owned(), scopes: vec!["usage:write".to_owned()], expires_at: None };
    let (_, secret) = services.identity.create_api_key(&id, key, |_| true, &origin).await.expect("made");
    put(&gateway, &me, GRANT, "x-none: 1").await;
    let export = get(&gateway, &me, "/v1/me/export").await;
    assert_eq!(export.status, 200, "{:?}", export.bytes);
    let export = export.json();
    assert_eq!(export["profile"]["email"], "ada@example.org");
    assert_eq!(export["consents"][0]["purpose"], "usage_analytics");
    assert!(export["audit_entries"].as_array().expect("a list").iter().any(|entry| entry["action"] == "user.verified"));
    assert!(!export.to_string().contains("argon2id"));
    let read: Vec<bool> = [0, 1].iter().map(|n| export["inbox"][n]["read_at"].is_string()).collect();
    assert_eq!(read, [true, false], "{}", export["inbox"]);
    assert_eq!(
        (&export["api_keys"][0]["name"], &export["api_keys"][0]["scopes"][0]),
        (&"robot".into(), &"usage:write".into())
    );
    assert!(!export.to_string().contains(secret.expose()));
    assert_eq!((&export["audit_next_cursor"], &export["truncated"]), (&Value::Null, &json!([])));
    let authorization = format!("authorization: Bearer {me}");
    let erase = send(&gateway, Method::DELETE, "/v1/me", &[&authorization], "").await;
    assert_eq!(erase.status, 403, "nobody proved anything");
}

#[tokio::test]
async fn an_export_looks_at_a_bounded_part_of_the_audit_log_and_says_where_to_go_on() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let (id, me) = (person(1), format!("{}:consumer", person(1)));
    let services = gateway.services();
    account(services, &id).await;
    let other = |n: u32| AuditRecord {
        at: services.clock.now().plus_seconds(1),
        actor: "system".to_owned(),
        action: "test".to_owned(),
        target: format!("other_{n}"),
        outcome: "ok".to_owned(),
        source: String::new(),
        request_id: "req".to_owned(),
    };
    for _ in 0..21 {
        services.router.audit(&user::id(&person(2)), (0..500).map(other).collect()).await.expect("written");
    }
    let export = get(&gateway, &me, "/v1/me/export").await.json();
    assert_eq!((&export["audit_entries"], &export["truncated"]), (&json!([]), &json!(["audit_entries"])));
    let mut next = export["audit_next_cursor"].as_str().map(str::to_owned);
    let mut found = Vec::new();
    while let Some(cursor) = next {
        let page = get(&gateway, &me, &format!("/v1/me/audit-entries?cursor={cursor}")).await.json();
        found.extend(page["items"].as_array().expect("a list").clone());
        next = page["next_cursor"].as_str().map(str::to_owned);
    }
    assert!(found.iter().any(|entry| entry["action"] == "user.verified"), "{found:?}");
    assert!(found.iter().all(|entry| entry["actor"] == *id || entry["target"] == *id), "{found:?}");
}

#[tokio::test]
async fn the_report_is_measured_and_a_rotation_changes_it_back_to_enforced() {
    let all = [endpoints(), admin_endpoints()].concat();
    let gateway = gateway(Settings::embedded(), all).await;
    let me = format!("{}:consumer", person(1));
    put(&gateway, &me, GRANT, "x-none: 1").await;
    let operator = format!("authorization: Bearer {OPERATOR}");
    let rotated = send(&gateway, Method::POST, "/admin/v1/keys/rotate", &[&operator], "").await;
    assert_eq!(rotated.status, 200, "{:?}", rotated.bytes);
    assert_eq!((&rotated.json()["version"], &rotated.json()["rewrapped"]), (&2.into(), &1.into()));
    assert_eq!(put(&gateway, &me, &GRANT.replace("true", "false"), "x-none: 1").await.status, 200);
    let report = get(&gateway, OPERATOR, "/v1/compliance/report").await.json();
    let controls = report["controls"].as_array().expect("a list");
    let finding = |id: &str| controls.iter().find(|line| line["id"] == id).map(|line| line["finding"].clone());
    for id in ["data_keys", "personal_data_sealed", "audit_log", "erasures", "card_numbers", "authentication"] {
        assert_eq!(finding(id), Some("enforced".into()), "{id}: {report}");
    }
    let export = send(&gateway, Method::GET, "/admin/v1/audit/export", &[&operator], "").await;
    assert!(verify(&export.bytes[..], &[]).expect("verifies").logs.iter().any(|log| log.entries > 0));
    assert!(String::from_utf8_lossy(&export.bytes).contains("kek.rotate"));
}
