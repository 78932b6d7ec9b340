//! The network between the nodes of a cluster: every byte passes here, or waits here.
//!
//! Each node is reached at a proxy of its own. Who dials is seen from the address it dials from, which is the one it
//! listens on. What may not pass is held and not refused, as packets that a switch drops are sent again: connections
//! stay open, new ones get nowhere, and what was held arrives late.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::node::loopback;

const PIECE: usize = 64 << 10;

/// From one node to another; by address.
type Direction = (IpAddr, IpAddr);

/// The rules, shared by all proxies.
#[derive(Clone)]
pub struct Between {
    held: watch::Sender<BTreeSet<Direction>>,
}

/// A proxy that has an address and does not serve yet.
pub struct Proxy {
    listener: TcpListener,
    between: Between,
}

#[cfg(all(feature = "failpoints", feature = "peers"))]
impl Between {
    pub fn new() -> Self {
        Self { held: watch::Sender::new(BTreeSet::new()) }
    }

    /// Holds what the first of each pair sends to the second, and lets everything else pass.
    pub fn hold(&self, directions: impl IntoIterator<Item = Direction>) {
        self.held.send_replace(directions.into_iter().collect());
    }

    pub fn heal(&self) {
        self.hold([]);
    }
}

impl Between {
    pub async fn proxy(&self) -> Proxy {
        let listener = TcpListener::bind((loopback(), 0)).await.expect("a free port");
        Proxy { listener, between: self.clone() }
    }

    async fn passes(&self, direction: Direction) {
        let _ = self.held.subscribe().wait_for(|held| !held.contains(&direction)).await;
    }

    async fn pump(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: Direction) {
        let mut buffer = vec![0; PIECE];
        loop {
            self.passes(direction).await;
            let Ok(read @ 1..) = from.read(&mut buffer).await else { break };
            self.passes(direction).await;
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        // Also that it ended is heard only where words are.
        self.passes(direction).await;
        let _ = to.shutdown().await;
    }
}

impl Proxy {
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound address")
    }

    /// Leads to `target` until the test ends.
    pub fn serve(self, target: SocketAddr) {
        tokio::spawn(async move {
            while let Ok((inbound, from)) = self.listener.accept().await {
                let (between, there) = (self.between.clone(), target.ip());
                tokio::spawn(async move {
                    between.passes((from.ip(), there)).await;
                    let Ok(outbound) = TcpStream::connect(target).await else { return };
                    let (read_in, write_in) = inbound.into_split();
                    let (read_out, write_out) = outbound.into_split();
                    tokio::join!(
                        between.pump(read_in, write_out, (from.ip(), there)),
                        between.pump(read_out, write_in, (there, from.ip())),
                    );
                });
            }
        });
    }
}
