//! Two lanes in one process, over links with a wire between them that can be cut.
//!
//! The actors of both ends are in one registry here, which a deployment never has; what real processes add is judged
//! from the outside.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;

use super::*;
use crate::actors::runtime::remote::Refusal;
use crate::cluster::link::testing::{DEADLINE, Proxy, Site, Way, introduce, until};

const SHARD: ShardId = ShardId(3);

/// Echoes; or, by the first byte of a request: 1 never answers, 2 refuses.
#[derive(Default)]
struct Echo {
    handled: AtomicUsize,
}

#[async_trait]
impl RemoteHandler for Echo {
    async fn handle(&self, from: u64, shard: ShardId, request: Vec<u8>, _: Instant) -> Result<Vec<u8>, Refusal> {
        assert_eq!((from, shard), (1, SHARD));
        self.handled.fetch_add(1, Ordering::Relaxed);
        match request.first() {
            Some(1) => std::future::pending().await,
            Some(2) => Err(Refusal::UnknownShard),
            Some(3) => Ok(vec![0; 13 << 20]),
            _ => Ok(request),
        }
    }
}

struct Pair {
    _site: Site,
    one: EntityLane,
    handler: HandlerCell,
    proxy: Proxy,
    /// Of node 2.
    _two: EntityLane,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

/// Process groups are of the whole process: a session also hands on the routers of other pairs, and a router that is
/// reached over the nodes of another test ends with that test.
static ONE_PAIR: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn pair() -> Pair {
    let alone = ONE_PAIR.lock().await;
    let site = Site::new();
    let (one, two) = (site.link(1).await, site.link(2).await);
    let proxy = Proxy::to(two.address()).await;
    introduce(&[&one, &two]);
    one.set_members(BTreeMap::from([(1, one.address().to_string()), (2, proxy.address.to_string())])).unwrap();
    let handler = HandlerCell::default();
    let lane_two = EntityLane::start(two, Arc::clone(&handler), "cookie").await.unwrap();
    let lane_one = EntityLane::start(one, HandlerCell::default(), "cookie").await.unwrap();
    Pair { _site: site, one: lane_one, handler, proxy, _two: lane_two, _alone: alone }
}

fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

async fn connected(lane: &EntityLane) {
    let began = Instant::now();
    while lane.call(2, SHARD, vec![0], soon(1)).await == Err(RemoteError::Unreachable { node: 2 }) {
        assert!(began.elapsed() < DEADLINE, "not connected in time");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_refused_or_lost_by_their_deadline() {
    let pair = pair().await;
    connected(&pair.one).await;
    // Before there is a runtime.
    let refused = pair.one.call(2, SHARD, vec![0], soon(10)).await;
    assert_eq!(refused, Err(Refusal::NotLeader { leader: None }.into()));
    let echo = Arc::new(Echo::default());
    pair.handler.set(Arc::clone(&echo) as Arc<dyn RemoteHandler>).ok().unwrap();
    assert_eq!(pair.one.call(2, SHARD, vec![2], soon(10)).await, Err(Refusal::UnknownShard.into()));
    assert_eq!(pair.one.call(9, SHARD, vec![0], soon(10)).await, Err(RemoteError::Unreachable { node: 9 }));
    assert_eq!(pair.one.call(2, SHARD, vec![0; 13 << 20], soon(10)).await, Err(Refusal::Overloaded.into()));

    // A request that is never answered holds up nobody, and ends by its own deadline.
    let slow = pair.one.call(2, SHARD, vec![1], soon(1));
    let quick = join_all((0..2000u32).map(|n| {
        let lane = pair.one.clone();
        async move {
            let request = [&[0][..], &n.to_le_bytes()].concat();
            assert_eq!(lane.call(2, SHARD, request.clone(), soon(20)).await, Ok(request));
        }
    }));
    let (slow, _) = tokio::join!(slow, quick);
    assert_eq!(slow, Err(RemoteError::Lost { node: 2 }));
    let large = vec![0; 11 << 20];
    assert_eq!(pair.one.call(2, SHARD, large.clone(), soon(20)).await, Ok(large));
    assert_eq!(pair.one.call(2, SHARD, vec![0], Instant::now()).await, Err(Refusal::Expired.into()));
    // It was done, and its reply cannot come: whoever asked hears so, and does not wait for it.
    let too_large = tokio::time::timeout(DEADLINE, pair.one.call(2, SHARD, vec![3], soon(3600)));
    assert_eq!(too_large.await.expect("at once"), Err(RemoteError::Lost { node: 2 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_wire_fails_what_is_under_way_at_once_and_heals() {
    let pair = pair().await;
    let echo = Arc::new(Echo::default());
    pair.handler.set(Arc::clone(&echo) as Arc<dyn RemoteHandler>).ok().unwrap();
    connected(&pair.one).await;
    for way in [Way::Cut, Way::Held] {
        let handled = echo.handled.load(Ordering::Relaxed);
        let lane = pair.one.clone();
        let waiting = tokio::spawn(async move { lane.call(2, SHARD, vec![1], soon(60)).await });
        until("it arrived", || echo.handled.load(Ordering::Relaxed) > handled).await;
        let began = Instant::now();
        pair.proxy.set(way);
        assert_eq!(waiting.await.unwrap(), Err(RemoteError::Lost { node: 2 }));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        pair.proxy.set(Way::Cut);
        pair.proxy.set(Way::Open);
        connected(&pair.one).await;
        assert_eq!(pair.one.call(2, SHARD, vec![0, 7], soon(10)).await, Ok(vec![0, 7]));
    }
}
