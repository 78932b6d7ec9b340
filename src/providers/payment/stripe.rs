//! Stripe, or anything that speaks its API: customers, payment methods, PaymentIntents, refunds.
//!
//! Every request carries the outbox key as `Idempotency-Key`, so that a retry after a lost answer is the same request
//! (Stripe keeps keys for 24 hours; what was decided longer ago is looked up by its metadata first).
//! What is known of an attempt: never connected or 429 → certainly not done; answered 402 → declined; another 4xx →
//! refused; sent and no usable answer, or 5xx → unknown. Source: <https://docs.stripe.com/api/idempotent_requests>,
//! <https://docs.stripe.com/error-low-level>. Deliberately absent: retries, which are the outbox's.

mod amounts;
mod lookup;
mod refunds;

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

pub use self::amounts::can_charge;
use self::amounts::{from_stripe, to_stripe};
use super::{
    CardFacts, Charge, ChargeReceipt, ChargeStatus, PaymentReceipt, PaymentRequest, RefundReceipt, declined, invoice_of,
};
use crate::kernel::{Currency, Error, ErrorCode, ProviderKind, Secret, codec};
use crate::providers::{Provider, ProviderError};

/// Where and how to reach the API.
#[derive(Debug, Clone)]
pub struct StripeConfig {
    /// `https://api.stripe.com`, or another server that speaks the API.
    pub api_base: String,
    pub secret_key: Secret<String>,
    pub connect_timeout_ms: u64,
    pub timeout_ms: u64,
}

/// The adapter. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stripe {
    config: StripeConfig,
    http: reqwest::Client,
}

const API_VERSION: &str = "2024-06-20";
const ANSWER_LIMIT_BYTES: usize = 1 << 20;
/// Stripe may remove a key once it is 24 hours old. Clocks of nodes differ, and an attempt takes its time.
const KEYS_KEPT: Duration = Duration::from_secs(20 * 3600);
/// Pages of 100 looked through when a charge is looked up.
const LOOKUP_PAGES: usize = 10;

impl Stripe {
    /// # Errors
    /// What reqwest says when the client cannot be built.
    pub fn new(config: StripeConfig) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .timeout(Duration::from_millis(config.timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { config, http })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.api_base.trim_end_matches('/'))
    }

    async fn post<T: for<'de> Deserialize<'de>>(
        &self,
        key: &str,
        path: &str,
        form: &[(&str, String)],
    ) -> Result<T, ProviderError> {
        let request = self.http.post(self.url(path)).header("Idempotency-Key", key).form(form);
        self.send(request).await
    }

    async fn send<T: for<'de> Deserialize<'de>>(&self, request: reqwest::RequestBuilder) -> Result<T, ProviderError> {
        let request = request.bearer_auth(self.config.secret_key.expose()).header("Stripe-Version", API_VERSION);
        let mut response = request.send().await.map_err(not_answered)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(not_answered)? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                return Err(ProviderError::Unknown(format!("answer {status} is too long")));
            }
            body.extend_from_slice(&chunk);
        }
        if (200..300).contains(&status) {
            let parsed = serde_json::from_slice(&body);
            return parsed.map_err(|error| ProviderError::Unknown(format!("answer {status} is unreadable: {error}")));
        }
        Err(refusal(status, &body))
    }

    async fn charge(&self, key: &str, charge: Charge) -> Result<PaymentReceipt, ProviderError> {
        let mut form = vec![
            ("amount", to_stripe(charge.amount).map_err(ProviderError::Refused)?.to_string()),
            ("currency", charge.amount.currency.code().to_ascii_lowercase()),
            ("customer", charge.customer),
            ("payment_method", charge.token),
            ("payment_method_types[]", "card".to_owned()),
            ("metadata[invoice]", invoice_of(&charge.reference).to_owned()),
            ("metadata[reference]", charge.reference),
            ("metadata[description]", charge.description),
            ("confirm", "true".to_owned()),
        ];
        if charge.off_session {
            form.push(("off_session", "true".to_owned()));
        }
        let intent: Intent = self.post(key, "/v1/payment_intents", &form).await?;
        let receipt = intent.receipt().map_err(ProviderError::Unknown)?;
        match receipt.status {
            ChargeStatus::Declined { code } => Err(ProviderError::Refused(declined(&code))),
            _ => Ok(PaymentReceipt::Charge(receipt)),
        }
    }

    async fn attach(&self, key: &str, customer: String, token: &str) -> Result<PaymentReceipt, ProviderError> {
        let path = format!("/v1/payment_methods/{token}/attach");
        let attached = self.post(key, &path, &[("customer", customer)]).await;
        let method: Method = attached.map_err(|error| match error {
            ProviderError::Refused(refused) if matches!(refused.code, ErrorCode::NotFound | ErrorCode::Invalid) => {
                ProviderError::Refused(Error::invalid("/token", "the payment processor does not take this token"))
            }
            other => other,
        })?;
        let card = method.card.unwrap_or_default();
        Ok(PaymentReceipt::Method(CardFacts {
            token: method.id,
            brand: card.brand,
            last4: card.last4,
            expires_month: card.exp_month,
            expires_year: card.exp_year,
        }))
    }
}

#[async_trait]
impl Provider for Stripe {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Payment
    }

    fn idempotent(&self) -> bool {
        true
    }

    fn keeps_keys(&self) -> Option<Duration> {
        Some(KEYS_KEPT)
    }

    fn can_find(&self, request: &[u8]) -> bool {
        matches!(codec::decode(request), Ok(PaymentRequest::Charge(_) | PaymentRequest::Refund(_)))
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let request = codec::decode(request).map_err(|error| {
            tracing::error!(%error, key, "a payment request does not decode");
            ProviderError::Refused(Error::internal())
        })?;
        let receipt = match request {
            PaymentRequest::CreateCustomer { reference } => {
                let form = [("metadata[reference]", reference)];
                let made: Identified = self.post(key, "/v1/customers", &form).await?;
                PaymentReceipt::Customer { id: made.id }
            }
            PaymentRequest::AttachMethod { customer, token } => self.attach(key, customer, &token).await?,
            PaymentRequest::DetachMethod { token } => {
                let path = format!("/v1/payment_methods/{token}/detach");
                let _: Identified = self.post(key, &path, &[]).await?;
                PaymentReceipt::Detached
            }
            PaymentRequest::Charge(charge) => self.charge(key, charge).await?,
            PaymentRequest::Refund(refund) => self.refund(key, refund).await?,
            PaymentRequest::FindCharge { customer, reference } => {
                PaymentReceipt::Found(self.find(&customer, &reference).await?)
            }
            PaymentRequest::FindRefund { charge, reference } => {
                PaymentReceipt::FoundRefund(self.find_refund(&charge, &reference).await?)
            }
        };
        codec::encode(&receipt).map_err(|error| ProviderError::Unknown(error.to_string()))
    }

    async fn reconcile(&self, _key: &str, request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        let request = codec::decode(request).map_err(|error| ProviderError::Unknown(error.to_string()))?;
        let found = match request {
            PaymentRequest::Charge(charge) => self.find_payment(&charge).await?.map(|receipt| match &receipt.status {
                ChargeStatus::Declined { code } => Err(declined(code)),
                _ => Ok(PaymentReceipt::Charge(receipt)),
            }),
            PaymentRequest::Refund(refund) => {
                self.find_refund(&refund.charge, &refund.reference).await?.map(RefundReceipt::answer)
            }
            _ => return Err(ProviderError::Unknown("only charges and refunds can be looked up".into())),
        };
        let Some(receipt) = found.transpose().map_err(ProviderError::Refused)? else { return Ok(None) };
        let bytes = codec::encode(&receipt);
        bytes.map(Some).map_err(|error| ProviderError::Unknown(error.to_string()))
    }
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

#[derive(Deserialize)]
struct Method {
    id: String,
    card: Option<MethodCard>,
}

#[derive(Deserialize, Default)]
struct MethodCard {
    brand: String,
    last4: String,
    exp_month: u8,
    exp_year: u16,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Intent>,
    #[serde(default)]
    has_more: bool,
}

/// A PaymentIntent, as far as billing needs it.
#[derive(Deserialize)]
pub(super) struct Intent {
    id: String,
    amount: i64,
    currency: String,
    status: String,
    #[serde(default)]
    client_secret: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    last_payment_error: Option<ApiError>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    reference: Option<String>,
}

impl Intent {
    /// The receipt this PaymentIntent stands for, or what about it cannot be understood.
    pub(super) fn receipt(self) -> Result<ChargeReceipt, String> {
        let currency: Currency = self.currency.to_ascii_uppercase().parse().map_err(|_| "unknown currency")?;
        let status = match self.status.as_str() {
            "succeeded" => ChargeStatus::Succeeded,
            "processing" => ChargeStatus::Processing,
            "requires_action" | "requires_confirmation" => {
                ChargeStatus::RequiresAction { client_secret: self.client_secret.unwrap_or_default() }
            }
            "requires_payment_method" | "canceled" => {
                let code = self.last_payment_error.and_then(ApiError::into_code);
                ChargeStatus::Declined { code: code.unwrap_or_else(|| "card_declined".to_owned()) }
            }
            other => return Err(format!("PaymentIntent {} has status {other}", self.id)),
        };
        let amount = from_stripe(self.amount, currency)?;
        Ok(ChargeReceipt { id: self.id, reference: self.metadata.reference.unwrap_or_default(), amount, status })
    }
}

#[derive(Deserialize, Default)]
struct ApiErrorBody {
    #[serde(default)]
    error: ApiError,
}

#[derive(Deserialize, Default)]
struct ApiError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    decline_code: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl ApiError {
    fn into_code(self) -> Option<String> {
        self.decline_code.or(self.code)
    }
}

fn not_answered(error: reqwest::Error) -> ProviderError {
    let sent = !(error.is_connect() || error.is_builder());
    let said = error.without_url().to_string();
    if sent { ProviderError::Unknown(said) } else { ProviderError::Retry(said) }
}

/// What an answer that is not 2xx means for the attempt.
fn refusal(status: u16, body: &[u8]) -> ProviderError {
    let error = serde_json::from_slice::<ApiErrorBody>(body).unwrap_or_default().error;
    let said = format!("{status} {} {}", error.kind.as_deref().unwrap_or("-"), error.code.as_deref().unwrap_or("-"));
    match status {
        402 => ProviderError::Refused(declined(&error.into_code().unwrap_or_else(|| "card_declined".to_owned()))),
        // Our own credentials are at fault: nothing was done, and an operator can repair it.
        401 | 403 | 429 => ProviderError::Retry(said),
        // Another request under the same key is under way.
        409 => ProviderError::Unknown(said),
        404 => ProviderError::Refused(Error::not_found("object at the payment processor")),
        400..500 => {
            tracing::warn!(%said, "the payment processor refused a request");
            ProviderError::Refused(Error::new(ErrorCode::Invalid, "The payment processor refused the request."))
        }
        _ => ProviderError::Unknown(said),
    }
}

#[cfg(test)]
#[path = "stripe_tests.rs"]
mod tests;
