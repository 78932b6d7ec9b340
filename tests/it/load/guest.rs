//! Guests: each signs up, verifies a phone, turns on a second factor, forgets the password, comes back, and leaves for
//! good; then the next one comes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Floor;
use super::customer::pause;
use super::steward::CLOCK;
use super::wish::{Came, Wish, code};
use crate::http::{Answer, Client};
use crate::mail::{Mail, Maildir};
use crate::node::Node;
use crate::person::{self, PASSWORD};
use crate::tour::totp;

const NEW_PASSWORD: &str = "nine brass lanterns hum by noon";
/// Steps that are begun again because the clock was moved in between.
const BEGINNINGS: u32 = 50;

/// Where a guest is in life. What a step needs is what the one before answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    SignUp,
    Verify,
    AddPhone,
    VerifyPhone,
    Text,
    BeginTotp,
    ConfirmTotp,
    Forget,
    Reset,
    SignIn,
    SecondFactor,
    Leave,
    Gone,
    /// A token lapsed before it was known that there is a second factor.
    Renew,
}

/// One guest and what is known of them.
#[derive(Debug, Clone)]
pub struct Guest {
    pub email: String,
    pub number: String,
    pub step: Step,
    /// Sign-ups that were accepted; the next one only after the token of the one before lapsed.
    pub sign_ups: usize,
    pub user_id: String,
    pub device: String,
    /// Phones that were accepted: each is sent one code.
    phones: usize,
    pub token: String,
    token_since: String,
    secret: String,
    recovery_codes: Vec<String>,
    challenge: String,
    /// Where to go on after [`Step::Renew`].
    resume: Step,
    /// The password as it was last set.
    password: &'static str,
}

impl Guest {
    fn totp(&self, now: &str) -> String {
        let at: jiff::Timestamp = now.parse().expect("an RFC 3339 time");
        totp(&self.secret, at.as_second())
    }
}

/// The guests that come one after the other, the present one last.
pub struct Guests {
    index: usize,
    api: Client,
    operator: Client,
    admin: Client,
    data: PathBuf,
    pub guests: Vec<Guest>,
    /// Files of the mailbox that were read, and what was in them for the present guest, oldest first.
    seen: HashSet<OsString>,
    mails: Vec<Mail>,
    /// The request of the present step, and the domain time it was made at.
    pending: Option<(Wish, String)>,
    /// The domain time at which the request of the step before was made: what that issued is valid from then.
    since: String,
    /// The present request was sent and its answer lost.
    in_doubt: bool,
    beginnings: u32,
}

impl Guests {
    pub fn new(node: &Node, index: usize) -> Self {
        let (api, operator, admin) = (node.api(), node.operator_api(), node.operator());
        let mut guests = Self {
            index,
            api,
            operator,
            admin,
            data: node.data(),
            guests: Vec::new(),
            seen: HashSet::new(),
            mails: Vec::new(),
            pending: None,
            since: String::new(),
            in_doubt: false,
            beginnings: 0,
        };
        guests.next_guest();
        guests
    }

    fn next_guest(&mut self) {
        let number = self.guests.len();
        self.mails.clear();
        self.guests.push(Guest {
            email: format!("guest{}-{number}@example.com", self.index),
            number: format!("+1415{}{number:06}", self.index + 1),
            step: Step::SignUp,
            sign_ups: 0,
            user_id: String::new(),
            device: String::new(),
            phones: 0,
            token: String::new(),
            token_since: String::new(),
            secret: String::new(),
            recovery_codes: Vec::new(),
            challenge: String::new(),
            resume: Step::AddPhone,
            password: PASSWORD,
        });
    }

    fn present(&mut self) -> &mut Guest {
        self.guests.last_mut().expect("there is always a guest")
    }

    /// Works until the node is gone or the floor closed.
    pub async fn work(&mut self, floor: &Floor) {
        while floor.is_open() {
            let turn = floor.turn(&format!("guests {}", self.index)).await;
            if self.present().step == Step::Gone {
                self.next_guest();
            }
            if !self.go_on(floor).await {
                break;
            }
            drop(turn);
            floor.rest().await;
        }
        floor.close();
    }

    /// Brings the present guest to the end. Nobody else moves the clock any more.
    pub async fn finish(&mut self, node: &Node, floor: &Floor) {
        while self.present().step != Step::Gone {
            if self.pending.is_none() && self.present().step == Step::SecondFactor {
                person::advance_by(node, 60).await;
            }
            assert!(self.go_on(floor).await, "the node answers");
        }
    }

    /// One try of the present step; false: the node is gone.
    async fn go_on(&mut self, floor: &Floor) -> bool {
        let asking = floor.asking(format!("GET {CLOCK} for {}", self.present().email));
        let Some(clock) = self.admin.try_get(CLOCK).await else { return false };
        drop(asking);
        if clock.status != 200 {
            return pause().await;
        }
        let now = clock.text_at("/now");
        if self.pending.is_none() {
            self.read_mail();
            let Some(wish) = self.request(&now) else { return pause().await };
            self.pending = Some((wish, now.clone()));
        }
        let (wish, made_at) = self.pending.clone().expect("set above");
        let guest = self.guests.last().expect("there is always a guest");
        let bearer = self.api.with_token(&guest.token);
        let client = match guest.step {
            Step::AddPhone | Step::VerifyPhone | Step::BeginTotp | Step::ConfirmTotp | Step::Leave => &bearer,
            Step::Text => &self.operator,
            _ => &self.api,
        };
        // Also when this try is dropped while it waits.
        let in_doubt = std::mem::replace(&mut self.in_doubt, true);
        let came = wish.send(client, floor).await;
        if !matches!(came, Came::Gone) {
            self.in_doubt = in_doubt;
        }
        let answer = match came {
            Came::Answer(answer) => answer,
            Came::NotNow => return pause().await,
            Came::Gone => return false,
        };
        if guest.step == Step::Leave && answer.status == 401 && self.in_doubt {
            // The erasure that was asked for has already signed this person out.
            self.pending = None;
            self.present().step = Step::Gone;
            return true;
        }
        if !(200..300).contains(&answer.status) {
            // The clock may have been moved since the request was made, and while it was under way.
            let Some(after) = self.admin.try_get(CLOCK).await else { return false };
            if after.status != 200 {
                return pause().await;
            }
            let moved = after.text_at("/now") != made_at;
            return self.begin_again(&wish, &answer, &now, moved);
        }
        self.pending = None;
        self.in_doubt = false;
        self.beginnings = 0;
        // A code lapses as of when the phone was registered: the clock may have been read while it was being moved.
        let issued =
            if self.present().step == Step::AddPhone { answer.text_at("/created_at") } else { made_at.clone() };
        self.learn(&answer, &made_at);
        self.since = issued;
        floor.acknowledged();
        true
    }

    /// What was issued before the clock was moved may have lapsed since; any other refusal is a defect.
    fn begin_again(&mut self, wish: &Wish, answer: &Answer, now: &str, moved: bool) -> bool {
        self.beginnings += 1;
        let guest = self.guests.last_mut().expect("there is always a guest");
        let moved = moved || now != self.since || (answer.status == 401 && now != guest.token_since);
        let lapsed = matches!(answer.status, 401 | 403 | 410 | 422) && (moved || self.beginnings > 1);
        // A code is good once; another comes with time.
        let used = guest.step == Step::SecondFactor && guest.recovery_codes.is_empty();
        let texts = code(answer) == "rate_limited" || answer.status == 409;
        assert!(lapsed || texts || used, "{guest:?}: {wish:?}: {} {}", answer.status, answer.text);
        assert!(self.beginnings < BEGINNINGS, "{guest:?} gets nowhere: {} {}", answer.status, answer.text);
        self.pending = None;
        self.in_doubt = false;
        if answer.status == 401 && (Step::AddPhone..=Step::ConfirmTotp).contains(&guest.step) {
            (guest.resume, guest.step) = (guest.step, Step::Renew);
            return true;
        }
        guest.step = match guest.step {
            Step::Verify => Step::SignUp,
            Step::VerifyPhone => Step::AddPhone,
            Step::ConfirmTotp => Step::BeginTotp,
            Step::Reset => Step::Forget,
            Step::SecondFactor | Step::Leave => Step::SignIn,
            step => step,
        };
        true
    }

    /// The request of the present step; `None` while what it needs has not arrived.
    fn request(&self, now: &str) -> Option<Wish> {
        let guest = self.guests.last().expect("there is always a guest");
        let email = &guest.email;
        Some(match guest.step {
            Step::SignUp => {
                let body = json!({ "email": email, "password": PASSWORD, "role": "consumer", "display_name": "Guest" });
                Wish::post("/v1/signup", body)
            }
            Step::Verify => Wish::post("/v1/signup/verify", json!({ "token": self.mailed("verify")? })),
            Step::AddPhone => Wish::post("/v1/devices", json!({ "kind": "sms", "number": guest.number })),
            Step::VerifyPhone => {
                let texts: Vec<_> = self.texts().into_iter().filter(|(to, _)| *to == guest.number).collect();
                let (_, text) = texts.get(guest.phones - 1..)?.last()?;
                let digits: String = text.chars().filter(char::is_ascii_digit).take(6).collect();
                Wish::post(&format!("/v1/devices/{}/verify", guest.device), json!({ "code": digits }))
            }
            Step::Text => {
                let content = json!({ "title": "text", "body": format!("to {}", guest.number) });
                let to = json!({ "user_id": guest.user_id });
                let body = json!({ "to": to, "category": "transactional", "channels": ["sms"], "content": content });
                Wish::post("/v1/notifications", body)
            }
            Step::BeginTotp => Wish::post("/v1/mfa/totp", json!({ "password": PASSWORD })),
            Step::ConfirmTotp => Wish::post("/v1/mfa/totp/confirm", json!({ "code": guest.totp(now) })),
            Step::Forget => Wish::post("/v1/password/forgot", json!({ "email": email })),
            Step::Reset => {
                let body = json!({ "token": self.mailed("reset")?, "new_password": NEW_PASSWORD });
                Wish::post("/v1/password/reset", body)
            }
            Step::SignIn | Step::Renew => {
                Wish::post("/v1/sessions", json!({ "email": email, "password": guest.password }))
            }
            Step::SecondFactor => {
                let (method, code) = match guest.recovery_codes.last() {
                    Some(code) => ("recovery_code", code.clone()),
                    None => ("totp", guest.totp(now)),
                };
                let body = json!({ "challenge_id": guest.challenge, "method": method, "code": code });
                Wish::post("/v1/sessions/mfa", body)
            }
            Step::Leave | Step::Gone => Wish::delete("/v1/me", json!({ "password": NEW_PASSWORD })),
        })
    }

    /// Takes from the answer what later steps need.
    fn learn(&mut self, answer: &Answer, made_at: &str) {
        let guest = self.present();
        // The confirmation of the second factor had taken effect, and its answer with the recovery codes is lost.
        let challenged = guest.step == Step::Renew && answer.json.pointer("/mfa/challenge_id").is_some();
        if challenged {
            guest.step = Step::SignIn;
        }
        if matches!(guest.step, Step::Verify | Step::SecondFactor | Step::Renew) {
            guest.token = answer.text_at("/access_token");
            made_at.clone_into(&mut guest.token_since);
        }
        let (learned, next) = match guest.step {
            Step::SignUp => {
                guest.sign_ups += 1;
                (None, Step::Verify)
            }
            Step::Verify => {
                guest.user_id = answer.text_at("/user/id");
                (None, Step::AddPhone)
            }
            Step::AddPhone => {
                guest.phones += 1;
                (Some((&mut guest.device, "/id")), Step::VerifyPhone)
            }
            Step::VerifyPhone => (None, Step::Text),
            Step::Text => (None, Step::BeginTotp),
            Step::BeginTotp => (Some((&mut guest.secret, "/secret")), Step::ConfirmTotp),
            Step::ConfirmTotp => {
                let codes = answer.json["recovery_codes"].as_array().cloned().unwrap_or_default();
                guest.recovery_codes = codes.iter().filter_map(|code| code.as_str().map(str::to_owned)).collect();
                (None, Step::Forget)
            }
            Step::Forget => (None, Step::Reset),
            Step::Reset => {
                guest.password = NEW_PASSWORD;
                (None, Step::SignIn)
            }
            Step::SignIn => (Some((&mut guest.challenge, "/mfa/challenge_id")), Step::SecondFactor),
            Step::SecondFactor => {
                guest.recovery_codes.pop();
                (None, if guest.password == PASSWORD { Step::Forget } else { Step::Leave })
            }
            Step::Renew => (None, guest.resume),
            Step::Leave | Step::Gone => (None, Step::Gone),
        };
        if let Some((member, pointer)) = learned {
            *member = answer.text_at(pointer);
        }
        guest.step = next;
    }

    /// Takes in what arrived since the last time for the present guest.
    fn read_mail(&mut self) {
        let email = self.guests.last().expect("there is always a guest").email.clone();
        let new = Maildir::of(&self.data).unread(&mut self.seen);
        self.mails.extend(new.into_iter().filter(|mail| mail.to.contains(&email)));
    }

    /// The token of the newest mail about something.
    fn mailed(&self, about: &str) -> Option<String> {
        let fits = |mail: &&Mail| mail.text.contains(about) && mail.text.contains("token=");
        self.mails.iter().rfind(fits).map(Mail::token)
    }

    fn texts(&self) -> Vec<(String, String)> {
        texts(&self.data)
    }
}

/// Number and body of every text message so far.
pub fn texts(data: &std::path::Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(data.join("outbox/sms.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| (member(&line, "to"), member(&line, "body"))).collect()
}

fn member(line: &Value, name: &str) -> String {
    line[name].as_str().unwrap_or_default().to_owned()
}
