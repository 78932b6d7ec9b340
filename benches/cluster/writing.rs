//! People who write all the time, whose longest wait for an answer is looked for.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::nodes::SETTLES_WITHIN;
use super::support::client::try_call;
use super::support::node::{Node, Person, until};

/// People who write, enough that every shard has some.
const WRITERS: usize = 24;
/// Pause of a writer between two writes: what is looked for is the gap, not the load.
const PAUSE: Duration = Duration::from_millis(20);

/// All of them.
pub struct Writing {
    alive: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    writers: Vec<Writer>,
}

impl Writing {
    /// Signs them up at the first node, where their mails arrive.
    pub fn start(nodes: &[Node]) -> Self {
        let (alive, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let mut writing = Self { alive, stop, writers: Vec::new() };
        let people = nodes[0].people(WRITERS);
        *writing.alive.lock().unwrap_or_else(PoisonError::into_inner) = addresses(nodes);
        let start = |person| Writer::start(person, &writing.alive, &writing.stop);
        let writers: Vec<Writer> = people.into_iter().map(start).collect();
        writing.writers = writers;
        writing
    }

    /// From now on these nodes are asked and no other; returns when everybody does so.
    pub fn ask<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = addresses(nodes);
        self.written_since(Instant::now());
    }

    /// Waits until everybody was answered after this.
    pub fn written_since(&self, since: Instant) {
        for writer in &self.writers {
            writer.written_since(since);
        }
    }

    /// For each the longest time between two answers of which the second came after `since`; forgets the earlier ones.
    pub fn longest(&self, since: Instant) -> Vec<Duration> {
        self.writers.iter().map(|writer| writer.longest(since)).collect()
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.thread.join().expect("no panic");
        }
    }
}

fn addresses<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<SocketAddr> {
    nodes.into_iter().map(|node| node.gateway).collect()
}

/// Somebody who changes their name again and again.
struct Writer {
    thread: JoinHandle<()>,
    answered: Arc<Mutex<Vec<Instant>>>,
}

impl Writer {
    fn start(person: Person, alive: &Arc<Mutex<Vec<SocketAddr>>>, stop: &Arc<AtomicBool>) -> Self {
        let (alive, stop, answered) = (Arc::clone(alive), Arc::clone(stop), Arc::new(Mutex::new(Vec::new())));
        let written = Arc::clone(&answered);
        let thread = thread::spawn(move || {
            let mut number = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                let addresses = alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let body = json!({ "display_name": format!("Busy {number}") });
                let at = addresses[number % addresses.len()];
                let answer = try_call(at, "PATCH", "/v1/me", Some(&person.token), Some(&body));
                match answer {
                    Ok((200, _)) => written.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()),
                    Ok((401, answer)) => panic!("the session of {} ended: {answer}", person.id),
                    _ => {}
                }
                number += 1;
                thread::park_timeout(PAUSE);
            }
        });
        Self { thread, answered }
    }

    /// Waits for an answer later than this.
    fn written_since(&self, since: Instant) {
        until(Instant::now() + SETTLES_WITHIN, "a write is answered", || {
            let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.last().is_some_and(|at| *at > since).then_some(())
        });
    }

    /// The longest time between two answers, of which the second came after `since`; forgets the earlier ones.
    fn longest(&self, since: Instant) -> Duration {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = answered.windows(2).filter(|pair| pair[1] > since).map(|pair| pair[1] - pair[0]);
        let longest = gaps.max().unwrap_or_default();
        let last = answered.len().saturating_sub(1);
        answered.drain(..last);
        longest
    }
}
