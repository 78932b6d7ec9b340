//! `construct serve`: one node, until it is told to stop.

use std::os::unix::net::UnixDatagram;

use anyhow::Context;
use construct::node::{self, Addresses};
use construct::settings::Settings;
use construct::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output::say;
use super::{CliError, NodeArgs};

pub const EXAMPLES: &str = "\
Examples:
  construct serve                                     a complete node, data under ./data
  construct serve --config node.toml --data-dir /var/lib/construct
  CONSTRUCT__CLOCK=virtual construct serve            with a clock that the admin endpoint advances";

pub fn run(args: &NodeArgs) -> Result<(), CliError> {
    let settings = Settings::load(&args.layers())?;
    telemetry::start(&settings.telemetry, settings.node.id).context("telemetry")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the async runtime")?;
    Ok(runtime.block_on(serve(settings))?)
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify("STOPPING=1");
        stop.cancel();
    });
    let banner = banner(&settings);
    node::run(settings, shutdown, |addresses| {
        if let Err(error) = say(&banner(addresses)) {
            tracing::warn!(%error, "the greeting cannot be printed");
        }
        notify("READY=1");
    })
    .await?;
    Ok(())
}

/// What a newcomer wants to know, once the node serves.
fn banner(settings: &Settings) -> impl FnOnce(Addresses) -> String + use<> {
    let data = settings.node.data_dir.clone();
    let public = settings.gateway.public_url.clone();
    let operators = settings.admin.clone();
    move |Addresses { gateway, admin }| {
        let (data, admin) = (data.display(), operators.url(admin));
        format!(
            "\
construct serves on {public} (listening on {gateway}), admin on {admin}
  data            {data}   (mails: {data}/outbox/mail/new, administrator token: {data}/admin-token)
  documentation   {public}/docs
Try:
  curl -s {public}/readyz
  curl -s {public}/v1/plans
  curl -s {public}/v1/signup -H 'content-type: application/json' \\
    -d '{{\"email\":\"ada@example.org\",\"password\":\"correct horse battery staple\",\"role\":\"robot_builder\"}}'
  cat {data}/outbox/mail/new/*          # the link to verify the address
  curl -s {admin}/admin/v1/actors -H \"authorization: Bearer $(cat {data}/admin-token)\"
"
        )
    }
}

/// Tells systemd (sd_notify(3)), if it is there.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| match path.to_string_lossy().strip_prefix('@') {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(state.as_bytes(), &address)
        }
        None => socket.send_to(state.as_bytes(), &path),
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
