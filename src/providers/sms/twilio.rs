//! Text messages through the Messages API of Twilio or a compatible service
//! (<https://www.twilio.com/docs/messaging/api/message-resource>).
//!
//! The API has no idempotency key: only a failure to connect, 429 and 503 are certainly not done; a lost answer is
//! unknown.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use super::{decode, receipt};
use crate::kernel::{Error, ErrorCode, ProviderKind, Secret};
use crate::providers::{Provider, ProviderError};

/// How to reach the service.
#[derive(Debug, Clone)]
pub struct TwilioOptions {
    pub api_base: String,
    pub account_sid: String,
    pub auth_token: Secret<String>,
    /// A number of the account, such as `+15550100`.
    pub from: String,
    pub timeout: Duration,
    pub public_url: String,
}

/// Sends messages through one account.
pub struct Twilio {
    options: TwilioOptions,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct Created {
    sid: String,
}

#[derive(Deserialize)]
struct Refusal {
    code: Option<u32>,
}

impl Twilio {
    /// # Errors
    /// When an HTTP client cannot be built.
    pub fn new(options: TwilioOptions) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { options, http })
    }
}

#[async_trait]
impl Provider for Twilio {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sms
    }

    fn idempotent(&self) -> bool {
        false
    }

    async fn execute(&self, _key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let TwilioOptions { api_base, account_sid, auth_token, from, public_url, .. } = &self.options;
        let request = decode(request, public_url)?;
        let url = format!("{}/2010-04-01/Accounts/{account_sid}/Messages.json", api_base.trim_end_matches('/'));
        let sent = self
            .http
            .post(url)
            .basic_auth(account_sid, Some(auth_token.expose()))
            .form(&[("To", request.to.as_str()), ("From", from), ("Body", &request.body)])
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Err(ProviderError::Retry(error.without_url().to_string())),
            Err(error) => return Err(ProviderError::Unknown(error.without_url().to_string())),
        };
        let status = response.status();
        let lost = |error: reqwest::Error| ProviderError::Unknown(error.without_url().to_string());
        if status.is_success() {
            return Ok(receipt(response.json::<Created>().await.map_err(lost)?.sid));
        }
        match status.as_u16() {
            429 | 503 => Err(ProviderError::Retry(format!("status {status}"))),
            400..=499 => {
                let code = response.json::<Refusal>().await.ok().and_then(|refusal| refusal.code);
                let code = code.map(|code| format!(" and code {code}")).unwrap_or_default();
                let detail = format!("The SMS service refused the message with status {}{code}.", status.as_u16());
                Err(ProviderError::Refused(Error::new(ErrorCode::Invalid, detail)))
            }
            _ => Err(ProviderError::Unknown(format!("status {status}"))),
        }
    }

    async fn reconcile(&self, _key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        Err(ProviderError::Unknown("the Messages API cannot say what became of a message".to_owned()))
    }
}
