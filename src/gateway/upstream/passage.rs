//! The bytes of an upgraded connection, both ways, for as long as its caller may have it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::gateway::pipeline::Gateway;
use crate::gateway::registry::Access;
use crate::gateway::websocket::Watched;
use crate::kernel::{ErrorCode, Principal, Secret};

/// Between two looks at whether the caller may still be here, and whether anything passed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Looks in a row without a byte either way, after which both sides are taken for gone.
const SILENT_LOOKS: u32 = 120;
/// How long the two sides have to change protocols.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);

/// Why a connection may be here: looked up again and again, as the session or key behind it may end.
pub struct Standing {
    pub gateway: Arc<Gateway>,
    /// Who was let in, and with which token; `None`: anyone may be here.
    pub holder: Option<(Principal, Secret<String>)>,
    /// The session behind it, whose end is heard of at once.
    pub session: Option<Watched>,
    pub access: Access,
    /// Its place among all WebSocket connections.
    pub place: OwnedSemaphorePermit,
}

impl Standing {
    /// Whether the caller is known not to be allowed any more. What cannot be found out now does not end anything.
    async fn is_over(&self) -> bool {
        let Some((principal, token)) = &self.holder else { return false };
        match self.gateway.still(principal, token.expose()).await {
            Ok(caller) => caller.check(self.access).is_err(),
            Err(error) => error.code == ErrorCode::Unauthenticated,
        }
    }

    async fn session_ends(&self) {
        match &self.session {
            Some(session) => session.ended().await,
            None => std::future::pending().await,
        }
    }
}

/// Copies bytes both ways until one side closes or falls silent, the caller may not be here any more, or the node drains.
pub(super) async fn pass_through(ours: OnUpgrade, theirs: OnUpgrade, standing: Standing, draining: CancellationToken) {
    let both = async { tokio::join!(ours, theirs) };
    let Ok((Ok(ours), Ok(theirs))) = timeout(UPGRADE_WITHIN, both).await else {
        return tracing::debug!("an upgrade through the gateway did not come about");
    };
    let moved = Arc::new(AtomicU64::new(0));
    let mut ours = Counted { inner: TokioIo::new(ours), moved: Arc::clone(&moved) };
    let mut theirs = TokioIo::new(theirs);
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "an upgraded connection broke off");
            }
        }
        why = watch(&standing, &moved, LOOK_EVERY) => tracing::debug!(why, "an upgraded connection is ended"),
        () = draining.cancelled() => {}
    }
}

async fn watch(standing: &Standing, moved: &AtomicU64, every: Duration) -> &'static str {
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut silent) = (0, 0);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = standing.session_ends() => return "its session or key is over",
        }
        if standing.is_over().await {
            return "its session or key is over";
        }
        let now = moved.load(Ordering::Relaxed);
        silent = if now == before { silent + 1 } else { 0 };
        before = now;
        if silent > SILENT_LOOKS {
            return "nothing passes through it";
        }
    }
}

/// Counts what was read and written.
struct Counted<S> {
    inner: S,
    moved: Arc<AtomicU64>,
}

impl<S> Counted<S> {
    fn count(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.count(buf.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.count(*written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::identity::session::{self, Ended, Session};
    use crate::gateway::testing::{gateway_of, services};
    use crate::kernel::Origin;
    use crate::settings::Settings;
    use tokio::time::Instant;

    #[tokio::test]
    async fn it_ends_with_the_key_behind_it_and_when_both_sides_are_silent() {
        let services = services(Settings::embedded()).await;
        let gateway = gateway_of(Arc::clone(&services), Vec::new());
        let standing = |token: &str, access| {
            let (gateway, place) = (Arc::clone(&gateway), services.realtime.admit().expect("a place"));
            let principal = Principal::User { id: "usr_1".into(), session: Some("ses_1".into()), roles: Vec::new() };
            let holder = Some((principal, Secret::new(token.to_owned())));
            Standing { gateway, holder, session: Some(services.realtime.watch("ses_1")), access, place }
        };
        let (moved, every) = (AtomicU64::new(0), Duration::from_millis(4));
        let over = watch(&standing("nobody", Access::User), &moved, every).await;
        assert_eq!(over, "its session or key is over");
        let over = watch(&standing("usr_1:consumer", Access::Permission("users:read")), &moved, every).await;
        assert_eq!(over, "its session or key is over");
        let began = Instant::now();
        let known = standing("usr_1:consumer", Access::User);
        let busy = async {
            let mut ticks = interval(every / 4);
            for _ in 0..200 {
                ticks.tick().await;
                moved.fetch_add(1, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        let over = tokio::select! { over = watch(&known, &moved, every) => over, () = busy => "" };
        assert_eq!(over, "nothing passes through it");
        assert!(began.elapsed() >= every * (50 + SILENT_LOOKS - 1), "{:?}", began.elapsed());
        let ends = standing("usr_1:consumer", Access::User);
        let ending = async {
            let revoke = session::Command::Revoke { user_id: "usr_1".into(), reason: Ended::SignedOutEverywhere };
            let (id, origin) = (session::id("ses_1"), Origin::system("test"));
            services.router.ask::<Session>(&id, revoke, &origin).await.expect("revoked");
            std::future::pending::<()>().await;
        };
        let over = tokio::select! { over = watch(&ends, &moved, Duration::from_secs(3600)) => over, () = ending => "" };
        assert_eq!(over, "its session or key is over", "at once");
    }
}
