//! The notification routes through the whole pipeline, on a runtime in memory.

use http::Method;
use serde_json::{Value, json};

use super::endpoints;
use crate::actors::notifications::delivery::Category;
use crate::actors::notifications::inbox::{self, Inbox};
use crate::actors::notifications::preferences::{self, Preferences};
use crate::gateway::pipeline::Gateway;
use crate::gateway::testing::{Answered, gateway, send};
use crate::kernel::id::type_id;
use crate::kernel::{Entity as _, EntityId, Origin, Slot, Timestamp};
use crate::settings::Settings;

fn person(seed: u8) -> String {
    type_id("usr", Timestamp::from_millis(1_700_000_000_000), Slot(u16::from(seed)), [seed; 8])
}

async fn ask(gateway: &Gateway, method: Method, path: &str, bearer: &str, body: Value) -> Answered {
    let authorization = format!("authorization: Bearer {bearer}");
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let headers: &[&str] =
        if body.is_null() { &[&authorization] } else { &[&authorization, "content-type: application/json"] };
    send(gateway, method, path, headers, &text).await
}

async fn get(gateway: &Gateway, path: &str, bearer: &str) -> Answered {
    ask(gateway, Method::GET, path, bearer, Value::Null).await
}

fn pointer(answered: &Answered) -> String {
    answered.json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_inbox_is_listed_in_pages_and_marked_as_read() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let (me, id) = (format!("{}:consumer", person(1)), EntityId::new(Inbox::KIND, &person(1)));
    for n in 1..=5 {
        let (category, title) = (Category::Product, format!("Number {n}"));
        let item = inbox::NewItem { id: format!("ntf_{n}"), category, title, body: "text".into(), url: None };
        let command = inbox::Command::Append(item);
        gateway.services().router.ask::<Inbox>(&id, command, &Origin::system("test")).await.expect("appended");
    }
    let first = get(&gateway, "/v1/inbox?limit=2", &me).await.json();
    let offsets = |page: &Value| -> Vec<u64> {
        page["items"].as_array().into_iter().flatten().filter_map(|item| item["offset"].as_u64()).collect()
    };
    assert_eq!(
        (offsets(&first), first["next_cursor"].as_str(), first["unread"].as_u64()),
        (vec![1, 2], Some("2"), Some(5))
    );
    let rest = get(&gateway, "/v1/inbox?cursor=2", &me).await.json();
    assert_eq!((offsets(&rest), rest["next_cursor"].is_null()), (vec![3, 4, 5], true));

    let marked = ask(&gateway, Method::POST, "/v1/inbox/read", &me, json!({"ids": ["ntf_2", "ntf_4"]})).await;
    assert_eq!(marked.json(), json!({"marked": 2, "unread": 3}));
    let unread = get(&gateway, "/v1/inbox?unread=true&limit=2", &me).await.json();
    assert_eq!((offsets(&unread), unread["next_cursor"].as_str()), (vec![1, 3], Some("3")));
    assert!(get(&gateway, "/v1/inbox", &me).await.json()["items"][1]["read_at"].is_string());
    ask(&gateway, Method::POST, "/v1/inbox/read", &me, json!({"up_to": 5})).await;
    assert_eq!(get(&gateway, "/v1/inbox/unread-count", &me).await.json(), json!({"unread": 0}));

    for bad in [json!({}), json!({"ids": [], "up_to": 1}), json!({"upto": 1})] {
        assert_eq!(ask(&gateway, Method::POST, "/v1/inbox/read", &me, bad.clone()).await.status, 422, "{bad}");
    }
    for bad in ["/v1/inbox?limit=0", "/v1/inbox?limit=101", "/v1/inbox?cursor=x", "/v1/inbox?what=1"] {
        assert_eq!(get(&gateway, bad, &me).await.status, 422, "{bad}");
    }
    let other = get(&gateway, "/v1/inbox", &format!("{}:consumer", person(2))).await.json();
    assert_eq!((offsets(&other), other["offset"].as_u64()), (Vec::new(), Some(0)));
}

#[tokio::test]
async fn preferences_are_written_back_as_they_were_read_and_a_link_unsubscribes() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let me = format!("{}:consumer", person(1));
    let path = "/v1/notification-preferences";
    let mut read = get(&gateway, path, &me).await.json();
    assert_eq!(read["categories"]["promotional"]["email"], false);
    read["promotional_consent"] = json!(true);
    read["categories"]["promotional"]["email"] = json!(true);
    read["quiet_hours"] = json!({"start": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"});
    let put = ask(&gateway, Method::PUT, path, &me, read).await;
    assert_eq!((put.status, put.header("etag")), (200, "\"1\""));
    assert_eq!(put.json()["quiet_hours"]["time_zone"], "Europe/Berlin");
    let bad = |body| ask(&gateway, Method::PUT, path, &me, body);
    assert_eq!(
        pointer(&bad(json!({"categories": {"security": {"email": false}}})).await),
        "/categories/security/email"
    );
    assert_eq!(pointer(&bad(json!({"categories": {"gossip": {}}})).await), "/categories/gossip");
    assert_eq!(pointer(&bad(json!({"quiet_hours": {"start": "25:00", "end": "07:00"}})).await), "/quiet_hours");

    let id = EntityId::new(Preferences::KIND, &person(1));
    let command = preferences::Command::GetPolicy { category: Category::Promotional };
    let origin = Origin::system("test");
    let policy = gateway.services().router.ask::<Preferences>(&id, command, &origin).await.expect("a policy");
    let preferences::Reply::Policy(policy) = policy else { panic!("a policy") };
    let link = format!("/u/{}", policy.unsubscribe_token);
    assert_eq!(send(&gateway, Method::GET, &link, &[], "").await.status, 200);
    assert_eq!(get(&gateway, path, &me).await.json()["promotional_consent"], true);
    let form = ["content-type: application/x-www-form-urlencoded"];
    let click = send(&gateway, Method::POST, &link, &form, "List-Unsubscribe=One-Click").await;
    assert_eq!(click.status, 200);
    assert_eq!(get(&gateway, path, &me).await.json()["promotional_consent"], false);
    assert_eq!(send(&gateway, Method::POST, "/u/usr_x.promotional.forged", &form, "").await.status, 404);
}

#[tokio::test]
async fn sending_needs_the_permission_and_its_journal_is_for_the_receiver_and_the_sender() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let (me, sender) = (format!("{}:consumer", person(1)), format!("{}:notifications.send", person(9)));
    let body = json!({
        "to": {"user_id": person(1)}, "category": "product", "channels": ["in_app"],
        "content": {"title": "Hello", "body": "There is news."}
    });
    assert_eq!(ask(&gateway, Method::POST, "/v1/notifications", &me, body.clone()).await.status, 403);
    let sent = ask(&gateway, Method::POST, "/v1/notifications", &sender, body.clone()).await;
    assert_eq!((sent.status, &sent.json()["state"]), (202, &json!("sending")), "{}", sent.json());
    let id = sent.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/notifications/{id}");
    let read = get(&gateway, &path, &me).await.json();
    assert_eq!((&read["id"], &read["category"]), (&json!(id), &json!("product")));
    assert_eq!(get(&gateway, &path, &sender).await.status, 200);
    assert_eq!(get(&gateway, &path, &format!("{}:consumer", person(2))).await.status, 404);
    assert_eq!(get(&gateway, "/v1/notifications/ntf_nonsense", &sender).await.status, 404);
    for (member, value, at) in [
        ("to", json!({"user_id": "someone"}), "/to/user_id"),
        ("template", json!("receipt"), "/content"),
        ("content", json!({"title": "x", "body": "y", "url": "javascript:1"}), "/content/url"),
    ] {
        let mut bad = body.clone();
        bad[member] = value;
        assert_eq!(pointer(&ask(&gateway, Method::POST, "/v1/notifications", &sender, bad).await), at);
    }
}

#[tokio::test]
async fn devices_and_templates_are_kept_by_those_who_may() {
    let gateway = gateway(Settings::embedded(), endpoints()).await;
    let me = format!("{}:consumer", person(1));
    let register = |body| ask(&gateway, Method::POST, "/v1/devices", &me, body);
    assert_eq!(pointer(&register(json!({"kind": "sms", "number": "123"})).await), "/number");
    assert_eq!(pointer(&register(json!({"kind": "web_push"})).await), "/keys");
    let private = json!({"kind": "web_push", "endpoint": "https://127.0.0.1/x", "keys": {"p256dh": "x", "auth": "x"}});
    assert_eq!(pointer(&register(private).await), "/endpoint");
    let number = register(json!({"kind": "sms", "number": "+14155550100", "name": "phone"})).await;
    assert_eq!((number.status, &number.json()["verified"]), (201, &json!(false)));
    assert_eq!(register(json!({"kind": "sms", "number": "+14155550100"})).await.status, 429);
    let id = number.json()["id"].as_str().expect("an id").to_owned();
    let wrong = ask(&gateway, Method::POST, &format!("/v1/devices/{id}/verify"), &me, json!({"code": "no"})).await;
    assert_eq!((wrong.status, pointer(&wrong)), (422, "/code".to_owned()));
    assert_eq!(get(&gateway, "/v1/devices", &me).await.json()["items"][0]["address"], "…0100");
    assert_eq!(ask(&gateway, Method::DELETE, &format!("/v1/devices/{id}"), &me, Value::Null).await.status, 204);
    assert_eq!(ask(&gateway, Method::DELETE, &format!("/v1/devices/{id}"), &me, Value::Null).await.status, 404);
    let key = get(&gateway, "/v1/devices/web-push-key", &me).await.json();
    assert_eq!(key["public_key"].as_str().map(str::len), Some(87));

    let editor = format!("{}:templates.read,templates.write", person(9));
    let path = "/v1/templates/receipt/fr";
    assert_eq!(get(&gateway, path, &me).await.status, 403);
    assert_eq!(get(&gateway, path, &editor).await.status, 404);
    assert_eq!(get(&gateway, "/v1/templates/receipt/en", &editor).await.json()["overridden"], false);
    let put = |body| ask(&gateway, Method::PUT, path, &editor, body);
    assert_eq!(pointer(&put(json!({"subject": "Reçu", "text": "{{ broken"})).await), "/text");
    let made = put(json!({"subject": "Reçu (receipt)", "text": "Merci, {{ display_name }}"})).await;
    assert_eq!((made.status, made.header("etag")), (200, "\"1\""));
    assert_eq!(get(&gateway, path, &editor).await.json()["subject"], "Reçu (receipt)");
}
