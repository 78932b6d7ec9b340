//! The first start of a cluster that was made from an earlier state of another: before anything works by itself, it is
//! told who it is and what it may have done before, and people who were erased since are erased anew.

use tokio_util::sync::CancellationToken;

use super::members::patiently;
use super::{NodeError, failed};
use crate::actors::billing::subscription::{self, CancelAt, Subscription};
use crate::actors::billing::wallet::{self, Wallet};
use crate::actors::compliance::Compliance;
use crate::actors::restoration::{self, Beginning, Command, Restoration};
use crate::actors::runtime::Router;
use crate::cluster::beginning::{Pending, carried_out, pending};
use crate::kernel::{Error, ErrorCode, Origin};
use crate::settings::{ClockMode, Settings};

/// What is noted in the data directory.
pub(super) fn noted(settings: &Settings) -> Result<Option<Pending>, NodeError> {
    pending(&settings.node.data_dir).map_err(failed("what was noted of a new beginning"))
}

/// How the cluster began, where that was as an earlier state of another. Written now if this is its first start.
pub(super) async fn known(
    router: &Router,
    noted: Option<&Pending>,
    shutdown: &CancellationToken,
) -> Result<Option<Beginning>, NodeError> {
    let origin = Origin::system("beginning");
    let ask = || {
        let command = noted.map_or(Command::Get, |noted| Command::Begin(noted.beginning.clone()));
        let origin = &origin;
        async move { router.ask::<Restoration>(&restoration::id(), command, origin).await }
    };
    patiently(shutdown, ask).await.map_err(failed("how the cluster began"))
}

/// Erases anew who was erased in the old cluster. Ends their subscriptions first, so that no timer charges them; then
/// forgets that there is anything left to do.
pub(super) async fn carry_out(
    settings: &Settings,
    router: &Router,
    compliance: &Compliance,
    noted: Pending,
    shutdown: &CancellationToken,
) -> Result<(), NodeError> {
    let traceparent = Some(noted.beginning.aftermath.traceparent());
    let origin = Origin { traceparent, ..Origin::system("beginning") };
    for user_id in &noted.erasures {
        let erase = || async {
            end_subscriptions(router, user_id, &origin).await?;
            compliance.eraser.begin(user_id, &origin).await
        };
        patiently(shutdown, erase).await.map_err(failed("erasing anew who was erased"))?;
    }
    if !noted.erasures.is_empty() {
        tracing::info!(people = noted.erasures.len(), "who was erased since the backup is erased anew");
    }
    carried_out(&settings.node.data_dir).map_err(failed("what was noted of a new beginning"))
}

async fn end_subscriptions(router: &Router, user_id: &str, origin: &Origin) -> Result<(), Error> {
    let list = router.ask::<Wallet>(&wallet::id(user_id), wallet::Command::ListSubscriptions, origin).await;
    let open = match list {
        Ok(wallet::Reply::Subscriptions(open)) => open,
        Ok(_) => return Err(Error::internal()),
        // Erased before the backup was taken.
        Err(error) if error.code == ErrorCode::Gone => return Ok(()),
        Err(error) => return Err(error),
    };
    for id in open {
        let cancel = subscription::Command::Cancel { at: CancelAt::Now };
        router.ask::<Subscription>(&subscription::id(&id), cancel, origin).await?;
    }
    Ok(())
}

/// The time at which a virtual clock goes on: after everything that the old cluster may have done.
pub(super) fn clock_goes_on_at(settings: &Settings, beginning: Option<&Beginning>) -> Option<crate::kernel::Timestamp> {
    let beginning = beginning.filter(|_| settings.clock == ClockMode::Virtual)?;
    Some(beginning.aftermath.until.plus_millis(1))
}
