//! The runtime that the cores of the groups run on: tokio, with their ticks at common moments.
//!
//! Each group has a clock of its own that ticks for its elections and heartbeats, and openraft lets every clock begin at a
//! random moment. A node with nine groups is then woken nine times as often as it has to be, and its heartbeats, which
//! could leave in one write for each peer, leave one by one. Here a wait for a moment ends at the first multiple of
//! [`GRID`] after it, counted from the start of the process, so that what all groups have to do is done in one go.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::{AsyncRuntime, Instant};
use openraft_rt_tokio::{TokioInstant, TokioRuntime};

use crate::settings::HEARTBEAT_STEP_MS;

/// How far apart the moments are at which groups look at their clocks.
pub const GRID: Duration = Duration::from_millis(HEARTBEAT_STEP_MS);

static START: LazyLock<TokioInstant> = LazyLock::new(Instant::now);

/// Tokio, with the ends of waits for a moment on the grid; time-outs and sleeps of a length are what they are.
#[derive(Debug)]
pub struct PacedRuntime(TokioRuntime);

/// The first moment of the grid that is not before `at`.
fn on_grid(start: TokioInstant, at: TokioInstant) -> TokioInstant {
    if at <= start {
        return at;
    }
    let (since, grid) = ((at - start).as_nanos(), GRID.as_nanos());
    let missing = (grid - since % grid) % grid;
    at + Duration::from_nanos(u64::try_from(missing).unwrap_or_default())
}

impl AsyncRuntime for PacedRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: TokioInstant) -> Self::Sleep {
        TokioRuntime::sleep_until(on_grid(*START, deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: TokioInstant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end_at_common_moments_and_never_early() {
        let start: TokioInstant = Instant::now();
        let (short, long) = (Duration::from_millis(30), GRID * 7 + Duration::from_nanos(1));
        assert_eq!(on_grid(start, start + short), start + GRID);
        assert_eq!(on_grid(start, start + GRID), start + GRID);
        assert_eq!(on_grid(start, start + long), start + GRID * 8);
        assert_eq!(on_grid(start + long, start), start, "a moment before the first is not put off");
    }

    #[test]
    fn it_is_a_runtime_as_groups_need_it() {
        openraft::rt::testing::Suite::<PacedRuntime>::test_all();
    }
}
