//! The accepting side: from a connection of anybody to a stream of a member, under a deadline and within bounds.
//!
//! A connection costs a task and a socket until its first byte; TLS begins then. Beyond the bounds (in all, and for one
//! address) it is closed at once. The deadline runs from the first moment to the end of the hello.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::hello::{Answer, HELLO_BYTES, Hello, Lane, Rejection, agree};
use super::peers::{Caller, Speaks};
use super::stream::{Io, StreamError, frames, read_one, write_one};
use super::tls::key_of;
use super::{BUILD, LinkError, Shared, Stranger, Wire, dial};

/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Pause after the system refused to accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let handshakes = Arc::new(Handshakes::default());
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection of another node cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Handshakes::begin(&handshakes, address.ip(), shared.settings.handshakes) {
            Some(slot) => {
                let task = handshake(Arc::clone(&shared), stream, address, slot);
                shared.tasks.spawn(task);
            }
            None => counter!("construct_link_refused_total", "reason" => "handshakes").increment(1),
        }
    }
}

async fn handshake(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr, slot: Slot) {
    let limit = shared.settings.handshake;
    let greeted = tokio::select! {
        () = shared.stop.cancelled() => return,
        greeted = timeout(limit, greet(&shared, stream, address)) => greeted,
    };
    drop(slot);
    let Err(error) = greeted.unwrap_or(Err(LinkError::Handshake(limit))) else { return };
    counter!("construct_link_refused_total", "reason" => reason(&error)).increment(1);
    tracing::info!(%address, error = %chain(&error), "a connection of another node was refused");
}

/// Brings a connection to where its lane takes over.
async fn greet(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr) -> Result<(), LinkError> {
    dial::tune(&stream, &shared.settings).map_err(StreamError::Io)?;
    let mut first = [0];
    stream.peek(&mut first).await.map_err(StreamError::Io)?;
    let plain = shared.settings.plain_text && first[0] != TLS_HANDSHAKE;
    let (mut io, certificate): (Io, _) =
        if plain { (Box::new(stream), None) } else { shared.tls.accept(stream).await? };
    let hello = Hello::decode(&read_one(&mut io, HELLO_BYTES).await?)?;
    let checked = check(shared, &hello, certificate.as_ref(), plain);
    let closed = shared.stop.child_token();
    // Its place is given back when it is closed, also if it comes to nothing here.
    let closing = closed.clone().drop_guard();
    let admitted = checked.and_then(|wire| match hello.lane {
        Lane::Join => Ok(wire),
        lane => {
            let key = certificate.as_ref().and_then(key_of);
            let speaks = Speaks { incarnation: hello.incarnation, build: &hello.build, wire: hello.wire.1 };
            let caller = Caller { node: hello.from, key, speaks };
            shared.peers.admit(&caller, lane, &closed).map(|()| wire)
        }
    });
    let wire = match admitted {
        Ok(wire) => wire,
        Err(rejection) => {
            write_one(&mut io, &Answer::Refused(rejection).encode()?).await?;
            return Err(rejection.into());
        }
    };
    let (node, incarnation, build) = (shared.node, shared.incarnation, BUILD.to_owned());
    write_one(&mut io, &Answer::Welcome { wire, node, incarnation, build }.encode()?).await?;
    if hello.lane == Lane::Join {
        return hand_over(&shared.strangers.lock().unwrap_or_else(PoisonError::into_inner), Stranger { address, io });
    }
    let (sender, receiver) = frames(io, shared.settings.pace(hello.lane), closing.disarm());
    let wire = Wire { node: hello.from, incarnation: hello.incarnation, sender, receiver };
    let lane = shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).get(&hello.lane).cloned();
    hand_over(&lane, wire)
}

/// Gives a stream to its lane, or closes it when the lane has no room for it (or is not up yet): the other side redials.
fn hand_over<T>(lane: &Option<tokio::sync::mpsc::Sender<T>>, stream: T) -> Result<(), LinkError> {
    let taken = lane.as_ref().is_some_and(|lane| lane.try_send(stream).is_ok());
    if taken { Ok(()) } else { Err(Rejection::Busy.into()) }
}

/// The version of the wire, if the hello fits this node and the certificate fits the hello.
fn check(
    shared: &Shared,
    hello: &Hello,
    certificate: Option<&CertificateDer<'_>>,
    plain: bool,
) -> Result<u16, Rejection> {
    let wire = agree(hello.wire, shared.peers.level())?;
    if hello.cluster != shared.cluster {
        return Err(Rejection::Cluster);
    }
    if hello.lane == Lane::Join {
        // Secrets travel on it: never in clear.
        return if plain { Err(Rejection::Certificate) } else { Ok(wire) };
    }
    if hello.to != shared.node || hello.from == shared.node {
        return Err(Rejection::Node { node: shared.node });
    }
    if !plain && !certificate.is_some_and(|certificate| shared.tls.is_of(certificate, hello.from)) {
        return Err(Rejection::Certificate);
    }
    Ok(wire)
}

fn reason(error: &LinkError) -> &'static str {
    match error {
        LinkError::Refused(rejection) => rejection.reason(),
        LinkError::Handshake(_) => "deadline",
        LinkError::Protocol(_) => "protocol",
        _ => "stream",
    }
}

/// The error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Connections at their handshake, by address.
#[derive(Default)]
struct Handshakes {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Held as long as a handshake takes.
struct Slot {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

impl Handshakes {
    fn begin(handshakes: &Arc<Self>, address: IpAddr, (all, of_one): (usize, usize)) -> Option<Slot> {
        let mut open = handshakes.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = open.get(&address).copied().unwrap_or(0);
        if of_this >= of_one || open.values().sum::<usize>() >= all {
            return None;
        }
        open.insert(address, of_this + 1);
        Some(Slot { handshakes: Arc::clone(handshakes), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.handshakes.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}
