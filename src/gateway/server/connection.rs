//! One connection, from the handshake to its end.

use std::net::IpAddr;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, handshake_timeout};
use super::service::{Peer, service};
use super::transport::Transport;
use super::{Bounds, Place, Shared};

/// Serves the connection until it closes, passes a deadline, or has finished its requests after `shutdown`.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: IpAddr,
    place: Place,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection closed at once");
        return;
    }
    let bounds = &shared.bounds;
    let activity = Activity::new();
    let transport = match &shared.tls {
        None => Transport::plain(stream, activity.clone(), bounds.write_timeout, place),
        Some(acceptor) => {
            let handshake = tokio::time::timeout(handshake_timeout(bounds), acceptor.accept(stream));
            match handshake.await {
                Ok(Ok(stream)) => Transport::tls(stream, activity.clone(), bounds.write_timeout, place),
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake took too long"),
            }
        }
    };
    let peer = Peer { address, secure: shared.tls.is_some() };
    let builder = builder(bounds);
    let service = service(shared.app.clone(), activity.clone(), peer);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(transport), service);
    tokio::pin!(connection);
    let mut closing = false;
    let last = tokio::time::sleep(bounds.write_timeout);
    tokio::pin!(last);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended early");
                }
                return;
            }
            idle = activity.expired(bounds), if !closing => {
                if !idle {
                    return tracing::debug!("a request head took too long");
                }
                connection.as_mut().graceful_shutdown();
                closing = true;
                last.as_mut().reset(Instant::now() + bounds.write_timeout);
            }
            // An idle client that does not take the rest of what it was sent, or does not close.
            () = last.as_mut(), if closing && !shutdown.is_cancelled() => {
                return tracing::debug!("a connection did not end when asked to");
            }
            () = shutdown.cancelled(), if !closing => {
                connection.as_mut().graceful_shutdown();
                closing = true;
            }
        }
    }
}

/// hyper's own limits. Its head timer would be set anew for every request; the watch on [`Activity`] stands for it.
fn builder(bounds: &Bounds) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(bounds.max_header_bytes.max(8192))
        .max_headers(100)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.max_streams)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        .max_header_list_size(u32::try_from(bounds.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(256 << 10)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(bounds.idle_timeout / 2)
        .keep_alive_timeout(bounds.header_timeout);
    builder
}
