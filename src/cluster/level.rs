//! Raises the level of the cluster once all of its members speak a newer version of the wire (ADR 118).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::coordinator::Coordinator;
use super::link::{Link, NEWEST, PeerStatus};
use crate::actors::members::View;
use crate::actors::members::level::{self, Level};
use crate::actors::runtime::replica::Replica;
use crate::kernel::{Error, ShardId};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Members that speak less know of no levels.
const FIRST: u16 = 3;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster is at level {level}, and this version reads what is written up to level {NEWEST}: start the version that \
     this node had, or a newer one"
)]
pub struct TooOld {
    level: u16,
}

/// # Errors
/// [`TooOld`] where the level is above what this build speaks.
pub fn fits(level: u16) -> Result<(), TooOld> {
    if level <= NEWEST { Ok(()) } else { Err(TooOld { level }) }
}

/// The level in a node's own copy of the meta shard.
///
/// # Errors
/// When it cannot be read: a newer build may have written it.
pub fn reached(meta: &Replica) -> Result<u16, Error> {
    Ok(meta.peek::<Level>(&level::id())?.map_or(0, |(_, level)| level.reached))
}

/// Tells the link the level of the cluster; on the node that leads the meta shard, also raises it.
pub async fn keep(link: Link, coordinator: Arc<Coordinator>) {
    let gauge = metrics::gauge!("construct_cluster_level");
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let level = coordinator.level();
        link.set_level(level);
        gauge.set(f64::from(level));
        let leads = coordinator.router().replica(ShardId::META).is_some_and(|meta| meta.shard().is_some());
        let spoken = spoken_by_all(link.node(), &coordinator.view().borrow(), &link.peers());
        let Some(to) = spoken.filter(|to| leads && *to > level.max(FIRST - 1)) else { continue };
        match coordinator.raise(to).await {
            Ok(level) => tracing::info!(level, "all members speak a newer version: the level of the cluster is raised"),
            Err(error) => tracing::debug!(%error, "raising the level of the cluster is put off"),
        }
    }
}

/// The newest version that every member speaks; `None` before there are members, and while one of them is away: it may come
/// back as an older one.
fn spoken_by_all(own: u64, view: &View, peers: &[PeerStatus]) -> Option<u16> {
    let speaks = |id: u64| match peers.iter().find(|peer| peer.node == id && peer.connected) {
        _ if id == own => Some(NEWEST),
        peer => peer?.wire,
    };
    let newest = view.members.keys().try_fold(NEWEST, |newest, id| speaks(*id).map(|speaks| newest.min(speaks)));
    newest.filter(|_| !view.members.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::members::{Known, Member, MemberState};
    use crate::actors::runtime::RuntimeOptions;
    use crate::actors::runtime::background::Background;
    use crate::actors::runtime::clock::NodeClock;
    use crate::actors::runtime::kinds::Kinds;
    use crate::actors::runtime::log::ShardLog as _;
    use crate::actors::runtime::shard::Common;
    use crate::actors::runtime::testing::MemoryLog;
    use crate::kernel::{Batch, Op, codec};

    /// A copy of the meta shard in which the level has this event.
    fn copy_with(event: Option<Vec<u8>>) -> Replica {
        let log = MemoryLog::start(ShardId::META);
        if let Some(event) = event {
            let batch = Batch { events: vec![event], ..Batch::empty(level::id(), 0) };
            log.state().apply(1, &[Op::Batch(Box::new(batch))]).expect("applied");
        }
        let common = Common {
            kinds: Kinds::new(&[], 1),
            clock: Arc::new(NodeClock::system()),
            options: RuntimeOptions::default(),
            sealer: Arc::default(),
            aftermath: Arc::default(),
            background: Background::new(),
        };
        Replica::new(log, common)
    }

    #[tokio::test]
    async fn a_level_that_cannot_be_read_is_not_taken_for_none() {
        assert_eq!(reached(&copy_with(None)).expect("there is none"), 0);
        let raised = codec::encode(&level::Event::Raised { to: 3 }).expect("encodes");
        assert_eq!(reached(&copy_with(Some(raised))).expect("read"), 3);
        reached(&copy_with(Some(vec![0xff; 9]))).expect_err("nobody knows what it says");
    }

    #[test]
    fn what_all_members_speak_is_known_only_while_all_are_there() {
        let member = |id| Member { id, address: String::new(), zone: String::new(), version: String::new() };
        let known = |id| (id, Known { member: member(id), state: MemberState::Up });
        let view = View { members: (1..=3).map(known).collect(), ..View::default() };
        let peer = |node, connected, wire| PeerStatus {
            node,
            address: String::new(),
            connected,
            incarnation: None,
            build: None,
            wire,
        };
        let all = |second, third| spoken_by_all(1, &view, &[second, third, peer(4, true, Some(1))]);
        assert_eq!(all(peer(2, true, Some(NEWEST)), peer(3, true, Some(NEWEST + 1))), Some(NEWEST));
        assert_eq!(all(peer(2, true, Some(2)), peer(3, true, Some(NEWEST))), Some(2));
        assert_eq!(all(peer(2, true, None), peer(3, true, Some(NEWEST))), None, "it has not said");
        assert_eq!(all(peer(2, true, Some(NEWEST)), peer(3, false, Some(NEWEST))), None, "it is away");
        assert_eq!(spoken_by_all(1, &view, &[peer(2, true, Some(NEWEST))]), None, "it was never there");
        assert_eq!(spoken_by_all(1, &View::default(), &[]), None, "no cluster yet");
    }

    #[test]
    fn a_build_that_is_too_old_says_so() {
        assert!(fits(NEWEST).is_ok());
        let refused = fits(NEWEST + 1).expect_err("too old").to_string();
        assert!(refused.contains(&format!("level {}", NEWEST + 1)), "{refused}");
    }
}
