//! The shard as the model has it: three voters of which two may lead, messages that come late, twice or never, leases and
//! promises by a common clock, and two clients of one counter.
//!
//! A node that takes no step while the clock goes on is a paused one, so every pause is among the orders that are tried.
//! Elections are one event here, since openraft's own are not what is in question; that they respect promises is.

use std::collections::BTreeSet;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// How long a leader answers reads after it sent what a majority answered, and how long whoever answered votes for nobody
/// else.
pub const LEASE: u8 = 2;
/// Replicas 0 and 1 may lead, the third votes.
pub const VOTERS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub term: u8,
    /// The counter after it.
    pub value: u8,
}

/// One voter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Replica {
    pub term: u8,
    pub log: Vec<Entry>,
    /// Entries it knows to be committed, and has applied.
    pub applied: usize,
    /// For so long it neither stands for election nor votes.
    pub promised: u8,
    /// The term whose leader named it as the next one.
    pub named: Option<u8>,
    pub leads: Option<Lead>,
}

/// What a leader keeps for its term.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lead {
    /// Entries of its log with the first of its own term: applied so far, its state holds all that was acknowledged.
    pub recovered_at: usize,
    pub has: [usize; VOTERS],
    /// For so long it answers reads.
    pub lease: u8,
    pub hands_over: bool,
    /// The entity in memory, decisions that are not committed included; loaded from the state when it is first asked.
    pub memory: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// `age` is the time since it was sent, as far as it matters; of an answer, that of the question.
    Append {
        from: usize,
        to: usize,
        term: u8,
        age: u8,
        log: Vec<Entry>,
        committed: usize,
    },
    Appended {
        from: usize,
        to: usize,
        term: u8,
        age: u8,
        has: usize,
    },
}

/// A counter: adding answers what it is then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counter(pub u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Add,
    Read,
}

impl SequentialSpec for Counter {
    type Op = Op;
    type Ret = u8;

    fn invoke(&mut self, op: &Op) -> u8 {
        if *op == Op::Add {
            self.0 += 1;
        }
        self.0
    }
}

/// Where a client's request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    Idle,
    /// Decided by an actor of this term, not yet proposed.
    Decided {
        node: usize,
        term: u8,
        value: u8,
    },
    /// In the log, with so many entries.
    Proposed {
        node: usize,
        term: u8,
        length: usize,
    },
    /// Found the lease good and waits until what was decided before it is applied.
    Reading {
        node: usize,
        term: u8,
        value: u8,
    },
    /// Never answered.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shard {
    pub replicas: Vec<Replica>,
    pub messages: BTreeSet<Message>,
    pub requests: Vec<Request>,
    /// Requests that each client has begun.
    pub begun: Vec<usize>,
    pub restarts: u8,
    pub hand_overs: u8,
    pub history: LinearizabilityTester<usize, Counter>,
}

impl Shard {
    /// Replica 0 leads term 1, and everybody has its first entry.
    pub fn new(clients: usize) -> Self {
        let first = Entry { term: 1, value: 0 };
        let follower = Replica { term: 1, log: vec![first], applied: 1, promised: LEASE, ..Replica::default() };
        let mut replicas = vec![follower; VOTERS];
        let lead = Lead { recovered_at: 1, has: [1; VOTERS], lease: LEASE, hands_over: false, memory: None };
        replicas[0].leads = Some(lead);
        Self {
            replicas,
            messages: BTreeSet::new(),
            requests: vec![Request::Idle; clients],
            begun: vec![0; clients],
            restarts: 0,
            hand_overs: 0,
            history: LinearizabilityTester::new(Counter(0)),
        }
    }

    /// Time goes on, for everybody the same.
    pub fn tick(&mut self) {
        for replica in &mut self.replicas {
            replica.promised = replica.promised.saturating_sub(1);
            if let Some(lead) = &mut replica.leads {
                lead.lease = lead.lease.saturating_sub(1);
            }
        }
        let older = |mut message: Message| {
            let (Message::Append { age, .. } | Message::Appended { age, .. }) = &mut message;
            *age = LEASE.min(*age + 1);
            message
        };
        self.messages = std::mem::take(&mut self.messages).into_iter().map(older).collect();
    }

    /// Forgets messages that nobody would heed.
    pub fn tidy(&mut self) {
        let replicas = &self.replicas;
        self.messages.retain(|message| match message {
            Message::Append { to, term, .. } => replicas[*to].term <= *term,
            Message::Appended { to, term, .. } => replicas[*to].term == *term && replicas[*to].leads.is_some(),
        });
    }

    pub fn begin(&mut self, client: usize, op: Op) {
        self.begun[client] += 1;
        self.history.on_invoke(client, op).expect("one request at a time");
    }

    pub fn answer(&mut self, client: usize, value: u8) {
        self.history.on_return(client, value).expect("was asked");
        self.requests[client] = Request::Idle;
    }

    /// Takes what a leader sent. `own` log of the same term is never shorter than an older message says.
    pub fn append(&mut self, from: usize, to: usize, (term, age): (u8, u8), log: &[Entry], committed: usize) {
        let replica = &mut self.replicas[to];
        if term < replica.term {
            return;
        }
        if term > replica.term {
            replica.leads = None;
        }
        replica.term = term;
        if !replica.log.starts_with(log) {
            replica.log = log.to_vec();
        }
        replica.applied = replica.applied.max(committed.min(log.len()));
        replica.promised = LEASE;
        let has = log.len();
        self.messages.insert(Message::Appended { from: to, to: from, term, age, has });
    }

    /// Whether `voter` lets `candidate` lead the next term.
    pub fn grants(&self, voter: usize, candidate: usize) -> bool {
        let (stands, votes) = (&self.replicas[candidate], &self.replicas[voter]);
        let end = |replica: &Replica| (replica.log.last().map(|entry| entry.term), replica.log.len());
        // A vote for whom the leader itself named is not held up by the promise to that leader (ADR 93).
        let named = stands.named == Some(stands.term) && votes.term == stands.term;
        let free = |replica: &Replica| {
            let leads = replica.leads.as_ref().is_some_and(|lead| lead.lease > 0 && !lead.hands_over);
            !leads && replica.promised == 0
        };
        end(stands) >= end(votes) && (named || (free(stands) && free(votes)))
    }

    pub fn elect(&mut self, candidate: usize, voter: usize) {
        let term = self.replicas[candidate].term.max(self.replicas[voter].term) + 1;
        let votes = &mut self.replicas[voter];
        (votes.term, votes.leads, votes.promised) = (term, None, LEASE);
        let leader = &mut self.replicas[candidate];
        let value = leader.log.last().map_or(0, |entry| entry.value);
        leader.log.push(Entry { term, value });
        leader.term = term;
        leader.named = None;
        let mut has = [0; VOTERS];
        has[candidate] = leader.log.len();
        let recovered_at = leader.log.len();
        leader.leads = Some(Lead { recovered_at, has, lease: 0, hands_over: false, memory: None });
    }
}
