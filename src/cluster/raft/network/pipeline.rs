//! Appends of one shard to one replica, several in flight, answered in the order they were sent.
//!
//! A heartbeat is a stream of a single append: it is sent as a request of its own, which needs no stream on the other
//! side. Whatever goes wrong ends the stream; openraft begins a new one from what it knows to be there.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt, stream};
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::time::timeout;

use super::lane::{LaneError, Peer, Waiting};
use super::wire::{Call, Reply};
use super::{APPEND_ANSWER, Replica, unexpected};
use crate::storage::types::TypeConfig;

/// Appends in flight on one stream.
const WINDOW: usize = 16;

type Append = AppendEntriesRequest<TypeConfig>;
type Answered = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Sends what `input` yields; the answers.
pub(super) async fn start<'s, S>(
    replica: Replica,
    mut input: S,
    option: RPCOption,
) -> Result<BoxStream<'s, Answered>, RPCError<TypeConfig>>
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    let Some(first) = input.next().await else { return Ok(Box::pin(stream::empty())) };
    let Some(peer) = replica.peer() else { return Err(replica.unreachable().into()) };
    let more = input.next().now_or_never();
    if let Some(None) = more {
        let call = Call::Append { stream: 0, append: first };
        let answered = match replica.ask(call, RPCTypes::AppendEntries, option.soft_ttl()).await? {
            Reply::Appended(result) => Ok(result),
            other => Err(unexpected(&other)),
        };
        return Ok(Box::pin(stream::once(async { answered })));
    }
    let stream = Open { number: peer.number(), shard: replica.shard, peer };
    let ready = VecDeque::from_iter([Some(first), more.flatten()].into_iter().flatten());
    let pipeline = Pipeline { replica, stream, input: Some(input), ready, in_flight: VecDeque::new() };
    Ok(Box::pin(stream::unfold(Some(pipeline), |pipeline| async {
        let mut pipeline = pipeline?;
        let answered = pipeline.next().await?;
        let goes_on = matches!(answered, Ok(Ok(_)));
        Some((answered, goes_on.then_some(pipeline)))
    })))
}

/// A stream of appends on the other side, ended there when this is dropped.
struct Open {
    number: u64,
    shard: u16,
    peer: Arc<Peer>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let (peer, shard, stream) = (Arc::clone(&self.peer), self.shard, self.number);
        tokio::spawn(async move { peer.tell(shard, Call::EndOfStream { stream }).await });
    }
}

struct Pipeline<S> {
    replica: Replica,
    stream: Open,
    /// `None` once it is exhausted.
    input: Option<S>,
    ready: VecDeque<Append>,
    in_flight: VecDeque<Waiting>,
}

enum Step {
    Answered(Result<Reply, LaneError>),
    Taken(Option<Append>),
}

impl<S: Stream<Item = Append> + Unpin> Pipeline<S> {
    /// The next answer; `None` when everything was answered and nothing more comes.
    async fn next(&mut self) -> Option<Answered> {
        loop {
            if let Some(append) = self.ready.pop_front()
                && let Err(error) = self.send(append).await
            {
                return Some(Err(self.replica.failed(&error, RPCTypes::AppendEntries)));
            }
            if !self.ready.is_empty() {
                continue;
            }
            match self.step().await? {
                Step::Taken(Some(append)) => self.ready.push_back(append),
                Step::Taken(None) => self.input = None,
                Step::Answered(reply) => {
                    self.in_flight.pop_front();
                    return Some(match reply {
                        Ok(Reply::Appended(result)) => Ok(result),
                        Ok(other) => Err(unexpected(&other)),
                        Err(error) => Err(self.replica.failed(&error, RPCTypes::AppendEntries)),
                    });
                }
            }
        }
    }

    async fn send(&mut self, append: Append) -> Result<(), LaneError> {
        let call = Call::Append { stream: self.stream.number, append };
        let waiting = self.stream.peer.send(self.stream.shard, call).await?;
        self.in_flight.push_back(waiting);
        Ok(())
    }

    async fn step(&mut self) -> Option<Step> {
        let room = self.in_flight.len() < WINDOW;
        match (self.in_flight.front_mut(), self.input.as_mut().filter(|_| room)) {
            (None, None) => None,
            (None, Some(input)) => Some(Step::Taken(input.next().await)),
            (Some(first), None) => Some(Step::Answered(answer(first).await)),
            (Some(first), Some(input)) => tokio::select! {
                biased;
                reply = answer(first) => Some(Step::Answered(reply)),
                append = input.next() => Some(Step::Taken(append)),
            },
        }
    }
}

async fn answer(waiting: &mut Waiting) -> Result<Reply, LaneError> {
    timeout(APPEND_ANSWER, waiting.reply()).await.unwrap_or(Err(LaneError::Late(APPEND_ANSWER)))
}
