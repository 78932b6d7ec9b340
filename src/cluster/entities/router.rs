//! The one remotable actor of a node: takes envelopes in, sets their requests going, and hands answers to their callers.

use std::sync::Arc;
use std::time::Duration;

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr};
use tokio::time::Instant;

use super::envelope::{Envelope, Item};
use super::peer::Peer;
use super::{EntityLane, SCOPE, name};
use crate::actors::runtime::remote::Refusal;
use crate::kernel::ShardId;

/// What a router is sent: an encoded envelope, and where to say that it was taken in.
pub(super) enum RouterMessage {
    Envelope(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

impl ractor::Message for RouterMessage {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        let Self::Envelope(args, reply) = self;
        Ok(SerializedMessage::Call { variant: String::new(), args, reply, metadata: None })
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Call { args, reply, .. } => Ok(Self::Envelope(args, reply)),
            SerializedMessage::Cast { .. } | SerializedMessage::CallReply(..) => Err(BoxedDowncastErr),
        }
    }
}

pub(super) struct Router {
    lane: EntityLane,
}

impl Router {
    pub async fn start(lane: EntityLane) -> Result<(), SpawnErr> {
        let (link, stopping) = (lane.link().clone(), lane.link().stopping().clone());
        let (router, _) = Actor::spawn(None, Self { lane }, ()).await?;
        let group = name(link.node(), link.incarnation());
        ractor::pg::join_scoped(SCOPE.to_owned(), group, vec![router.get_cell()]);
        link.spawn(async move {
            stopping.cancelled().await;
            router.stop(None);
        });
        Ok(())
    }

    fn take(&self, envelope: Envelope) {
        let peer = self.lane.peer(envelope.from);
        for item in envelope.items {
            match item {
                // An answer to an earlier process of this node is for nobody.
                Item::Answer { incarnation, .. } if incarnation != self.lane.link().incarnation() => {}
                Item::Answer { id, answer, .. } => peer.answered(id, answer),
                Item::Request { id, shard, remaining_ms, body } => {
                    let asked = Asked { from: envelope.from, incarnation: envelope.incarnation, id };
                    let deadline = Instant::now() + Duration::from_millis(remaining_ms.into());
                    asked.answer(&self.lane, &peer, ShardId(shard), body, deadline);
                }
            }
        }
    }
}

impl Actor for Router {
    type Msg = RouterMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<RouterMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _myself: ActorRef<RouterMessage>,
        message: RouterMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let RouterMessage::Envelope(bytes, taken) = message;
        match Envelope::decode(&bytes) {
            Ok(envelope) => {
                self.take(envelope);
                let _ = taken.send(Vec::new());
            }
            // Not acknowledged: the other side gives the session up.
            Err(error) => tracing::warn!(%error, "an envelope of another node cannot be read"),
        }
        Ok(())
    }
}

/// Whom an answer goes to.
struct Asked {
    from: u64,
    incarnation: u64,
    id: u64,
}

impl Asked {
    /// Sets the request going; the answer goes back by itself.
    fn answer(self, lane: &EntityLane, peer: &Arc<Peer>, shard: ShardId, request: Vec<u8>, deadline: Instant) {
        let Self { from, incarnation, id } = self;
        let Some(permit) = peer.admit() else {
            peer.refuse(Item::Answer { id, incarnation, answer: Err(Refusal::Overloaded) });
            return;
        };
        let (peer, handler) = (Arc::clone(peer), lane.handler().cloned());
        tokio::spawn(async move {
            let answer = match handler {
                Some(handler) => handler.handle(from, shard, request, deadline).await,
                None => Err(Refusal::NotLeader { leader: None }),
            };
            peer.answer(Item::Answer { id, incarnation, answer }, permit);
        });
    }
}
