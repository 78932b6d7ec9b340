//! Looking up what was charged: one attempt by its reference, or whatever paid an invoice.
//!
//! The list of a customer's PaymentIntents is complete at once, but the payer may have been another customer then; a
//! search by metadata finds those of all customers, about a minute late. Source:
//! <https://docs.stripe.com/api/payment_intents/list>, <https://docs.stripe.com/search>.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Intent, LOOKUP_PAGES, List, Stripe};
use crate::providers::ProviderError;
use crate::providers::payment::{Charge, ChargeReceipt, ChargeStatus, invoice_of};

/// What was found so far, and whether it is to be looked on.
struct Found {
    best: Option<ChargeReceipt>,
    enough: bool,
    /// Whether other customers' charges were among those looked through.
    of_all: bool,
}

impl Stripe {
    /// The charge with this reference.
    pub(super) async fn find(&self, customer: &str, reference: &str) -> Result<Option<ChargeReceipt>, ProviderError> {
        let take = |found: &mut Found, receipt: ChargeReceipt| {
            if !found.enough && receipt.reference == reference {
                found.enough = true;
                found.best = Some(receipt);
            }
        };
        Ok(self.look_through(customer, |intent| is(intent, reference), take).await?.best)
    }

    /// What answers a request to charge that may have been made before: the payment of its invoice, by whichever attempt
    /// and customer, else the attempt itself.
    pub(super) async fn find_payment(&self, charge: &Charge) -> Result<Option<ChargeReceipt>, ProviderError> {
        let (reference, invoice) = (charge.reference.as_str(), invoice_of(&charge.reference));
        let take = |found: &mut Found, receipt: ChargeReceipt| {
            found.best = ChargeReceipt::answering(reference, found.best.take(), receipt);
            found.enough = found.best.as_ref().is_some_and(|best| best.status == ChargeStatus::Succeeded);
        };
        let of_invoice =
            |intent: &Intent| intent.metadata.reference.as_deref().is_some_and(|known| invoice_of(known) == invoice);
        let mut found = self.look_through(&charge.customer, of_invoice, take).await?;
        if found.enough || found.of_all {
            return Ok(found.best);
        }
        let query = format!("metadata[\"invoice\"]:\"{invoice}\"");
        let query = utf8_percent_encode(&query, NON_ALPHANUMERIC);
        let url = self.url(&format!("/v1/payment_intents/search?query={query}&limit=100"));
        let page: List = match self.send(self.http.get(url)).await {
            // Not every account may search. The customer's own charges were looked through.
            Err(ProviderError::Refused(error)) => {
                tracing::warn!(%error, invoice, "the processor does not search charges: looked up by customer alone");
                return Ok(found.best);
            }
            answered => answered.map_err(not_looked_up)?,
        };
        for intent in page.data.into_iter().filter(of_invoice) {
            take(&mut found, intent.receipt().map_err(ProviderError::Unknown)?);
        }
        Ok(found.best)
    }

    /// Looks through the charges of a customer, newest first, until it is enough.
    async fn look_through(
        &self,
        customer: &str,
        wanted: impl Fn(&Intent) -> bool,
        take: impl Fn(&mut Found, ChargeReceipt),
    ) -> Result<Found, ProviderError> {
        let mut found = Found { best: None, enough: false, of_all: false };
        let mut after: Option<String> = None;
        for _ in 0..LOOKUP_PAGES {
            let filter = if found.of_all { String::new() } else { format!("&customer={customer}") };
            let mut url = self.url(&format!("/v1/payment_intents?limit=100{filter}"));
            if let Some(after) = &after {
                url.push_str("&starting_after=");
                url.push_str(after);
            }
            let page: List = match self.send(self.http.get(url)).await {
                // A compatible service that cannot list by customer: look through all.
                Err(ProviderError::Refused(_)) if !found.of_all => {
                    found.of_all = true;
                    continue;
                }
                answered => answered.map_err(not_looked_up)?,
            };
            after = page.data.last().map(|intent| intent.id.clone());
            for intent in page.data.into_iter().filter(&wanted) {
                take(&mut found, intent.receipt().map_err(ProviderError::Unknown)?);
            }
            if found.enough || !page.has_more {
                return Ok(found);
            }
        }
        Err(ProviderError::Unknown("the customer has more charges than are looked through".into()))
    }
}

fn is(intent: &Intent, reference: &str) -> bool {
    intent.metadata.reference.as_deref() == Some(reference)
}

fn not_looked_up(error: ProviderError) -> ProviderError {
    ProviderError::Unknown(format!("lookup failed: {error}"))
}
