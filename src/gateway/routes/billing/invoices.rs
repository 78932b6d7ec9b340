//! Invoices, their payment by hand, refunds and credit notes.

use serde::Deserialize;
use utoipa::ToSchema;

use super::subscriptions::known_method;
use super::views::{InvoiceView, RefundView, reason_place, unexpected};
use super::wait::{self, Seen};
use crate::actors::billing::invoice::{self, Command, Invoice, Reply as Answer, State, View};
use crate::actors::billing::wallet;
use crate::actors::runtime::{Page, Router, Scope};
use crate::gateway::page::{List, OwnedQuery};
use crate::gateway::{Access, Call, Endpoint, IdempotencyRule, LimitClass, Reply};
use crate::kernel::{Error, Origin};
use crate::providers::payment::declined;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/invoices", "listInvoices")
            .summary("List invoices, newest first")
            .tag("billing")
            .others("invoices:read")
            .query::<OwnedQuery>()
            .response::<List<InvoiceView>>(200, "A page of invoices")
            .handle(list),
        Endpoint::get("/v1/invoices/{id}", "getInvoice")
            .summary("Read an invoice")
            .tag("billing")
            .others("invoices:read")
            .response::<InvoiceView>(200, "The invoice")
            .problem(404)
            .handle(get),
        Endpoint::post("/v1/invoices/{id}/pay", "payInvoice")
            .summary("Pay an open or uncollectible invoice now")
            .tag("billing")
            .others("invoices:write")
            .limit(LimitClass::Money)
            .idempotency(IdempotencyRule::Required)
            .optional_body::<PayInvoice>()
            .response::<InvoiceView>(200, "The invoice after the attempt")
            .problem(402)
            .problem(404)
            .problem(409)
            .handle(pay),
        Endpoint::post("/v1/invoices/{id}/refunds", "refundInvoice")
            .summary("Give back all or part of what was paid")
            .tag("billing")
            .access(Access::Permission("invoices:refund"))
            .others("invoices:refund")
            .limit(LimitClass::Money)
            .idempotency(IdempotencyRule::Required)
            .optional_body::<RefundInvoice>()
            .response::<RefundView>(201, "The refund")
            .problem(404)
            .problem(409)
            .handle(refund),
        Endpoint::get("/v1/credit-notes", "listCreditNotes")
            .summary("List credit notes, newest first")
            .tag("billing")
            .others("invoices:read")
            .query::<OwnedQuery>()
            .response::<List<RefundView>>(200, "A page of credit notes")
            .handle(list_credit_notes),
    ]
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PayInvoice {
    /// Instead of the subscription's or the default one.
    payment_method_id: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefundInvoice {
    /// In minor units of the invoice's currency; all that is left when not said.
    #[schema(minimum = 1)]
    amount: Option<i64>,
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// An invoice as the caller may see it.
///
/// # Errors
/// `not_found` when there is none, or when it is another person's.
pub(super) async fn read(router: &Router, id: &str, origin: &Origin) -> Result<View, Error> {
    let answer = router.ask::<Invoice>(&invoice::id(id), Command::GetInvoice, &wait::reading(origin)).await?;
    let Answer::Invoice(view) = answer else { return Err(unexpected()) };
    Ok(*view)
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let query: OwnedQuery = call.query()?;
    let (router, user_id) = (&call.services.router, call.owner(query.user_id.as_deref())?);
    let (limit, after) = (query.page().limit()?, query.page().after(call.list())?);
    let prefix = format!("{user_id}/");
    let page = Page { after, limit: limit + 1, reverse: true };
    let found = router.scan(Scope::ShardOf(wallet::id(user_id)), invoice::INDEX, prefix.as_bytes(), page).await?;
    let mut items = Vec::with_capacity(found.len());
    for (key, _) in found {
        let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        let view = read(router, &id, &call.origin).await?;
        items.push((key, InvoiceView::from(&view)));
    }
    Ok(Reply::ok(&List::page(items, limit, call.list())))
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    let view = read(&call.services.router, call.param("id"), &call.origin).await?;
    Ok(Reply::ok(&InvoiceView::from(&view)).etag(view.version))
}

async fn pay(call: Call<PayInvoice>) -> Result<Reply, Error> {
    let (router, id, method_id) = (&call.services.router, call.param("id"), call.body.payment_method_id.clone());
    let before = read(router, id, &call.origin).await?;
    if let Some(method_id) = &method_id {
        known_method(router, &before.draft.user_id, method_id, &call.origin).await?;
    }
    let command = Command::Pay { method_id };
    router.ask::<Invoice>(&invoice::id(id), command, &call.origin).await?;
    let view = settled(router, id, &call.origin).await?;
    match (view.state, view.decline_code()) {
        (State::Open | State::Uncollectible, Some(code)) => Err(declined(code)),
        _ => Ok(Reply::ok(&InvoiceView::from(&view)).etag(view.version)),
    }
}

/// The invoice once its last attempt is over, or as it is when waiting longer makes no sense.
pub(super) async fn settled(router: &Router, id: &str, origin: &Origin) -> Result<View, Error> {
    let look = || async {
        let view = read(router, id, origin).await?;
        Ok(if view.is_settled() { Seen::Done(view) } else { Seen::NotYet(view) })
    };
    wait::until(look).await
}

async fn refund(call: Call<RefundInvoice>) -> Result<Reply, Error> {
    let (router, id) = (&call.services.router, call.param("id"));
    let reason = call.body.reason.clone().unwrap_or_default();
    if reason.chars().count() > 500 {
        return Err(Error::invalid("/reason", "expected at most 500 characters"));
    }
    let invoice = read(router, id, &call.origin).await?;
    let texts = call.services.compliance.texts_of(&invoice.draft.user_id, true).await?;
    // The invoice is kept in clear for years, and this was typed by somebody about somebody.
    let reason = texts.seal(&reason_place(id), &reason);
    let command = Command::Refund { amount: call.body.amount, reason };
    let answer = router.ask::<Invoice>(&invoice::id(id), command, &call.origin).await?;
    let Answer::Refund(made) = answer else { return Err(unexpected()) };
    let operator = Origin::system(call.origin.request_id.clone());
    let look = || async {
        let view = read(router, id, &operator).await?;
        // A refund that succeeded has its number a moment later.
        let pending = |refund: &&invoice::RefundState| {
            let numbered = refund.status != invoice::RefundStatus::Succeeded || refund.number.is_some();
            refund.id == made.id && (refund.status == invoice::RefundStatus::Pending || !numbered)
        };
        Ok(if view.refunds.iter().any(|refund| pending(&refund)) { Seen::NotYet(view) } else { Seen::Done(view) })
    };
    let view = wait::until(look).await?;
    let refund = view.refunds.iter().find(|refund| refund.id == made.id).unwrap_or(&made);
    if refund.status == invoice::RefundStatus::Failed {
        return Err(Error::conflict("The payment processor refused the refund."));
    }
    Ok(Reply::created(&RefundView::new(refund, id, view.draft.quote.currency, &texts)))
}

async fn list_credit_notes(call: Call<()>) -> Result<Reply, Error> {
    let query: OwnedQuery = call.query()?;
    let (router, user_id) = (&call.services.router, call.owner(query.user_id.as_deref())?);
    let (limit, after) = (query.page().limit()?, query.page().after(call.list())?);
    let prefix = format!("{user_id}/");
    let page = Page { after, limit: limit + 1, reverse: true };
    let scope = Scope::ShardOf(wallet::id(user_id));
    let found = router.scan(scope, invoice::CREDIT_NOTES, prefix.as_bytes(), page).await?;
    let mut items = Vec::with_capacity(found.len());
    let texts = call.services.compliance.texts_of(user_id, false).await?;
    for (key, invoice_id) in found {
        let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        let invoice_id = String::from_utf8_lossy(&invoice_id).into_owned();
        let view = read(router, &invoice_id, &call.origin).await?;
        let note = view.refunds.iter().find(|refund| refund.id == id);
        let shown = note.map(|refund| RefundView::new(refund, &invoice_id, view.draft.quote.currency, &texts));
        items.extend(shown.map(|shown| (key, shown)));
    }
    Ok(Reply::ok(&List::page(items, limit, call.list())))
}
