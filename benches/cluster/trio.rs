//! Three nodes without their edges, each with a replica of every shard; who leads is spread over them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use construct::actors::members::Replicas;
use construct::actors::runtime::Router;
use construct::actors::runtime::clock::NodeClock;
use construct::actors::runtime::kinds::Kind;
use construct::cluster::link::Link;
use construct::cluster::raft::membership::step;
use construct::cluster::raft::{Network, ShardGroup};
use construct::kernel::ShardId;

use super::support::rig::{Note, Rig, Seat, link, settings};

const POLL: Duration = Duration::from_millis(20);
pub const NODES: u64 = 3;

pub struct Trio {
    rigs: Vec<Rig>,
    links: Vec<Link>,
    routers: BTreeMap<ShardId, Router>,
}

impl Trio {
    pub async fn start(dir: &Path) -> Self {
        let mut links = Vec::new();
        for node in 1..=NODES {
            links.push(link(dir, node).await);
        }
        let members: BTreeMap<u64, String> = (1..).zip(links.iter().map(|link| link.address().to_string())).collect();
        let settings = settings();
        let mut rigs = Vec::new();
        for (node, link) in (1..).zip(&links) {
            link.set_members(members.clone()).expect("kept");
            let network = Network::over(link.clone(), settings.cluster.snapshot_bytes_per_second);
            let seat = Seat { node_id: node, address: members[&node].clone(), network };
            let (dir, kinds) = (dir.join(format!("{node}/data")), [Kind::of::<Note>()]);
            std::fs::create_dir_all(&dir).expect("a directory");
            let rig = Rig::seated(&dir, &settings, &kinds, NodeClock::system(), Vec::new(), seat).await;
            rig.runtime.go();
            rigs.push(rig);
        }
        let mut trio = Self { rigs, links, routers: BTreeMap::new() };
        for shard in 0..=settings.cluster.shards {
            let leader = u64::from(shard) % NODES + 1;
            trio.place(ShardId(shard), leader, &members).await;
            let rig = &trio.rigs[usize::try_from(leader - 1).expect("few")];
            trio.routers.insert(ShardId(shard), rig.runtime.router.clone());
        }
        trio
    }

    /// Takes a shard to all nodes, and to this leader, as the coordinator of a cluster does.
    async fn place(&self, shard: ShardId, leader: u64, members: &BTreeMap<u64, String>) {
        let voters = members.keys().copied().collect();
        let wanted = Replicas { voters, learners: BTreeSet::new(), leader: Some(leader) };
        loop {
            if let Some(group) = self.leading(shard)
                && let Some(standing) = group.standing(&BTreeMap::new())
            {
                let next = step(&standing, &wanted);
                if next.is_none() && standing.own == leader && standing.voters == wanted.voters {
                    return;
                }
                if let Some(next) = next {
                    use construct::cluster::raft::membership::Step;
                    let address = match &next {
                        Step::AddLearner(node) => members[node].clone(),
                        _ => String::new(),
                    };
                    // Refused or late: the next look finds out what is left to do.
                    let _ = group.take(&next, &address).await;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn leading(&self, shard: ShardId) -> Option<&ShardGroup> {
        let groups = self.rigs.iter().filter_map(|rig| rig.groups.shard(shard));
        groups.map(AsRef::as_ref).find(|group| group.standing(&BTreeMap::new()).is_some())
    }

    /// The router of the node that leads the shard of this note.
    pub fn router(&self, number: usize) -> Router {
        let shard = self.rigs[0].runtime.router.shard_of(&Note::id(number));
        self.routers[&shard].clone()
    }

    /// Returns once sled holds everything that was applied.
    pub async fn settle(&self) {
        for rig in &self.rigs {
            rig.settle().await;
        }
    }

    pub async fn stop(self) {
        for rig in self.rigs {
            rig.stop().await;
        }
        for link in self.links {
            link.shutdown().await;
        }
    }
}
