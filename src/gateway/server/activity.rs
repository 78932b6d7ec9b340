//! What a connection is doing, as its deadlines need to know it.
//!
//! Requests only write down when they came and went. The watch looks at that once in a while: never later than the
//! shortest deadline that could have begun since its last look, so that none is passed unseen, and a request wakes
//! nobody and sets no timer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Bounds;

/// Shared by a connection's transport (bytes), its service (requests) and its watch (deadlines).
pub(super) struct Activity {
    state: Mutex<State>,
}

struct State {
    in_flight: usize,
    /// When the head now being read began; at first the opening of the connection.
    head_since: Option<Instant>,
    idle_since: Instant,
    /// On HTTP/2 bytes between requests are no sign of a head: pings come too.
    multiplexed: bool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State { in_flight: 0, head_since: Some(now), idle_since: now, multiplexed: false };
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

    /// A whole head came in; the request lasts until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> InFlight {
        self.with(|state| {
            state.in_flight += 1;
            state.head_since = None;
            state.multiplexed = multiplexed;
        });
        InFlight(self.clone())
    }

    /// Answers when the connection has passed one of its deadlines: `true` when nothing was being read.
    pub(super) async fn expired(&self, bounds: &Bounds) -> bool {
        let shortest = bounds.header_timeout.min(bounds.idle_timeout);
        loop {
            let deadline = self.with(|state| match (state.in_flight, state.head_since) {
                (0, Some(since)) => Some((since + bounds.header_timeout, false)),
                (0, None) => Some((state.idle_since + bounds.idle_timeout, true)),
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
pub(super) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.in_flight -= 1;
            state.idle_since = Instant::now();
        });
    }
}

/// Time given to a TLS handshake.
pub(super) fn handshake_timeout(bounds: &Bounds) -> Duration {
    bounds.header_timeout
}
