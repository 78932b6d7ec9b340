//! Nodes that have no replica of what their clients follow.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Cluster;
use crate::mail::Maildir;
use crate::person::Person;
use crate::socket::{Listener as _, Socket};

/// Sooner than a connection looks by itself whether its session lives.
const AT_ONCE: Duration = Duration::from_secs(15);

/// Of four nodes one has no replica of the inbox, whichever that is.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_hears_everything_at_a_node_without_a_replica() {
    let cluster = Cluster::start(4).await;
    let mailbox = Maildir::of(cluster.outside());
    let person = Person::sign_up(&cluster.nodes[0], &mailbox, "ada@example.com", "consumer").await;
    let mut sockets = Vec::new();
    for node in &cluster.nodes {
        sockets.push(Socket::open(node.gateway, person.api.token()).await);
    }
    let operator = cluster.nodes[0].operator();
    for (number, from) in (0..12).map(|number| (number, number % 4)) {
        let title = format!("note {number}");
        let note = json!({
            "to": { "user_id": person.id }, "category": "transactional", "channels": ["in_app"],
            "content": { "title": title, "body": "from anywhere" },
        });
        cluster.at(from).with_token(operator.token()).post("/v1/notifications", &note).await.expect(202);
        for socket in &mut sockets {
            assert_eq!(socket.hear(&title).await["data"]["title"], title);
        }
    }
    // Nor does a session that ended go on anywhere.
    let closing = Instant::now();
    person.at(&cluster.nodes[1]).api.delete("/v1/sessions").await.expect(204);
    for socket in &mut sockets {
        socket.closed().await;
    }
    assert!(closing.elapsed() < AT_ONCE, "closed after {:?}", closing.elapsed());
}
