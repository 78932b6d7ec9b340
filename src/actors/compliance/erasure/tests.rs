use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, Effect, Entity, Error, ErrorCode, Outcome};

const USER: &str = "usr_01h455vb4pex5vsknk084sn02q";

fn told(step: Step) -> Command {
    Erasure::on_outcome(step.as_str(), Outcome::Done(Vec::new())).expect("a command")
}

fn phase(given: &Given<Erasure>) -> Phase {
    let decision = given.state.decide(Command::Get, &given.context).expect("answered");
    let Reply::Progress { phase, .. } = decision.reply;
    phase
}

fn targets(effects: &[Effect]) -> Vec<&str> {
    let kind = |effect: &'_ Effect| matches!(effect, Effect::Tell { .. });
    assert!(effects.iter().all(kind));
    let tells = effects.iter().filter_map(|effect| match effect {
        Effect::Tell { to, .. } => Some(to.kind()),
        Effect::Call { .. } => None,
    });
    tells.collect()
}

#[test]
fn an_erasure_goes_through_its_steps_in_order() {
    let mut given = Given::<Erasure>::new(USER);
    assert_eq!(phase(&given), Phase::Absent);
    let begun = given.when(Command::Begin).expect("begun");
    assert_eq!(targets(&begun.effects), ["user", "wallet", "delivery"]);
    assert_eq!(begun.audit[0].action, "erasure.begin");
    assert!(matches!(&begun.changes[..], [Change::Index { value: Some(_), .. }, Change::Index { value: Some(_), .. }]));

    assert!(given.when(Command::Settled).expect("too early").is_query());
    for step in Step::LEAVING {
        assert_eq!(phase(&given), Phase::Leaving);
        given.when(told(step)).expect("noted");
    }
    assert_eq!(phase(&given), Phase::Settling);
    assert_eq!(targets(&given.when(Command::Settled).expect("on").effects), ["user"]);
    assert_eq!(phase(&given), Phase::Closing);
    given.when(told(Step::Account)).expect("noted");
    assert_eq!(phase(&given), Phase::Destroying);
    assert_eq!(targets(&given.when(Command::Settled).expect("on").effects), ["keyring"]);
    assert!(given.when(Command::Settled).expect("a repeat").is_query());
    let done = given.when(told(Step::Key)).expect("completed");
    assert!(matches!(&done.changes[..], [Change::Index { value: None, .. }]));
    assert_eq!(phase(&given), Phase::Completed);
}

#[test]
fn repeats_change_nothing() {
    let mut given = Given::<Erasure>::new(USER);
    given.when(Command::Begin).expect("begun");
    assert!(given.when(Command::Begin).expect("answered").is_query());
    given.when(told(Step::SignOut)).expect("noted");
    assert!(given.when(told(Step::SignOut)).expect("answered").is_query());
    assert!(given.when(told(Step::Key)).expect("answered").is_query(), "nobody told the key yet");
}

#[test]
fn a_refused_step_is_audited_and_stops_nothing_but_the_key_is_asked_until_it_obeys() {
    let mut given = Given::<Erasure>::new(USER);
    given.when(Command::Begin).expect("begun");
    let refused = |step: Step| {
        let error = Error::new(ErrorCode::Conflict, "no");
        Erasure::on_outcome(step.as_str(), Outcome::Refused(error)).expect("a command")
    };
    for step in Step::LEAVING {
        let decision = given.when(refused(step)).expect("noted");
        assert_eq!(decision.audit[0].outcome, "failed");
    }
    assert_eq!(phase(&given), Phase::Settling);
    given.when(Command::Settled).expect("on");
    given.when(refused(Step::Account)).expect("noted");
    given.when(Command::Settled).expect("on");
    given.when(refused(Step::Key)).expect("noted");
    assert_eq!(phase(&given), Phase::Sealing);
    assert_eq!(targets(&given.when(Command::Settled).expect("again").effects), ["keyring"]);
    given.when(told(Step::Key)).expect("completed");
    assert_eq!(phase(&given), Phase::Completed);
    assert_eq!(given.state.subject(&erasure_id(USER)), None, "it outlives the key");
}
