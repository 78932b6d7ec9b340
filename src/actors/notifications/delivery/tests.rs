use super::protocol::{AttemptOutcome, Gathered};
use super::*;
use crate::actors::notifications::devices::{Address, Device};
use crate::actors::notifications::preferences::{Policy, QuietHours};
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, Decision, Effect, ErrorCode, Outcome, ProviderKind, Timestamp, codec};
use crate::providers::email::{EmailReceipt, EmailRequest};
use crate::providers::push::{PushRequest, Subscription};

fn policy(channels: &[Channel]) -> Policy {
    Policy {
        channels: channels.to_vec(),
        muted: vec![Channel::Email].into_iter().filter(|channel| !channels.contains(channel)).collect(),
        quiet_hours: None,
        time_zone: None,
        consent: true,
        unsubscribe_token: "usr_x.promotional.proof".into(),
    }
}

fn contact() -> Contact {
    let (email, name) = (Some("ada@example.org".into()), Some("Ada".into()));
    Contact { email, display_name: name, locale: "de-AT".into(), time_zone: "UTC".into() }
}

fn device() -> Device {
    let subscription = Subscription { endpoint: "https://push".into(), p256dh: "k".into(), auth: "a".into() };
    let address = Address::WebPush(subscription);
    Device { id: "dev_1".into(), name: String::new(), address, verified: true, created_at: Timestamp::ZERO }
}

/// Answers every question; the last answer's decision carries the plan.
fn answered(given: &mut Given<Delivery>, contact: Option<Contact>, policy: Policy) -> Decision<Delivery> {
    given.when(Command::Gathered(Gathered::Contact(contact))).expect("taken");
    given.when(Command::Gathered(Gathered::Devices(vec![device()]))).expect("taken");
    given.when(Command::Gathered(Gathered::Policy(policy.clone()))).expect("taken");
    given.when(Command::Gathered(Gathered::Overrides(Vec::new()))).expect("planned")
}

fn report(given: &mut Given<Delivery>) -> Report {
    match given.when(Command::GetReport).expect("a report").reply {
        Reply::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

fn states(given: &mut Given<Delivery>) -> Vec<(Channel, AttemptState)> {
    report(given).attempts.iter().map(|attempt| (attempt.channel, attempt.state)).collect()
}

fn outcome(given: &mut Given<Delivery>, tag: &str, outcome: Outcome) -> Decision<Delivery> {
    use crate::kernel::Entity as _;
    given.when(Delivery::on_outcome(tag, outcome).expect("a command")).expect("recorded")
}

fn receipt() -> SendRequest {
    SendRequest::template("usr_x", Category::Billing, "receipt", &[("number", "A-1"), ("total", "19.99 USD")])
}

fn email_of(decision: &Decision<Delivery>) -> EmailRequest {
    let request = decision.effects.iter().find_map(|effect| match effect {
        Effect::Call { provider: ProviderKind::Email, request, .. } => Some(request),
        _ => None,
    });
    codec::decode(request.expect("a mail")).expect("a request")
}

#[test]
fn a_receipt_goes_by_inbox_mail_and_push_in_the_persons_language() {
    let mut given = Given::<Delivery>::new("ntf_1");
    let sent = given.when(Command::Send(receipt())).expect("accepted");
    assert_eq!(sent.reply, Reply::Accepted { status: Status::Sending });
    assert_eq!(sent.effects.len(), 4);
    let planned = answered(&mut given, Some(contact()), policy(&[Channel::InApp, Channel::Email, Channel::Push]));
    let mail = email_of(&planned);
    assert_eq!((mail.to.as_str(), mail.subject.as_str()), ("ada@example.org", "Ihre Quittung (receipt) A-1"));
    assert!(mail.text.contains("19.99 USD") && mail.text.contains("Ada") && mail.unsubscribe.is_none());
    assert_eq!(
        states(&mut given),
        [
            (Channel::InApp, AttemptState::Pending),
            (Channel::Email, AttemptState::Pending),
            (Channel::Sms, AttemptState::Skipped),
            (Channel::Push, AttemptState::Pending),
        ]
    );
    assert!(given.when(Command::Send(receipt())).expect("repeat").is_query());
}

#[test]
fn outcomes_are_journaled_once_and_an_unknown_one_is_never_sent_again() {
    let mut given = Given::<Delivery>::new("ntf_1");
    given.when(Command::Send(receipt())).expect("accepted");
    answered(&mut given, Some(contact()), policy(&[Channel::Email, Channel::Push]));
    let done = codec::encode(&EmailReceipt { message_id: "<m@x>".into() }).expect("bytes");
    outcome(&mut given, "email", Outcome::Done(done.clone()));
    let repeat = outcome(&mut given, "email", Outcome::Done(done));
    assert!(repeat.is_query());
    assert_eq!(report(&mut given).status, Status::Sending);
    let last = outcome(&mut given, "push:dev_1", Outcome::Unknown("time-out".into()));
    assert!(last.effects.is_empty());
    assert!(last.changes.iter().any(|c| matches!(c, Change::Timer { name, due: Some(_) } if name == "expire")));
    let report = report(&mut given);
    assert_eq!(report.status, Status::Sent);
    let email = report.attempts.iter().find(|a| a.channel == Channel::Email).expect("an attempt");
    assert_eq!(email.reference, "<m@x>");
    let push = report.attempts.iter().find(|a| a.channel == Channel::Push).expect("an attempt");
    assert_eq!((push.state, push.detail.as_str()), (AttemptState::Unknown, "time-out"));
    given.when(Command::Expire).expect("expired");
    assert_eq!(given.when(Command::GetReport).expect_err("dropped").code, ErrorCode::NotFound);
}

#[test]
fn a_device_that_is_gone_is_forgotten() {
    let mut given = Given::<Delivery>::new("ntf_1");
    given.when(Command::Send(receipt())).expect("accepted");
    answered(&mut given, Some(contact()), policy(&[Channel::Push]));
    let gone = Outcome::Refused(crate::kernel::Error::new(ErrorCode::Gone, "The subscription has expired."));
    let decision = outcome(&mut given, "push:dev_1", gone);
    assert!(matches!(&decision.effects[0], Effect::Tell { to, .. } if to.as_str() == "devices/usr_x"));
    assert_eq!(report(&mut given).status, Status::Failed);
}

#[test]
fn quiet_hours_hold_back_what_interrupts_and_then_let_it_go() {
    let mut given = Given::<Delivery>::new("ntf_1");
    given.at("2026-01-31T23:00:00Z").when(Command::Send(receipt())).expect("accepted");
    let quiet = Policy { quiet_hours: QuietHours::parse("22:00", "07:00"), ..policy(&[Channel::InApp, Channel::Push]) };
    let planned = answered(&mut given, Some(contact()), quiet);
    let due = planned.changes.iter().find_map(|change| match change {
        Change::Timer { name, due } if name == "resume" => *due,
        _ => None,
    });
    assert_eq!(due, Some("2026-02-01T07:00:00Z".parse().expect("a time")));
    assert!(states(&mut given).contains(&(Channel::Push, AttemptState::Deferred)));
    outcome(&mut given, "in_app", Outcome::Done(Vec::new()));
    assert_eq!(report(&mut given).status, Status::Sending);
    let asked = given.at("2026-02-01T07:00:00Z").when(Command::Resume).expect("asks again");
    assert!(asked.effects.iter().all(|effect| matches!(effect, Effect::Tell { .. })) && asked.effects.len() == 4);
    assert!(given.when(Command::Resume).expect("repeat").is_query());
    let resumed = answered(&mut given, Some(contact()), policy(&[Channel::InApp, Channel::Push]));
    let Effect::Call { request, tag, .. } = &resumed.effects[0] else { panic!("a call") };
    let push: PushRequest = codec::decode(request).expect("a request");
    assert_eq!((resumed.effects.len(), tag.as_str()), (1, "push:dev_1"));
    assert!(String::from_utf8_lossy(&push.payload).contains("19.99 USD"));
    assert!(given.when(Command::Resume).expect("repeat").is_query());
}

#[test]
fn what_waits_for_the_end_of_quiet_hours_asks_again_whether_it_is_wanted() {
    let quiet =
        |end: &str| Policy { quiet_hours: QuietHours::parse("22:00", end), ..policy(&[Channel::InApp, Channel::Push]) };
    let waiting = || {
        let mut given = Given::<Delivery>::new("ntf_1");
        given.at("2026-01-31T23:00:00Z").when(Command::Send(receipt())).expect("accepted");
        answered(&mut given, Some(contact()), quiet("07:00"));
        outcome(&mut given, "in_app", Outcome::Done(Vec::new()));
        given.at("2026-02-01T07:00:00Z").when(Command::Resume).expect("asks again");
        given
    };
    let why = |given: &mut Given<Delivery>| {
        let attempts = report(given).attempts;
        attempts.into_iter().find(|a| a.channel == Channel::Push).map(|a| (a.state, a.detail)).expect("an attempt")
    };
    let mut muted = waiting();
    assert!(answered(&mut muted, Some(contact()), policy(&[Channel::InApp])).effects.is_empty());
    assert_eq!(why(&mut muted), (AttemptState::Skipped, "muted by preferences".to_owned()));
    assert_eq!(report(&mut muted).status, Status::Sent);

    let mut lost = waiting();
    lost.when(Command::Gathered(Gathered::Contact(Some(contact())))).expect("taken");
    lost.when(Command::Gathered(Gathered::Devices(Vec::new()))).expect("taken");
    lost.when(Command::Gathered(Gathered::Policy(quiet("07:00")))).expect("taken");
    assert!(lost.when(Command::Gathered(Gathered::Overrides(Vec::new()))).expect("decided").effects.is_empty());
    assert_eq!(why(&mut lost), (AttemptState::Skipped, "no registered device".to_owned()));

    let mut later = waiting();
    let put_off = answered(&mut later, Some(contact()), quiet("08:00"));
    let due = Some("2026-02-01T08:00:00Z".parse().expect("a time"));
    let set = |change: &Change| matches!(change, Change::Timer { name, due: at } if name == "resume" && *at == due);
    assert!(put_off.effects.is_empty() && put_off.changes.iter().any(set), "{put_off:?}");
    later.at("2026-02-01T08:00:00Z").when(Command::Resume).expect("asks again");
    let sent = answered(&mut later, Some(contact()), quiet("08:00"));
    assert_eq!(sent.effects.len(), 1);
}

#[test]
fn security_ignores_quiet_hours_and_promotion_needs_consent_and_offers_a_way_out() {
    let promotion = || SendRequest {
        content: Some(Content { title: "New".into(), body: "Robots".into(), url: Some("/robots".into()) }),
        channels: Some(vec![Channel::Email]),
        ..SendRequest::template("usr_x", Category::Promotional, "", &[])
    };
    let mut given = Given::<Delivery>::new("ntf_1");
    given.when(Command::Send(promotion())).expect("accepted");
    given.when(Command::Gathered(Gathered::Contact(Some(contact())))).expect("taken");
    given.when(Command::Gathered(Gathered::Devices(Vec::new()))).expect("taken");
    let planned = given.when(Command::Gathered(Gathered::Policy(policy(&[Channel::Email])))).expect("planned");
    let mail = email_of(&planned);
    assert_eq!(mail.unsubscribe.as_deref(), Some("/u/usr_x.promotional.proof"));
    assert!(mail.text.contains("%PUBLIC_URL%/robots"));

    let mut given = Given::<Delivery>::new("ntf_2");
    given.when(Command::Send(promotion())).expect("accepted");
    given.when(Command::Gathered(Gathered::Contact(Some(contact())))).expect("taken");
    given.when(Command::Gathered(Gathered::Devices(Vec::new()))).expect("taken");
    let refused = Policy { consent: false, ..policy(&[Channel::Email]) };
    assert!(given.when(Command::Gathered(Gathered::Policy(refused))).expect("planned").effects.is_empty());
    assert_eq!(report(&mut given).status, Status::Suppressed);
}

#[test]
fn a_mail_to_an_address_asks_nobody_and_carries_its_token() {
    let mut given = Given::<Delivery>::new("ntf_1");
    let request = SendRequest::template("usr_x", Category::Security, "verify_email", &[("token", "a+b/c=")])
        .to_address("new@example.org");
    let sent = given.when(Command::Send(request)).expect("accepted");
    assert_eq!(sent.effects.len(), 1);
    let planned = given.when(Command::Gathered(Gathered::Overrides(Vec::new()))).expect("planned");
    let mail = email_of(&planned);
    assert_eq!(mail.to, "new@example.org");
    assert!(mail.text.contains("%PUBLIC_URL%/verify?token=a%2Bb%2Fc%3D"), "{}", mail.text);
    assert_eq!(planned.effects.len(), 1);
}

#[test]
fn a_scheduled_notification_waits_and_bad_requests_are_refused() {
    let mut given = Given::<Delivery>::new("ntf_1");
    let later = "2026-01-31T12:00:00Z".parse().ok();
    let sent = given.when(Command::Send(SendRequest { not_before: later, ..receipt() })).expect("accepted");
    assert_eq!((sent.reply, sent.effects.len()), (Reply::Accepted { status: Status::Scheduled }, 0));
    let started = given.at("2026-01-31T12:00:00Z").when(Command::Start).expect("started");
    assert_eq!(started.effects.len(), 4);
    assert!(given.when(Command::Start).expect("repeat").is_query());

    let content = |title: &str, url: &str| SendRequest {
        content: Some(Content { title: title.into(), body: "b".into(), url: Some(url.into()) }),
        ..receipt()
    };
    for (bad, pointer) in [
        (SendRequest { user_id: String::new(), ..receipt() }, "/to"),
        (SendRequest { template: String::new(), ..receipt() }, "/template"),
        (content(" ", "/x"), "/content/title"),
        (content("t", "//evil.example"), "/content/url"),
        (content("t", "javascript:alert(1)"), "/content/url"),
        (SendRequest { collapse_key: Some(String::new()), ..receipt() }, "/collapse_key"),
    ] {
        let mut given = Given::<Delivery>::new("ntf_2");
        assert_eq!(given.when(Command::Send(bad)).expect_err("refused").errors[0].pointer, pointer);
    }
}

#[test]
fn a_sender_may_ask_for_what_is_off_but_not_for_what_was_turned_off() {
    let mut given = Given::<Delivery>::new("ntf_1");
    let channels = Some(vec![Channel::Push, Channel::Email]);
    given.when(Command::Send(SendRequest { channels, ..receipt() })).expect("accepted");
    answered(&mut given, Some(contact()), policy(&[Channel::InApp]));
    let expected = [(Channel::Email, AttemptState::Skipped), (Channel::Push, AttemptState::Pending)];
    assert_eq!(states(&mut given), expected);
}

#[test]
fn nothing_is_sent_to_nobody() {
    let mut given = Given::<Delivery>::new("ntf_1");
    given.when(Command::Send(receipt())).expect("accepted");
    let planned = answered(&mut given, None, policy(&[Channel::InApp, Channel::Email]));
    assert!(planned.effects.is_empty());
    assert_eq!(report(&mut given).status, Status::Suppressed);
    let late = AttemptOutcome {
        channel: Channel::Email,
        target: String::new(),
        state: AttemptState::Sent,
        detail: String::new(),
        reference: String::new(),
        gone: false,
    };
    assert!(given.when(Command::Attempted(late)).expect("ignored").is_query());
}

#[test]
fn what_is_sent_in_number_gives_way_at_every_step_to_what_somebody_did() {
    for category in Category::ALL {
        let mut given = Given::<Delivery>::new("ntf_1");
        let request = SendRequest { category, ..receipt() };
        let sent = given.when(Command::Send(request)).expect("accepted");
        let planned = answered(&mut given, Some(contact()), policy(&[Channel::InApp, Channel::Email]));
        let bulk = matches!(category, Category::Product | Category::Promotional);
        assert!(!sent.effects.is_empty() && !planned.effects.is_empty());
        assert_eq!((sent.bulk, planned.bulk), (bulk, bulk), "{category:?}");
    }
}
