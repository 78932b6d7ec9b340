//! Web Push: RFC 8030 with encrypted messages and an identified sender.
//!
//! Push services do not deduplicate: a lost answer is unknown. 404 and 410 mean that the subscription is gone.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use reqwest::Url;
use ring::digest::{SHA256, digest};

use super::target::{self, PublicOnly};
use super::vapid::VapidKey;
use super::{PushReceipt, PushRequest, Urgency, encrypt};
use crate::kernel::{Error, ErrorCode, ProviderKind, codec};
use crate::providers::{PUBLIC_URL, Provider, ProviderError};

/// How to send.
#[derive(Debug, Clone)]
pub struct WebPushOptions {
    /// A `mailto:` or `https:` URL by which push services reach the operator.
    pub subject: String,
    pub ttl_seconds: u32,
    pub timeout: Duration,
    /// Also endpoints without TLS or inside private networks: for tests on one machine.
    pub allow_private_endpoints: bool,
    pub public_url: String,
}

/// Sends to any push service.
pub struct WebPush {
    options: WebPushOptions,
    key: Arc<VapidKey>,
    /// Made when first needed: it reads the machine's root certificates, which a node without pushes can do without.
    http: OnceLock<reqwest::Client>,
}

fn refused(code: ErrorCode, detail: impl Into<String>) -> ProviderError {
    ProviderError::Refused(Error::new(code, detail))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// RFC 8030 §5.4 allows 32 characters of base64url.
fn topic(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, key.as_bytes()).as_ref()[..24])
}

impl WebPush {
    #[must_use]
    pub fn new(options: WebPushOptions, key: Arc<VapidKey>) -> Self {
        Self { options, key, http: OnceLock::new() }
    }

    fn http(&self) -> Result<&reqwest::Client, ProviderError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let mut builder = reqwest::Client::builder()
            .timeout(self.options.timeout)
            .connect_timeout(self.options.timeout)
            .redirect(reqwest::redirect::Policy::none());
        if !self.options.allow_private_endpoints {
            builder = builder.dns_resolver(PublicOnly::shared());
        }
        let http = builder.build().map_err(|error| ProviderError::Retry(format!("no HTTP client: {error}")))?;
        Ok(self.http.get_or_init(|| http))
    }

    fn message(&self, request: &PushRequest) -> Result<reqwest::RequestBuilder, ProviderError> {
        let unusable = || refused(ErrorCode::Gone, "The subscription cannot be used.");
        let url = Url::parse(&request.subscription.endpoint).map_err(|_| unusable())?;
        if !self.options.allow_private_endpoints
            && let Some(why) = target::refusal(&url)
        {
            return Err(refused(ErrorCode::Gone, why));
        }
        let (receiver, auth) = (decoded(&request.subscription.p256dh), decoded(&request.subscription.auth));
        let (Some(receiver), Some(auth)) = (receiver, auth) else { return Err(unusable()) };
        let body = match encrypt::encrypt(&receiver, &auth, &self.resolved(&request.payload)) {
            Ok(body) => body,
            Err(encrypt::EncryptError::Keys) => return Err(unusable()),
            Err(encrypt::EncryptError::TooLarge) => {
                return Err(refused(ErrorCode::TooLarge, "The message is too large."));
            }
            Err(error @ encrypt::EncryptError::Random) => return Err(ProviderError::Retry(error.to_string())),
        };
        // Push services compare with their own clocks, so this is the wall clock and not domain time.
        #[expect(clippy::disallowed_methods, reason = "the wall clock is meant")]
        let now = jiff::Timestamp::now().as_second();
        let audience = url.origin().ascii_serialization();
        let authorization = self
            .key
            .authorization(&audience, &self.options.subject, now)
            .map_err(|error| ProviderError::Retry(error.to_string()))?;
        let urgency = match request.urgency {
            Urgency::Normal => "normal",
            Urgency::High => "high",
        };
        let mut message = self
            .http()?
            .post(url)
            .header("authorization", authorization)
            .header("content-encoding", "aes128gcm")
            .header("content-type", "application/octet-stream")
            .header("ttl", request.ttl_seconds.unwrap_or(self.options.ttl_seconds))
            .header("urgency", urgency)
            .body(body);
        if let Some(key) = &request.topic {
            message = message.header("topic", topic(key));
        }
        Ok(message)
    }

    fn resolved(&self, payload: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(payload) {
            Ok(text) if text.contains(PUBLIC_URL) => text.replace(PUBLIC_URL, &self.options.public_url).into_bytes(),
            _ => payload.to_vec(),
        }
    }
}

#[async_trait]
impl Provider for WebPush {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Push
    }

    fn idempotent(&self) -> bool {
        false
    }

    async fn execute(&self, _key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let request: PushRequest = codec::decode(request).map_err(|error| {
            tracing::error!(%error, "a push request does not decode");
            ProviderError::Refused(Error::internal())
        })?;
        let response = match self.message(&request)?.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Err(ProviderError::Retry(error.without_url().to_string())),
            Err(error) => return Err(ProviderError::Unknown(error.without_url().to_string())),
        };
        let status = response.status();
        if status.is_success() {
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let receipt = PushReceipt { location: location.unwrap_or_default().chars().take(512).collect() };
            return Ok(codec::encode(&receipt).expect("receipts are small and serializable"));
        }
        match status.as_u16() {
            404 | 410 => Err(refused(ErrorCode::Gone, "The subscription has expired.")),
            413 => Err(refused(ErrorCode::TooLarge, "The push service finds the message too large.")),
            429 | 503 => Err(ProviderError::Retry(format!("status {status}"))),
            code @ 300..=499 => {
                let detail = format!("The push service refused the message with status {code}.");
                Err(refused(ErrorCode::Invalid, detail))
            }
            _ => Err(ProviderError::Unknown(format!("status {status}"))),
        }
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Err(ProviderError::Unknown("a push service cannot say what became of a message".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::providers::push::Subscription;

    async fn outcome(answer: &'static str, allow: bool) -> (Result<Vec<u8>, ProviderError>, Option<String>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let key = Arc::new(VapidKey::open(&directory.path().join("vapid-key")).expect("a key"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/s/1", listener.local_addr().expect("an address"));
        let options = WebPushOptions {
            subject: "mailto:a@b.example".into(),
            ttl_seconds: 60,
            timeout: Duration::from_secs(2),
            allow_private_endpoints: allow,
            public_url: "https://gate.example".into(),
        };
        let receiver = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let request = PushRequest {
            subscription: Subscription { endpoint, p256dh: receiver.into(), auth: "BTBZMqHH6r4Tts7J_aSIgg".into() },
            payload: b"{}".to_vec(),
            ttl_seconds: None,
            urgency: Urgency::High,
            topic: Some("orders".into()),
        };
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&head[..read]).to_ascii_lowercase()
        });
        let bytes = codec::encode(&request).expect("bytes");
        let result = WebPush::new(options, key).execute("k", &bytes, 0).await;
        let head = if allow { Some(server.await.expect("the server")) } else { None };
        (result, head)
    }

    #[tokio::test]
    async fn the_push_services_answer_decides() {
        let created = "HTTP/1.1 201 Created\r\nlocation: /m/1\r\ncontent-length: 0\r\n\r\n";
        let (sent, head) = outcome(created, true).await;
        let receipt: PushReceipt = codec::decode(&sent.expect("sent")).expect("a receipt");
        assert_eq!(receipt.location, "/m/1");
        let head = head.expect("a request");
        for expected in
            ["content-encoding: aes128gcm", "ttl: 60", "urgency: high", "topic: ", "authorization: vapid t="]
        {
            assert!(head.contains(expected), "{expected} in {head}");
        }
        let (gone, _) = outcome("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", true).await;
        assert!(matches!(gone, Err(ProviderError::Refused(error)) if error.code == ErrorCode::Gone));
        let (later, _) = outcome("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n", true).await;
        assert!(matches!(later, Err(ProviderError::Retry(_))));
        let (unknown, _) = outcome("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", true).await;
        assert!(matches!(unknown, Err(ProviderError::Unknown(_))));
        let (inside, _) = outcome(created, false).await;
        assert!(matches!(inside, Err(ProviderError::Refused(_))));
    }

    #[tokio::test]
    async fn any_bytes_as_a_subscription() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = WebPushOptions {
            subject: "mailto:a@b.example".into(),
            ttl_seconds: 60,
            timeout: Duration::from_secs(2),
            allow_private_endpoints: false,
            public_url: "https://gate.example".into(),
        };
        let push = WebPush::new(options, Arc::new(VapidKey::ephemeral().expect("a key")));
        let receiver = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let good = format!("https://push.example/s/1\n{receiver}\nBTBZMqHH6r4Tts7J_aSIgg\n{{}}");
        let inside = good.replace("push.example", "0x7f.1").replace("https", "HTTPS");
        crate::kernel::fuzz_tests::fuzz("push", &[good.as_bytes(), inside.as_bytes()], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let mut parts = text.split('\n').map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            let request = PushRequest {
                subscription: Subscription { endpoint: part(), p256dh: part(), auth: part() },
                payload: part().into_bytes(),
                ttl_seconds: None,
                urgency: Urgency::High,
                topic: Some(part()),
            };
            match push.message(&request).map(reqwest::RequestBuilder::build) {
                Ok(Ok(built)) => {
                    let host = built.url().host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                    let literal = host.parse::<std::net::IpAddr>();
                    assert!(
                        built.url().scheme() == "https" && literal.is_ok_and(target::is_public) | literal_free(&host)
                    );
                    "built".to_owned()
                }
                Ok(Err(_)) => "unbuildable".to_owned(),
                Err(error) => error.to_string(),
            }
        });
    }

    fn literal_free(host: &str) -> bool {
        host.parse::<std::net::IpAddr>().is_err()
    }
}
