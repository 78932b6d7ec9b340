//! Follows the feed of each shard from its head and wakes the connections that follow what changed.
//!
//! Nothing is lost when it starts late or restarts: connections read from rows, and a subscription reads after it
//! follows. Sessions that end close their connections; their events are sealed and are opened for that.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::disconnect::Disconnect;
use super::hub::Hub;
use crate::actors::identity::session::{self, Session};
use crate::actors::runtime::feed::open_entry;
use crate::actors::runtime::shard::Shard;
use crate::kernel::{Entity as _, codec};
use crate::storage::state::FeedEntry;

const PAGE: usize = 512;
const PAUSE: Duration = Duration::from_millis(200);

/// Runs until `stopping`.
pub async fn publish(shard: Arc<Shard>, hub: Arc<Hub>, stopping: CancellationToken) {
    let state = Arc::clone(shard.parts.log.state());
    let mut applied = state.applied();
    let mut position = state.feed_head();
    loop {
        applied.mark_unchanged();
        match state.feed(position, PAGE) {
            Ok(entries) if !entries.is_empty() => {
                for entry in entries {
                    position = entry.position;
                    handle(&shard, &hub, entry).await;
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a feed cannot be read");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
        }
    }
}

async fn handle(shard: &Shard, hub: &Hub, entry: FeedEntry) {
    if let Some(channel) = Channel::of(&entry.entity) {
        hub.publish(&channel);
    } else if entry.entity.kind() == Session::KIND && hub.has_session(entry.entity.key()) {
        let session = entry.entity.key().to_owned();
        if ends(shard, entry).await {
            hub.end_session(&session, Disconnect::SESSION_ENDED);
        }
    }
}

/// Whether the entry ends its session. What cannot be read any more belongs to someone who was erased.
async fn ends(shard: &Shard, entry: FeedEntry) -> bool {
    let id = entry.entity.clone();
    match open_entry(shard, entry).await {
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
