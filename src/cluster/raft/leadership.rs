//! Who leads a shard, from what openraft reports: this node leads once it is elected *and* its state holds everything
//! that was acknowledged before, in whatever term.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::proposer::Raft;
use crate::actors::runtime::log::Leadership;

/// Pause before an elected leader that could not confirm it asks the voters again.
const AGAIN: Duration = Duration::from_millis(20);

/// Starts the task that keeps the answer current until `stop`; from then on nobody leads.
pub(super) fn follow(raft: Raft, sender: watch::Sender<Leadership>, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        stop.run_until_cancelled(run(raft, &sender)).await;
        sender.send_replace(Leadership::default());
    })
}

async fn run(raft: Raft, sender: &watch::Sender<Leadership>) {
    let mut reports = raft.server_metrics();
    loop {
        let (elected, mut now) = {
            let report = reports.borrow_watched();
            let replica = report.membership_config.membership().get_node(&report.id).is_some();
            let leads = report.state.is_leader() && report.current_leader == Some(report.id);
            let now = Leadership { leading: None, leader: report.current_leader, replica };
            (leads.then_some(report.vote.leader_id.term), now)
        };
        let known = sender.borrow().leading;
        now.leading = known.filter(|_| known == elected);
        publish(sender, now);
        let recovering = async {
            match elected {
                Some(term) if now.leading.is_none() => (term, recovered_in(&raft, term).await),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            (term, recovered) = recovering => match recovered {
                true => publish(sender, Leadership { leading: Some(term), ..now }),
                false => tokio::time::sleep(AGAIN).await,
            },
            changed = reports.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether this node leads in `term` and has applied everything that any leader before it acknowledged. Waits for the
/// voters as long as a lease lasts.
async fn recovered_in(raft: &Raft, term: u64) -> bool {
    let read = raft.ensure_linearizable(LinearizerOption::new(None, true)).await;
    read.is_ok_and(|read| read.committed_leader_id().term == term)
}

fn publish(sender: &watch::Sender<Leadership>, now: Leadership) {
    sender.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}
