//! How a shard changes hands, in every order of events within bounds: that the counter of two clients is linearizable
//! across pauses, lost and late messages, elections, hand-overs and restarts (ADRs 90 and 93). Each rule that the proof
//! rests on is also left out once, and the counter-example must be found.

mod shard;

use stateright::semantics::ConsistencyTester;
use stateright::{Checker, Model, Property};

pub use shard::Op;
use shard::{LEASE, Lead, Message, Request, Shard, VOTERS};

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// A replica that has just started votes at once.
    ForgetsPromises,
    /// What was decided in one term is proposed in another.
    ProposesInAnyTerm,
    /// Reads are answered from memory whoever leads by now.
    ReadsWithoutLease,
    /// The lease counts from the answer, not from the question.
    LeaseFromTheAnswer,
    /// A leader that named another goes on answering reads.
    ReadsWhileHandingOver,
    /// A new leader serves before its state holds what was acknowledged before it.
    ServesUnrecovered,
}

const LINEARIZABLE: &str = "linearizable";
const MOVED: &str = "the second node has led and answered";

/// What is tried, and its bounds.
pub struct HandOff {
    pub flaw: Flaw,
    /// What each client asks.
    pub requests: [Op; 2],
    pub terms: u8,
    pub restarts: u8,
    pub hand_overs: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Tick,
    Restart(usize),
    Elect { candidate: usize, voter: usize },
    HandOver { from: usize, to: usize },
    Send { from: usize, to: usize },
    Deliver(Message),
    Begin { client: usize, node: usize },
    Propose { client: usize },
}

impl HandOff {
    /// The lead under which `node` may take a request.
    fn serves<'a>(&self, state: &'a Shard, node: usize, op: Op) -> Option<&'a Lead> {
        let replica = &state.replicas[node];
        let lead = replica.leads.as_ref()?;
        let recovered = replica.applied >= lead.recovered_at || self.flaw == Flaw::ServesUnrecovered;
        let current = op == Op::Add
            || self.flaw == Flaw::ReadsWithoutLease
            || (lead.lease > 0 && (!lead.hands_over || self.flaw == Flaw::ReadsWhileHandingOver));
        (recovered && current).then_some(lead)
    }

    fn begin(&self, state: &mut Shard, client: usize, node: usize) {
        let op = self.requests[client];
        state.begin(client, op);
        let replica = &mut state.replicas[node];
        let applied = replica.log[..replica.applied].last().map_or(0, |entry| entry.value);
        let (term, Some(lead)) = (replica.term, &mut replica.leads) else { return };
        let memory = lead.memory.get_or_insert(applied);
        if op == Op::Add {
            *memory += 1;
        }
        let value = *memory;
        state.requests[client] = match op {
            Op::Add => Request::Decided { node, term, value },
            Op::Read => Request::Reading { node, term, value },
        };
    }

    /// Whether what was decided is next in its queue.
    fn next(state: &Shard, node: usize, value: u8) -> bool {
        let before = |request: &Request| matches!(request, Request::Decided { node: other, value: earlier, .. } if *other == node && *earlier < value);
        !state.requests.iter().any(before)
    }

    fn propose(&self, state: &mut Shard, client: usize) {
        let Request::Decided { node, term, value } = state.requests[client] else { return };
        let replica = &mut state.replicas[node];
        let Some(lead) =
            replica.leads.as_mut().filter(|_| replica.term == term || self.flaw == Flaw::ProposesInAnyTerm)
        else {
            state.requests[client] = Request::Lost;
            return;
        };
        replica.log.push(shard::Entry { term: replica.term, value });
        lead.has[node] = replica.log.len();
        state.requests[client] = Request::Proposed { node, term: replica.term, length: replica.log.len() };
    }

    /// What a request may be answered with by now.
    fn outcome(state: &Shard, client: usize) -> Option<u8> {
        match state.requests[client] {
            Request::Proposed { node, term, length } => {
                let replica = &state.replicas[node];
                let done = replica.term == term && replica.leads.is_some() && replica.applied >= length;
                done.then(|| replica.log[length - 1].value)
            }
            Request::Reading { node, term, value } => {
                let replica = &state.replicas[node];
                let applied = replica.log[..replica.applied].last().map_or(0, |entry| entry.value);
                (replica.term == term && replica.leads.is_some() && applied >= value).then_some(value)
            }
            Request::Idle | Request::Decided { .. } | Request::Lost => None,
        }
    }

    fn deliver(&self, state: &mut Shard, message: &Message) {
        match message {
            Message::Append { from, to, term, age, log, committed } => {
                state.append(*from, *to, (*term, *age), log, *committed);
            }
            Message::Appended { from, to, term, age, has } => {
                let replica = &mut state.replicas[*to];
                let Some(lead) = replica.leads.as_mut().filter(|_| replica.term == *term) else { return };
                lead.has[*from] = lead.has[*from].max(*has);
                let age = if self.flaw == Flaw::LeaseFromTheAnswer { 0 } else { *age };
                lead.lease = lead.lease.max(LEASE - age);
                let mut has = lead.has;
                has.sort_unstable();
                let committed = has[VOTERS / 2];
                if committed > replica.applied && replica.log[committed - 1].term == *term {
                    replica.applied = committed;
                }
            }
        }
    }

    fn restart(&self, state: &mut Shard, node: usize) {
        state.restarts += 1;
        let silent = if self.flaw == Flaw::ForgetsPromises { 0 } else { LEASE };
        let replica = &mut state.replicas[node];
        (replica.leads, replica.named, replica.promised) = (None, None, silent);
        for request in &mut state.requests {
            let (Request::Decided { node: of, .. }
            | Request::Proposed { node: of, .. }
            | Request::Reading { node: of, .. }) = *request
            else {
                continue;
            };
            if of == node {
                *request = Request::Lost;
            }
        }
    }
}

impl Model for HandOff {
    type State = Shard;
    type Action = Action;

    fn init_states(&self) -> Vec<Shard> {
        vec![Shard::new(self.requests.len())]
    }

    fn actions(&self, state: &Shard, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        if state.restarts < self.restarts {
            actions.extend((0..VOTERS).map(Action::Restart));
        }
        for node in [0, 1] {
            let replica = &state.replicas[node];
            let others = (0..VOTERS).filter(|other| *other != node);
            if let Some(lead) = &replica.leads {
                let flies = |to: usize| {
                    let same = |message: &Message| matches!(message, Message::Append { from, to: other, .. } | Message::Appended { from: other, to: from, .. } if *from == node && *other == to);
                    state.messages.iter().any(same)
                };
                actions.extend(others.filter(|to| !flies(*to)).map(|to| Action::Send { from: node, to }));
                if state.hand_overs < self.hand_overs && !lead.hands_over {
                    actions.push(Action::HandOver { from: node, to: 1 - node });
                }
            } else {
                let able = |voter: &usize| {
                    let term = replica.term.max(state.replicas[*voter].term) + 1;
                    term <= self.terms && state.grants(*voter, node)
                };
                actions.extend(others.filter(able).map(|voter| Action::Elect { candidate: node, voter }));
            }
        }
        actions.extend(state.messages.iter().cloned().map(Action::Deliver));
        for (client, request) in state.requests.iter().enumerate() {
            match request {
                Request::Idle if state.begun[client] == 0 => {
                    let op = self.requests[client];
                    let serving = [0, 1].into_iter().filter(|node| self.serves(state, *node, op).is_some());
                    actions.extend(serving.map(|node| Action::Begin { client, node }));
                }
                Request::Decided { node, value, .. } if Self::next(state, *node, *value) => {
                    actions.push(Action::Propose { client });
                }
                _ => {}
            }
        }
    }

    fn next_state(&self, last: &Shard, action: Action) -> Option<Shard> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.tick(),
            Action::Restart(node) => self.restart(&mut state, node),
            Action::Elect { candidate, voter } => state.elect(candidate, voter),
            Action::HandOver { from, to } => {
                state.hand_overs += 1;
                state.replicas[from].leads.as_mut()?.hands_over = true;
                let term = state.replicas[from].term;
                if state.replicas[to].term == term {
                    state.replicas[to].named = Some(term);
                }
            }
            Action::Send { from, to } => {
                let replica = &state.replicas[from];
                let (term, committed) = (replica.term, replica.applied);
                state.messages.insert(Message::Append { from, to, term, age: 0, log: replica.log.clone(), committed });
            }
            Action::Deliver(message) => {
                state.messages.remove(&message);
                self.deliver(&mut state, &message);
            }
            Action::Begin { client, node } => self.begin(&mut state, client, node),
            Action::Propose { client } => self.propose(&mut state, client),
        }
        state.tidy();
        // At once: an answer that comes later can be explained in more ways, not in fewer.
        for client in 0..self.requests.len() {
            if let Some(value) = Self::outcome(&state, client) {
                state.answer(client, value);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LINEARIZABLE, |_, state: &Shard| state.history.is_consistent()),
            Property::sometimes(MOVED, |_, state: &Shard| {
                let led = state.replicas[1].log.iter().any(|entry| entry.term > 1);
                led && state.requests.iter().all(|request| *request == Request::Idle)
                    && state.begun.iter().all(|begun| *begun == 1)
            }),
        ]
    }
}

/// The events that lead to an answer that no order explains, if there are any; that something happened is checked, too.
///
/// # Panics
/// When no hand-off was among what was tried.
#[must_use]
pub fn counter_example(model: HandOff) -> Option<Vec<Action>> {
    let what = format!("{:?} {:?}", model.flaw, model.requests);
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{what}: {} states", checker.unique_state_count());
    assert!(checker.discovery(MOVED).is_some(), "{what}: no hand-off was tried");
    checker.discovery(LINEARIZABLE).map(stateright::Path::into_actions)
}
