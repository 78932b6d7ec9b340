//! Request heads that two servers may read differently: refused, or read in the one way that the standards name.
//!
//! hyper has refused by now what it cannot read: a space before a colon, folded lines, differing lengths, a chunk size
//! that is none. What is left to decide is whom a request is for (RFC 9112 §3.2, RFC 9113 §8.3.1) and how its body
//! ends. hyper lets `Transfer-Encoding` win over `Content-Length` and forgets that both were there, so every request
//! with a chunked body is the last of its connection (RFC 9112 §6.1).

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Request, Version};

/// Whether the connection must end with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    GoOn,
    Close,
}

/// Checks the head and leaves exactly one `Host` in it (none at most in HTTP/1.0).
///
/// # Errors
/// What is wrong, for the client.
pub(super) fn check<B>(request: &mut Request<B>) -> Result<After, &'static str> {
    let after = check_framing(request)?;
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, more) = (hosts.next().cloned(), hosts.next().is_some());
    if more {
        return Err("Host may be sent once.");
    }
    let target = request.uri().authority().cloned();
    match (target, host, request.version()) {
        (Some(target), host, version) => {
            let differs = host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()));
            if differs && version == Version::HTTP_2 {
                return Err("Host and :authority differ.");
            }
            check_authority(&target)?;
            let value = HeaderValue::from_str(target.as_str()).map_err(|_| BAD_HOST)?;
            request.headers_mut().insert(HOST, value);
        }
        (None, Some(host), _) => check_authority(&Authority::try_from(host.as_bytes()).map_err(|_| BAD_HOST)?)?,
        (None, None, Version::HTTP_10 | Version::HTTP_09) => {}
        (None, None, _) => return Err("Host is missing."),
    }
    Ok(after)
}

const BAD_HOST: &str = "Host is not HOST or HOST:PORT.";

fn check_authority(authority: &Authority) -> Result<(), &'static str> {
    let port = match authority.as_str().rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => authority.port_u16().is_some(),
        _ => true,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~[]:".contains(&b);
    let named = !authority.host().is_empty() && authority.as_str().bytes().all(plain);
    if named && port { Ok(()) } else { Err(BAD_HOST) }
}

fn check_framing<B>(request: &Request<B>) -> Result<After, &'static str> {
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(After::GoOn) };
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err("The only transfer coding understood is chunked, once.");
    }
    Ok(After::Close)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(
        version: Version,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(After, String), &'static str> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).expect("a request");
        let after = check(&mut request)?;
        let host = request.headers().get(HOST).map_or("", |host| host.to_str().expect("text"));
        Ok((after, host.to_owned()))
    }

    #[test]
    fn a_request_is_for_one_host() {
        let check = |version, target: &str, hosts: &[&str], expected: Option<&str>| {
            let headers: Vec<(&'static str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
            let host = checked(version, target, &headers).map(|(_, host)| host).ok();
            assert_eq!(host.as_deref(), expected, "{target} {hosts:?}");
        };
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        check(one, "/", &["a.example:80"], Some("a.example:80"));
        check(one, "/", &["[::1]:8080"], Some("[::1]:8080"));
        check(one, "/", &["[::1]"], Some("[::1]"));
        check(one, "http://b.example/x", &["a.example"], Some("b.example"));
        check(two, "http://b.example/x", &[], Some("b.example"));
        check(two, "http://b.example/x", &["B.example"], Some("b.example"));
        check(two, "http://b.example/x", &["a.example"], None);
        check(Version::HTTP_10, "/", &[], Some(""));
        check(one, "/", &[], None);
        check(one, "/", &["a.example", "a.example"], None);
        for bad in [
            "",
            "a b",
            "user@a.example",
            "a.example:x",
            "a.example:99999",
            "a.example:",
            "a/b",
            "a.example, b",
            "a.example,b",
            "a%2eb",
        ] {
            check(one, "/", &[bad], None);
        }
        check(one, "http://user:pass@b.example/", &["b.example"], None);
    }

    #[test]
    fn a_chunked_request_is_the_last_of_its_connection_and_other_codings_are_refused() {
        let check = |codings: &[&str]| {
            let codings = codings.iter().map(|coding| ("transfer-encoding", *coding));
            let headers: Vec<_> = [("host", "a")].into_iter().chain(codings).collect();
            checked(Version::HTTP_11, "/", &headers).map(|(after, _)| after).ok()
        };
        assert_eq!(check(&[]), Some(After::GoOn));
        assert_eq!(check(&["Chunked"]), Some(After::Close));
        for bad in
            [&["gzip, chunked"][..], &["chunked", "chunked"], &["chunked, chunked"], &["xchunked"], &["identity"]]
        {
            assert_eq!(check(bad), None, "{bad:?}");
        }
    }
}
