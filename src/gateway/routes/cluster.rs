//! The cluster on the admin listener: members and shards as their leaders know them, and what an operator may do about
//! them. What takes longer than a request goes on; asking again says how far it is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::members::{self, Command, Known, Member, MemberState, Members, Replicas, View};
use crate::actors::runtime::log::ShardReport;
use crate::cluster::join::Token;
use crate::cluster::link::NEWEST;
use crate::cluster::operations::Progress;
use crate::gateway::{Call, Endpoint, Reply};
use crate::kernel::{Error, ShardId};

const DEADLINE: Duration = Duration::from_secs(40);

/// Endpoints of the admin listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/cluster", "getCluster")
            .summary("Members, their state and version, the shards they lead and how far they lag behind")
            .operations()
            .deadline(DEADLINE)
            .response::<ClusterView>(200, "The cluster")
            .handle(get_cluster),
        Endpoint::post("/admin/v1/cluster/tokens", "createJoinToken")
            .summary("A one-time token with which one node may join")
            .operations()
            .optional_body::<NewToken>()
            .response::<TokenView>(201, "The token; it is shown once")
            .problem(409)
            .handle(create_token),
        Endpoint::get("/admin/v1/shards", "listShards")
            .summary("Shards: leader, term, replicas, log and state")
            .operations()
            .deadline(DEADLINE)
            .response::<ShardList>(200, "The shards, in order")
            .handle(list_shards),
        Endpoint::post("/admin/v1/shards/{id}/transfer", "transferShard")
            .summary("Let another voter lead a shard")
            .operations()
            .deadline(DEADLINE)
            .body::<Transfer>()
            .response::<ProgressView>(200, "How far it is")
            .problem(404)
            .problem(409)
            .handle(transfer),
        Endpoint::post("/admin/v1/nodes/{id}/drain", "drainNode")
            .summary("Take the leads of a member, and replicas where others can take them, until it starts again or undrainNode")
            .operations()
            .deadline(DEADLINE)
            .response::<ProgressView>(200, "How far it is")
            .problem(404)
            .problem(409)
            .handle(drain),
        Endpoint::delete("/admin/v1/nodes/{id}/drain", "undrainNode")
            .summary("Let a drained member take part again; answers when every shard is where it should be")
            .operations()
            .deadline(DEADLINE)
            .response::<ProgressView>(200, "How far it is")
            .problem(404)
            .problem(409)
            .handle(undrain),
        Endpoint::delete("/admin/v1/nodes/{id}", "removeNode")
            .summary("Give a member up, reachable or not: others take over what it held, and it is forgotten")
            .operations()
            .deadline(DEADLINE)
            .response::<ProgressView>(200, "How far it is")
            .problem(404)
            .problem(409)
            .handle(remove),
        Endpoint::post("/admin/v1/rebalance", "rebalance")
            .summary("Wait until every shard is where it should be and led by whom it should be")
            .operations()
            .deadline(DEADLINE)
            .response::<ProgressView>(200, "How far it is")
            .handle(rebalance),
    ]
}

/// A node of the cluster.
#[derive(Debug, Serialize, ToSchema)]
struct MemberView {
    id: u64,
    /// Where other nodes reach it.
    address: String,
    /// `up`, `down` (it does not answer this node), `draining` or `leaving`.
    state: &'static str,
    version: String,
    /// The highest level that it can be part of, as far as this node knows.
    level: Option<u16>,
    zone: String,
    /// How many shards it leads, and has a replica of.
    leaders: usize,
    replicas: usize,
    /// Log entries it lacks of all shards together, as far as their leaders know; of what it has itself when it leads.
    lag: Option<u64>,
}

/// The cluster as this node knows it.
#[derive(Debug, Serialize, ToSchema)]
struct ClusterView {
    members: Vec<MemberView>,
    shards: usize,
    /// The feature level: what members of a lower one cannot read is written, and they are let in no more. Rises when all
    /// members can.
    level: u16,
    /// What an operator should know.
    warnings: Vec<String>,
}

async fn get_cluster(call: Call<()>) -> Result<Reply, Error> {
    let view = view(&call);
    let shards = call.services.cluster.shards().await;
    let members: Vec<MemberView> = view.members.keys().map(|id| member_view(&call, &view, *id, &shards)).collect();
    let mut warnings = Vec::new();
    if view.members.len() == 2 {
        let text = "Two members: each holds everything, but neither can commit without the other. Add a third.";
        warnings.push(text.to_owned());
    }
    let headless = shards.values().filter(|report| report.log.leader.is_none()).count();
    if headless > 0 {
        warnings.push(format!("{headless} of {} shards have no leader that this node can reach.", shards.len()));
    }
    let level = call.services.cluster.level();
    if level < NEWEST {
        let why = "a member is older, or away";
        warnings.push(format!("The cluster is at level {level}, and this node could be at {NEWEST}: {why}."));
    }
    Ok(Reply::ok(&ClusterView { members, shards: shards.len(), level, warnings }))
}

/// The members; before the first is known, this node alone.
fn view(call: &Call<()>) -> View {
    let mut view = call.services.cluster.view().borrow().clone();
    if view.members.is_empty() {
        let settings = &call.services.settings;
        let member = Member {
            id: settings.node.id,
            address: settings.cluster.address.clone(),
            zone: settings.node.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        view.members.insert(member.id, Known { member, state: MemberState::Up });
    }
    view
}

fn member_view(call: &Call<()>, view: &View, id: u64, shards: &BTreeMap<ShardId, ShardReport>) -> MemberView {
    let known = &view.members[&id];
    let state = match known.state {
        MemberState::Leaving => "leaving",
        _ if !call.services.hears(id) => "down",
        MemberState::Draining => "draining",
        MemberState::Up => "up",
    };
    let (mut leaders, mut replicas, mut lag) = (0, 0, Some(0));
    for report in shards.values() {
        leaders += usize::from(report.log.leader == Some(id));
        let Some(replica) = report.log.replicas.iter().find(|replica| replica.node == id) else { continue };
        replicas += 1;
        let last = report.log.replicas.iter().filter_map(|replica| replica.matched).max();
        let behind = last.zip(replica.matched).map(|(last, matched)| last - matched);
        lag = lag.zip(behind).map(|(lag, behind)| lag + behind);
    }
    let Member { address, zone, version, .. } = known.member.clone();
    let level = call.services.speaks(id);
    MemberView { id, address, state, version, level, zone, leaders, replicas, lag }
}

/// One replica of a shard.
#[derive(Debug, Serialize, ToSchema)]
struct ReplicaView {
    node: u64,
    /// `leader`, `follower` or `learner`.
    role: &'static str,
    /// Index of the last log entry known to be on it.
    matched: Option<u64>,
}

/// One shard. Shard 0 is the meta group.
#[derive(Debug, Serialize, ToSchema)]
struct ShardView {
    id: u16,
    leader: Option<u64>,
    term: u64,
    applied: u64,
    /// Operations waiting for an append.
    queued: usize,
    replicas: Vec<ReplicaView>,
    /// Where it should be, when that was planned.
    placement: Option<PlacementView>,
    /// Entities live in memory.
    live: u64,
    feed_head: u64,
    audit_size: u64,
    /// When the earliest timer is due.
    next_timer: Option<String>,
}

/// Who should hold a shard.
#[derive(Debug, Serialize, ToSchema)]
struct PlacementView {
    voters: Vec<u64>,
    learners: Vec<u64>,
    leader: Option<u64>,
}

/// Shards, in order.
#[derive(Debug, Serialize, ToSchema)]
struct ShardList {
    items: Vec<ShardView>,
    next_cursor: Option<String>,
}

async fn list_shards(call: Call<()>) -> Result<Reply, Error> {
    let placement = view(&call).placement;
    let shards = call.services.cluster.shards().await;
    let items = shards.into_iter().map(|(id, report)| shard_view(id, report, placement.get(&id))).collect();
    Ok(Reply::ok(&ShardList { items, next_cursor: None }))
}

fn shard_view(id: ShardId, report: ShardReport, placement: Option<&Replicas>) -> ShardView {
    let leader = report.log.leader;
    let replicas = report.log.replicas.iter().map(|replica| {
        let role = match (replica.voter, leader == Some(replica.node)) {
            (_, true) => "leader",
            (true, false) => "follower",
            (false, false) => "learner",
        };
        ReplicaView { node: replica.node, role, matched: replica.matched }
    });
    let placement = placement.map(|placed| PlacementView {
        voters: placed.voters.iter().copied().collect(),
        learners: placed.learners.iter().copied().collect(),
        leader: placed.leader,
    });
    ShardView {
        id: id.0,
        leader,
        term: report.log.term,
        applied: report.log.applied,
        queued: report.log.queued,
        replicas: replicas.collect(),
        placement,
        live: report.live,
        feed_head: report.feed_head,
        audit_size: report.audit_size,
        next_timer: report.next_timer.map(|due| due.to_string()),
    }
}

/// What a join token is asked to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// How long it may be used; an hour when it is not given.
    #[schema(minimum = 1, maximum = 604_800)]
    expires_in_seconds: Option<u32>,
}

/// A join token.
#[derive(Debug, Serialize, ToSchema)]
struct TokenView {
    /// For `cluster.token` of the node that joins.
    token: String,
    /// RFC 3339.
    expires_at: String,
}

async fn create_token(call: Call<NewToken>) -> Result<Reply, Error> {
    let seconds = call.body.expires_in_seconds.unwrap_or(3600);
    if !(1..=604_800).contains(&seconds) {
        return Err(Error::invalid("/expires_in_seconds", "must be 1 to 604800"));
    }
    let Some(link) = &call.services.link else { return Err(Error::conflict("This node has no link to others.")) };
    let token = Token::new(link.authority(), link.cluster());
    let expires = call.services.clock.now().plus_millis(i64::from(seconds) * 1000);
    let command = Command::AddToken { hash: token.hash(), expires };
    call.services.router.ask::<Members>(&members::id(), command, &call.origin).await?;
    let view = TokenView { token: token.reveal().as_str().to_owned(), expires_at: expires.to_string() };
    Ok(Reply::created(&view))
}

/// Who is to lead.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Transfer {
    /// A node with a vote in the shard.
    to: u64,
}

/// How far something is that an operator asked for.
#[derive(Debug, Serialize, ToSchema)]
struct ProgressView {
    done: bool,
    /// Shards that are still to move or to change their leader.
    left: usize,
}

impl From<Progress> for ProgressView {
    fn from(Progress { done, left }: Progress) -> Self {
        Self { done, left }
    }
}

async fn transfer(call: Call<Transfer>) -> Result<Reply, Error> {
    let shard = call.param("id").parse().map(ShardId).map_err(|_| Error::not_found("shard"))?;
    let progress = call.services.cluster.transfer(shard, call.body.to, &call.origin).await?;
    Ok(Reply::ok(&ProgressView::from(progress)))
}

fn node(call: &Call<()>) -> Result<u64, Error> {
    call.param("id").parse().map_err(|_| Error::not_found("member"))
}

async fn drain(call: Call<()>) -> Result<Reply, Error> {
    let progress = call.services.cluster.drain(node(&call)?, &call.origin).await?;
    Ok(Reply::ok(&ProgressView::from(progress)))
}

async fn undrain(call: Call<()>) -> Result<Reply, Error> {
    let progress = call.services.cluster.undrain(node(&call)?, &call.origin).await?;
    Ok(Reply::ok(&ProgressView::from(progress)))
}

async fn remove(call: Call<()>) -> Result<Reply, Error> {
    let progress = call.services.cluster.remove(node(&call)?, &call.origin).await?;
    Ok(Reply::ok(&ProgressView::from(progress)))
}

async fn rebalance(call: Call<()>) -> Result<Reply, Error> {
    let progress = call.services.cluster.rebalance().await?;
    Ok(Reply::ok(&ProgressView::from(progress)))
}
