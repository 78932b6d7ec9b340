//! Refunds: asking for one, and finding out how far it is. That Stripe took a request does not mean that the money goes
//! back: a refund says so itself. Source: <https://docs.stripe.com/api/refunds/object>.

use serde::Deserialize;

use super::amounts::to_stripe;
use super::{LOOKUP_PAGES, Metadata, Stripe};
use crate::providers::ProviderError;
use crate::providers::payment::{PaymentReceipt, Refund, RefundProgress, RefundReceipt};

/// A refund, as far as billing needs it.
#[derive(Deserialize)]
pub(super) struct Made {
    id: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    failure_reason: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Made>,
    #[serde(default)]
    has_more: bool,
}

impl Made {
    /// What is known of the refund, or what about it cannot be understood.
    pub(super) fn receipt(self) -> Result<RefundReceipt, String> {
        let progress = match self.status.as_deref() {
            Some("succeeded") => RefundProgress::Succeeded,
            Some("pending" | "requires_action") => RefundProgress::Pending,
            Some(ended @ ("failed" | "canceled")) => {
                RefundProgress::Failed { code: self.failure_reason.unwrap_or_else(|| ended.to_owned()) }
            }
            other => return Err(format!("refund {} has status {}", self.id, other.unwrap_or("-"))),
        };
        Ok(RefundReceipt { id: self.id, progress })
    }

    fn is(&self, reference: &str) -> bool {
        self.metadata.as_ref().is_some_and(|metadata| metadata.reference.as_deref() == Some(reference))
    }
}

/// Which parameter names this charge.
fn named(charge: &str) -> &'static str {
    if charge.starts_with("ch_") { "charge" } else { "payment_intent" }
}

impl Stripe {
    pub(super) async fn refund(&self, key: &str, refund: Refund) -> Result<PaymentReceipt, ProviderError> {
        let amount = to_stripe(refund.amount).map_err(ProviderError::Refused)?.to_string();
        let of = named(&refund.charge);
        let form = [(of, refund.charge), ("amount", amount), ("metadata[reference]", refund.reference)];
        let made: Made = self.post(key, "/v1/refunds", &form).await?;
        made.receipt().map_err(ProviderError::Unknown)?.answer().map_err(ProviderError::Refused)
    }

    /// The refund of `charge` with our reference that got furthest: a failed one may have been asked for again.
    pub(super) async fn find_refund(
        &self,
        charge: &str,
        reference: &str,
    ) -> Result<Option<RefundReceipt>, ProviderError> {
        let unknown = |error: ProviderError| ProviderError::Unknown(format!("lookup failed: {error}"));
        let of = named(charge);
        let (mut best, mut after) = (None, String::new());
        for _ in 0..LOOKUP_PAGES {
            let url = self.url(&format!("/v1/refunds?{of}={charge}&limit=100{after}"));
            let page: List = self.send(self.http.get(url)).await.map_err(unknown)?;
            if let Some(last) = page.data.last() {
                after = format!("&starting_after={}", last.id);
            }
            for made in page.data.into_iter().filter(|made| made.is(reference)) {
                let receipt = made.receipt().map_err(ProviderError::Unknown)?;
                best = RefundReceipt::further(best, receipt);
            }
            if !page.has_more {
                return Ok(best);
            }
        }
        Err(ProviderError::Unknown("the charge has more refunds than are looked through".into()))
    }
}
