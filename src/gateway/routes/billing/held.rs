//! What billing holds about a person, whole: for the export of their data.

use serde::Serialize;
use utoipa::ToSchema;

use super::views::{InvoiceView, PaymentMethodView, RefundView, SubscriptionView};
use super::{invoices, payment_methods, subscriptions};
use crate::actors::billing::{invoice, subscription, wallet};
use crate::actors::runtime::{Page, Scope};
use crate::gateway::Call;
use crate::kernel::Error;

/// Subscriptions and invoices at most, each; beyond that the lists at their own endpoints have them.
const MOST: usize = 2_000;

/// Everything of a person in billing. Card numbers are at the processor and not here.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::gateway::routes) struct Held {
    payment_methods: Vec<PaymentMethodView>,
    /// Newest first.
    subscriptions: Vec<SubscriptionView>,
    /// Newest first.
    invoices: Vec<InvoiceView>,
    /// By invoice, newest first; credit notes are those with a number.
    refunds: Vec<RefundView>,
    /// Whether there is more than this.
    truncated: bool,
}

/// # Errors
/// `unavailable` when it cannot be read now.
pub(in crate::gateway::routes) async fn held(call: &Call<()>, user_id: &str) -> Result<Held, Error> {
    let (router, origin) = (&call.services.router, &call.origin);
    let mut held = Held {
        payment_methods: payment_methods::all(call, user_id).await?,
        subscriptions: Vec::new(),
        invoices: Vec::new(),
        refunds: Vec::new(),
        truncated: false,
    };
    for id in ids(call, user_id, subscription::INDEX, &mut held.truncated).await? {
        held.subscriptions.push(SubscriptionView::from(&subscriptions::read(router, &id, origin).await?));
    }
    let texts = call.services.compliance.texts_of(user_id, false).await?;
    for id in ids(call, user_id, invoice::INDEX, &mut held.truncated).await? {
        let view = invoices::read(router, &id, origin).await?;
        let refund = |refund| RefundView::new(refund, &id, view.draft.quote.currency, &texts);
        held.refunds.extend(view.refunds.iter().map(refund));
        held.invoices.push(InvoiceView::from(&view));
    }
    Ok(held)
}

/// The ids under the person's part of an index, newest first.
async fn ids(call: &Call<()>, user_id: &str, index: &str, truncated: &mut bool) -> Result<Vec<String>, Error> {
    let prefix = format!("{user_id}/");
    let page = Page { after: None, limit: MOST + 1, reverse: true };
    let scope = Scope::ShardOf(wallet::id(user_id));
    let found = call.services.router.scan(scope, index, prefix.as_bytes(), page).await?;
    *truncated |= found.len() > MOST;
    let id = |(key, _): &(Vec<u8>, Vec<u8>)| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
    Ok(found.iter().take(MOST).map(id).collect())
}
