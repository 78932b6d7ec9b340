use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Effect, ErrorCode, codec};
use crate::providers::push::Subscription;
use crate::providers::sms::SmsRequest;

fn web_push(n: usize) -> Address {
    let mut point = [1u8; 65];
    point[0] = 4;
    Address::WebPush(Subscription {
        endpoint: format!("https://push.example.org/{n}"),
        p256dh: URL_SAFE_NO_PAD.encode(point),
        auth: URL_SAFE_NO_PAD.encode([2u8; 16]),
    })
}

fn register(address: Address) -> Command {
    Command::Register { name: "phone".to_owned(), address }
}

#[test]
fn a_subscription_is_registered_once_and_removed() {
    let mut given = Given::<Devices>::new("usr_x");
    let decision = given.when(register(web_push(1))).expect("registered");
    let Reply::Device(device) = decision.reply else { panic!("a device") };
    assert!(device.verified && device.id.starts_with("dev_"));
    assert!(given.when(register(web_push(1))).expect("repeat").is_query());
    assert_eq!(given.when(Command::Remove { id: "dev_0".into() }).expect_err("unknown").code, ErrorCode::NotFound);
    given.when(Command::Forget { id: device.id.clone() }).expect("gone");
    assert!(given.when(Command::Forget { id: device.id.clone() }).expect("repeat").is_query());
    assert_eq!(given.when(Command::Remove { id: device.id }).expect_err("gone").code, ErrorCode::NotFound);
}

#[test]
fn a_number_needs_its_code_and_guessing_ends() {
    let mut given = Given::<Devices>::new("usr_x");
    let number = Address::Sms { number: "+14155550100".into() };
    let decision = given.when(register(number.clone())).expect("registered");
    let Reply::Device(device) = decision.reply else { panic!("a device") };
    let Effect::Call { request, .. } = &decision.effects[0] else { panic!("a call") };
    let request: SmsRequest = codec::decode(request).expect("a request");
    let code: String = request.body.chars().filter(char::is_ascii_digit).collect();
    let verify = |code: &str| Command::Verify { id: device.id.clone(), code: code.to_owned() };
    for _ in 0..5 {
        assert_eq!(given.when(verify("none")).expect("counted").reply, Reply::WrongCode);
    }
    assert_eq!(given.when(verify(&code)).expect_err("too late").code, ErrorCode::Gone);

    assert_eq!(given.when(register(number.clone())).expect_err("too soon").code, ErrorCode::RateLimited);
    let decision = given.at("2026-01-31T10:01:00Z").when(register(number)).expect("again");
    let Effect::Call { request, .. } = &decision.effects[0] else { panic!("a call") };
    let request: SmsRequest = codec::decode(request).expect("a request");
    let code: String = request.body.chars().filter(char::is_ascii_digit).collect();
    given.when(verify(&code)).expect("verified");
    assert!(given.when(verify("whatever")).expect("repeat").is_query());
}

#[test]
fn bad_addresses_and_too_many_devices_are_refused() {
    let mut given = Given::<Devices>::new("usr_x");
    let push = |endpoint: &str, p256dh: &str| {
        let (endpoint, p256dh) = (endpoint.to_owned(), p256dh.to_owned());
        register(Address::WebPush(Subscription { endpoint, p256dh, auth: "AAAAAAAAAAAAAAAAAAAAAA".into() }))
    };
    let number = |number: &str| register(Address::Sms { number: number.to_owned() });
    for (bad, pointer) in [
        (push("ftp://x", ""), "/endpoint"),
        (push("https://x", "AAAA"), "/keys/p256dh"),
        (number("0123"), "/number"),
        (number("+0123456789"), "/number"),
    ] {
        assert_eq!(given.when(bad).expect_err("refused").errors[0].pointer, pointer);
    }
    for n in 0..MAX_DEVICES {
        given.when(register(web_push(n))).expect("registered");
    }
    assert_eq!(given.when(register(web_push(99))).expect_err("full").code, ErrorCode::Conflict);
}
