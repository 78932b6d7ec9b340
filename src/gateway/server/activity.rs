//! What a connection is doing, as its deadlines need to know it.
//!
//! Requests only write down when they came and went. The watch looks at that once in a while: never later than the
//! shortest deadline that could have begun since its last look, so that none is passed unseen, and a request wakes
//! nobody and sets no timer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Bounds;

/// What a client takes at least within the write deadline while an answer waits for it.
const LEAST_TAKEN: usize = 1024;

/// Shared by a connection's transport (bytes), its service (requests) and its watch (deadlines).
pub(super) struct Activity {
    state: Mutex<State>,
}

struct State {
    in_flight: usize,
    /// Of those, the ones that wait for us: for the handler, or for more of an answer. The others wait for the client.
    ours: usize,
    /// When an answer, or a piece of one, was last handed over or taken.
    handed_at: Instant,
    /// Bytes taken since then.
    taken: usize,
    /// When the head now being read began; at first the opening of the connection.
    head_since: Option<Instant>,
    idle_since: Instant,
    /// On HTTP/2 bytes between requests are no sign of a head: pings come too.
    multiplexed: bool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            in_flight: 0,
            ours: 0,
            handed_at: now,
            taken: 0,
            head_since: Some(now),
            idle_since: now,
            multiplexed: false,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes came in.
    pub(super) fn read(&self) {
        self.with(|state| {
            if state.in_flight == 0 && state.head_since.is_none() && !state.multiplexed {
                state.head_since = Some(Instant::now());
            }
        });
    }

    /// The client took bytes; so few that they may be answers to pings do not count.
    pub(super) fn wrote(&self, bytes: usize) {
        self.with(|state| {
            state.taken += bytes;
            if state.taken >= LEAST_TAKEN {
                (state.handed_at, state.taken) = (Instant::now(), 0);
            }
        });
    }

    /// A whole head came in; the request lasts until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> InFlight {
        self.with(|state| {
            state.in_flight += 1;
            state.ours += 1;
            state.head_since = None;
            state.multiplexed = multiplexed;
        });
        InFlight { activity: self.clone(), ours: true }
    }

    /// Answers when the connection has passed one of its deadlines: `true` when nothing was being read. A client that
    /// takes nothing of its answers is noticed here too: one that keeps an HTTP/2 window shut blocks no write.
    pub(super) async fn expired(&self, bounds: &Bounds) -> bool {
        let shortest = bounds.header_timeout.min(bounds.idle_timeout).min(bounds.write_timeout);
        loop {
            let deadline = self.with(|state| match (state.in_flight, state.head_since) {
                (0, Some(since)) => Some((since + bounds.header_timeout, false)),
                (0, None) => Some((state.idle_since + bounds.idle_timeout, true)),
                _ if state.ours == 0 => Some((state.handed_at + bounds.write_timeout, false)),
                _ => None,
            });
            let now = Instant::now();
            let mut look = now + shortest;
            if let Some((deadline, idle)) = deadline {
                if deadline <= now {
                    return idle;
                }
                look = look.min(deadline);
            }
            tokio::time::sleep_until(look).await;
        }
    }
}

/// A request under way, until its answer's last byte was handed over.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    ours: bool,
}

impl InFlight {
    /// A piece of the answer is there for the client to take.
    pub(super) fn hand_over(&mut self) {
        if std::mem::replace(&mut self.ours, false) {
            self.activity.with(|state| {
                state.ours -= 1;
                (state.handed_at, state.taken) = (Instant::now(), 0);
            });
        }
    }

    /// The client waits for more of the answer.
    pub(super) fn take_back(&mut self) {
        if !std::mem::replace(&mut self.ours, true) {
            self.activity.with(|state| state.ours += 1);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.with(|state| {
            state.in_flight -= 1;
            state.ours -= usize::from(self.ours);
            state.idle_since = Instant::now();
        });
    }
}

/// Time given to a TLS handshake.
pub(super) fn handshake_timeout(bounds: &Bounds) -> Duration {
    bounds.header_timeout
}
