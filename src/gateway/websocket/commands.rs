//! What each command of the protocol does.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::channel::{Channel, ChannelKind};
use super::connection::{Connection, EXPIRY_GRACE_SECONDS, End, Holder, Subscription};
use super::disconnect::Disconnect;
use super::protocol::{
    Command, ConnectRequest, ConnectResult, Empty, HistoryRequest, HistoryResult, ProtocolError, PublishRequest,
    RefreshResult, Reply, RpcRequest, RpcResult, SubscribeRequest, SubscribeResult,
};
use super::rpc;
use crate::actors::notifications::topic::{self, Topic};
use crate::gateway::Rpc;
use crate::kernel::{Error, ErrorCode, Principal, Secret, Timestamp};

/// Channels one connection may follow.
const MAX_CHANNELS: usize = 100;
/// Calls of one connection under way.
const MAX_CALLS: usize = 16;
/// Publications one `history` answers at most.
const MAX_HISTORY: i32 = 300;
/// The code under which the server ends a subscription; the client does not subscribe again by itself.
const FORBIDDEN: u32 = 2000;
const VERSION: &str = concat!("construct ", env!("CARGO_PKG_VERSION"));

/// What a command wants of a channel.
#[derive(Debug, Clone, Copy)]
enum Needs {
    Subscribe,
    Publish,
}

/// What a command comes to when it is not answered with its result.
enum Refusal {
    Error(ProtocolError),
    Disconnect(Disconnect),
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        Self::Error(error)
    }
}

impl From<Disconnect> for Refusal {
    fn from(disconnect: Disconnect) -> Self {
        Self::Disconnect(disconnect)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(match error.code {
            ErrorCode::NotFound => ProtocolError::unknown_channel(),
            ErrorCode::Forbidden => ProtocolError::permission_denied(),
            ErrorCode::RateLimited => ProtocolError::too_many_requests(),
            ErrorCode::Invalid | ErrorCode::TooLarge => ProtocolError::bad_request(),
            _ => ProtocolError::internal(),
        })
    }
}

/// `exp` of a token that was just verified, or that was refused and may only have run out. `None`: not a JWT.
fn expiry(token: &str) -> Option<Timestamp> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(Timestamp::from_millis(claims.get("exp")?.as_i64()?.checked_mul(1000)?))
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// The answer to a command; none for calls, whose answers come when they are ready.
    pub(super) async fn execute(&mut self, command: Command) -> Result<Option<Reply>, End> {
        let id = command.id;
        if (id == 0 && command.send.is_none()) || (self.holder.is_none() && command.connect.is_none()) {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        match self.answer(command).await {
            Ok(reply) => Ok(reply.map(|reply| Reply { id, ..reply })),
            Err(Refusal::Error(error)) => Ok(Some(Reply::refused(id, error))),
            Err(Refusal::Disconnect(disconnect)) => Err(disconnect.into()),
        }
    }

    async fn answer(&mut self, command: Command) -> Result<Option<Reply>, Refusal> {
        let id = command.id;
        let reply = if let Some(connect) = command.connect {
            Reply { connect: Some(self.connect(connect).await?), ..Reply::default() }
        } else if let Some(subscribe) = command.subscribe {
            Reply { subscribe: Some(self.subscribe(subscribe).await?), ..Reply::default() }
        } else if let Some(unsubscribe) = command.unsubscribe {
            self.unsubscribe(&unsubscribe.channel)?;
            Reply { unsubscribe: Some(Empty {}), ..Reply::default() }
        } else if let Some(publish) = command.publish {
            self.publish(publish).await?;
            Reply { publish: Some(Empty {}), ..Reply::default() }
        } else if let Some(history) = command.history {
            Reply { history: Some(self.history(&history).await?), ..Reply::default() }
        } else if let Some(rpc) = command.rpc {
            self.call(id, rpc)?;
            return Ok(None);
        } else if let Some(refresh) = command.refresh {
            Reply { refresh: Some(self.refresh(refresh.token).await?), ..Reply::default() }
        } else if command.ping.is_some() {
            Reply { ping: Some(Empty {}), ..Reply::default() }
        } else if command.send.is_some() {
            return Err(Disconnect::NOT_AVAILABLE.into());
        } else if command.presence.is_some() || command.presence_stats.is_some() || command.sub_refresh.is_some() {
            return Err(ProtocolError::not_available().into());
        } else {
            return Err(Disconnect::BAD_REQUEST.into());
        };
        Ok(Some(reply))
    }

    async fn authenticated(&mut self, token: String) -> Result<Holder, Refusal> {
        match self.gateway.authenticate(&token).await {
            Ok(caller) => {
                let Principal::User { id, session, .. } = &caller.principal else {
                    return Err(Disconnect::INVALID_TOKEN.into());
                };
                let (user_id, session) = (id.clone(), session.clone());
                let expires_at = expiry(&token);
                Ok(Holder { caller, user_id, session, expires_at, token: Secret::new(token) })
            }
            Err(error) if error.code != ErrorCode::Unauthenticated => Err(ProtocolError::internal().into()),
            // A client that hears 109 asks its application for a new token; after 3500 it gives up.
            Err(_) if expiry(&token).is_some_and(|at| at <= self.realtime.clock.now()) => {
                Err(ProtocolError::token_expired().into())
            }
            Err(_) => Err(Disconnect::INVALID_TOKEN.into()),
        }
    }

    /// Seconds until the token runs out.
    fn ttl(&self, holder: &Holder) -> Option<u32> {
        let millis = holder.expires_at?.millis_since(self.realtime.clock.now());
        Some(u32::try_from(millis.div_euclid(1000).max(1)).unwrap_or(u32::MAX))
    }

    async fn connect(&mut self, request: ConnectRequest) -> Result<ConnectResult, Refusal> {
        if self.holder.is_some() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if request.token.is_empty() {
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        let holder = self.authenticated(request.token).await?;
        let (ttl, channel) = (self.ttl(&holder), Channel::Inbox(holder.user_id.clone()));
        // Before anything is read, so that neither an end of the session nor a publication is missed.
        if let Some(session) = &holder.session {
            self.realtime.hub.enter(session, &self.mailbox);
        }
        self.holder = Some(holder);
        let name = channel.to_string();
        let recovery = request.subs.get(&name).cloned().unwrap_or_default();
        let result = match self.follow(&channel, &recovery).await {
            Ok(result) => result,
            Err(refusal) => {
                // Not connected after all: the client tries again on this connection or a new one.
                if let Some(session) = self.holder.take().and_then(|holder| holder.session) {
                    self.realtime.hub.exit(&session, &self.mailbox);
                }
                return Err(refusal);
            }
        };
        if let Some(subscription) = self.subscription(&channel) {
            subscription.by_server = true;
        }
        self.accepted();
        let ping = self.realtime.bounds.ping_interval.as_millis().div_ceil(1000);
        Ok(ConnectResult {
            client: self.client.clone(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
            subs: BTreeMap::from([(name, result)]),
            ping: u32::try_from(ping).unwrap_or(u32::MAX),
            pong: true,
        })
    }

    fn subscription(&mut self, channel: &Channel) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.line.channel == *channel)
    }

    /// Follows a channel first and reads it then, so that nothing falls in between.
    async fn follow(&mut self, channel: &Channel, request: &SubscribeRequest) -> Result<SubscribeResult, Refusal> {
        let followed = self.subscription(channel).is_some();
        let joined = (!followed).then(|| self.realtime.hub.follow(channel, &self.mailbox));
        let read = channel.subscribe(&self.realtime.router, request, &self.origin()).await;
        match (read, joined) {
            (Ok((result, offset)), Some((line, follower))) => {
                self.subscriptions.push(Subscription { line, follower, offset, by_server: false, by_client: false });
                Ok(result)
            }
            (Ok((result, offset)), None) => {
                if let Some(subscription) = self.subscription(channel) {
                    subscription.offset = offset;
                }
                Ok(result)
            }
            (Err(error), joined) => {
                if let Some((line, follower)) = joined {
                    self.realtime.hub.unfollow(&line, &follower);
                }
                Err(error.into())
            }
        }
    }

    /// The channel of that name, if its holder may do with it what `needs` says.
    fn channel(&self, name: &str, needs: Needs) -> Result<Channel, Refusal> {
        let channel: Channel = name.parse().map_err(|_| ProtocolError::unknown_channel())?;
        let Some(holder) = &self.holder else { return Err(Disconnect::BAD_REQUEST.into()) };
        let (owns, permissions) = (channel == Channel::Inbox(holder.user_id.clone()), &holder.caller.permissions);
        let allowed = match needs {
            Needs::Subscribe => channel.kind().subscribe.map_or(owns, |permission| permissions.allows(permission)),
            Needs::Publish => channel.kind().publish.is_some_and(|permission| permissions.allows(permission)),
        };
        if allowed { Ok(channel) } else { Err(ProtocolError::permission_denied().into()) }
    }

    async fn subscribe(&mut self, request: SubscribeRequest) -> Result<SubscribeResult, Refusal> {
        let channel = self.channel(&request.channel, Needs::Subscribe)?;
        let full = self.subscriptions.len() >= MAX_CHANNELS;
        let streamed = match self.subscription(&channel) {
            Some(known) if known.by_client => return Err(ProtocolError::already_subscribed().into()),
            None if full => return Err(ProtocolError::limit_exceeded().into()),
            known => known.map(|subscription| subscription.offset),
        };
        let result = self.follow(&channel, &request).await?;
        if let Some(subscription) = self.subscription(&channel) {
            subscription.by_client = true;
            // Streamed already since the connect: that stream goes on where it was, without a gap.
            if let Some(offset) = streamed.filter(|_| !result.recovered) {
                subscription.offset = offset;
                subscription.follower.tell();
            }
        }
        Ok(result)
    }

    fn unsubscribe(&mut self, name: &str) -> Result<(), Refusal> {
        let channel: Channel = name.parse().map_err(|_| ProtocolError::unknown_channel())?;
        let Some(index) = self.subscriptions.iter().position(|followed| followed.line.channel == channel) else {
            return Ok(());
        };
        if self.subscriptions[index].by_server {
            self.subscriptions[index].by_client = false;
        } else {
            let left = self.subscriptions.remove(index);
            self.realtime.hub.unfollow(&left.line, &left.follower);
        }
        Ok(())
    }

    async fn publish(&mut self, request: PublishRequest) -> Result<(), Refusal> {
        let channel = self.channel(&request.channel, Needs::Publish)?;
        let Channel::Topic(name) = &channel else { return Err(ProtocolError::permission_denied().into()) };
        let id = topic::id(name).ok_or_else(ProtocolError::unknown_channel)?;
        let command = topic::Command::Publish { data: request.data.to_string() };
        self.realtime.router.ask::<Topic>(&id, command, &self.origin()).await?;
        Ok(())
    }

    async fn history(&mut self, request: &HistoryRequest) -> Result<HistoryResult, Refusal> {
        let channel = self.channel(&request.channel, Needs::Subscribe)?;
        let limit = if request.limit < 0 { MAX_HISTORY } else { request.limit.min(MAX_HISTORY) };
        let limit = usize::try_from(limit).unwrap_or_default();
        let (router, origin) = (&self.realtime.router, self.origin());
        let found = channel.history(router, request.since.as_ref(), limit, request.reverse, &origin).await?;
        let (publications, position) = found.ok_or_else(ProtocolError::unrecoverable_position)?;
        Ok(HistoryResult { publications, epoch: position.epoch, offset: position.offset })
    }

    /// Starts a call; its answer is written when it is ready, while the connection goes on.
    fn call(&mut self, id: u32, request: RpcRequest) -> Result<(), Refusal> {
        let Some(holder) = &self.holder else { return Err(Disconnect::BAD_REQUEST.into()) };
        if self.calls.len() >= MAX_CALLS {
            return Err(ProtocolError::too_many_requests().into());
        }
        let gateway = Arc::clone(&self.gateway);
        if gateway.table().operation(&request.method).is_none() {
            return Err(ProtocolError::method_not_found().into());
        }
        let made = Rpc {
            operation: request.method,
            data: request.data,
            caller: holder.caller.clone(),
            source: self.source.clone(),
            request_id: format!("ws-{}-{id}", self.client),
        };
        let call = async move {
            match rpc::result(gateway.rpc(made).await) {
                Ok(data) => Reply { id, rpc: Some(RpcResult { data }), ..Reply::default() },
                Err(error) => Reply::refused(id, error),
            }
        };
        self.calls.push(call.boxed());
        Ok(())
    }

    async fn refresh(&mut self, token: String) -> Result<RefreshResult, Refusal> {
        let fresh = self.authenticated(token).await?;
        let Some(holder) = &self.holder else { return Err(Disconnect::BAD_REQUEST.into()) };
        if holder.user_id != fresh.user_id {
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        if holder.session != fresh.session {
            let (old, new) = (holder.session.clone(), fresh.session.clone());
            if let Some(new) = &new {
                self.realtime.hub.enter(new, &self.mailbox);
            }
            if let Some(old) = &old {
                self.realtime.hub.exit(old, &self.mailbox);
            }
        }
        let ttl = self.ttl(&fresh);
        self.holder = Some(fresh);
        self.check_soon();
        Ok(RefreshResult {
            client: self.client.clone(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
        })
    }

    /// Whether the holder may still hold the connection: the session lives and the token has not run out for long.
    pub(super) async fn check_holder(&mut self) -> Result<(), End> {
        let Some(holder) = &mut self.holder else { return Ok(()) };
        let now = self.realtime.clock.now();
        if let Some(at) = holder.expires_at.filter(|at| *at <= now) {
            let late = at.plus_seconds(EXPIRY_GRACE_SECONDS) <= now;
            return if late { Err(Disconnect::EXPIRED.into()) } else { Ok(()) };
        }
        match self.gateway.authenticate(holder.token.expose()).await {
            Ok(caller) => {
                holder.caller = caller;
                self.leave_forbidden().await
            }
            Err(error) if error.code == ErrorCode::Unauthenticated => Err(Disconnect::SESSION_ENDED.into()),
            // Not known now; asked again at the next check.
            Err(_) => Ok(()),
        }
    }

    /// Ends the subscriptions that the holder, as known now, may not have any more.
    async fn leave_forbidden(&mut self) -> Result<(), End> {
        let Some(holder) = &self.holder else { return Ok(()) };
        let permissions = &holder.caller.permissions;
        let may = |kind: &ChannelKind| kind.subscribe.is_none_or(|permission| permissions.allows(permission));
        let (kept, left) = std::mem::take(&mut self.subscriptions)
            .into_iter()
            .partition::<Vec<_>, _>(|subscription| may(subscription.line.channel.kind()));
        self.subscriptions = kept;
        for Subscription { line, follower, .. } in left {
            self.realtime.hub.unfollow(&line, &follower);
            let told = Reply::unsubscribed(&line.channel.to_string(), FORBIDDEN, "permission denied");
            self.write(told.line()).await?;
        }
        Ok(())
    }
}
