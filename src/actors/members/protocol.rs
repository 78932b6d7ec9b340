//! Commands, events and the view of the cluster's members.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::kernel::{ShardId, Timestamp};

/// A node as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    /// Where other nodes reach it: `HOST:PORT`.
    pub address: String,
    /// Replicas of a shard go to different zones where there are enough; empty: none named.
    pub zone: String,
    pub version: String,
}

/// What is wanted of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Holds replicas and leads.
    Up,
    /// Leads nothing, and gives replicas away where another member can take them. Ends when it starts again.
    Draining,
    /// Gives everything away and is forgotten then.
    Leaving,
}

/// A member and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub member: Member,
    pub state: MemberState,
}

/// Who should hold a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    pub voters: BTreeSet<u64>,
    /// Copies without a vote; the meta shard has them on all other members.
    pub learners: BTreeSet<u64>,
    /// The voter that should lead.
    pub leader: Option<u64>,
}

/// What the members are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Get,
    /// The first node forms the cluster; a repeat changes nothing.
    Form {
        cluster: [u8; 16],
        shards: u16,
        member: Member,
    },
    /// Lets one node join by `expires` that knows the secret behind this hash.
    AddToken {
        hash: [u8; 32],
        expires: Timestamp,
    },
    /// Takes a node in and burns the token. The same token, node and key again is answered again.
    Join {
        token: [u8; 32],
        key: [u8; 32],
        member: Member,
    },
    /// A member started: it says where it is, and no longer drains.
    Announce(Member),
    Drain {
        node: u64,
    },
    /// Gives up a member, reachable or not.
    Remove {
        node: u64,
    },
    /// A leaving member holds nothing any more.
    Forget {
        node: u64,
    },
    /// Who should hold a shard from now on.
    Place {
        shard: ShardId,
        replicas: Replicas,
    },
    /// A new cluster begins with this state and this node alone; a repeat changes nothing.
    Remake {
        cluster: [u8; 16],
        member: Member,
    },
    /// A member that drains goes on as it is. One that does not drain is left alone.
    Undrain {
        node: u64,
    },
}

/// What happened to the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Formed {
        cluster: [u8; 16],
        shards: u16,
        member: Member,
    },
    TokenAdded {
        hash: [u8; 32],
        expires: Timestamp,
    },
    TokenForgotten {
        hash: [u8; 32],
    },
    Joined {
        token: [u8; 32],
        key: [u8; 32],
        member: Member,
    },
    Announced {
        member: Member,
    },
    DrainBegan {
        node: u64,
    },
    RemovalBegan {
        node: u64,
    },
    Forgotten {
        node: u64,
    },
    Placed {
        shard: ShardId,
        replicas: Replicas,
    },
    /// Says the whole state but the number of shards.
    Remade {
        cluster: [u8; 16],
        member: Member,
    },
}

/// The cluster as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// All zeros before it is formed.
    pub cluster: [u8; 16],
    /// Data shards.
    pub shards: u16,
    pub members: BTreeMap<u64, Known>,
    /// Shards without an entry are where they were formed.
    pub placement: BTreeMap<ShardId, Replicas>,
}
