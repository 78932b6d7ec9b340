//! Whole connections over a stream in memory, against a runtime in memory.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::actors::identity::session::{self, Ended, Session};
use crate::actors::notifications::delivery::Category;
use crate::actors::notifications::inbox::{self, Inbox};
use crate::gateway::testing;
use crate::kernel::id::type_id;
use crate::kernel::{Entity as _, EntityId, Origin, Slot, Timestamp};
use crate::settings::Settings;

/// A client of one connection.
struct Client {
    socket: WebSocketStream<DuplexStream>,
    /// Lines of a frame that were not looked at yet.
    lines: Vec<String>,
}

fn user() -> String {
    type_id("usr", Timestamp::from_millis(1_700_000_000_000), Slot(7), [3; 8])
}

fn token() -> String {
    format!("{}:topics.subscribe,topics.publish", user())
}

async fn gateway() -> Arc<crate::gateway::Gateway> {
    testing::gateway(Settings::embedded(), crate::gateway::routes::endpoints()).await
}

async fn dial(gateway: &Arc<crate::gateway::Gateway>) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let realtime = Arc::clone(&gateway.services().realtime);
    let socket = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    let connection = Connection::new(realtime, Arc::clone(gateway), "client".into(), "source".into(), socket);
    tokio::spawn(connection.run());
    Client { socket: WebSocketStream::from_raw_socket(ours, Role::Client, None).await, lines: Vec::new() }
}

impl Client {
    async fn say(&mut self, command: Value) {
        self.socket.send(Message::text(command.to_string())).await.expect("sent");
    }

    /// The next line, or the code of the close frame.
    async fn hear(&mut self) -> Result<Value, u16> {
        loop {
            if !self.lines.is_empty() {
                return Ok(serde_json::from_str(&self.lines.remove(0)).expect("JSON"));
            }
            let next = tokio::time::timeout(Duration::from_secs(10), self.socket.next()).await.expect("in time");
            match next {
                Some(Ok(Message::Text(text))) => self.lines.extend(text.as_str().lines().map(str::to_owned)),
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(0),
            }
        }
    }

    async fn ask(&mut self, command: Value) -> Value {
        self.say(command).await;
        self.hear().await.expect("an answer")
    }

    async fn connect(&mut self, subs: Value) -> Value {
        let name = format!("inbox:{}", user());
        let mut answer = self.ask(json!({"id": 1, "connect": {"token": token(), "subs": {&name: subs}}})).await;
        answer["connect"]["subs"][&name].take()
    }
}

async fn append(gateway: &crate::gateway::Gateway, n: u64) {
    let item = inbox::NewItem {
        id: format!("ntf_{n}"),
        category: Category::Billing,
        title: format!("Number {n}"),
        body: "text".into(),
        url: None,
    };
    let (id, origin) = (EntityId::new(Inbox::KIND, &user()), Origin::system("test"));
    gateway.services().router.ask::<Inbox>(&id, inbox::Command::Append(item), &origin).await.expect("appended");
}

fn offsets(publications: &Value) -> Vec<u64> {
    let list = publications.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|publication| publication["offset"].as_u64()).collect()
}

#[tokio::test]
async fn what_is_missed_is_recovered_in_order_and_once_and_then_goes_on_live() {
    let gateway = gateway().await;
    append(&gateway, 1).await;
    let mut client = dial(&gateway).await;
    let sub = client.connect(json!({})).await;
    assert_eq!((sub["recoverable"].as_bool(), sub["offset"].as_u64()), (Some(true), Some(1)));
    append(&gateway, 2).await;
    let push = client.hear().await.expect("a push")["push"].take();
    assert_eq!((push["pub"]["offset"].as_u64(), &push["pub"]["data"]["title"]), (Some(2), &json!("Number 2")));
    drop(client);

    append(&gateway, 3).await;
    append(&gateway, 4).await;
    let mut client = dial(&gateway).await;
    let sub = client.connect(json!({"recover": true, "epoch": sub["epoch"], "offset": 2})).await;
    assert_eq!((sub["recovered"].as_bool(), offsets(&sub["publications"])), (Some(true), vec![3, 4]));
    for n in 5..=60 {
        append(&gateway, n).await;
    }
    for n in 5..=60 {
        let push = client.hear().await.expect("a push");
        assert_eq!(push["push"]["pub"]["offset"], n);
    }
    let mut client = dial(&gateway).await;
    let sub = client.connect(json!({"recover": true, "epoch": "other", "offset": 2})).await;
    assert_eq!(
        (sub["was_recovering"].as_bool(), sub.get("recovered"), sub["offset"].as_u64()),
        (Some(true), None, Some(60))
    );
}

#[tokio::test]
async fn strangers_and_malformed_frames_are_turned_away() {
    let gateway = gateway().await;
    for (said, code) in [
        (json!({"id": 1, "connect": {"token": "nonsense"}}), 3500),
        (json!({"id": 1, "connect": {}}), 3500),
        (json!({"id": 1, "subscribe": {"channel": "topic:news"}}), 3501),
        (json!({"connect": {"token": token()}}), 3501),
        (json!([]), 3501),
        (json!({}), 3501),
    ] {
        let mut client = dial(&gateway).await;
        client.say(said.clone()).await;
        assert_eq!(client.hear().await, Err(code), "{said}");
    }
}

#[tokio::test]
async fn commands_are_answered_under_their_ids() {
    let gateway = gateway().await;
    append(&gateway, 1).await;
    let mut client = dial(&gateway).await;
    client.connect(json!({})).await;
    let code = |answer: &Value| answer["error"]["code"].as_u64();
    for (said, refused) in [
        (json!({"id": 2, "subscribe": {"channel": "inbox:usr_other"}}), 103),
        (json!({"id": 3, "subscribe": {"channel": "nothing"}}), 102),
        (json!({"id": 4, "presence": {"channel": "topic:news"}}), 108),
        (json!({"id": 5, "rpc": {"method": "noSuchOperation"}}), 104),
        (json!({"id": 6, "rpc": {"method": "getNotification", "data": {"id": "ntf_x"}}}), 404),
        (json!({"id": 7, "rpc": {"method": "sendNotification", "data": {}}}), 403),
        (json!({"id": 8, "history": {"channel": "topic:news", "limit": 1, "since": {"epoch": "x", "offset": 1}}}), 112),
    ] {
        let answer = client.ask(said.clone()).await;
        assert_eq!((answer["id"].as_u64(), code(&answer)), (said["id"].as_u64(), Some(refused)), "{answer}");
    }
    let listed = client.ask(json!({"id": 9, "rpc": {"method": "listInbox", "data": {"limit": 5}}})).await;
    assert_eq!(listed["rpc"]["data"]["items"][0]["title"], "Number 1", "{listed}");
    let marked = client.ask(json!({"id": 10, "rpc": {"method": "markInboxRead", "data": {"up_to": 1}}})).await;
    assert_eq!(marked["rpc"]["data"], json!({"marked": 1, "unread": 0}), "{marked}");
    let history = client.ask(json!({"id": 11, "history": {"channel": format!("inbox:{}", user()), "limit": 10}})).await;
    assert_eq!(offsets(&history["history"]["publications"]), [1]);
    assert_eq!(client.ask(json!({"id": 12, "ping": {}})).await, json!({"id": 12, "ping": {}}));
    client.say(json!({"send": {"data": 1}})).await;
    assert_eq!(client.hear().await, Err(3508));
}

#[tokio::test]
async fn a_topic_reaches_its_followers_until_they_leave() {
    let gateway = gateway().await;
    let (mut one, mut two) = (dial(&gateway).await, dial(&gateway).await);
    one.connect(json!({})).await;
    two.connect(json!({})).await;
    let subscribed = two.ask(json!({"id": 2, "subscribe": {"channel": "topic:news"}})).await;
    assert_eq!(subscribed["subscribe"]["recoverable"], true, "{subscribed}");
    let again = two.ask(json!({"id": 3, "subscribe": {"channel": "topic:news"}})).await;
    assert_eq!(again["error"]["code"], 105);
    let published = one.ask(json!({"id": 2, "publish": {"channel": "topic:news", "data": {"n": 1}}})).await;
    assert_eq!(published, json!({"id": 2, "publish": {}}));
    let push = two.hear().await.expect("a push");
    assert_eq!(push, json!({"push": {"channel": "topic:news", "pub": {"data": {"n": 1}, "offset": 1}}}));
    two.ask(json!({"id": 4, "unsubscribe": {"channel": "topic:news"}})).await;
    one.ask(json!({"id": 3, "publish": {"channel": "topic:news", "data": 2}})).await;
    assert_eq!(two.ask(json!({"id": 5, "ping": {}})).await["id"], 5);
}

#[tokio::test]
async fn a_topic_is_followed_as_long_as_its_permission_lasts() {
    let gateway = gateway().await;
    let (mut one, mut two) = (dial(&gateway).await, dial(&gateway).await);
    one.connect(json!({})).await;
    two.connect(json!({})).await;
    two.ask(json!({"id": 2, "subscribe": {"channel": "topic:news"}})).await;
    let less = format!("{}:topics.publish", user());
    let refreshed = two.ask(json!({"id": 3, "refresh": {"token": less}})).await;
    assert_eq!(refreshed["id"], 3, "{refreshed}");
    let ended = json!({"channel": "topic:news", "unsubscribe": {"code": 2000, "reason": "permission denied"}});
    assert_eq!(two.hear().await.expect("a push")["push"], ended);
    one.ask(json!({"id": 2, "publish": {"channel": "topic:news", "data": 1}})).await;
    append(&gateway, 1).await;
    let push = two.hear().await.expect("a push");
    assert_eq!(push["push"]["channel"], json!(format!("inbox:{}", user())), "the inbox goes on: {push}");
}

#[tokio::test]
async fn the_end_of_a_session_closes_its_sockets() {
    let gateway = gateway().await;
    let mut client = dial(&gateway).await;
    client.connect(json!({})).await;
    let command = session::Command::Revoke { user_id: user(), reason: Ended::SignedOutEverywhere };
    let (id, origin) = (session::id("ses_test"), Origin::system("test"));
    gateway.services().router.ask::<Session>(&id, command, &origin).await.expect("revoked");
    assert_eq!(client.hear().await, Err(3503));
}

#[tokio::test]
async fn a_shutdown_sends_clients_elsewhere() {
    let gateway = gateway().await;
    let mut client = dial(&gateway).await;
    client.connect(json!({})).await;
    gateway.services().realtime.drain().await;
    assert_eq!(client.hear().await, Err(3001));
    assert!(Disconnect::SHUTDOWN.reconnects() && !Disconnect::SESSION_ENDED.reconnects());
}
