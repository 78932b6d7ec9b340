//! A peer whose other side does not answer.

use ractor::{Actor, ActorProcessingErr};

use super::*;
use crate::cluster::link::testing::{DEADLINE, Site, until};

const SHARD: ShardId = ShardId(3);

/// The router of a node that neither takes envelopes in nor goes away.
struct Silent;

impl Actor for Silent {
    type Msg = RouterMessage;
    type State = Vec<RouterMessage>;
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<RouterMessage>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(Vec::new())
    }

    async fn handle(
        &self,
        _myself: ActorRef<RouterMessage>,
        message: RouterMessage,
        held: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        held.push(message);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_dropped_in_its_midst_leaves_nobody_waiting() {
    let site = Site::new();
    let link = site.link(1).await;
    let (silent, _) = Actor::spawn(None, Silent, ()).await.unwrap();
    let peer = Arc::new(Peer::new(2, &link));
    let call = |seconds| {
        let peer = Arc::clone(&peer);
        tokio::spawn(async move { peer.call(SHARD, vec![0], Instant::now() + Duration::from_secs(seconds)).await })
    };
    for _ in 0..2 {
        let (running, router) = (Arc::clone(&peer), silent.clone());
        let session = tokio::spawn(async move { running.run(router, &CancellationToken::new()).await });
        until("it is up", || peer.up.load(Ordering::Relaxed)).await;
        // The window is full after four; what comes later waits in the queue.
        let calls: Vec<_> = (0..8).map(|_| call(3600)).collect();
        until("they wait", || peer.lock().len() == 8).await;
        session.abort();
        for call in calls {
            let told = tokio::time::timeout(DEADLINE, call).await.expect("at once").unwrap();
            assert!(
                matches!(told, Err(RemoteError::Lost { node: 2 } | RemoteError::Unreachable { node: 2 })),
                "{told:?}"
            );
        }
        let refused = tokio::time::timeout(DEADLINE, call(3600)).await.expect("at once").unwrap();
        assert_eq!(refused, Err(RemoteError::Unreachable { node: 2 }));
    }
    silent.stop(None);
}
