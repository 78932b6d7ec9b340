//! One connection: a plain task that reads commands, answers them, pings, and pushes what its channels have new.
//!
//! Invariants: nothing queues for the client here. While a write is stuck, news only mark their channel; when the write
//! does not end in time the client is *slow* and is disconnected, and recovers when it comes back. Every wait has a
//! deadline: for the first command, for a pong, for each write.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::Realtime;
use super::disconnect::Disconnect;
use super::hub::{Follower, Line, Mailbox};
use super::protocol::{self, Command, Reply};
use crate::gateway::{Caller, Gateway};
use crate::kernel::{Origin, Secret, Timestamp};

/// Publications read and pushed in one frame.
const PUSH_PAGE: usize = 50;
/// How long a close frame may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The first check of the session after connecting: an end that was under way while the connection joined the hub.
const FIRST_CHECK: Duration = Duration::from_secs(1);
/// A token may be this much too old before the connection is closed: time for the client's refresh.
pub(super) const EXPIRY_GRACE_SECONDS: i64 = 25;
/// Sustained commands a second, and how many at once.
const COMMANDS_PER_SECOND: f64 = 50.0;
const COMMANDS_BURST: f64 = 200.0;

/// Why the loop ended.
pub(super) enum End {
    /// The other side is gone.
    Gone,
    Because(Disconnect),
}

impl From<Disconnect> for End {
    fn from(disconnect: Disconnect) -> Self {
        Self::Because(disconnect)
    }
}

/// Who holds the connection.
pub(super) struct Holder {
    pub(super) caller: Caller,
    pub(super) user_id: String,
    pub(super) session: Option<String>,
    pub(super) token: Secret<String>,
    /// `None`: the token does not run out.
    pub(super) expires_at: Option<Timestamp>,
}

/// A channel that is streamed to the client.
pub(super) struct Subscription {
    pub(super) line: Arc<Line>,
    pub(super) follower: Arc<Follower>,
    /// The newest offset the client has.
    pub(super) offset: u64,
    /// By the server at connect, and by the client's own `subscribe`.
    pub(super) by_server: bool,
    pub(super) by_client: bool,
}

struct Timers {
    /// When the connection must have said `connect`.
    stale_at: Option<Instant>,
    ping_at: Option<Instant>,
    pong_due: Option<Instant>,
    check_at: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Timers {
    fn next(&self) -> Instant {
        let all = [self.stale_at, self.ping_at, self.pong_due, self.check_at, self.retry_at];
        let idle = || Instant::now() + Duration::from_secs(3600);
        all.into_iter().flatten().min().unwrap_or_else(idle)
    }
}

/// A token bucket.
struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let earned = now.duration_since(self.at).as_secs_f64() * COMMANDS_PER_SECOND;
        self.tokens = (self.tokens + earned).min(COMMANDS_BURST);
        self.at = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// The state of one connection.
pub(super) struct Connection<S> {
    pub(super) realtime: Arc<Realtime>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) client: String,
    pub(super) source: String,
    socket: WebSocketStream<S>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) holder: Option<Holder>,
    pub(super) subscriptions: Vec<Subscription>,
    /// Calls under way; their answers come in any order.
    pub(super) calls: FuturesUnordered<BoxFuture<'static, Reply>>,
    timers: Timers,
    pace: Pace,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn new(
        realtime: Arc<Realtime>,
        gateway: Arc<Gateway>,
        client: String,
        source: String,
        socket: WebSocketStream<S>,
    ) -> Self {
        let now = Instant::now();
        let stale_at = Some(now + realtime.bounds.connect_timeout);
        Self {
            realtime,
            gateway,
            client,
            source,
            socket,
            mailbox: Arc::default(),
            holder: None,
            subscriptions: Vec::new(),
            calls: FuturesUnordered::new(),
            timers: Timers { stale_at, ping_at: None, pong_due: None, check_at: None, retry_at: None },
            pace: Pace { tokens: COMMANDS_BURST, at: now },
        }
    }

    /// Serves until either side ends it.
    pub(super) async fn run(mut self) {
        self.realtime.hub.open(&self.mailbox);
        if self.realtime.stopping.is_cancelled() {
            self.mailbox.end(Disconnect::SHUTDOWN);
        }
        let end = self.serve().await;
        self.leave();
        let frame = match end {
            Err(End::Because(Disconnect { code, reason })) => {
                Some(CloseFrame { code: code.into(), reason: reason.into() })
            }
            Err(End::Gone) | Ok(()) => None,
        };
        if let Some(frame) = &frame {
            metrics::counter!("construct_websocket_disconnects_total", "code" => u16::from(frame.code).to_string())
                .increment(1);
        }
        // Waits for the other side's close frame, so that ours is not lost in a reset.
        let closing = async {
            if self.socket.close(frame).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }

    async fn serve(&mut self) -> Result<(), End> {
        enum Step {
            Mail,
            Answer(Reply),
            Message(Option<Result<Message, WsError>>),
            Tick,
        }
        // Set again only for something earlier: most of what happens between two pings changes no deadline.
        let mut alarm = pin!(sleep_until(self.timers.next()));
        loop {
            let next = self.timers.next();
            if next < alarm.deadline() {
                alarm.as_mut().reset(next);
            }
            let step = tokio::select! {
                () = self.mailbox.changed() => Step::Mail,
                Some(answer) = self.calls.next(), if !self.calls.is_empty() => Step::Answer(answer),
                message = self.socket.next() => Step::Message(message),
                () = alarm.as_mut() => Step::Tick,
            };
            match step {
                Step::Mail => self.mail().await?,
                Step::Answer(answer) => self.write(answer.line()).await?,
                Step::Message(Some(Ok(message))) => self.message(message).await?,
                Step::Message(Some(Err(WsError::Capacity(_)))) => return Err(Disconnect::TOO_LARGE.into()),
                Step::Message(Some(Err(_)) | None) => return Err(End::Gone),
                Step::Tick => {
                    self.tick().await?;
                    alarm.as_mut().reset(self.timers.next());
                }
            }
        }
    }

    fn leave(&mut self) {
        for subscription in std::mem::take(&mut self.subscriptions) {
            self.realtime.hub.unfollow(&subscription.line, &subscription.follower);
        }
        if let Some(session) = self.holder.take().and_then(|holder| holder.session) {
            self.realtime.hub.exit(&session, &self.mailbox);
        }
        self.realtime.hub.close(&self.mailbox);
    }

    /// Looks at the holder once what is being answered is said.
    pub(super) fn check_soon(&mut self) {
        self.timers.check_at = Some(Instant::now());
    }

    pub(super) async fn write(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), End> {
        let mut sending = pin!(self.socket.send(Message::Text(text.into())));
        // Nearly always the socket takes it at once, and no deadline need be set.
        let sent = match futures::poll!(sending.as_mut()) {
            Poll::Ready(sent) => Ok(sent),
            Poll::Pending => timeout(self.realtime.bounds.write_timeout, sending).await,
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(Disconnect::SLOW.into()),
        }
    }

    async fn mail(&mut self) -> Result<(), End> {
        if let Some(why) = self.mailbox.ended() {
            return Err(why.into());
        }
        for index in 0..self.subscriptions.len() {
            if self.subscriptions[index].follower.take_news() {
                self.catch_up(index).await?;
            }
        }
        Ok(())
    }

    /// Pushes everything beyond what the client has of a channel.
    async fn catch_up(&mut self, index: usize) -> Result<(), End> {
        loop {
            let subscription = &self.subscriptions[index];
            let (line, after) = (Arc::clone(&subscription.line), subscription.offset);
            let router = &self.realtime.router;
            // Boxed: few connections read for themselves, and all would hold the room for it.
            let read = line.after(after, || line.channel.page(router, after, PUSH_PAGE).boxed()).await;
            let page = match read {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(()),
                Err(error) if error.code.may_retry() => {
                    subscription.follower.keep();
                    self.timers.retry_at = Some(Instant::now() + Duration::from_secs(1));
                    return Ok(());
                }
                Err(_) => return Err(Disconnect::INSUFFICIENT_STATE.into()),
            };
            if page.first != after + 1 {
                return Err(Disconnect::INSUFFICIENT_STATE.into());
            }
            self.subscriptions[index].offset = page.last;
            self.realtime.publications.increment(page.count);
            self.write(page.frame).await?;
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn message(&mut self, message: Message) -> Result<(), End> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Disconnect::BAD_REQUEST.into()),
            Message::Close(_) => return Err(End::Gone),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(()),
        };
        let Ok(commands) = protocol::commands(text.as_str()) else { return Err(Disconnect::BAD_REQUEST.into()) };
        for command in commands {
            self.command(command).await?;
        }
        Ok(())
    }

    async fn command(&mut self, command: Command) -> Result<(), End> {
        if command.is_pong() {
            // A pong that nobody asked for is a defect of the client.
            return match self.timers.pong_due.take() {
                Some(_) => Ok(()),
                None => Err(Disconnect::BAD_REQUEST.into()),
            };
        }
        if !self.pace.take() {
            return Err(Disconnect::TOO_MANY_REQUESTS.into());
        }
        // Boxed, as below: what is done once would take room in every connection for as long as it lives.
        if let Some(reply) = Box::pin(self.execute(command)).await? {
            self.write(reply.line()).await?;
        }
        Ok(())
    }

    /// Starts the rhythm of an accepted connection.
    pub(super) fn accepted(&mut self) {
        let now = Instant::now();
        self.timers.stale_at = None;
        self.timers.ping_at = Some(now + self.realtime.bounds.ping_interval);
        self.timers.check_at = Some(now + FIRST_CHECK);
    }

    async fn tick(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.timers.stale_at) {
            return Err(Disconnect::STALE.into());
        }
        if due(self.timers.pong_due) {
            return Err(Disconnect::NO_PONG.into());
        }
        if due(self.timers.ping_at) {
            self.timers.ping_at = Some(now + self.realtime.bounds.ping_interval);
            self.timers.pong_due = Some(now + self.realtime.bounds.pong_timeout);
            self.write("{}".to_owned()).await?;
        }
        if due(self.timers.retry_at) {
            self.timers.retry_at = None;
            self.mail().await?;
        }
        if due(self.timers.check_at) {
            self.timers.check_at = Some(now + self.realtime.bounds.ping_interval);
            Box::pin(self.check_holder()).await?;
        }
        Ok(())
    }

    /// The provenance of what this connection asks.
    pub(super) fn origin(&self) -> Origin {
        let mut origin = Origin::system(format!("ws-{}", self.client));
        if let Some(holder) = &self.holder {
            origin.principal = holder.caller.principal.clone();
        }
        origin.source.clone_from(&self.source);
        origin
    }
}
