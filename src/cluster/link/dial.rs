//! The dialing side: one stream to one node, again and again if need be.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use socket2::SockRef;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use super::accept::chain;
use super::hello::{Answer, HELLO_BYTES, Hello, Lane, Rejection, spoken};
use super::identity::ClusterId;
use super::peers::Speaks;
use super::stream::{Io, StreamError, frames, read_one, write_one};
use super::tls::{connect_pinned, shows_a_certificate};
use super::{BUILD, Link, LinkError, LinkSettings, Shared, Stranger, Wire};

impl Link {
    /// Opens a stream of a lane to a node.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(in crate::cluster) async fn open(&self, node: u64, lane: Lane) -> Result<Wire, LinkError> {
        let shared = &self.shared;
        let limit = shared.settings.handshake;
        let address = shared.peers.address(node).ok_or(LinkError::Unknown(node))?;
        let dialed = timeout(limit, dial(shared, node, lane, &address)).await;
        dialed.unwrap_or(Err(LinkError::Handshake(limit)))
    }

    /// Keeps a stream of a lane to a node open for as long as the link runs and the node is known, and gives each to
    /// `run`, which returns when the stream has ended. A node that dials this one is dialed at once.
    pub(in crate::cluster) async fn keep<F: Future<Output = ()>>(
        &self,
        node: u64,
        lane: Lane,
        run: impl Fn(Wire) -> F,
    ) {
        let alive = self.shared.peers.alive(node);
        let disconnects = counter!("construct_link_disconnects_total", "lane" => lane.as_str());
        let mut misses = 0;
        let mut told = String::new();
        let keep = async {
            while self.shared.peers.address(node).is_some() {
                let heard = alive.notified();
                match self.open(node, lane).await {
                    Ok(wire) => {
                        misses = 0;
                        told.clear();
                        tracing::info!(node, %lane, "connected");
                        self.run_while_known(wire, &run).await;
                        tracing::info!(node, %lane, "disconnected");
                        disconnects.increment(1);
                    }
                    Err(error) => {
                        let error = chain(&error);
                        if told == error {
                            tracing::debug!(node, %lane, error, "a node cannot be reached");
                        } else {
                            tracing::warn!(node, %lane, error, "a node cannot be reached");
                            told = error;
                        }
                    }
                }
                let pause = pause(self.shared.settings.redial, misses);
                misses = misses.saturating_add(1);
                let _ = timeout(pause, heard).await;
                // Also when the other side was heard: it may be refusing as fast as it can.
                sleep(self.shared.settings.redial.0 / 2).await;
            }
        };
        let _ = self.shared.stop.run_until_cancelled(keep).await;
    }

    /// Runs a stream to its end, and ends it when the node is no longer known.
    async fn run_while_known<F: Future<Output = ()>>(&self, wire: Wire, run: &impl Fn(Wire) -> F) {
        let (node, sender) = (wire.node, wire.sender.clone());
        let mut changes = self.shared.peers.changes();
        let forgotten = async { while self.shared.peers.address(node).is_some() && changes.changed().await.is_ok() {} };
        let mut running = pin!(run(wire));
        tokio::select! {
            () = &mut running => {}
            () = forgotten => {
                sender.close();
                running.await;
            }
        }
    }
}

/// Doubling from the first to the second, less a random part of up to half.
fn pause((least, most): (Duration, Duration), misses: u32) -> Duration {
    let whole = least.saturating_mul(1 << misses.min(16)).min(most);
    let random = crate::actors::runtime::entropy();
    let part = u32::from(u16::from_le_bytes([random[0], random[1]]));
    whole.mul_f64(1.0 - f64::from(part) / f64::from(u16::MAX) / 2.0)
}

async fn dial(shared: &Arc<Shared>, node: u64, lane: Lane, address: &str) -> Result<Wire, LinkError> {
    let stream = connect(address, &shared.settings, Some(shared.address.ip())).await?;
    let mut io: Io = if shared.settings.plain_text {
        Box::new(stream)
    } else {
        let (io, key) = shared.tls.connect(node, stream).await?;
        if !shared.peers.is_key_of(node, key) {
            return Err(LinkError::OtherKey(node));
        }
        io
    };
    let hello = Hello {
        wire: spoken(shared.peers.level()),
        lane,
        cluster: shared.cluster,
        from: shared.node,
        to: node,
        incarnation: shared.incarnation,
        build: BUILD.to_owned(),
    };
    let (incarnation, build, wire) = greet(&mut io, &hello).await?;
    shared.peers.met(node, &Speaks { incarnation, build: &build, wire });
    let (sender, receiver) = frames(io, shared.settings.pace(lane), shared.stop.child_token());
    Ok(Wire { node, incarnation, sender, receiver })
}

/// Says hello and hears who answered.
async fn greet(io: &mut Io, hello: &Hello) -> Result<(u64, String, u16), LinkError> {
    write_one(io, &hello.encode()?).await?;
    match Answer::decode(&read_one(io, HELLO_BYTES).await?)? {
        Answer::Refused(rejection) => Err(rejection.into()),
        Answer::Welcome { node, .. } if hello.to != 0 && node != hello.to => Err(Rejection::Node { node }.into()),
        Answer::Welcome { incarnation, build, wire, .. } => Ok((incarnation, build, wire)),
    }
}

/// A node that dials before it is a member.
pub(in crate::cluster) struct Joining {
    pub cluster: ClusterId,
    /// SHA-256 of the authority's certificate.
    pub authority: [u8; 32],
    pub node: u64,
    pub settings: LinkSettings,
}

/// Opens a stream of the join lane to whichever member listens at `address`.
///
/// # Errors
/// [`LinkError`].
pub(in crate::cluster) async fn dial_member(joining: &Joining, address: &str) -> Result<Stranger, LinkError> {
    let limit = joining.settings.handshake;
    let dial = async {
        let stream = connect(address, &joining.settings, None).await?;
        let address_of = stream.peer_addr().map_err(StreamError::Io)?;
        let mut io = connect_pinned(&joining.cluster, joining.authority, stream).await?;
        let hello = Hello {
            wire: spoken(0),
            lane: Lane::Join,
            cluster: joining.cluster,
            from: joining.node,
            to: 0,
            incarnation: 0,
            build: BUILD.to_owned(),
        };
        greet(&mut io, &hello).await?;
        Ok(Stranger { address: address_of, io })
    };
    timeout(limit, dial).await.unwrap_or(Err(LinkError::Handshake(limit)))
}

/// Whether a node of some cluster listens at `address`. One without a cluster listens nowhere.
pub(in crate::cluster) async fn is_member(address: &str, settings: &LinkSettings) -> bool {
    let ask = async {
        match connect(address, settings, None).await {
            Ok(stream) => shows_a_certificate(stream).await,
            Err(_) => false,
        }
    };
    timeout(settings.handshake, ask).await.unwrap_or(false)
}

/// Connects from the address that this node listens on, if that is a particular one: what a firewall (or a test) sees
/// of a node is then one address.
async fn connect(address: &str, settings: &LinkSettings, from: Option<IpAddr>) -> Result<TcpStream, LinkError> {
    let failed = |source| LinkError::Connect { address: address.to_owned(), source };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for target in lookup_host(address).await.map_err(failed)? {
        if settings.plain_text && !target.ip().is_loopback() {
            last = io::Error::new(io::ErrorKind::PermissionDenied, "plain text leaves this machine");
            continue;
        }
        let socket = if target.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        let from = from.filter(|from| !from.is_unspecified() && from.is_ipv4() == target.is_ipv4());
        if let Some(from) = from {
            socket.bind((from, 0).into()).map_err(failed)?;
        }
        match socket.connect(target).await {
            Ok(stream) => {
                tune(&stream, settings).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// No delay, and an end to what the other side does not acknowledge (RFC 5482, `TCP_USER_TIMEOUT`).
pub(super) fn tune(stream: &TcpStream, settings: &LinkSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(settings.stall))
}

impl Stranger {
    /// One message before there are frames; the caller sets the deadline.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), StreamError> {
        write_one(&mut self.io, message).await
    }

    /// # Errors
    /// [`StreamError`]; a message above `limit` is refused before it is read.
    pub async fn receive(&mut self, limit: usize) -> Result<Vec<u8>, StreamError> {
        read_one(&mut self.io, limit).await
    }
}
