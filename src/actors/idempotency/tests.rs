//! The life of a request under a key.

use super::{Command, Executor, Idempotency, Reply};
use crate::actors::runtime::testing::Given;
use crate::kernel::{Decision, Error, ErrorCode, Timestamp};

fn executor(node: u64, boot: u8, request_id: &str) -> Executor {
    Executor { node, boot: [boot; 16], request_id: request_id.to_owned() }
}

fn start(fingerprint: u8, executor: Executor, at: i64) -> Command {
    let at = Timestamp::from_millis(at);
    Command::Start { fingerprint: [fingerprint; 32], user_id: Some("usr_1".into()), executor, at, deadline_ms: 1000 }
}

fn reply(outcome: Result<Decision<Idempotency>, Error>) -> Result<Reply, ErrorCode> {
    outcome.map(|decision| decision.reply).map_err(|error| error.code)
}

#[test]
fn the_first_answer_is_repeated() {
    let mut given = Given::<Idempotency>::new("k");
    let one = executor(1, 1, "a");
    let started = given.when(start(7, one.clone(), 0)).expect("started");
    assert_eq!((started.reply, started.changes.len()), (Reply::Proceed, 1));
    assert_eq!(reply(given.when(start(7, executor(1, 1, "b"), 10))), Err(ErrorCode::IdempotencyInProgress));
    assert_eq!(reply(given.when(start(8, executor(1, 1, "b"), 10))), Err(ErrorCode::IdempotencyMismatch));
    let complete = Command::Complete { executor: one, answer: b"first".to_vec() };
    assert_eq!(reply(given.when(complete.clone())), Ok(Reply::Noted));
    assert!(given.when(complete).expect("ignored").is_query());
    assert_eq!(reply(given.when(start(7, executor(2, 9, "c"), 20))), Ok(Reply::Answered(b"first".to_vec())));
    assert_eq!(reply(given.when(start(8, executor(2, 9, "c"), 20))), Err(ErrorCode::IdempotencyMismatch));
    assert!(given.when(Command::Expire).expect("expired").purge);
    assert_eq!(reply(given.when(start(8, executor(2, 9, "d"), 30))), Ok(Reply::Proceed));
}

#[test]
fn a_request_whose_executor_is_gone_is_taken_over() {
    for (taker, at) in [(executor(1, 2, "after restart"), 10), (executor(2, 1, "after the deadline"), 1000)] {
        let mut given = Given::<Idempotency>::new("k");
        let first = executor(1, 1, "first");
        assert_eq!(reply(given.when(start(7, first.clone(), 0))), Ok(Reply::Proceed));
        assert_eq!(
            reply(given.when(start(7, executor(2, 1, "too early"), 999))),
            Err(ErrorCode::IdempotencyInProgress)
        );
        assert_eq!(reply(given.when(start(7, taker.clone(), at))), Ok(Reply::Proceed), "{taker:?}");
        let late = Command::Complete { executor: first, answer: b"late".to_vec() };
        assert!(given.when(late).expect("ignored").is_query());
        let answer = Command::Complete { executor: taker, answer: b"taken".to_vec() };
        assert_eq!(reply(given.when(answer)), Ok(Reply::Noted));
        let again = given.when(start(7, executor(3, 3, "again"), 2000));
        assert_eq!(reply(again), Ok(Reply::Answered(b"taken".to_vec())));
    }
}

#[test]
fn a_node_whose_clock_was_ahead_holds_nothing_up() {
    const HOURS: i64 = 2 * 3_600_000;
    let mut given = Given::<Idempotency>::new("k");
    assert_eq!(reply(given.when(start(7, executor(1, 1, "ahead"), HOURS))), Ok(Reply::Proceed));
    assert_eq!(reply(given.when(start(7, executor(2, 1, "right"), 10))), Ok(Reply::Proceed));
    // Clocks of nodes are never quite the same.
    let mut given = Given::<Idempotency>::new("k");
    assert_eq!(reply(given.when(start(7, executor(1, 1, "a little ahead"), 60_000))), Ok(Reply::Proceed));
    assert_eq!(reply(given.when(start(7, executor(2, 1, "right"), 0))), Err(ErrorCode::IdempotencyInProgress));
}

#[test]
fn an_abandoned_request_may_be_tried_again() {
    let mut given = Given::<Idempotency>::new("k");
    let one = executor(1, 1, "a");
    assert_eq!(reply(given.when(start(7, one.clone(), 0))), Ok(Reply::Proceed));
    let stranger = Command::Abandon { executor: executor(1, 1, "b") };
    assert!(given.when(stranger).expect("ignored").is_query());
    assert_eq!(reply(given.when(Command::Abandon { executor: one })), Ok(Reply::Noted));
    assert_eq!(reply(given.when(start(7, executor(1, 1, "c"), 1))), Ok(Reply::Proceed));
}
