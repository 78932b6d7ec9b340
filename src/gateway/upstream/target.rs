//! One upstream of a route, and whether it is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Uri;
use http_body_util::{BodyExt, Empty};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::connect::Client;

const CHECK_EVERY: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Target {
    /// Scheme, authority and perhaps a path, without a slash at the end.
    base: String,
    pub(super) breaker: Breaker,
    healthy: AtomicBool,
}

impl Target {
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let base = url.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|_| format!("\"{url}\" is not a URL"))?;
        let whole = uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https"));
        if !whole || uri.query().is_some() {
            return Err(format!("\"{url}\" is not http://HOST[:PORT][/PATH]"));
        }
        Ok(Self { base, breaker: Breaker::default(), healthy: AtomicBool::new(true) })
    }

    pub(super) fn uri(&self, place: &str) -> Option<Uri> {
        format!("{}{place}", self.base).parse().ok()
    }

    pub(super) fn admits(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && self.breaker.admits(Instant::now())
    }

    /// Asks for the health path now and then; an answer below 400 means well.
    pub(super) async fn watch(self: Arc<Self>, client: Client, path: String, stopping: CancellationToken) {
        loop {
            let asked = tokio::time::timeout(CHECK_TIMEOUT, self.ask(&client, &path)).await;
            let healthy = asked.unwrap_or(false);
            if self.healthy.swap(healthy, Ordering::Relaxed) != healthy {
                tracing::info!(upstream = %self.base, healthy, "the health of an upstream changed");
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(CHECK_EVERY) => {}
            }
        }
    }

    async fn ask(&self, client: &Client, path: &str) -> bool {
        let Some(uri) = self.uri(path) else { return false };
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let Ok(request) = http::Request::get(uri).body(body) else { return false };
        client.request(request).await.is_ok_and(|response| response.status().as_u16() < 400)
    }
}
