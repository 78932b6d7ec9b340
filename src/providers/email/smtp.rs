//! Mail over SMTP (RFC 5321) with TLS, authentication and DKIM (RFC 6376).
//!
//! SMTP has no idempotency key, so what is known of a failure decides: everything before the message's final dot is
//! *certainly not done*; a reply to the dot says which; a connection lost between the two is *unknown* and stays so.
//! That boundary is why the dialogue is driven here, on lettre's connection, and not by lettre's transport.

use std::time::Duration;

use async_trait::async_trait;
use lettre::message::dkim::{DkimConfig, DkimSigningAlgorithm, DkimSigningKey};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::{Message, address::Envelope};
use percent_encoding::percent_decode_str;
use tokio::sync::Mutex;

use super::{Sender, decode, receipt};
use crate::kernel::{Error, ErrorCode, ProviderKind, Secret};
use crate::providers::{Provider, ProviderError};

/// Idle connections kept.
const MAX_IDLE: usize = 4;

/// How to reach the server.
#[derive(Debug, Clone)]
pub struct SmtpOptions {
    /// `smtp://user:password@host:587` (STARTTLS when offered), `smtps://host:465`, `smtp://host:25?tls=required` or
    /// `?tls=none`.
    pub url: Secret<String>,
    /// Of everything before the message's text, and again of the reply to it.
    pub timeout: Duration,
    pub dkim: Option<Dkim>,
}

/// What signs outgoing mail.
#[derive(Debug, Clone)]
pub struct Dkim {
    pub domain: String,
    pub selector: String,
    /// PEM of an RSA key (PKCS#1).
    pub private_key: Secret<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    /// TLS from the first byte.
    Implicit,
    /// STARTTLS when the server offers it.
    Offered,
    Required,
    None,
}

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSmtp {
    #[error("the SMTP URL is not smtp://[user:password@]host[:port][?tls=required|none] or smtps://…")]
    Url,
    #[error("the DKIM key cannot be read: {0}")]
    Dkim(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Sends mails to one server.
pub struct Smtp {
    host: String,
    port: u16,
    encryption: Encryption,
    credentials: Option<Credentials>,
    tls: TlsParameters,
    hello: ClientId,
    timeout: Duration,
    dkim: Option<DkimConfig>,
    sender: Sender,
    idle: Mutex<Vec<AsyncSmtpConnection>>,
}

struct Server {
    host: String,
    port: u16,
    encryption: Encryption,
    credentials: Option<Credentials>,
}

fn parse(url: &str) -> Option<Server> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let asked = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
    let (encryption, port) = match (url.scheme(), asked.as_deref()) {
        ("smtps", None) => (Encryption::Implicit, 465),
        ("smtp", None) => (Encryption::Offered, 25),
        ("smtp", Some("required")) => (Encryption::Required, 587),
        ("smtp", Some("none")) => (Encryption::None, 25),
        _ => return None,
    };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned()).ok();
    let credentials = match (url.username(), url.password()) {
        ("", _) => None,
        (user, password) => Some(Credentials::new(decoded(user)?, decoded(password.unwrap_or_default())?)),
    };
    Some(Server { host, port: url.port().unwrap_or(port), encryption, credentials })
}

fn signing(dkim: &Dkim) -> Result<DkimConfig, BadSmtp> {
    let key = DkimSigningKey::new(dkim.private_key.expose(), DkimSigningAlgorithm::Rsa)
        .map_err(|error| BadSmtp::Dkim(error.to_string()))?;
    Ok(DkimConfig::default_config(dkim.selector.clone(), dkim.domain.clone(), key))
}

impl Smtp {
    /// # Errors
    /// [`BadSmtp`] when the options cannot be used.
    pub fn new(options: &SmtpOptions, sender: Sender) -> Result<Self, BadSmtp> {
        let Server { host, port, encryption, credentials } = parse(options.url.expose()).ok_or(BadSmtp::Url)?;
        let tls = TlsParameters::new(host.clone()).map_err(|error| BadSmtp::Tls(error.to_string()))?;
        let dkim = options.dkim.as_ref().map(signing).transpose()?;
        let (hello, timeout, idle) = (ClientId::default(), options.timeout, Mutex::default());
        Ok(Self { host, port, encryption, credentials, tls, hello, timeout, dkim, sender, idle })
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let implicit = (self.encryption == Encryption::Implicit).then(|| self.tls.clone());
        let address = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(address, Some(self.timeout), &self.hello, implicit, None).await?;
        let upgrade = match self.encryption {
            Encryption::Required => true,
            Encryption::Offered => connection.can_starttls(),
            Encryption::Implicit | Encryption::None => false,
        };
        if upgrade {
            connection.starttls(self.tls.clone(), &self.hello).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    /// A connection that answered just now: an idle one, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, ProviderError> {
        loop {
            let Some(mut connection) = self.idle.lock().await.pop() else { break };
            if connection.command(Rset).await.is_ok() {
                return Ok(connection);
            }
        }
        self.connect().await.map_err(|error| before_data(&error))
    }

    /// A connection on which the server waits for the message.
    async fn opened(&self, envelope: &Envelope, bytes: &[u8]) -> Result<AsyncSmtpConnection, ProviderError> {
        let mut connection = self.connection().await?;
        match open_data(&mut connection, envelope, bytes).await {
            Ok(()) => Ok(connection),
            Err(error) => {
                connection.abort().await;
                Err(error)
            }
        }
    }

    async fn send(&self, envelope: &Envelope, bytes: &[u8]) -> Result<(), ProviderError> {
        let mut connection = tokio::time::timeout(self.timeout, self.opened(envelope, bytes))
            .await
            .map_err(|_| ProviderError::Retry("the mail server does not answer".to_owned()))??;
        match tokio::time::timeout(self.timeout, connection.message(bytes)).await {
            Ok(Ok(_)) => {
                let mut idle = self.idle.lock().await;
                if idle.len() < MAX_IDLE {
                    idle.push(connection);
                }
                Ok(())
            }
            Ok(Err(error)) if error.status().is_some() => Err(answered(&error)),
            Ok(Err(error)) => Err(ProviderError::Unknown(format!("the connection was lost after DATA: {error}"))),
            Err(_) => Err(ProviderError::Unknown("no answer after DATA".to_owned())),
        }
    }
}

/// MAIL, RCPT and DATA: after it the server waits for the message.
async fn open_data(
    connection: &mut AsyncSmtpConnection,
    envelope: &Envelope,
    bytes: &[u8],
) -> Result<(), ProviderError> {
    let mut parameters = Vec::new();
    let international =
        envelope.to().iter().chain(envelope.from()).any(|address| !AsRef::<str>::as_ref(address).is_ascii());
    if international {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            let detail = "The mail server does not take internationalized addresses.";
            return Err(ProviderError::Refused(Error::new(ErrorCode::Invalid, detail)));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !bytes.is_ascii() && connection.server_info().supports_feature(Extension::EightBitMime) {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    let mail = Mail::new(envelope.from().cloned(), parameters);
    connection.command(mail).await.map_err(|error| before_data(&error))?;
    for to in envelope.to() {
        connection.command(Rcpt::new(to.clone(), Vec::new())).await.map_err(|error| before_data(&error))?;
    }
    connection.command(Data).await.map_err(|error| before_data(&error))?;
    Ok(())
}

/// Nothing was handed over yet: only a permanent reply is final.
fn before_data(error: &SmtpError) -> ProviderError {
    if error.is_permanent() { answered(error) } else { ProviderError::Retry(error.to_string()) }
}

/// The server replied, so the outcome is known.
fn answered(error: &SmtpError) -> ProviderError {
    if error.is_permanent() {
        let status = error.status().map(|status| status.to_string()).unwrap_or_default();
        let detail = format!("The mail server refused the message with status {status}.");
        ProviderError::Refused(Error::new(ErrorCode::Invalid, detail))
    } else {
        ProviderError::Retry(error.to_string())
    }
}

#[async_trait]
impl Provider for Smtp {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Email
    }

    fn idempotent(&self) -> bool {
        false
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let mut message: Message = self.sender.message(key, &decode(request)?)?;
        if let Some(dkim) = &self.dkim {
            message.sign(dkim);
        }
        self.send(message.envelope(), &message.formatted()).await?;
        Ok(receipt(self.sender.message_id(key)))
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Err(ProviderError::Unknown("SMTP cannot say what became of a message".to_owned()))
    }
}

#[cfg(test)]
mod url_tests {
    use super::*;

    #[test]
    fn the_url_says_host_port_encryption_and_credentials() {
        let shown = |url| parse(url).map(|s| (s.host, s.port, s.encryption, s.credentials.is_some()));
        assert_eq!(shown("smtp://localhost:1025"), Some(("localhost".into(), 1025, Encryption::Offered, false)));
        assert_eq!(shown("smtps://u:p%40@mail.x"), Some(("mail.x".into(), 465, Encryption::Implicit, true)));
        assert_eq!(shown("smtp://[::1]?tls=none"), Some(("::1".into(), 25, Encryption::None, false)));
        assert_eq!(shown("smtp://h?tls=required"), Some(("h".into(), 587, Encryption::Required, false)));
        for bad in ["", "http://x", "smtp://", "smtp://h?tls=maybe", "smtps://h?tls=none"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}
