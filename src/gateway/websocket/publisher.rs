//! Follows the feed of each shard from its head and wakes the connections that follow what changed.
//!
//! What is published crosses to each node once: with the log where the node has a replica, else as the answer of the node
//! that leads the shard. Nothing is lost when it starts late or restarts: connections read from rows, and a subscription reads after it
//! follows. Sessions that end close their connections; their events are sealed and are opened for that.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::disconnect::Disconnect;
use super::hub::Hub;
use crate::actors::identity::session::{self, Session};
use crate::actors::notifications::inbox::Inbox;
use crate::actors::notifications::topic::Topic;
use crate::actors::runtime::feed::open_entry;
use crate::actors::runtime::follow::Follower;
use crate::actors::runtime::replica::Replica;
use crate::actors::runtime::{Followed, Router};
use crate::kernel::{Entity as _, codec};
use crate::storage::state::FeedEntry;

/// Runs until `stopping`.
pub async fn publish(router: Router, replica: Arc<Replica>, hub: Arc<Hub>, stopping: CancellationToken) {
    let wanted = |kind: &str, events| Followed { kind: kind.to_owned(), events };
    let kinds = vec![wanted(Inbox::KIND, false), wanted(Topic::KIND, false), wanted(Session::KIND, true)];
    let mut follower = Follower::anywhere(router, Arc::clone(&replica), kinds);
    while let Some(Some(news)) = stopping.run_until_cancelled(follower.next()).await {
        if news.gap {
            hub.publish_all();
        }
        for entry in news.entries {
            handle(&replica, &hub, entry).await;
        }
    }
}

async fn handle(replica: &Replica, hub: &Hub, entry: FeedEntry) {
    if let Some(channel) = Channel::of(&entry.entity) {
        hub.publish(&channel);
    } else if entry.entity.kind() == Session::KIND && hub.has_session(entry.entity.key()) {
        let session = entry.entity.key().to_owned();
        if ends(replica, entry).await {
            hub.end_session(&session, Disconnect::SESSION_ENDED);
        }
    }
}

/// Whether the entry ends its session. What cannot be read any more belongs to someone who was erased.
async fn ends(replica: &Replica, entry: FeedEntry) -> bool {
    let id = entry.entity.clone();
    match open_entry(replica.sealer(), entry).await {
        Ok(opened) if opened.events.is_empty() => true,
        Ok(opened) => opened.events.iter().any(|event| {
            matches!(
                codec::decode::<session::Event>(event),
                Ok(session::Event::Revoked { .. } | session::Event::Forgotten { .. })
            )
        }),
        Err(error) => {
            // The connection's own checks of its session find out a little later.
            tracing::warn!(session = %id, %error, "the event of a session cannot be opened");
            false
        }
    }
}
