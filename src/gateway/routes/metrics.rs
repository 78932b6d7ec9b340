//! The metrics of a node, and what is measured only when they are read: whether it is ready, its disk, who is a member.

use metrics::gauge;

use super::health;
use crate::actors::members::MemberState;
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::Error;
use crate::storage::state::damage_set_aside;
use crate::telemetry;

/// Metrics, on the admin listener and on that of telemetry: open to scrapers, without personal data.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/metrics", "getMetrics")
            .summary("Metrics in the Prometheus text format")
            .tag("operations")
            .access(Access::Public)
            .limit(LimitClass::Unlimited)
            .content(200, "The metrics", "text/plain; version=0.0.4")
            .handle(get_metrics),
    ]
}

async fn get_metrics(call: Call<()>) -> Result<Reply, Error> {
    call.services.runtime.publish_gauges().await;
    for check in health::checks(&call).await {
        gauge!("construct_ready", "check" => check.name).set(f64::from(u8::from(check.ok)));
    }
    disk(&call);
    members(&call);
    let settings = &call.services.settings;
    let labels = [("node", settings.node.id.to_string()), ("zone", settings.node.zone.clone())];
    let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
    gauge!("construct_node_info", &[labels.as_slice(), &[version]].concat()).set(1.0);
    Ok(Reply::bytes(200, "text/plain; version=0.0.4", telemetry::render_metrics()))
}

#[expect(clippy::cast_precision_loss, reason = "bytes and files of a disk are below 2^52")]
fn disk(call: &Call<()>) {
    let dir = &call.services.settings.node.data_dir;
    if let (Ok(free), Ok(total)) = (fs4::available_space(dir), fs4::total_space(dir)) {
        gauge!("construct_disk_free_bytes").set(free as f64);
        gauge!("construct_disk_total_bytes").set(total as f64);
    }
    if let Ok(found) = damage_set_aside(dir) {
        gauge!("construct_damage_set_aside").set(found as f64);
    }
}

/// Members by state, as this node sees them.
fn members(call: &Call<()>) {
    let (mut up, mut down, mut draining, mut leaving) = (0_u32, 0_u32, 0_u32, 0_u32);
    for (id, known) in &call.services.cluster.view().borrow().members {
        let count = match known.state {
            MemberState::Leaving => &mut leaving,
            _ if !call.services.hears(*id) => &mut down,
            MemberState::Draining => &mut draining,
            MemberState::Up => &mut up,
        };
        *count += 1;
    }
    for (state, count) in [("up", up), ("down", down), ("draining", draining), ("leaving", leaving)] {
        gauge!("construct_members", "state" => state).set(f64::from(count));
    }
}
