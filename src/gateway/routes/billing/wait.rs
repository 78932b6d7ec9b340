//! Waiting for work that the outbox does after the command was answered: looks again after growing pauses, for a
//! bounded time. What is not done by then is answered as it is.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::kernel::{Error, Origin};

const LONGEST_WAIT: Duration = Duration::from_secs(8);
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What a look saw.
pub enum Seen<T> {
    Done(T),
    /// Not yet; this is how it is now.
    NotYet(T),
}

/// Looks until done or until the wait is over.
///
/// # Errors
/// What the look answers.
pub async fn until<T, F, Fut>(mut look: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Seen<T>, Error>>,
{
    let deadline = Instant::now() + LONGEST_WAIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match look().await? {
            Seen::Done(value) => return Ok(value),
            Seen::NotYet(value) if Instant::now() + pause >= deadline => return Ok(value),
            Seen::NotYet(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The same caller, without the request's idempotency scope: for reads.
pub fn reading(origin: &Origin) -> Origin {
    Origin { idempotency: None, ..origin.clone() }
}
