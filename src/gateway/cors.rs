//! Which web pages may call from a browser (the CORS protocol of the Fetch standard).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, VARY,
};
use http::{HeaderMap, Method};

use super::request::Head;

const ALLOWED_HEADERS: &str =
    "authorization, content-type, idempotency-key, if-match, if-none-match, traceparent, x-request-id";
const EXPOSED_HEADERS: &str =
    "etag, idempotency-replayed, location, ratelimit, ratelimit-policy, retry-after, x-request-id";

/// The configured origins. Credentials are bearer tokens, never cookies, so none are allowed across origins.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    #[must_use]
    pub fn new(origins: &[String]) -> Self {
        Self { origins: origins.to_vec() }
    }

    fn allowed(&self, head: &Head) -> Option<HeaderValue> {
        let origin = head.header("origin")?;
        if self.origins.iter().any(|allowed| allowed == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.iter().find(|allowed| *allowed == origin).and_then(|origin| HeaderValue::from_str(origin).ok())
    }

    /// Whether the request is the question of a browser before the real one.
    #[must_use]
    pub fn is_preflight(head: &Head) -> bool {
        head.method == Method::OPTIONS
            && head.headers.contains_key("origin")
            && head.headers.contains_key("access-control-request-method")
    }

    /// Adds to an answer what the browser needs to hand it to the page; `allow` are the methods of the path.
    pub fn apply(&self, head: &Head, allow: Option<&str>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = self.allowed(head) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
        if let (true, Some(Ok(methods))) = (Self::is_preflight(head), allow.map(HeaderValue::from_str)) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_origins_are_answered() {
        let headers = |cors: &Cors, origin: &str| {
            let mut head = Head::new(Method::OPTIONS, "/v1/me");
            head.headers.insert("origin", origin.parse().expect("a value"));
            head.headers.insert("access-control-request-method", HeaderValue::from_static("GET"));
            let mut headers = HeaderMap::new();
            cors.apply(&head, Some("GET, HEAD"), &mut headers);
            headers
        };
        let ours = Cors::new(&["https://app.example.com".into()]);
        let allowed = headers(&ours, "https://app.example.com");
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example.com");
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD");
        let refused = headers(&ours, "https://evil.example.com");
        assert!(!refused.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) && refused.contains_key(VARY));
        assert!(headers(&Cors::default(), "https://app.example.com").is_empty());
        assert_eq!(headers(&Cors::new(&["*".into()]), "https://any.example.com")[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
