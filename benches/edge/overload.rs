//! Three times as much as the node can do: what is still served in time, beside what it serves at its best.
//!
//! The node has one core and its clients another (taskset(1)), so that what the clients do for the refused is not taken
//! from the node; where there is no second core they share the one. The peak is found with
//! clients that ask again as soon as they were answered; then requests come at three times that rate, whatever becomes of them. An answer after `PATIENCE` does
//! not count.

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::generator::{self, Call, Figures, Load, request};
use crate::support::client::call;
use crate::support::node::{Node, PASSWORD, Person, until};
use crate::support::{Goal, Measured, Run, rate};

/// More than there are places for requests in the node, so that it must refuse.
const CONNECTIONS: usize = 6000;
/// Callers that ask again as soon as they were answered; the peak is that of the number that gets most.
const AT_THE_PEAK: [usize; 3] = [64, 256, 1024];
const PATIENCE: Duration = Duration::from_secs(2);
const PEOPLE: usize = 16;
/// How long notifications come in as fast as they are taken, before the sign-ins behind them.
const BACKLOG: Duration = Duration::from_secs(20);
const RESTS_WITHIN: Duration = Duration::from_secs(300);
const GOAL: Goal = Goal::Ratio(0.9);

pub fn run(run: &Run) {
    let wanted = |what| run.wants(&format!("overload, {what}"));
    if !["commands", "notifications", "sign-ins", "sign-ins behind a backlog", "sockets"].into_iter().any(wanted) {
        return;
    }
    // A node inherits where this process may run.
    pin_myself("0");
    let node = Node::start(&run.place);
    let people = node.people(PEOPLE);
    pin_myself("1");
    for (what, asked) in [
        ("commands", commands(&people)),
        ("notifications", notifications(&node, &people)),
        ("sign-ins", sign_ins(&people)),
    ] {
        if wanted(what) {
            compare(run, &node, what, asked);
            rests(&node);
        }
    }
    if wanted("sockets") {
        sockets(run, &node, &people);
    }
    if wanted("sign-ins behind a backlog") {
        behind_a_backlog(run, &node, &people);
    }
    pin_myself("0,1");
}

/// Waits until the node has done what was acknowledged: the next row is not to pay for it.
fn rests(node: &Node) {
    let waiting = |line: &str| line.starts_with("construct_outbox_records{") && !line.ends_with(" 0");
    until(Instant::now() + RESTS_WITHIN, "everything acknowledged is done", || {
        let (_, metrics) = call(node.admin, "GET", "/metrics", Some(&node.operator()), None);
        metrics.as_str().is_some_and(|metrics| !metrics.lines().any(waiting)).then_some(())
    });
}

fn commands(people: &[Person]) -> Call {
    let tokens: Vec<String> = people.iter().map(|person| person.token.clone()).collect();
    Arc::new(move |number| {
        let body = json!({ "display_name": format!("Busy {number}") }).to_string();
        request("PATCH", "/v1/me", Some(&tokens[number % tokens.len()]), &body)
    })
}

fn notifications(node: &Node, people: &[Person]) -> Call {
    let (token, to) = (node.operator(), people.iter().map(|person| person.id.clone()).collect::<Vec<_>>());
    Arc::new(move |number| {
        let content = json!({ "title": "News", "body": format!("Number {number}") });
        let to = json!({ "user_id": to[number % to.len()] });
        let body = json!({ "to": to, "category": "product", "channels": ["in_app"], "content": content });
        request("POST", "/v1/notifications", Some(&token), &body.to_string())
    })
}

fn sign_ins(people: &[Person]) -> Call {
    let emails: Vec<String> = people.iter().map(|person| person.email.clone()).collect();
    Arc::new(move |number| {
        let body = json!({ "email": emails[number % emails.len()], "password": PASSWORD }).to_string();
        request("POST", "/v1/sessions", None, &body)
    })
}

/// One row: answers in time each second at three times the peak's rate, and the peak.
fn compare(run: &Run, node: &Node, what: &str, asked: Call) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let load = runtime.block_on(Load::open(node.gateway, asked, CONNECTIONS));
    let turn = run.turn();
    let closed = |callers: usize| {
        let began = Instant::now();
        let figures = runtime.block_on(load.closed(callers, turn));
        rate(figures.good, began.elapsed())
    };
    let (callers, found) = best(closed);
    let (peak, last) = (Cell::new(found), Cell::new(Figures::default()));
    let measured = run.pairs(
        || {
            last.set(runtime.block_on(load.at_rate(offered(peak.get()), turn, PATIENCE)));
            rate(last.get().good, turn)
        },
        || {
            peak.set(closed(callers));
            peak.get()
        },
    );
    measured.print(&format!("overload, {what}/s at 3x / at the peak"), GOAL);
    eprintln!("  the last turn at 3x: {:?}", last.get());
}

/// Sign-ins at three times their peak while the node has as many notifications to deliver as it took in `BACKLOG`.
fn behind_a_backlog(run: &Run, node: &Node, people: &[Person]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let asked = runtime.block_on(Load::open(node.gateway, sign_ins(people), CONNECTIONS));
    let turn = run.turn();
    let (_, peak) = best(|callers| {
        let began = Instant::now();
        let figures = runtime.block_on(asked.closed(callers, turn));
        rate(figures.good, began.elapsed())
    });
    let sent = runtime.block_on(Load::open(node.gateway, notifications(node, people), AT_THE_PEAK[1]));
    let accepted = runtime.block_on(sent.closed(AT_THE_PEAK[1], BACKLOG)).good;
    let last = runtime.block_on(asked.at_rate(offered(peak), turn * 3, PATIENCE));
    let ours = rate(last.good, turn * 3);
    let measured = Measured { ours, raw: Some(peak), ratio: Some(ours / peak) };
    measured.print("overload, sign-ins/s at 3x behind a backlog / at the peak", GOAL);
    eprintln!("  {accepted} notifications were accepted before; then {last:?}");
}

/// The same for WebSockets that are opened, signed in and closed again.
fn sockets(run: &Run, node: &Node, people: &[Person]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (address, turn) = (node.gateway, run.turn());
    let tokens: Vec<String> = people.iter().map(|person| person.token.clone()).collect();
    let tokens = Arc::new(tokens);
    let closed = |callers: usize| {
        let (began, ends) = (Instant::now(), Instant::now() + turn);
        let clients = (0..callers).map(|number| {
            let tokens = Arc::clone(&tokens);
            async move {
                let mut opened = 0_u64;
                while Instant::now() < ends {
                    opened += u64::from(open_and_close(address, &tokens[number % tokens.len()]).await);
                }
                opened
            }
        });
        let opened = runtime.block_on(futures::future::join_all(clients)).iter().sum();
        rate(opened, began.elapsed())
    };
    let open = |per_second: u64| {
        runtime.block_on(async {
            let (began, mut sent, mut good) = (Instant::now(), 0_u64, 0);
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            let mut clients = tokio::task::JoinSet::new();
            while began.elapsed() < turn {
                pace.tick().await;
                let due = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) * per_second / 1_000_000;
                while sent < due {
                    sent += 1;
                    if clients.len() < CONNECTIONS {
                        let (tokens, number) = (Arc::clone(&tokens), usize::try_from(sent).unwrap_or(0));
                        clients.spawn(async move {
                            let asked = Instant::now();
                            let opened = open_and_close(address, &tokens[number % tokens.len()]).await;
                            opened && asked.elapsed() <= PATIENCE
                        });
                    }
                }
                while let Some(in_time) = clients.try_join_next() {
                    good += u64::from(in_time.expect("a client"));
                }
            }
            while let Some(in_time) = clients.join_next().await {
                good += u64::from(in_time.expect("a client"));
            }
            rate(good, turn)
        })
    };
    let (callers, found) = best(closed);
    let peak = Cell::new(found);
    let measured = run.pairs(
        || open(offered(peak.get())),
        || {
            peak.set(closed(callers));
            peak.get()
        },
    );
    measured.print("overload, sockets/s at 3x / at the peak", GOAL);
}

/// Shakes hands, signs in and hangs up; whether it was let in.
async fn open_and_close(address: SocketAddr, token: &str) -> bool {
    let whole = async {
        let mut stream = generator::upgrade(address).await.ok()?;
        let connect = json!({ "id": 1, "connect": { "token": token } }).to_string();
        let length = u16::try_from(connect.len()).ok()?;
        // A masked text frame; the mask is zero.
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(connect.as_bytes());
        stream.write_all(&frame).await.ok()?;
        let mut reply = [0; 64];
        let read = stream.read(&mut reply).await.ok()?;
        Some(String::from_utf8_lossy(&reply[..read]).contains("\"connect\""))
    };
    tokio::time::timeout(PATIENCE * 5, whole).await.ok().flatten().unwrap_or(false)
}

/// The number of callers that gets most, and what it gets.
fn best(mut closed: impl FnMut(usize) -> f64) -> (usize, f64) {
    let all = AT_THE_PEAK.map(|callers| (callers, closed(callers)));
    all.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)).expect("there are several")
}

/// Three times as much.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
fn offered(peak: f64) -> u64 {
    (peak * 3.0).max(3.0) as u64
}

/// Lets this process run on these cores alone, where that can be had.
fn pin_myself(cores: &str) {
    let pid = std::process::id().to_string();
    let set = Command::new("taskset").args(["-acp", cores, &pid]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !set.is_ok_and(|status| status.success()) {
        eprintln!("overload: the node and its clients share their cores");
    }
}
