//! What handlers may use: one field per service, composed by the node.

use std::sync::Arc;

use super::websocket::Realtime;
use crate::actors::billing::census;
use crate::actors::compliance::Compliance;
use crate::actors::identity::Authority;
use crate::actors::runtime::{Router, Runtime};
use crate::cluster::backup::Backups;
use crate::cluster::coordinator::Coordinator;
use crate::cluster::link::{Link, NEWEST};
use crate::kernel::Clock;
use crate::providers::push::VapidKey;
use crate::settings::Settings;

/// The handles of everything behind the gateway. Composed once, shared by every request.
pub struct Services {
    pub settings: Arc<Settings>,
    pub clock: Arc<dyn Clock>,
    pub router: Router,
    pub runtime: Arc<Runtime>,
    pub identity: Arc<Authority>,
    pub compliance: Arc<Compliance>,
    pub census: Arc<census::Taker>,
    pub realtime: Arc<Realtime>,
    pub cluster: Arc<Coordinator>,
    pub backups: Arc<Backups>,
    /// The way to other nodes, if there is one.
    pub link: Option<Link>,
    /// Identifies this sender to push services; browsers subscribe to its public half.
    pub vapid: Arc<VapidKey>,
}

impl Services {
    /// Whether a node answers; this one does.
    #[must_use]
    pub fn hears(&self, node: u64) -> bool {
        node == self.settings.node.id || self.link.as_ref().is_some_and(|link| link.is_connected(node))
    }

    /// The newest version of the wire that a node speaks, or at least the newest of this one's, once known.
    #[must_use]
    pub fn speaks(&self, node: u64) -> Option<u16> {
        if node == self.settings.node.id {
            return Some(NEWEST);
        }
        let peers = self.link.as_ref()?.peers();
        peers.into_iter().find(|peer| peer.node == node)?.wire
    }
}
