//! Which header fields cross the gateway, in either direction.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::gateway::auth::Caller;
use crate::gateway::exchange::Exchange;
use crate::gateway::registry::Access;
use crate::gateway::request::Head;
use crate::kernel::Principal;

/// Removes what is meant for one connection only: the fixed fields, and those that `Connection` names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// The request's fields as the upstream sees them.
pub(super) fn outgoing(
    head: &Head,
    caller: &Caller,
    access: Access,
    exchange: &Exchange,
    client: IpAddr,
    upgrade: bool,
) -> HeaderMap {
    let mut headers = head.headers.clone();
    let protocol = headers.get(UPGRADE).cloned().filter(|_| upgrade);
    remove_hop_by_hop(&mut headers);
    let ours: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    if access != Access::Public {
        // The gateway vouches for the caller; the token itself is not the upstream's business.
        headers.remove(AUTHORIZATION);
    }
    let host = headers.remove(HOST);
    let mut set = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    match &caller.principal {
        Principal::User { id, session, roles } => {
            set("x-construct-user", id);
            set("x-construct-roles", &roles.join(","));
            if let Some(session) = session {
                set("x-construct-session", session);
            }
        }
        Principal::Operator => set("x-construct-roles", "operator"),
        Principal::Anonymous | Principal::System => {}
    }
    set("x-request-id", &exchange.request_id);
    set("traceparent", &exchange.traceparent);
    set("x-forwarded-for", &client.to_canonical().to_string());
    set("x-forwarded-proto", if exchange.secure { "https" } else { "http" });
    if let Some(host) = host.as_ref().and_then(|host| host.to_str().ok()) {
        set("x-forwarded-host", host);
    }
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    headers
}

/// Fields that only the gateway may set. Underscores count as dashes, because some servers read them so.
fn is_ours(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("x-construct-") || name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip"
}
