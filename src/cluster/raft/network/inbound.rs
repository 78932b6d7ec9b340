//! The other side of the raft lane: requests of another node to the shards of this one.
//!
//! Bounded: requests under way of one stream, and appends queued in one of its streams of appends. At the bound the
//! stream is not read on, which the sender's window feels.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, stream};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::wire::{Call, Reply, Request};
use super::{Group, Network};
use crate::cluster::link::{Lane, Link, Sender, Wire};
use crate::cluster::raft::naming;
use crate::storage::types::{LogId, TypeConfig};

/// Requests of one node under way, besides streams of appends.
const UNDER_WAY: usize = 256;
/// Appends of one stream that wait. The other side has fewer in flight.
const STREAM_QUEUE: usize = 64;
/// Streams of appends of one node: two a shard at most are in use at once.
const STREAMS: usize = 4096;

type Append = AppendEntriesRequest<TypeConfig>;

/// Serves every stream of the raft lane that a node opens, until the link stops.
pub(super) async fn accept(network: Network, link: Link) {
    let mut incoming = link.incoming(Lane::Raft);
    while let Some(Some(wire)) = link.stopping().run_until_cancelled(incoming.recv()).await {
        link.spawn(serve(network.clone(), wire));
    }
}

async fn serve(network: Network, mut wire: Wire) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut streams: HashMap<u64, mpsc::Sender<(u64, Append)>> = HashMap::new();
    while let Ok(message) = wire.receiver.next().await {
        let Ok(Request { id, shard, call }) = Request::decode(&message) else {
            tracing::warn!(node = wire.node, "a message on the raft lane cannot be read; the stream is closed");
            return;
        };
        let Some(group) = network.group(shard) else {
            if !answer(&wire.sender, id, &Reply::Failed(format!("there is no shard {shard} here"))).await {
                return;
            }
            continue;
        };
        match call {
            Call::EndOfStream { stream } => drop(streams.remove(&stream)),
            Call::Append { stream, append } if stream != 0 => {
                if streams.len() >= STREAMS && !streams.contains_key(&stream) {
                    tracing::warn!(node = wire.node, "too many streams of appends; the stream is closed");
                    return;
                }
                let queue = streams.entry(stream).or_insert_with(|| {
                    let (queue, queued) = mpsc::channel(STREAM_QUEUE);
                    tokio::spawn(append_all(group, queued, wire.sender.clone()));
                    queue
                });
                // Fails once an append of this stream failed: the other side has been told and will end it.
                let _ = queue.send((id, append)).await;
            }
            call => {
                let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
                let sender = wire.sender.clone();
                tokio::spawn(async move {
                    let reply = handle(&group, call).await;
                    answer(&sender, id, &reply).await;
                    drop(permit);
                });
            }
        }
    }
}

/// Whether the reply could be sent.
async fn answer(sender: &Sender, id: u64, reply: &Reply) -> bool {
    match reply.encode(id) {
        Ok(message) => sender.send(message).await.is_ok(),
        Err(error) => {
            tracing::error!(%error, "a reply to another node does not encode");
            false
        }
    }
}

async fn handle(group: &Group, call: Call) -> Reply {
    let raft = &group.raft;
    match call {
        Call::PreVote(_) | Call::Vote(_) | Call::Transfer(_)
            if !naming::means(&raft.metrics().borrow_watched(), group.voting.own.as_deref()) =>
        {
            Reply::Failed("this replica lacks what its node may have confirmed before its disk was emptied".to_owned())
        }
        Call::PreVote(VoteRequest { last_log_id, .. }) | Call::Vote(VoteRequest { last_log_id, .. })
            if last_log_id < group.voting.mark =>
        {
            Reply::Failed(
                "this replica had entries, before it was emptied, that are newer than the candidate's".to_owned(),
            )
        }
        Call::Transfer(_) if group.voting.mark.is_some() && !group.voting.stands.load(Ordering::Relaxed) => {
            Reply::Failed("this replica lacks what it had before it was emptied".to_owned())
        }
        Call::PreVote(request) | Call::Vote(request)
            if !request.leadership_transfer && Instant::now() < group.votes_from =>
        {
            Reply::Failed("this replica has just started and may have promised its vote to a leader".to_owned())
        }
        Call::PreVote(request) => raft.pre_vote(request).await.map_or_else(|error| failed(&error), Reply::Voted),
        Call::Vote(request) => raft.vote(request).await.map_or_else(|error| failed(&error), Reply::Voted),
        Call::Transfer(request) => {
            raft.handle_transfer_leader(request).await.map_or_else(|error| failed(&error), Reply::Transferred)
        }
        Call::Append { append, .. } => {
            let (prev, last) = (append.prev_log_id, last_of(&append));
            let appended = raft.append_entries(append).await;
            appended.map_or_else(
                |error| failed(&error),
                |response| Reply::Appended(response.into_stream_result(prev, last)),
            )
        }
        Call::EndOfStream { .. } => Reply::Failed("nothing was asked".to_owned()),
    }
}

fn failed(error: &dyn std::error::Error) -> Reply {
    Reply::Failed(error.to_string())
}

fn last_of(append: &Append) -> Option<LogId> {
    append.entries.last().map(|entry| entry.log_id).or(append.prev_log_id)
}

/// Appends what is queued, in order, until one fails or nothing more comes.
async fn append_all(group: Group, mut queued: mpsc::Receiver<(u64, Append)>, sender: Sender) {
    let (numbers, mut numbered) = mpsc::unbounded_channel();
    // At most as many numbers wait as appends are in the queue here and in openraft's own.
    let appends = stream::poll_fn(move |context| {
        queued.poll_recv(context).map(|next| {
            next.map(|(id, append)| {
                let _ = numbers.send(id);
                append
            })
        })
    });
    let mut results = pin!(group.raft.stream_append(appends));
    while let Some(result) = results.next().await {
        let Some(id) = numbered.recv().await else { return };
        let reply = result.map_or_else(|error| failed(&error), Reply::Appended);
        let goes_on = matches!(reply, Reply::Appended(Ok(_)));
        if !answer(&sender, id, &reply).await || !goes_on {
            return;
        }
    }
}
