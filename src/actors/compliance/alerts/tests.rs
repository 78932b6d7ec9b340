use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{ErrorCode, ShardId, Timestamp};

const SHARD: ShardId = ShardId(1);

struct Reporter {
    given: Given<Alerts>,
    next: u64,
}

impl Reporter {
    fn new() -> Self {
        Self { given: Given::new("security"), next: 0 }
    }

    fn see(&mut self, act: Act, target: &str, source: &str, second: i64) {
        let (from, upto) = (self.next, self.next + 1);
        let at = Timestamp::from_millis(second * 1000);
        let (actor, target, source) = ("anonymous".to_owned(), target.to_owned(), source.to_owned());
        let seen = vec![Seen { act, at, actor, target, source, shard: SHARD, index: from }];
        self.given.when(Command::Report { shard: SHARD, from, upto, seen }).expect("reported");
        self.next = upto;
    }

    fn alerts(&mut self) -> Vec<(Detection, String, u64)> {
        let Reply::Alerts(alerts) = self.given.when(Command::List).expect("listed").reply else { panic!("alerts") };
        alerts.into_iter().map(|alert| (alert.detection, alert.subject, alert.acts)).collect()
    }
}

#[test]
fn one_source_trying_many_accounts_is_credential_stuffing_and_one_alert() {
    let mut reporter = Reporter::new();
    for attempt in 0..9 {
        reporter.see(Act::SignInFailed, &format!("usr_{attempt}"), "src", attempt);
    }
    assert_eq!(reporter.alerts(), []);
    for attempt in 9..12 {
        reporter.see(Act::SignInFailed, &format!("usr_{attempt}"), "src", attempt);
    }
    assert_eq!(reporter.alerts(), [(Detection::CredentialStuffing, "src".to_owned(), 3)]);
}

#[test]
fn slow_attempts_of_many_sources_are_nothing_and_many_at_one_account_are_guessing() {
    let mut reporter = Reporter::new();
    for attempt in 0..30 {
        reporter.see(Act::SignInFailed, &format!("usr_{attempt}"), "src", attempt * 120);
    }
    assert_eq!(reporter.alerts(), []);
    for attempt in 0..10 {
        reporter.see(Act::SignInFailed, "usr_a", &format!("src_{attempt}"), 10_000 + attempt);
    }
    assert_eq!(reporter.alerts(), [(Detection::PasswordGuessing, "usr_a".to_owned(), 1)]);
}

#[test]
fn reuse_privileges_and_codes_are_detected_and_acknowledged_once() {
    let mut reporter = Reporter::new();
    reporter.see(Act::RefreshTokenReused, "ses_a", "src", 1);
    reporter.see(Act::PrivilegeChanged, "usr_a", "src", 2);
    for second in 3..8 {
        reporter.see(Act::SecondFactorFailed, "usr_a", "src", second);
    }
    let found: Vec<Detection> = reporter.alerts().into_iter().map(|(detection, ..)| detection).collect();
    let expected = [Detection::SecondFactorGuessing, Detection::PrivilegeChange, Detection::RefreshTokenReuse];
    assert_eq!(found, expected);

    let Reply::Alerts(alerts) = reporter.given.when(Command::List).expect("listed").reply else { panic!("alerts") };
    let id = alerts[2].id.clone();
    let decision = reporter.given.when(Command::Acknowledge { id: id.clone() }).expect("acknowledged");
    assert_eq!(decision.audit[0].action, "alert.acknowledge");
    assert!(reporter.given.when(Command::Acknowledge { id }).expect("answered").is_query());
    let unknown = reporter.given.when(Command::Acknowledge { id: "alt_x".to_owned() });
    assert_eq!(unknown.err().map(|error| error.code), Some(ErrorCode::NotFound));
    reporter.see(Act::RefreshTokenReused, "ses_a", "src", 9);
    assert_eq!(reporter.alerts().len(), 4, "what comes after an acknowledgement is news");
}

#[test]
fn an_act_is_reported_once() {
    let mut reporter = Reporter::new();
    reporter.see(Act::RefreshTokenReused, "ses_a", "src", 1);
    let again = Command::Report { shard: SHARD, from: 0, upto: 1, seen: Vec::new() };
    assert_eq!(reporter.given.when(again).err().map(|error| error.code), Some(ErrorCode::Conflict));
    let offsets = reporter.given.when(Command::GetOffsets).expect("answered").reply;
    assert_eq!(offsets, Reply::Offsets(vec![(SHARD, 1)]));
}

#[test]
fn acts_are_known_by_what_the_audit_log_calls_them() {
    assert_eq!(Act::of("user.sign_in", "denied"), Some(Act::SignInFailed));
    assert_eq!(Act::of("user.sign_in", "failed"), Some(Act::SignInFailed));
    assert_eq!(Act::of("user.sign_in", "ok"), None);
    assert_eq!(Act::of("session.refresh_token_reused", "denied"), Some(Act::RefreshTokenReused));
    assert_eq!(Act::of("role.changed", "ok"), Some(Act::PrivilegeChanged));
}
