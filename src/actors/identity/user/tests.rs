use super::*;
use crate::actors::identity::email_claim::{self, EmailClaim};
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::{self, Client, Ended, Session};
use crate::actors::identity::totp::TotpSecret;
use crate::actors::notifications::delivery;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Decision, Effect, Entity, Error, ErrorCode, Outcome, Secret, codec};

const USER: &str = "usr_01h455vb4pex5vsknk084sn02q";

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn sign_up(token: &str, password: &str) -> Command {
    Command::SignUp(Box::new(SignUp {
        email: "ada@example.org".to_owned(),
        claim: "aa".to_owned(),
        password: secret(password),
        role: "robot_builder".to_owned(),
        display_name: Some("Ada".to_owned()),
        locale: "en".to_owned(),
        time_zone: "Europe/London".to_owned(),
        token: secret(token),
        token_seconds: 86_400,
    }))
}

fn client(user_agent: &str) -> Client {
    Client { user_agent: user_agent.to_owned(), source: "s".to_owned() }
}

fn verify(token: &str) -> Command {
    Command::Verify { token: TokenHash::of(token), client: client("browser") }
}

fn password(matches: bool, version: u64) -> Command {
    Command::SignIn(SignIn {
        password_matches: matches,
        credential_version: version,
        challenge: TokenHash::of("challenge"),
        challenge_seconds: 300,
        client: client("browser"),
    })
}

fn answer(factor: SecondFactor, code: &str) -> Command {
    let challenge = TokenHash::of("challenge");
    Command::AnswerChallenge { challenge, factor, code: code.to_owned(), client: client("browser") }
}

fn active() -> Given<User> {
    let mut given = Given::new(USER);
    given.when(sign_up("t1", "phc-1")).expect("signed up");
    given.when(verify("t1")).expect("verified");
    given
}

/// An active user with an authenticator, confirmed now; its secret and recovery codes.
fn with_totp(given: &mut Given<User>) -> (TotpSecret, Vec<String>) {
    let Reply::TotpSecret(secret) = given.when(Command::BeginTotp).expect("begun").reply else { panic!("a secret") };
    let code = code_of(&secret, given);
    let confirmed = given.when(Command::ConfirmTotp { code }).expect("confirmed");
    assert_eq!(mails(&confirmed), [("mfa_enabled".to_owned(), None)]);
    let Reply::RecoveryCodes(codes) = confirmed.reply else { panic!("codes") };
    (secret, codes)
}

/// Finds the code of now by trying: what an authenticator computes is not this crate's business.
fn code_of(secret: &TotpSecret, given: &Given<User>) -> String {
    let step = u64::try_from(given.context.now.as_seconds()).expect("positive") / 30;
    let matches = |code: &String| secret.matched_step(code, given.context.now) == Some(step);
    (0..1_000_000).map(|n| format!("{n:06}")).find(matches).expect("some code matches")
}

fn mails(decision: &Decision<User>) -> Vec<(String, Option<String>)> {
    let sent = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Tell { to, command, .. } if to.kind() == delivery::Delivery::KIND => codec::decode(command).ok(),
        _ => None,
    });
    sent.filter_map(|command| match command {
        delivery::Command::Send(request) => Some((request.template, request.address)),
        _ => None,
    })
    .collect()
}

fn revoked(decision: &Decision<User>) -> Vec<(String, Ended)> {
    let told = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Tell { to, command, .. } if to.kind() == Session::KIND => Some((to.key().to_owned(), command)),
        _ => None,
    });
    told.filter_map(|(id, command)| match codec::decode(command) {
        Ok(session::Command::Revoke { reason, .. }) => Some((id, reason)),
        _ => None,
    })
    .collect()
}

fn refused(result: Result<Decision<User>, Error>) -> ErrorCode {
    result.expect_err("refused").code
}

fn user(given: &mut Given<User>) -> UserView {
    match given.when(Command::GetUser).expect("there is one").reply {
        Reply::User(user) => user,
        other => panic!("unexpected {other:?}"),
    }
}

fn sessions(given: &mut Given<User>) -> Vec<String> {
    match given.when(Command::GetSessions).expect("a query").reply {
        Reply::Sessions(ids) => ids,
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_sign_up_mails_a_link_and_its_verification_signs_in() {
    let mut given = Given::<User>::new(USER);
    assert_eq!(refused(given.when(Command::GetUser)), ErrorCode::NotFound);
    let done = given.when(sign_up("t1", "phc-1")).expect("signed up");
    assert_eq!(mails(&done), [("verify_email".to_owned(), Some("ada@example.org".to_owned()))]);
    assert_eq!(given.when(password(true, 0)).expect("answered").reply, Reply::Rejected);
    assert_eq!(refused(given.when(verify("other"))), ErrorCode::Invalid);
    let verified = given.when(verify("t1")).expect("verified");
    let confirm = email_claim::Command::Confirm { user_id: USER.to_owned() };
    assert!(verified.effects.contains(&Effect::tell::<EmailClaim>(email_claim::id("aa"), &confirm, "claim")));
    let Reply::SignedIn(signed_in) = verified.reply else { panic!("signed in") };
    assert_eq!(sessions(&mut given), [signed_in.session_id]);
    let view = user(&mut given);
    assert_eq!((view.status, view.roles, view.version), (Status::Active, vec!["robot_builder".to_owned()], 2));
    assert_eq!(refused(given.when(verify("t1"))), ErrorCode::Invalid);
}

#[test]
fn the_link_that_is_opened_decides_which_password_counts() {
    let mut given = Given::<User>::new(USER);
    given.when(sign_up("theirs", "phc-theirs")).expect("signed up");
    given.when(sign_up("mine", "phc-mine")).expect("signed up");
    given.when(verify("mine")).expect("verified");
    assert_eq!(refused(given.when(verify("theirs"))), ErrorCode::Invalid);
    let reply = given.when(Command::GetCredential).expect("a query").reply;
    assert_eq!(reply, Reply::Credential { password: Some(secret("phc-mine")), version: 1 });
}

#[test]
fn a_sign_up_for_a_known_address_changes_nothing_and_tells_its_owner() {
    let mut given = active();
    let before = user(&mut given);
    let again = given.when(sign_up("t2", "phc-2")).expect("answered");
    assert_eq!((again.reply.clone(), mails(&again)[0].0.as_str()), (Reply::Done, "known_address"));
    assert_eq!(user(&mut given), before);
    for _ in 0..3 {
        given.when(sign_up("t2", "phc-2")).expect("answered");
    }
    let one_too_many = given.when(sign_up("t2", "phc-2")).expect("answered");
    assert!(one_too_many.events.is_empty() && one_too_many.effects.is_empty());
}

#[test]
fn an_unproven_sign_up_lapses_and_frees_its_address() {
    let mut given = Given::<User>::new(USER);
    given.when(sign_up("t1", "phc-1")).expect("signed up");
    assert!(given.when(Command::LapseSignUp).expect("too early").is_query());
    given.at("2026-02-01T10:00:00Z");
    assert_eq!(refused(given.when(verify("t1"))), ErrorCode::Invalid);
    let lapsed = given.when(Command::LapseSignUp).expect("lapsed");
    let release = email_claim::Command::Release { user_id: USER.to_owned() };
    assert_eq!(lapsed.effects, [Effect::tell::<EmailClaim>(email_claim::id("aa"), &release, "")]);
    assert!(lapsed.purge && given.state == User::default());
    let mut verified = active();
    verified.at("2026-02-02T10:00:00Z");
    assert!(verified.when(Command::LapseSignUp).expect("stale").is_query());
}

#[test]
fn an_account_whose_address_went_to_somebody_else_is_suspended() {
    let mut given = active();
    let done = Outcome::Done(Vec::new());
    assert!(given.when(Command::ClaimSettled(done)).expect("fine").is_query());
    given.when(Command::ClaimSettled(Outcome::Refused(Error::conflict("taken")))).expect("noted");
    assert_eq!(user(&mut given).status, Status::Suspended);
}

#[test]
fn wrong_passwords_lock_for_a_while_and_a_right_one_resets_the_count() {
    let mut given = active();
    for _ in 0..4 {
        let wrong = given.when(password(false, 1)).expect("answered");
        assert_eq!((wrong.reply, wrong.audit[0].outcome.as_str()), (Reply::Rejected, "failed"));
    }
    assert!(matches!(given.when(password(true, 1)).expect("signed in").reply, Reply::SignedIn(_)));
    for _ in 0..5 {
        given.when(password(false, 1)).expect("answered");
    }
    let locked = given.when(password(true, 1)).expect("answered");
    assert_eq!((locked.reply, locked.audit[0].outcome.as_str()), (Reply::Rejected, "denied"));
    let hidden = Reply::Credential { password: None, version: 1 };
    assert_eq!(given.when(Command::GetCredential).expect("a query").reply, hidden);
    given.at("2026-01-31T10:00:30Z");
    assert!(matches!(given.when(password(true, 1)).expect("signed in").reply, Reply::SignedIn(_)));
    assert_eq!(given.when(password(true, 7)).expect("answered").reply, Reply::CredentialChanged);
}

#[test]
fn a_new_device_is_announced_and_the_oldest_of_too_many_sessions_ends() {
    let mut given = active();
    let known = given.when(password(true, 1)).expect("signed in");
    assert_eq!(mails(&known), []);
    let Command::SignIn(mut attempt) = password(true, 1) else { panic!("a sign-in") };
    attempt.client = client("another");
    let new = given.when(Command::SignIn(attempt)).expect("signed in");
    assert_eq!(mails(&new), [("new_sign_in".to_owned(), None)]);
    let oldest = sessions(&mut given)[0].clone();
    for _ in 0..47 {
        given.when(password(true, 1)).expect("signed in");
    }
    let last = given.when(password(true, 1)).expect("signed in");
    assert_eq!(revoked(&last), [(oldest.clone(), Ended::Displaced)]);
    let left = sessions(&mut given);
    assert!(left.len() == 50 && !left.contains(&oldest));
}

#[test]
fn a_code_of_the_authenticator_works_once() {
    let mut given = active();
    assert_eq!(refused(given.when(Command::ConfirmTotp { code: "000000".to_owned() })), ErrorCode::Conflict);
    let (secret, codes) = with_totp(&mut given);
    assert_eq!(codes.len(), 10);
    assert_eq!(refused(given.when(Command::BeginTotp)), ErrorCode::Conflict);
    let used = code_of(&secret, &given);
    assert!(matches!(given.when(password(true, 1)).expect("challenged").reply, Reply::Challenged { .. }));
    assert_eq!(given.when(answer(SecondFactor::Totp, &used)).expect("used up").reply, Reply::Rejected);
    given.at("2026-01-31T10:00:30Z");
    let code = code_of(&secret, &given);
    let signed_in = given.when(answer(SecondFactor::Totp, &code)).expect("signed in");
    assert!(matches!(signed_in.reply, Reply::SignedIn(_)));
    let spent = given.when(answer(SecondFactor::Totp, &code)).expect("the challenge is spent");
    assert_eq!(spent.reply, Reply::Rejected);
    given.when(password(true, 1)).expect("challenged");
    assert_eq!(given.when(answer(SecondFactor::Totp, &code)).expect("used up").reply, Reply::Rejected);
}

#[test]
fn a_recovery_code_works_once_and_new_ones_replace_the_old() {
    let mut given = active();
    assert_eq!(refused(given.when(Command::ReplaceRecoveryCodes)), ErrorCode::Conflict);
    let (_, codes) = with_totp(&mut given);
    given.when(password(true, 1)).expect("challenged");
    let signed_in = given.when(answer(SecondFactor::RecoveryCode, &codes[0].to_uppercase())).expect("signed in");
    assert!(matches!(signed_in.reply, Reply::SignedIn(_)));
    assert_eq!(user(&mut given).recovery_codes_left, 9);
    given.when(password(true, 1)).expect("challenged");
    let again = given.when(answer(SecondFactor::RecoveryCode, &codes[0])).expect("answered");
    assert_eq!(again.reply, Reply::Rejected);
    let replaced = given.when(Command::ReplaceRecoveryCodes).expect("replaced");
    assert_eq!(mails(&replaced), [("recovery_codes_replaced".to_owned(), None)]);
    let old = given.when(answer(SecondFactor::RecoveryCode, &codes[1])).expect("answered");
    assert_eq!(old.reply, Reply::Rejected);
    let removed = given.when(Command::RemoveTotp).expect("removed");
    assert_eq!(mails(&removed), [("mfa_disabled".to_owned(), None)]);
    assert_eq!(refused(given.when(Command::RemoveTotp)), ErrorCode::NotFound);
    assert!(matches!(given.when(password(true, 1)).expect("signed in").reply, Reply::SignedIn(_)));
}

#[test]
fn wrong_codes_lock_and_a_challenge_ends_with_its_time() {
    let mut given = active();
    let (secret, _) = with_totp(&mut given);
    given.when(password(true, 1)).expect("challenged");
    for _ in 0..5 {
        given.when(answer(SecondFactor::Totp, "12345")).expect("wrong");
    }
    given.when(password(true, 1)).expect("challenged again");
    let Command::SignIn(mut attempt) = password(true, 1) else { panic!("a sign-in") };
    attempt.challenge = TokenHash::of("second");
    given.when(Command::SignIn(attempt)).expect("challenged");
    let second = |code: String| Command::AnswerChallenge {
        challenge: TokenHash::of("second"),
        factor: SecondFactor::Totp,
        code,
        client: client("browser"),
    };
    assert_eq!(refused(given.when(second("12345".to_owned()))), ErrorCode::RateLimited);
    given.at("2026-01-31T10:02:00Z");
    let code = code_of(&secret, &given);
    assert_eq!(given.when(answer(SecondFactor::Totp, &code)).expect("answered").reply, Reply::Rejected);
    given.at("2026-01-31T10:05:00Z");
    let code = code_of(&secret, &given);
    assert_eq!(given.when(second(code)).expect("too late").reply, Reply::Rejected);
}

#[test]
fn a_changed_password_keeps_one_session_and_a_reset_none_but_the_second_factor() {
    let mut given = active();
    with_totp(&mut given);
    let first = sessions(&mut given)[0].clone();
    let ended = first.clone();
    let changed = Command::ChangePassword { password: secret("phc-2"), keep: Some(first.clone()) };
    assert_eq!(mails(&given.when(changed).expect("changed")), [("password_changed".to_owned(), None)]);
    assert_eq!(sessions(&mut given), std::slice::from_ref(&first));

    let request =
        |token: &str| Command::RequestPasswordReset(PasswordResetRequest { token: secret(token), token_seconds: 3600 });
    let reset = |token: &str| Command::ResetPassword { token: TokenHash::of(token), password: secret("phc-3") };
    let mailed = given.when(request("r1")).expect("mailed");
    assert_eq!(mails(&mailed), [("password_reset".to_owned(), Some("ada@example.org".to_owned()))]);
    assert_eq!(refused(given.when(reset("r2"))), ErrorCode::Invalid);
    let done = given.when(reset("r1")).expect("reset");
    assert_eq!(revoked(&done), [(first, Ended::PasswordReset)]);
    assert_eq!(refused(given.when(reset("r1"))), ErrorCode::Invalid);
    // A change that was on its way when the reset ended its session comes too late.
    let late = Command::ChangePassword { password: secret("phc-4"), keep: Some(ended) };
    assert_eq!(refused(given.when(late)), ErrorCode::Unauthenticated);
    let view = user(&mut given);
    assert!(view.totp_enabled && sessions(&mut given).is_empty());
    given.when(request("r3")).expect("mailed");
    given.at("2026-01-31T11:00:00Z");
    assert_eq!(refused(given.when(reset("r3"))), ErrorCode::Invalid);
    let stranger = Given::<User>::new(USER).when(request("r1")).expect("answered");
    assert!(stranger.events.is_empty() && stranger.effects.is_empty());
}

#[test]
fn an_account_that_lost_its_address_has_no_session_left() {
    let mut given = active();
    let open = sessions(&mut given);
    let lost = given.state.claim_settled(&given.context, &Outcome::Refused(Error::conflict("taken")));
    assert_eq!(revoked(&lost), [(open[0].clone(), Ended::AccountSuspended)]);
    lost.events.iter().for_each(|event| given.state.apply(event));
    assert!(sessions(&mut given).is_empty());
}

#[test]
fn signing_out_everywhere_tells_every_session() {
    let mut given = active();
    given.when(password(true, 1)).expect("signed in");
    let open = sessions(&mut given);
    let done = given.when(Command::SignOutEverywhere).expect("done");
    let told: Vec<String> = revoked(&done).into_iter().map(|(id, _)| id).collect();
    assert_eq!((done.reply, told), (Reply::Sessions(open.clone()), open.clone()));
    assert!(given.when(Command::SignOutEverywhere).expect("repeat").is_query());
    assert!(given.when(Command::SessionEnded { session_id: open[0].clone() }).expect("known").is_query());
}

#[test]
fn the_profile_changes_under_its_version_only() {
    let mut given = active();
    let patch = ProfilePatch { display_name: Some(None), locale: Some("de".to_owned()), time_zone: None };
    let stale = Command::UpdateProfile { patch: patch.clone(), version: Some(1) };
    assert_eq!(refused(given.when(stale)), ErrorCode::PreconditionFailed);
    given.when(Command::UpdateProfile { patch: patch.clone(), version: Some(2) }).expect("updated");
    assert!(given.when(Command::UpdateProfile { patch, version: None }).expect("same").is_query());
    let view = user(&mut given);
    assert_eq!((view.display_name, view.locale.as_str(), view.version), (None, "de", 3));
    let contact = given.when(Command::GetContact).expect("a query").reply;
    assert!(matches!(contact, Reply::Contact { email: Some(email), .. } if email == "ada@example.org"));
}

#[test]
fn roles_reach_open_sessions_and_a_suspension_ends_them() {
    let mut given = active();
    let open = sessions(&mut given);
    let roles =
        |roles: &[&str]| Command::SetRoles { roles: roles.iter().map(|r| (*r).to_owned()).collect(), version: None };
    let done = given.when(roles(&["developer", "administrator", "developer"])).expect("set");
    let told = session::Command::SetRoles { roles: vec!["administrator".to_owned(), "developer".to_owned()] };
    assert_eq!(done.effects, [Effect::tell::<Session>(session::id(&open[0]), &told, "")]);
    assert!(given.when(roles(&["developer", "administrator"])).expect("same").is_query());
    assert_eq!(refused(given.when(roles(&[]))), ErrorCode::Invalid);
    let status = |status| Command::SetStatus { status, version: None };
    assert_eq!(refused(given.when(status(Status::Erased))), ErrorCode::Conflict);
    let suspended = given.when(status(Status::Suspended)).expect("suspended");
    assert_eq!(revoked(&suspended), [(open[0].clone(), Ended::AccountSuspended)]);
    assert_eq!(given.when(password(true, 1)).expect("answered").reply, Reply::Rejected);
    assert_eq!(refused(given.when(Command::BeginTotp)), ErrorCode::Forbidden);
    given.when(status(Status::Active)).expect("active again");
    assert!(matches!(given.when(password(true, 1)).expect("signed in").reply, Reply::SignedIn(_)));
}

#[test]
fn erasure_leaves_nothing_but_the_fact() {
    let mut given = active();
    let open = sessions(&mut given);
    let erased = given.when(Command::Erase).expect("erased");
    assert_eq!(revoked(&erased), [(open[0].clone(), Ended::AccountErased)]);
    assert!(erased.purge);
    assert!(given.when(Command::Erase).expect("repeat").is_query());
    assert_eq!(refused(given.when(Command::GetContact)), ErrorCode::NotFound);
    let again = given.when(sign_up("t9", "phc-9")).expect("answered");
    assert!(again.events.is_empty());
}
