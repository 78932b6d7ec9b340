//! What a connection is doing, as its deadlines need to know it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Bounds;

/// Shared by a connection's transport (bytes), its service (requests) and its watch (deadlines).
pub(super) struct Activity {
    state: Mutex<State>,
    changed: Notify,
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
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes came in.
    pub(super) fn read(&self) {
        let begins = self.with(|state| {
            let begins = state.in_flight == 0 && state.head_since.is_none() && !state.multiplexed;
            if begins {
                state.head_since = Some(Instant::now());
            }
            begins
        });
        if begins {
            self.changed.notify_one();
        }
    }

    /// A whole head came in; the request lasts until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> InFlight {
        self.with(|state| {
            state.in_flight += 1;
            state.head_since = None;
            state.multiplexed = multiplexed;
        });
        self.changed.notify_one();
        InFlight(self.clone())
    }

    /// Answers when the connection has passed one of its deadlines: `true` when nothing was being read.
    pub(super) async fn expired(&self, bounds: &Bounds) -> bool {
        loop {
            let next = self.with(|state| match (state.in_flight, state.head_since) {
                (0, Some(since)) => Some((since + bounds.header_timeout, false)),
                (0, None) => Some((state.idle_since + bounds.idle_timeout, true)),
                _ => None,
            });
            let Some((deadline, idle)) = next else {
                self.changed.notified().await;
                continue;
            };
            if deadline <= Instant::now() {
                return idle;
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = self.changed.notified() => {}
            }
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
        self.0.changed.notify_one();
    }
}

/// Time given to a TLS handshake.
pub(super) fn handshake_timeout(bounds: &Bounds) -> Duration {
    bounds.header_timeout
}
