//! Sign-ins with a password, against nothing but the hash of that password on as many threads.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde_json::json;

use crate::load::Connection;
use crate::support::node::{Node, PASSWORD};
use crate::support::{Goal, Run, rate};

const PEOPLE: usize = 16;
/// Of `identity.hash_concurrency`, as shipped.
const THREADS: usize = 2;
/// As in `actors/identity/passwords.rs`.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

pub fn run(run: &Run) {
    if !run.wants("sign-ins") {
        return;
    }
    let node = Node::start(&run.place);
    let requests: Vec<Vec<u8>> =
        node.people(PEOPLE).iter().map(|person| request(node.gateway, &person.email)).collect();
    let turn = run.turn();
    let measured = run.pairs(|| sign_ins(node.gateway, &requests, turn), || hashes(turn));
    measured.print("sign-ins/s / bare Argon2, 2 threads", Goal::Ratio(0.9));
}

fn request(address: SocketAddr, email: &str) -> Vec<u8> {
    let body = json!({ "email": email, "password": PASSWORD }).to_string();
    let length = body.len();
    format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One connection a person, each signing in again as soon as it was signed in.
fn sign_ins(address: SocketAddr, requests: &[Vec<u8>], turn: Duration) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let began = Instant::now();
        let clients = requests.iter().cloned().map(|request| {
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut done = 0;
                while began.elapsed() < turn {
                    connection.ask(&request).await;
                    done += 1;
                }
                done
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut done = 0;
        for client in clients {
            done += client.await.expect("every sign-in succeeds");
        }
        rate(done, began.elapsed())
    })
}

/// The hash alone, into memory that is kept.
fn hashes(turn: Duration) -> f64 {
    let (began, done) = (Instant::now(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("within bounds");
                let mut memory = vec![Block::default(); params.block_count()];
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let mut hash = [0; 32];
                while began.elapsed() < turn {
                    argon2
                        .hash_password_into_with_memory(
                            PASSWORD.as_bytes(),
                            b"sixteen bytes is",
                            &mut hash,
                            &mut memory,
                        )
                        .expect("a hash");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    rate(done.load(Ordering::Relaxed), began.elapsed())
}
