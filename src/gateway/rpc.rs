//! The WebSocket `rpc`: the same endpoints by operationId, through the same authorization, limits and validation.
//!
//! `data` is one object: members named like path parameters go into the path, `idempotency_key` into its header, and
//! the rest is the body (or, for GET and DELETE, the query).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::auth::Caller;
use super::call::Params;
use super::exchange::Exchange;
use super::pipeline::{Gateway, Held, Passage};
use super::registry::{BodyKind, Declaration};
use super::reply::Body;
use super::request::Head;
use crate::kernel::{Error, ErrorCode};

/// A call by operationId.
pub struct Rpc {
    pub operation: String,
    /// An object, or null for nothing.
    pub data: Value,
    pub caller: Caller,
    /// The pseudonym of the connection's address.
    pub source: String,
    pub request_id: String,
}

/// An HTTP status and the body that goes with it (a problem document from 400 on); null when there is none.
pub type RpcReply = (u16, Value);

impl Gateway {
    /// Calls the endpoint as HTTP would.
    ///
    /// # Errors
    /// What stands before or within the handler refused. Under an idempotency key refusals come as replies.
    pub async fn rpc(&self, rpc: Rpc) -> Result<RpcReply, Error> {
        let unknown = || Error::new(ErrorCode::NotFound, "There is no such operation.");
        let endpoint = self.table().operation(&rpc.operation).ok_or_else(unknown)?.clone();
        let declaration = &endpoint.declaration;
        if !is_callable(declaration) {
            return Err(unknown());
        }
        let (head, params, body) = assemble(declaration, rpc.data)?;
        let mut exchange = Exchange::begin(&head, rpc.source, true);
        exchange.request_id = rpc.request_id;
        let held = Held { _place: self.admit(declaration.class())?, _bytes: None };
        self.limit(declaration.limit, &rpc.caller, &mut exchange)?;
        rpc.caller.check(declaration.access)?;
        let passage =
            Passage { endpoint: &endpoint, params, head: Arc::new(head), caller: rpc.caller, body, upgrade: None };
        let reply = self.carry_out(passage, &mut exchange, held).await?;
        let Body::Full(bytes) = reply.body else {
            return Err(Error::new(ErrorCode::Malformed, "This operation answers over HTTP only."));
        };
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
        Ok((reply.status.as_u16(), body))
    }
}

/// Whether an operation can be called over the WebSocket.
#[must_use]
pub fn is_callable(declaration: &Declaration) -> bool {
    !declaration.upgrade && !matches!(declaration.body, BodyKind::Raw(_))
}

fn assemble(declaration: &Declaration, data: Value) -> Result<(Head, Params, Bytes), Error> {
    let mut members = match data {
        Value::Object(members) => members,
        Value::Null => Map::new(),
        _ => return Err(Error::invalid("", "must be an object")),
    };
    let mut params = Params::default();
    let mut path = String::with_capacity(declaration.path.len() + 32);
    for segment in declaration.path.split('/').skip(1) {
        path.push('/');
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let Some(name) = name else {
            path.push_str(segment);
            continue;
        };
        let required = || Error::invalid(&format!("/{name}"), "must be a string that is not empty");
        let value = members.remove(name);
        let value = value.as_ref().and_then(Value::as_str).filter(|value| !value.is_empty()).ok_or_else(required)?;
        path.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        params.0.push((name, value.to_owned()));
    }
    let mut head = Head::new(declaration.method.clone(), "/");
    head.path = path;
    if let Some(key) = members.remove("idempotency_key") {
        let key = key.as_str().and_then(|key| HeaderValue::from_str(key).ok());
        let key = key.ok_or_else(|| Error::invalid("/idempotency_key", "must be 1 to 255 visible characters"))?;
        head.headers.insert("idempotency-key", key);
    }
    let mut body = Bytes::new();
    if matches!(declaration.method, Method::GET | Method::DELETE) && declaration.body == BodyKind::None {
        head.query = urlencoded(&members)?;
    } else if declaration.body == BodyKind::Form {
        head.headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
        body = Bytes::from(urlencoded(&members)?);
    } else if !(members.is_empty() && declaration.body != (BodyKind::Json { optional: false })) {
        head.headers.insert("content-type", HeaderValue::from_static("application/json"));
        body = serde_json::to_vec(&members).map_err(|_| Error::internal())?.into();
    }
    Ok((head, params, body))
}

fn urlencoded(members: &Map<String, Value>) -> Result<String, Error> {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, value) in members {
        match value {
            Value::Null => {}
            Value::String(value) => drop(text.append_pair(name, value)),
            Value::Bool(_) | Value::Number(_) => drop(text.append_pair(name, &value.to_string())),
            Value::Array(_) | Value::Object(_) => {
                return Err(Error::invalid(&format!("/{name}"), "must be a string, a number or a boolean"));
            }
        }
    }
    Ok(text.finish())
}
