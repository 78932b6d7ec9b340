//! What the payment processor reports by itself.
//!
//! Safe to repeat and in any order: a report is remembered by its event id at the invoice it is about, and an invoice
//! takes only what fits its state. A report about something that is not ours is answered as received.

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::billing::invoice::{self, Command, Invoice};
use crate::actors::runtime::steady::wall_now;
use crate::gateway::{Access, Call, Class, Endpoint, IdempotencyRule, LimitClass, Reply};
use crate::kernel::id::is_type_id;
use crate::kernel::{Error, ErrorCode, Origin};
use crate::providers::payment::webhook;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/webhooks/stripe", "receiveStripeWebhook")
            .class(Class::Payments)
            .summary("Reports of the payment processor")
            .description("Signed as Stripe signs its webhooks, in the header `Stripe-Signature`.")
            .tag("billing")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .idempotency(IdempotencyRule::Unused)
            .raw_body(&["*/*"])
            .response::<Received>(200, "Received")
            .problem(400)
            .handle(receive),
    ]
}

#[derive(Debug, Serialize, ToSchema)]
struct Received {
    received: bool,
}

async fn receive(call: Call<Bytes>) -> Result<Reply, Error> {
    let secret = &call.services.settings.payments.stripe.webhook_secret;
    let signature = call.header("stripe-signature").unwrap_or_default();
    // Signatures carry the real time, also where domain time is virtual.
    webhook::verify(signature, &call.body, secret, wall_now())?;
    let report = webhook::read(&call.body)?;
    let received = Reply::ok(&Received { received: true });
    let Some(receipt) = report.charge else { return Ok(received) };
    let Some((invoice_id, _)) = invoice::parse_reference(&receipt.reference) else { return Ok(received) };
    if !is_type_id("inv", invoice_id) {
        return Ok(received);
    }
    let id = invoice::id(invoice_id);
    let mut scope = [0; 32];
    scope.copy_from_slice(digest(&SHA256, format!("stripe:{}", report.id).as_bytes()).as_ref());
    let origin = Origin { idempotency: Some(scope), ..call.origin.clone() };
    match call.services.router.ask::<Invoice>(&id, Command::Report { receipt }, &origin).await {
        Err(error) if error.code != ErrorCode::NotFound => Err(error),
        _ => Ok(received),
    }
}
