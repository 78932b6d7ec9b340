//! The compliance service as the gateway and the node use it: one handle for the audit log, erasures and keys.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::alerts::Monitor;
use super::audit_log::AuditLog;
use super::erasure::Eraser;
use super::kek;
use super::sealer::KeyringSealer;
use crate::actors::runtime::Router;
use crate::kernel::Error;
use crate::providers::keys::KeyWrapper;

/// The handle of the compliance service. One per node.
pub struct Compliance {
    pub audit: Arc<AuditLog>,
    pub eraser: Arc<Eraser>,
    pub keys: Arc<dyn KeyWrapper>,
    pub(super) router: Router,
    pub(super) sealer: Arc<KeyringSealer>,
    /// One rotation at a time on this node.
    pub(super) rotating: tokio::sync::Mutex<()>,
}

impl Compliance {
    /// Opens the service once shards have leaders. `sealer` is the one the runtime uses; `origin` names the audit logs
    /// of a new installation.
    ///
    /// # Errors
    /// As [`AuditLog::open`].
    pub async fn open(
        router: Router,
        keys: Arc<dyn KeyWrapper>,
        sealer: Arc<KeyringSealer>,
        origin: &str,
    ) -> Result<Self, Error> {
        let audit = Arc::new(AuditLog::open(router.clone(), Arc::clone(&keys), origin).await?);
        let eraser = Arc::new(Eraser::new(router.clone(), Arc::clone(&sealer)));
        Ok(Self { audit, eraser, keys, router, sealer, rotating: tokio::sync::Mutex::default() })
    }

    /// Carries open erasures on and watches the audit log until the node stops.
    pub async fn run(self: Arc<Self>, stopping: CancellationToken) {
        for replica in self.router.replicas() {
            tokio::spawn(Arc::clone(&self.eraser).forget_erased(Arc::clone(replica), stopping.clone()));
        }
        let monitor = Monitor::new(self.router.clone(), Arc::clone(&self.audit));
        let agreeing = stopping.run_until_cancelled(kek::sharing::follow(&self.router, self.keys.as_ref()));
        tokio::join!(Arc::clone(&self.eraser).run(stopping.clone()), monitor.run(stopping.clone()), agreeing);
    }
}
