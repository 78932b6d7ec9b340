//! A socket that never stays long at one node, and comes back at the next one when its own is gone or silent.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::registers::pause;
use crate::socket::Socket;

/// How long it stays: also the longest silence before it looks elsewhere.
const STAY: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(100);
/// The longest nobody lets it in.
const LET_IN_WITHIN: Duration = Duration::from_secs(60);

/// What was heard, in the order of arrival, and from which offset on.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Of the channel when it was first subscribed.
    pub from: u64,
    pub publications: Vec<Value>,
    /// How often it was let in at a node and got what it had missed.
    pub moves: usize,
}

impl Heard {
    pub fn last(&self) -> u64 {
        self.publications.last().map_or(self.from, offset)
    }

    pub fn receipts(&self) -> Vec<&Value> {
        let is_one = |heard: &&Value| heard["data"].to_string().to_lowercase().contains("receipt");
        self.publications.iter().filter(is_one).collect()
    }
}

/// Listens at one node after the other, with whatever token is good now, until `until` is reached.
pub async fn listen(
    nodes: &[SocketAddr],
    mut turn: usize,
    token: &watch::Sender<String>,
    until: &watch::Sender<Option<u64>>,
    heard: &watch::Sender<Heard>,
) {
    let mut socket: Option<Socket> = None;
    let mut let_in = Instant::now();
    loop {
        let done = |until: &Option<u64>| until.is_some_and(|offset| heard.borrow().last() >= offset);
        if done(&until.borrow()) {
            return;
        }
        let (node, good) = (nodes[turn % nodes.len()], token.borrow().clone());
        let came = match &mut socket {
            Some(socket) => {
                socket.move_to(node);
                socket.try_renew(&good).await
            }
            None => {
                let opened = Socket::try_open_with(node, json!({ "token": good, "name": "roaming" })).await;
                socket = opened.and_then(Result::ok);
                socket.is_some()
            }
        };
        turn += 1;
        let Some(socket) = socket.as_mut().filter(|_| came) else {
            assert!(let_in.elapsed() < LET_IN_WITHIN, "no node lets the socket in");
            pause(AGAIN).await;
            continue;
        };
        heard.send_modify(|heard| {
            if heard.moves == 0 {
                heard.from = socket.offset();
            }
            heard.moves += 1;
        });
        let leaves = Instant::now() + STAY;
        loop {
            heard.send_modify(|heard| heard.publications = socket.publications().to_vec());
            if done(&until.borrow()) || !matches!(timeout_at(leaves, socket.goes_on()).await, Ok(true)) {
                break;
            }
        }
        let_in = Instant::now();
    }
}

pub fn offset(publication: &Value) -> u64 {
    publication["offset"].as_u64().unwrap_or_else(|| panic!("no offset in {publication}"))
}
