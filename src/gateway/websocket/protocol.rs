//! The Centrifuge client protocol, version 2, in JSON (<https://centrifugal.dev/docs/transports/client_protocol>, schema
//! `centrifugal/protocol` `definitions/client.proto`).
//!
//! A frame holds one or more JSON objects, one a line. An empty object is the server's ping and the client's pong.
//! Members that this server does not know are ignored, as the protocol's evolution wants it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A protocol error, in a reply. Codes below 400 are the protocol's own; those from 400 are HTTP's status codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtocolError {
    pub code: u32,
    pub message: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub temporary: bool,
}

impl ProtocolError {
    fn new(code: u32, message: &str, temporary: bool) -> Self {
        Self { code, message: message.to_owned(), temporary }
    }

    pub fn internal() -> Self {
        Self::new(100, "internal server error", true)
    }

    pub fn unknown_channel() -> Self {
        Self::new(102, "unknown channel", false)
    }

    pub fn permission_denied() -> Self {
        Self::new(103, "permission denied", false)
    }

    pub fn method_not_found() -> Self {
        Self::new(104, "method not found", false)
    }

    pub fn already_subscribed() -> Self {
        Self::new(105, "already subscribed", false)
    }

    pub fn limit_exceeded() -> Self {
        Self::new(106, "limit exceeded", false)
    }

    pub fn bad_request() -> Self {
        Self::new(107, "bad request", false)
    }

    pub fn not_available() -> Self {
        Self::new(108, "not available", false)
    }

    pub fn token_expired() -> Self {
        Self::new(109, "token expired", false)
    }

    pub fn too_many_requests() -> Self {
        Self::new(111, "too many requests", true)
    }

    pub fn unrecoverable_position() -> Self {
        Self::new(112, "unrecoverable position", false)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a client asks. The first member that is present counts.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct Command {
    /// Chosen by the client, above 0; the reply has it too.
    #[serde(default)]
    pub id: u32,
    pub connect: Option<ConnectRequest>,
    pub subscribe: Option<SubscribeRequest>,
    pub unsubscribe: Option<ChannelRequest>,
    pub publish: Option<PublishRequest>,
    /// Answered with the error 108: not available.
    pub presence: Option<ChannelRequest>,
    /// Answered with the error 108: not available.
    pub presence_stats: Option<ChannelRequest>,
    pub history: Option<HistoryRequest>,
    pub ping: Option<Value>,
    /// Ends the connection: not available.
    pub send: Option<Value>,
    pub rpc: Option<RpcRequest>,
    pub refresh: Option<RefreshRequest>,
    /// Answered with the error 108: not available.
    pub sub_refresh: Option<ChannelRequest>,
}

impl Command {
    /// An empty object: the answer to a ping.
    #[must_use]
    pub fn is_pong(&self) -> bool {
        self.id == 0
            && self.connect.is_none()
            && self.subscribe.is_none()
            && self.unsubscribe.is_none()
            && self.publish.is_none()
            && self.presence.is_none()
            && self.presence_stats.is_none()
            && self.history.is_none()
            && self.ping.is_none()
            && self.send.is_none()
            && self.rpc.is_none()
            && self.refresh.is_none()
            && self.sub_refresh.is_none()
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct ConnectRequest {
    /// An access token.
    pub token: String,
    /// Where to recover from, by channel.
    pub subs: BTreeMap<String, SubscribeRequest>,
    pub name: String,
    pub version: String,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SubscribeRequest {
    pub channel: String,
    pub recover: bool,
    pub epoch: String,
    pub offset: u64,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct ChannelRequest {
    pub channel: String,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct PublishRequest {
    pub channel: String,
    pub data: Value,
}

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamPosition {
    pub offset: u64,
    pub epoch: String,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct HistoryRequest {
    pub channel: String,
    /// 0: only the position; negative: as many as there are.
    pub limit: i32,
    pub since: Option<StreamPosition>,
    pub reverse: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct RpcRequest {
    /// One object of path parameters, query or body members, and `idempotency_key`.
    pub data: Value,
    /// An operationId of the OpenAPI document.
    pub method: String,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct RefreshRequest {
    pub token: String,
}

/// What the server says: the answer to a command, or a push.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Reply {
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ProtocolError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<SubscribeResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<RpcResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshResult>,
}

impl Reply {
    pub fn refused(id: u32, error: ProtocolError) -> Self {
        Self { id, error: Some(error), ..Self::default() }
    }

    pub fn publication(channel: &str, publication: Publication) -> Self {
        let push = Push { channel: channel.to_owned(), publication: Some(publication), unsubscribe: None };
        Self { push: Some(push), ..Self::default() }
    }

    pub fn unsubscribed(channel: &str, code: u32, reason: &str) -> Self {
        let unsubscribe = Some(Unsubscribed { code, reason: reason.to_owned() });
        let push = Push { channel: channel.to_owned(), publication: None, unsubscribe };
        Self { push: Some(push), ..Self::default() }
    }

    /// One line of a frame.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| {
            tracing::error!(%error, "a reply does not serialize");
            format!(r#"{{"id":{},"error":{{"code":100,"message":"internal server error"}}}}"#, self.id)
        })
    }
}

/// `{}`.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Empty {}

#[derive(Debug, Serialize, ToSchema)]
pub struct Push {
    pub channel: String,
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<Unsubscribed>,
}

/// The server ended a subscription of the client's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unsubscribed {
    /// Below 2500 the client does not subscribe again by itself.
    pub code: u32,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Publication {
    pub data: Value,
    pub offset: u64,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ConnectResult {
    pub client: String,
    pub version: String,
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    pub subs: BTreeMap<String, SubscribeResult>,
    /// Seconds between the server's pings.
    pub ping: u32,
    pub pong: bool,
}

#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct SubscribeResult {
    pub recoverable: bool,
    pub positioned: bool,
    pub epoch: String,
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryResult {
    pub publications: Vec<Publication>,
    pub epoch: String,
    pub offset: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RpcResult {
    pub data: Value,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct RefreshResult {
    pub client: String,
    pub version: String,
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// The commands of a frame.
///
/// # Errors
/// When a line is not a command.
pub fn commands(frame: &str) -> Result<Vec<Command>, serde_json::Error> {
    frame.split('\n').filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_holds_a_command_a_line_and_unknown_members_are_ignored() {
        let frame = "{\"id\":1,\"connect\":{\"token\":\"t\",\"flag\":3,\"subs\":{\"inbox:u\":{\"recover\":true,\"epoch\":\"e\",\"offset\":5}}}}\n{}\n{\"id\":2,\"rpc\":{\"method\":\"getMe\"}}\n";
        let commands = commands(frame).expect("commands");
        let connect = commands[0].connect.as_ref().expect("a connect");
        assert_eq!((commands.len(), connect.token.as_str(), connect.subs["inbox:u"].offset), (3, "t", 5));
        assert!(commands[1].is_pong() && !commands[0].is_pong() && !commands[2].is_pong());
        for bad in ["[]", "{\"id\":-1}", "{\"id\":1", "{\"id\":1,\"connect\":7}"] {
            assert!(super::commands(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn replies_leave_out_what_is_not_said() {
        let publication = Publication { data: json!({"a": 1}), offset: 7 };
        let push = Reply::publication("inbox:u", publication).line();
        assert_eq!(push, r#"{"push":{"channel":"inbox:u","pub":{"data":{"a":1},"offset":7}}}"#);
        assert_eq!(Reply::default().line(), "{}");
        let refused = Reply::refused(3, ProtocolError::unknown_channel()).line();
        assert_eq!(refused, r#"{"id":3,"error":{"code":102,"message":"unknown channel"}}"#);
        let unsubscribed = Reply { id: 4, unsubscribe: Some(Empty {}), ..Reply::default() };
        assert_eq!(unsubscribed.line(), r#"{"id":4,"unsubscribe":{}}"#);
        let result = SubscribeResult { recoverable: true, positioned: true, epoch: "e".into(), ..Default::default() };
        let connect = ConnectResult {
            client: "c".into(),
            version: "v".into(),
            expires: true,
            ttl: 900,
            subs: BTreeMap::from([("inbox:u".to_owned(), result)]),
            ping: 25,
            pong: true,
        };
        let line = Reply { id: 1, connect: Some(connect), ..Reply::default() }.line();
        assert_eq!(
            line,
            concat!(
                r#"{"id":1,"connect":{"client":"c","version":"v","expires":true,"ttl":900,"subs":{"inbox:u":"#,
                r#"{"recoverable":true,"positioned":true,"epoch":"e"}},"ping":25,"pong":true}}"#
            )
        );
    }

    #[test]
    fn any_bytes_as_a_frame_of_commands() {
        let seeds: [&[u8]; 3] = [
            br#"{"id":1,"connect":{"token":"t","subs":{"inbox:u":{"recover":true,"epoch":"e","offset":5}}}}"#,
            b"{\"id\":2,\"rpc\":{\"method\":\"getMe\",\"data\":{\"a\":[1,null]}}}\n{}\n",
            br#"{"id":3,"history":{"channel":"topic:x","limit":-1,"since":{"offset":1,"epoch":"e"}}}"#,
        ];
        crate::kernel::fuzz_tests::fuzz("centrifuge", &seeds, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match commands(&text) {
                Ok(commands) => {
                    let kinds = commands.iter().map(|c| (c.is_pong(), c.connect.is_some(), c.rpc.is_some()));
                    for command in &commands {
                        let line = Reply::refused(command.id, ProtocolError::bad_request()).line();
                        assert!(serde_json::from_str::<Value>(&line).is_ok());
                    }
                    format!("{:?}", kinds.collect::<std::collections::BTreeSet<_>>())
                }
                Err(error) => format!("{:?}", error.classify()),
            }
        });
    }
}
