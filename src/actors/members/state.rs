//! The members' state machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Known, Member, MemberState, Replicas, View};
use crate::kernel::{Context, Decision, Entity, Error, ErrorCode, ShardId, Timestamp};

/// Members there may be, and tokens that are open, or were used by who is a member no more and have not expired.
const MAX_MEMBERS: usize = 128;
const MAX_TOKENS: usize = 256;
const MAX_TEXT: usize = 255;

/// The cluster as it should be, and who may still join.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    view: View,
    tokens: BTreeMap<[u8; 32], Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    expires: Timestamp,
    /// The node that used it, and that node's key.
    used: Option<(u64, [u8; 32])>,
}

impl Entity for Members {
    const KIND: &'static str = "members";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = View;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Get => Ok(Decision::reply(self.view.clone())),
            Command::Form { cluster, shards, member } => self.form(context, cluster, shards, member),
            Command::AddToken { hash, expires } => self.add_token(context, hash, expires),
            Command::Join { token, key, member } => self.join(context, token, key, member),
            Command::Announce(member) => self.announce(context, member),
            Command::Drain { node } => self.drain(context, node),
            Command::Remove { node } => self.remove(context, node),
            Command::Forget { node } => self.forget(context, node),
            Command::Place { shard, replicas } => self.place(shard, replicas),
            Command::Remake { cluster, member } => self.remake(context, cluster, member),
            Command::Undrain { node } => self.undrain(context, node),
        }
    }

    fn apply(&mut self, event: &Event) {
        let members = &mut self.view.members;
        let mut set_state = |node: &u64, state| {
            if let Some(known) = members.get_mut(node) {
                known.state = state;
            }
        };
        match event {
            Event::Formed { cluster, shards, member } => {
                (self.view.cluster, self.view.shards) = (*cluster, *shards);
                members.insert(member.id, Known { member: member.clone(), state: MemberState::Up });
            }
            Event::TokenAdded { hash, expires } => {
                self.tokens.insert(*hash, Token { expires: *expires, used: None });
            }
            Event::TokenForgotten { hash } => drop(self.tokens.remove(hash)),
            Event::Joined { token, key, member } => {
                // Of all tokens that a node used under this id, the last one names its key.
                self.tokens.retain(|_, token| token.used.is_none_or(|(node, _)| node != member.id));
                if let Some(token) = self.tokens.get_mut(token) {
                    token.used = Some((member.id, *key));
                }
                members.insert(member.id, Known { member: member.clone(), state: MemberState::Up });
            }
            Event::Announced { member } => {
                if let Some(known) = members.get_mut(&member.id) {
                    known.member = member.clone();
                    if known.state == MemberState::Draining {
                        known.state = MemberState::Up;
                    }
                }
            }
            Event::DrainBegan { node } => set_state(node, MemberState::Draining),
            Event::RemovalBegan { node } => set_state(node, MemberState::Leaving),
            Event::Forgotten { node } => drop(members.remove(node)),
            Event::Remade { cluster, member } => {
                let known = Known { member: member.clone(), state: MemberState::Up };
                let members = BTreeMap::from([(member.id, known)]);
                self.view = View { cluster: *cluster, shards: self.view.shards, members, placement: BTreeMap::new() };
                self.tokens.clear();
            }
            Event::Placed { shard, replicas } => drop(self.view.placement.insert(*shard, replicas.clone())),
        }
    }
}

impl Members {
    /// The cluster as it should be.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// SHA-256 of the public keys with which members joined. The first member has none: it formed the cluster.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<u64, [u8; 32]> {
        let used = self.tokens.values().filter_map(|token| token.used);
        used.filter(|(node, _)| self.view.members.contains_key(node)).collect()
    }

    /// Whether a token says with which key a member joined: it stays for as long as the member.
    fn names_a_key(&self, token: &Token) -> bool {
        token.used.is_some_and(|(node, _)| self.view.members.contains_key(&node))
    }

    /// The answer to `events`: the view after them.
    fn after(&self, events: Vec<Event>) -> Decision<Self> {
        let mut next = self.clone();
        events.iter().for_each(|event| next.apply(event));
        events.into_iter().fold(Decision::reply(next.view), Decision::event)
    }

    fn form(&self, context: &Context, cluster: [u8; 16], shards: u16, member: Member) -> Result<Decision<Self>, Error> {
        if !self.view.members.is_empty() {
            return Ok(Decision::reply(self.view.clone()));
        }
        valid(&member)?;
        let target = target(member.id);
        Ok(self.after(vec![Event::Formed { cluster, shards, member }]).audit(context, "cluster.formed", &target, "ok"))
    }

    fn add_token(&self, context: &Context, hash: [u8; 32], expires: Timestamp) -> Result<Decision<Self>, Error> {
        if expires <= context.now {
            return Err(Error::invalid("/expires_at", "lies in the past"));
        }
        let others = || self.tokens.iter().filter(|(_, token)| !self.names_a_key(token));
        let over = others().filter(|(_, token)| token.expires <= context.now);
        let mut events: Vec<Event> = over.map(|(hash, _)| Event::TokenForgotten { hash: *hash }).collect();
        if others().count() - events.len() >= MAX_TOKENS {
            return Err(Error::conflict("There are as many join tokens as there may be; wait until some expire."));
        }
        events.push(Event::TokenAdded { hash, expires });
        Ok(self.after(events).audit(context, "cluster.token_created", "cluster", "ok"))
    }

    fn join(&self, context: &Context, hash: [u8; 32], key: [u8; 32], member: Member) -> Result<Decision<Self>, Error> {
        valid(&member)?;
        let refused = |why: &str| Err(Error::forbidden(format!("The join token {why}.")));
        let Some(token) = self.tokens.get(&hash) else { return refused("is not known") };
        match token.used {
            Some(used) if used == (member.id, key) => return Ok(Decision::reply(self.view.clone())),
            Some(_) => return Err(Error::new(ErrorCode::Gone, "The join token was used.")),
            None if token.expires <= context.now => return refused("has expired"),
            None => {}
        }
        if self.view.members.contains_key(&member.id) {
            return Err(Error::conflict(format!("Node {} is a member already; choose another node.id.", member.id)));
        }
        if self.view.members.len() >= MAX_MEMBERS {
            return Err(Error::conflict("The cluster has as many members as it may have."));
        }
        let target = target(member.id);
        let event = Event::Joined { token: hash, key, member };
        Ok(self.after(vec![event]).audit(context, "cluster.joined", &target, "ok"))
    }

    fn announce(&self, context: &Context, member: Member) -> Result<Decision<Self>, Error> {
        valid(&member)?;
        let known = self.known(member.id)?;
        if known.member == member && known.state != MemberState::Draining {
            return Ok(Decision::reply(self.view.clone()));
        }
        let target = target(member.id);
        Ok(self.after(vec![Event::Announced { member }]).audit(context, "cluster.announced", &target, "ok"))
    }

    fn drain(&self, context: &Context, node: u64) -> Result<Decision<Self>, Error> {
        let known = self.known(node)?;
        self.others_up(node)?;
        if known.state != MemberState::Up {
            return Ok(Decision::reply(self.view.clone()));
        }
        Ok(self.after(vec![Event::DrainBegan { node }]).audit(context, "cluster.drained", &target(node), "ok"))
    }

    fn undrain(&self, context: &Context, node: u64) -> Result<Decision<Self>, Error> {
        let Known { member, state } = self.known(node)?;
        match state {
            MemberState::Up => Ok(Decision::reply(self.view.clone())),
            MemberState::Leaving => Err(Error::conflict("The node is leaving.")),
            MemberState::Draining => {
                let event = Event::Announced { member: member.clone() };
                Ok(self.after(vec![event]).audit(context, "cluster.undrained", &target(node), "ok"))
            }
        }
    }

    fn remove(&self, context: &Context, node: u64) -> Result<Decision<Self>, Error> {
        let known = self.known(node)?;
        self.others_up(node)?;
        if known.state == MemberState::Leaving {
            return Ok(Decision::reply(self.view.clone()));
        }
        Ok(self.after(vec![Event::RemovalBegan { node }]).audit(context, "cluster.removal_began", &target(node), "ok"))
    }

    fn forget(&self, context: &Context, node: u64) -> Result<Decision<Self>, Error> {
        if self.known(node)?.state != MemberState::Leaving {
            return Err(Error::conflict("The node is not leaving."));
        }
        let holds = |replicas: &Replicas| replicas.voters.contains(&node) || replicas.learners.contains(&node);
        if self.view.placement.values().any(holds) {
            return Err(Error::conflict("The node still holds shards."));
        }
        Ok(self.after(vec![Event::Forgotten { node }]).audit(context, "cluster.removed", &target(node), "ok"))
    }

    fn place(&self, shard: ShardId, replicas: Replicas) -> Result<Decision<Self>, Error> {
        let known = |node: &u64| self.view.members.contains_key(node);
        let voters = &replicas.voters;
        let sound = !voters.is_empty()
            && voters.iter().chain(&replicas.learners).all(known)
            && voters.is_disjoint(&replicas.learners)
            && replicas.leader.is_none_or(|leader| voters.contains(&leader));
        if !sound || shard.0 > self.view.shards {
            return Err(Error::conflict("The shard cannot be placed so."));
        }
        if self.view.placement.get(&shard) == Some(&replicas) {
            return Ok(Decision::reply(self.view.clone()));
        }
        Ok(self.after(vec![Event::Placed { shard, replicas }]))
    }

    fn remake(&self, context: &Context, cluster: [u8; 16], member: Member) -> Result<Decision<Self>, Error> {
        if self.view.cluster == cluster {
            return Ok(Decision::reply(self.view.clone()));
        }
        if self.view.members.is_empty() {
            return Err(Error::conflict("There is no cluster yet that another one could be made of."));
        }
        valid(&member)?;
        let target = target(member.id);
        Ok(self.after(vec![Event::Remade { cluster, member }]).audit(context, "cluster.remade", &target, "ok"))
    }

    fn known(&self, node: u64) -> Result<&Known, Error> {
        self.view.members.get(&node).ok_or_else(|| Error::not_found("member"))
    }

    /// Somebody else must stay.
    fn others_up(&self, node: u64) -> Result<(), Error> {
        let up = |(id, known): (&u64, &Known)| *id != node && known.state == MemberState::Up;
        if self.view.members.iter().any(up) {
            return Ok(());
        }
        Err(Error::conflict("No other member is up; there would be nobody to take over."))
    }
}

fn valid(member: &Member) -> Result<(), Error> {
    if member.id == 0 {
        return Err(Error::invalid("/id", "must not be 0"));
    }
    let port = member.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) || member.address.len() > MAX_TEXT {
        return Err(Error::invalid("/address", "must be HOST:PORT"));
    }
    if member.zone.len() > MAX_TEXT || member.version.len() > MAX_TEXT {
        return Err(Error::invalid("/zone", "is too long"));
    }
    Ok(())
}

fn target(node: u64) -> String {
    format!("node:{node}")
}
