//! Mail: the request and receipt every vendor speaks, and the message made from a request.

use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message, MultiPart, SinglePart};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{PUBLIC_URL, ProviderError};
use crate::kernel::{Error, codec};

pub mod maildir;
pub mod smtp;
#[cfg(test)]
mod tests;

pub use maildir::Maildir;
pub use smtp::{Smtp, SmtpOptions};

/// One mail to one person. Texts may contain [`super::PUBLIC_URL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailRequest {
    pub to: String,
    pub to_name: Option<String>,
    /// One line.
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
    /// Path below the public URL for RFC 8058 one-click unsubscribe; sets `List-Unsubscribe`.
    pub unsubscribe: Option<String>,
}

/// The mail was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailReceipt {
    pub message_id: String,
}

/// What every mail of this node has in common.
#[derive(Debug, Clone)]
pub struct Sender {
    from: Mailbox,
    public_url: String,
}

/// A sender that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the sender's address is not valid: {0}")]
pub struct BadSender(lettre::address::AddressError);

impl Sender {
    /// `from` is an address such as `Name <name@example.com>`.
    ///
    /// # Errors
    /// [`BadSender`] when it is not.
    pub fn new(from: &str, public_url: &str) -> Result<Self, BadSender> {
        let from = from.parse().map_err(BadSender)?;
        Ok(Self { from, public_url: public_url.trim_end_matches('/').to_owned() })
    }

    /// The same for every attempt of the same effect, so that receivers and readers can tell a repeat.
    fn message_id(&self, key: &str) -> String {
        format!("<{}@{}>", name_of(key), self.from.email.domain())
    }

    fn message(&self, key: &str, request: &EmailRequest) -> Result<Message, ProviderError> {
        let refused = |pointer: &str, detail: String| ProviderError::Refused(Error::invalid(pointer, detail));
        let address = request.to.parse().map_err(|_| refused("/to", "The address is not valid.".to_owned()))?;
        let text = self.resolved(&request.text);
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(request.to_name.clone(), address))
            .subject(request.subject.clone())
            .message_id(Some(self.message_id(key)))
            .date_now()
            .raw_header(raw("Auto-Submitted", "auto-generated"));
        if let Some(path) = &request.unsubscribe {
            builder = builder
                .raw_header(raw("List-Unsubscribe", &format!("<{}{path}>", self.public_url)))
                .raw_header(raw("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
        }
        let message = match &request.html {
            Some(html) => {
                let html = SinglePart::html(self.resolved(html));
                builder.multipart(MultiPart::alternative().singlepart(plain(text)).singlepart(html))
            }
            None => builder.singlepart(plain(text)),
        };
        message.map_err(|error| refused("", format!("The mail cannot be written: {error}")))
    }

    fn resolved(&self, text: &str) -> String {
        text.replace(PUBLIC_URL, &self.public_url)
    }
}

/// RFC 5322 §2.1.1: octets of a line, without its CRLF.
const MAX_LINE: usize = 998;

/// The text part, as it is where mail allows that: links stay whole and readable with any tool.
fn plain(text: String) -> SinglePart {
    let part = SinglePart::builder().header(ContentType::TEXT_PLAIN);
    let allowed = |line: &str| line.len() <= MAX_LINE && line.bytes().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e));
    if text.lines().all(allowed) {
        let lines: Vec<&str> = text.lines().collect();
        let body = lines.join("\r\n").into_bytes();
        return part.body(Body::dangerous_pre_encoded(body, ContentTransferEncoding::SevenBit));
    }
    part.body(text)
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// A name for a file or a Message-ID from an effect's key.
fn name_of(key: &str) -> String {
    hex::encode(&digest(&SHA256, key.as_bytes()).as_ref()[..20])
}

fn decode(request: &[u8]) -> Result<EmailRequest, ProviderError> {
    codec::decode(request).map_err(|error| {
        tracing::error!(%error, "a mail request does not decode");
        ProviderError::Refused(Error::internal())
    })
}

fn receipt(message_id: String) -> Vec<u8> {
    codec::encode(&EmailReceipt { message_id }).expect("receipts are small and serializable")
}
