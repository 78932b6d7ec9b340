//! A small client of the REST API: JSON in, JSON out, and the status always looked at.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A client without a base. rustls wants its provider named before the first client is made.
pub fn plain() -> reqwest::Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        rustls::crypto::ring::default_provider().install_default().expect("nobody else installs a provider");
    });
    let redirect = reqwest::redirect::Policy::none();
    reqwest::Client::builder().timeout(TIMEOUT).redirect(redirect).build().expect("a client")
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub what: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// Null when the body is not JSON.
    pub json: Value,
}

impl Answer {
    /// The body, if the status is the expected one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Value {
        let text = self.text.get(..1000).unwrap_or(&self.text);
        assert_eq!(self.status, status, "{} answered {}: {text}", self.what, self.status);
        &self.json
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The text member of the body at a JSON pointer.
    #[track_caller]
    pub fn text_at(&self, pointer: &str) -> String {
        let found = self.json.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_else(|| panic!("{}: no text at {pointer} in {}", self.what, self.text)).to_owned()
    }
}

/// A base URL and a credential.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    token: Option<String>,
    extra: HeaderMap,
    http: reqwest::Client,
}

impl Client {
    pub fn new(base: String) -> Self {
        Self { base, token: None, extra: HeaderMap::new(), http: plain() }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub fn with_header(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.extra.insert(name, value.parse().expect("a header value"));
        client
    }

    /// Signed now, as Stripe signs the report of an event.
    pub fn signed_as_stripe(&self, secret: &str, event: &Value) -> Self {
        let at = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let tag = hex::encode(ring::hmac::sign(&key, format!("{at}.{event}").as_bytes()));
        self.with_header("stripe-signature", &format!("t={at},v1={tag}"))
    }

    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or("")
    }

    /// Sends a request; `None` when no whole answer came back.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Option<Answer> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base)).headers(self.extra.clone());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.ok()?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Some(Answer { what: format!("{method} {path}"), status, headers, text, json })
    }

    pub async fn send(&self, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> Answer {
        let what = format!("{method} {}{path}", self.base);
        self.try_send(method, path, key, body).await.unwrap_or_else(|| panic!("{what} did not answer"))
    }

    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        self.try_send(Method::GET, path, None, None).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, None).await
    }

    /// POSTs under a fresh idempotency key.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_once(path, &fresh_key(), body).await
    }

    /// POSTs without a body, under a fresh idempotency key.
    pub async fn post_empty(&self, path: &str) -> Answer {
        self.send(Method::POST, path, Some(&fresh_key()), None).await
    }

    /// POSTs under a given idempotency key.
    pub async fn post_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(key), Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, None).await
    }
}

/// An idempotency key that was never used.
pub fn fresh_key() -> String {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).expect("randomness");
    hex::encode(bytes)
}
