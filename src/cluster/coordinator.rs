//! Keeps the cluster as its members entity says: whoever leads the meta shard plans, whoever leads a shard carries out.
//!
//! Every node follows the entity on its own copy of the meta shard. On the leader of the meta shard, [`Coordinator::plan`]
//! writes one move at a time into it and waits until the shard's group has arrived there ([`planner`](super::planner)
//! says what is next). On the leader of a shard, [`Coordinator::hold`] takes its group there step by step. Nothing else
//! is kept, so a crash of either costs a repeat.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::planner::{Plan, Task};
use super::raft::membership::{Step, step};
use super::raft::{Groups, ShardGroup, naming};
use crate::actors::members::level::{self, Level};
use crate::actors::members::{self, Command, Member, Members, View};
use crate::actors::runtime::Router;
use crate::actors::runtime::follow::Follower;
use crate::actors::runtime::log::ShardLog;
use crate::kernel::{Error, Origin, ShardId};

/// How often leaders compare what is with what should be.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a node reads the members though it heard nothing of a change.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a leader leads before it hands over to the one that should: who is about to stop, or just came back, is not
/// asked at once. Also the pause before a hand-over is asked for again.
const STEADY: Duration = Duration::from_secs(3);
/// Shards that are asked how they stand at a time: one without a leader answers late.
const REPORTS: usize = 16;

/// The cluster's view on this node, and what keeps it true.
pub struct Coordinator {
    router: Router,
    view: watch::Sender<View>,
    /// Of members that joined: SHA-256 of their public keys. Changes before the view does.
    keys: watch::Sender<BTreeMap<u64, [u8; 32]>>,
    level: watch::Sender<u16>,
}

impl Coordinator {
    #[must_use]
    pub fn new(router: Router) -> Self {
        let (view, keys) = (watch::Sender::default(), watch::Sender::default());
        Self { router, view, keys, level: watch::Sender::default() }
    }

    /// The members as this node knows them; behind by as much as its copy of the meta shard is.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The keys with which members joined; at least as new as any view that was seen before.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<u64, [u8; 32]> {
        self.keys.borrow().clone()
    }

    /// The feature level of the cluster as this node knows it (ADR 118).
    #[must_use]
    pub fn level(&self) -> u16 {
        *self.level.borrow()
    }

    /// All members speak this version of the wire.
    pub(super) async fn raise(&self, to: u16) -> Result<u16, Error> {
        let raise = level::Command::Raise { to };
        let raised = self.router.ask::<Level>(&level::id(), raise, &Origin::system("coordinator")).await?;
        self.level.send_modify(|level| *level = raised.max(*level));
        Ok(raised)
    }

    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Makes this node known: forms the cluster as its first member, or says where a member is now.
    ///
    /// # Errors
    /// `not_found` when this node is not a member; `unavailable` without a leader.
    pub async fn announce(&self, cluster: [u8; 16], shards: u16, member: Member, founder: bool) -> Result<(), Error> {
        let view = match founder {
            true => self.ask(Command::Form { cluster, shards, member: member.clone() }).await?,
            false => self.ask(Command::Get).await?,
        };
        if view.cluster != cluster {
            return Err(Error::conflict("This node's data directory belongs to another cluster."));
        }
        self.ask(Command::Announce(member)).await.map(|_| ())
    }

    /// Begins a new cluster with the state of another: this node is its only member.
    ///
    /// # Errors
    /// `unavailable` without a leader.
    pub async fn remake(&self, cluster: [u8; 16], member: Member) -> Result<(), Error> {
        self.ask(Command::Remake { cluster, member }).await.map(|_| ())
    }

    /// Whether this node's view is as new as that of the leader.
    pub async fn is_current(&self) -> bool {
        self.ask(Command::Get).await.is_ok_and(|view| view == *self.view.borrow())
    }

    pub(super) async fn ask(&self, command: Command) -> Result<View, Error> {
        self.router.ask::<Members>(&members::id(), command, &Origin::system("coordinator")).await
    }

    /// Follows, plans and carries out until `stopping`.
    pub async fn run(self: Arc<Self>, groups: Arc<Groups>, stopping: CancellationToken) {
        let all = async { tokio::join!(self.follow(), self.plan(), self.hold(&groups), self.collect(&groups)) };
        stopping.run_until_cancelled(Box::pin(all)).await;
    }

    /// Keeps the view current.
    async fn follow(&self) {
        let Some(replica) = self.router.replica(ShardId::META) else { return };
        let mut follower = Follower::new(Arc::clone(replica));
        let mut seen = 0;
        loop {
            if let Ok(Some((sequence, entity))) = replica.peek::<Members>(&members::id())
                && sequence != seen
            {
                seen = sequence;
                self.keys.send_replace(entity.keys());
                self.view.send_if_modified(|view| {
                    let changed = *view != *entity.view();
                    view.clone_from(entity.view());
                    changed
                });
            }
            if let Ok(Some((_, level))) = replica.peek::<Level>(&level::id()) {
                self.level.send_replace(level.reached);
            }
            if !follower.hears_of(&members::id(), REFRESH).await {
                return;
            }
        }
    }

    /// While this node leads the meta shard: one move at a time.
    async fn plan(&self) {
        let mut plan = Plan::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.router.replica(ShardId::META).and_then(|meta| meta.shard()).is_none() {
                plan = Plan::default();
                continue;
            }
            if let Err(error) = self.plan_once(&mut plan).await {
                tracing::debug!(%error, "planning is put off");
            }
        }
    }

    async fn plan_once(&self, plan: &mut Plan) -> Result<(), Error> {
        if plan.is_settled(&self.view.borrow()) {
            return Ok(());
        }
        let view = self.ask(Command::Get).await?;
        let asked = plan.unsure(&view).into_iter().map(|shard| async move { (shard, self.router.report(shard).await) });
        let mut heard = futures::stream::iter(asked).buffer_unordered(REPORTS);
        while let Some((shard, report)) = heard.next().await {
            if let Ok(report) = report {
                plan.heard(&view, shard, &report.log);
            }
        }
        match plan.next(view) {
            Task::Tell(command) => {
                tracing::info!(?command, "the cluster changes");
                self.ask(command).await.map(|_| ())
            }
            Task::Wait | Task::Rest => Ok(()),
        }
    }

    /// While this node leads shards: takes their groups where they should be.
    async fn hold(&self, groups: &Groups) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The term in which this node leads a shard, and since when or since which hand-over that came to nothing.
        let mut leads: BTreeMap<ShardId, (u64, Instant)> = BTreeMap::new();
        let mut view = self.view.subscribe();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = view.changed() => if changed.is_err() { return },
            }
            let known = view.borrow_and_update().clone();
            let keys = self.keys();
            let mut due = Vec::new();
            for group in groups.shards() {
                let Some(term) = group.leadership().borrow().leading else { continue };
                let (led, since) = leads.entry(group.shard()).or_insert((term, Instant::now()));
                if *led != term {
                    (*led, *since) = (term, Instant::now());
                }
                let Some(step) = next_step(group, &known, &keys) else { continue };
                if let Step::HandOver(_) = step {
                    if since.elapsed() < STEADY {
                        continue;
                    }
                    *since = Instant::now();
                }
                due.push((group, step));
            }
            if due.is_empty() {
                continue;
            }
            // What this node knows may be old, and a step to where a shard was would undo one to where it is.
            let Ok(now) = self.ask(Command::Get).await else { continue };
            due.retain(|(group, step)| next_step(group, &now, &keys).as_ref() == Some(step));
            futures::future::join_all(due.into_iter().map(|(group, step)| take(group, step, &now, &keys))).await;
        }
    }
}

type Keys = BTreeMap<u64, [u8; 32]>;

fn next_step(group: &ShardGroup, view: &View, keys: &Keys) -> Option<Step> {
    let wanted = view.placement.get(&group.shard())?;
    // Who is a member again under an id has another key, which this node may not have heard of yet; it is named anew then.
    step(&group.standing(keys)?, wanted)
}

async fn take(group: &ShardGroup, step: Step, view: &View, keys: &Keys) {
    tracing::info!(shard = %group.shard(), ?step, "a step of a shard's group");
    let member = match &step {
        Step::AddLearner(node) | Step::Name(node) => {
            view.members.get(node).map(|known| naming::named(&known.member.address, keys.get(node)))
        }
        _ => None,
    };
    if let Err(error) = group.take(&step, &member.unwrap_or_default()).await {
        tracing::warn!(%error, "a step of a shard's group is put off");
    }
}
