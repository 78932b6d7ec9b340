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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fuzz_tests::head_of;
    use crate::kernel::fuzz_tests::fuzz;

    const ONE_HOP: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];

    /// The only value of a field; empty when there is none.
    fn only(headers: &HeaderMap, name: &str) -> String {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.first().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    }

    #[test]
    fn any_bytes_as_fields_to_an_upstream() {
        let seeds: [&[u8]; 4] = [
            b"/x\nconnection: x-secret, upgrade\nx-secret: 1\nupgrade: websocket\nhost: shop.example.com",
            b"/x\nx-construct-user: usr_evil\nx_construct_roles: operator\nx-forwarded_for: 1.2.3.4\nforwarded: for=1",
            b"/x\nauthorization: Bearer x\nkeep-alive: 1\ntransfer-encoding: chunked\nte: trailers\nproxy-connection: x",
            b"/x\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\nx-request-id: a\nx_real_ip: 1",
        ];
        let user =
            Principal::User { id: "usr_1".into(), session: Some("ses_1".into()), roles: vec!["consumer".into()] };
        let caller = Caller { principal: user, ..Caller::anonymous() };
        let client: IpAddr = "192.0.2.7".parse().expect("an address");
        fuzz("upstream-fields", &seeds, |bytes| {
            let head = head_of(bytes);
            let exchange = Exchange::begin(&head, String::new(), false);
            let mut ways = Vec::new();
            for (access, caller) in [(Access::Public, &Caller::anonymous()), (Access::User, &caller)] {
                let plain = outgoing(&head, caller, access, &exchange, client, false);
                let known = access != Access::Public;
                assert_eq!(only(&plain, "x-construct-user"), if known { "usr_1" } else { "" });
                assert_eq!(only(&plain, "x-construct-session"), if known { "ses_1" } else { "" });
                assert_eq!(only(&plain, "x-construct-roles"), if known { "consumer" } else { "" });
                assert_eq!(only(&plain, "x-forwarded-for"), "192.0.2.7");
                assert_eq!(only(&plain, "x-forwarded-proto"), "http");
                assert_eq!(only(&plain, "x-request-id"), exchange.request_id);
                assert_eq!(only(&plain, "traceparent"), exchange.traceparent);
                assert!(ONE_HOP.iter().all(|name| !plain.contains_key(*name)), "{plain:?}");
                assert!(!plain.contains_key(HOST), "{plain:?}");
                assert!(!known || !plain.contains_key(AUTHORIZATION), "{plain:?}");
                let ours = plain.keys().filter(|name| is_ours(name.as_str())).count();
                assert_eq!(
                    ours,
                    if known { 5 } else { 2 } + usize::from(plain.contains_key("x-forwarded-host")),
                    "{plain:?}"
                );
                let upgraded = outgoing(&head, caller, access, &exchange, client, true);
                let asked = head.headers.contains_key(UPGRADE);
                assert_eq!(only(&upgraded, "connection"), if asked { "upgrade" } else { "" });
                assert_eq!(only(&upgraded, "upgrade").is_empty(), !asked || head.header("upgrade") == Some(""));
                ways.push(plain.len().min(12));
            }
            let mut back = head.headers.clone();
            remove_hop_by_hop(&mut back);
            assert!(ONE_HOP.iter().all(|name| !back.contains_key(*name)), "{back:?}");
            format!("{ways:?} {}", back.len().min(12))
        });
    }
}
