//! Links of a small cluster in one process, and a wire between them that can be held, cut and healed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::providers::keys::FileKeys;

pub const CLUSTER: ClusterId = [7; 16];
/// The longest anything in a test may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster's keys and the data directories of its nodes.
pub struct Site {
    pub dir: TempDir,
    keys: FileKeys,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a test on this machine");
        let keys = FileKeys::open(dir.path()).expect("a test on this machine");
        Self { dir, keys }
    }

    pub fn identity(&self, node: u64) -> Identity {
        self.identity_in(&node.to_string(), node)
    }

    fn identity_in(&self, directory: &str, node: u64) -> Identity {
        let dir = self.dir.path().join(directory);
        std::fs::create_dir_all(&dir).expect("a test on this machine");
        Identity::open(&dir, node, CLUSTER, &self.keys).expect("a test on this machine")
    }

    /// A node with another data directory.
    pub async fn elsewhere(&self, directory: &str, node: u64) -> Link {
        let identity = self.identity_in(directory, node);
        Link::bind(&self.dir.path().join(directory), settings(), &identity).await.expect("a test on this machine")
    }

    pub async fn link_with(&self, node: u64, settings: LinkSettings) -> Link {
        let identity = self.identity(node);
        Link::bind(&self.dir.path().join(node.to_string()), settings, &identity).await.expect("a test on this machine")
    }

    pub async fn link(&self, node: u64) -> Link {
        self.link_with(node, settings()).await
    }
}

/// Quick, but with room for a busy machine.
pub fn settings() -> LinkSettings {
    LinkSettings {
        heartbeat: Duration::from_millis(200),
        handshake: Duration::from_secs(3),
        stall: Duration::from_millis(700),
        ..LinkSettings::listening((Ipv4Addr::LOCALHOST, 0).into())
    }
}

/// Makes the links know each other.
pub fn introduce(links: &[&Link]) {
    let members: BTreeMap<u64, String> = links.iter().map(|link| (link.node(), link.address().to_string())).collect();
    for link in links {
        link.set_members(members.clone()).expect("a test on this machine");
    }
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(DEADLINE, what, holds).await;
}

pub async fn until_within(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(deadline, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"));
}

/// What a [`Proxy`] does with its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Bytes no longer pass, and nobody is told.
    Held,
    /// Connections break and new ones are refused.
    Cut,
}

/// A wire between two nodes.
pub struct Proxy {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a test on this machine");
        let address = listener.local_addr().expect("a test on this machine");
        let (way, watched) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, target, watched.clone()));
            }
        });
        Self { address, way }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    if *way.borrow() == Way::Cut {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    loop {
        if *way.borrow_and_update() == Way::Held {
            if way.wait_for(|way| *way != Way::Held).await.is_err() {
                return;
            }
            continue;
        }
        if *way.borrow() == Way::Cut {
            return;
        }
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => return,
            changed = way.changed() => if changed.is_err() { return },
        }
    }
}

/// Echoes every frame of every stream of a lane.
pub fn echo(link: &Link, lane: Lane) {
    let mut incoming = link.incoming(lane);
    tokio::spawn(async move {
        while let Some(mut wire) = incoming.recv().await {
            tokio::spawn(async move {
                while let Ok(frame) = wire.receiver.next().await {
                    if wire.sender.send(frame).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

pub async fn round_trip(wire: &mut Wire, frame: &[u8]) -> Result<Vec<u8>, StreamError> {
    wire.sender.send(frame.to_vec()).await?;
    timeout(DEADLINE, wire.receiver.next()).await.expect("an answer in time")
}

/// An [`Arc`] for a closure that counts.
pub fn counter() -> Arc<std::sync::atomic::AtomicUsize> {
    Arc::default()
}
