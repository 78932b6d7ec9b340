//! Payment methods of the caller.

use serde::Deserialize;
use utoipa::ToSchema;

use super::views::{PaymentMethodView, unexpected};
use super::wait::{self, Seen};
use crate::actors::billing::wallet::{self, Command, Method, MethodStatus, Reply as Answer, Wallet};
use crate::gateway::page::{List, PageQuery};
use crate::gateway::{Call, Class, Endpoint, Reply};
use crate::kernel::{Error, Origin};
use crate::settings::{PaymentProcessor, Settings};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/payment-methods", "addPaymentMethod")
            .class(Class::Payments)
            .summary("Add a payment method by the processor's token")
            .description("The first one becomes the default. Card numbers are refused.")
            .tag("billing")
            .body::<AddPaymentMethod>()
            .response::<PaymentMethodView>(201, "The payment method")
            .response::<PaymentMethodView>(202, "The processor has not answered yet")
            .problem(402)
            .problem(409)
            .handle(add),
        Endpoint::get("/v1/payment-methods", "listPaymentMethods")
            .summary("List my payment methods")
            .tag("billing")
            .query::<PageQuery>()
            .response::<List<PaymentMethodView>>(200, "In the order they were added")
            .handle(list),
        Endpoint::get("/v1/payment-methods/{id}", "getPaymentMethod")
            .summary("Read a payment method")
            .tag("billing")
            .response::<PaymentMethodView>(200, "The payment method")
            .problem(404)
            .handle(get),
        Endpoint::post("/v1/payment-methods/{id}/default", "makePaymentMethodDefault")
            .summary("Charge this payment method where no other is named")
            .tag("billing")
            .response::<PaymentMethodView>(200, "The payment method")
            .problem(404)
            .handle(make_default),
        Endpoint::delete("/v1/payment-methods/{id}", "deletePaymentMethod")
            .summary("Delete a payment method")
            .description(
                "Subscriptions that named it forget it a moment later, and are charged to the default payment method from \
                 then on. Those that have ended keep naming it.",
            )
            .tag("billing")
            .no_content(204, "It will not be charged any more")
            .problem(404)
            .handle(delete),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddPaymentMethod {
    /// The processor's token, such as `pm_card_visa`. Never a card number.
    #[schema(max_length = 140, pattern = "^(pm|card|src|tok)_[A-Za-z0-9_]+$")]
    token: String,
    /// `sandbox` or `stripe`; must be the processor this platform uses.
    provider: Option<String>,
    /// Make it the default.
    #[serde(default)]
    default: bool,
}

fn provider(settings: &Settings) -> &'static str {
    match settings.payments.processor {
        PaymentProcessor::Sandbox => "sandbox",
        PaymentProcessor::Stripe => "stripe",
    }
}

async fn add(call: Call<AddPaymentMethod>) -> Result<Reply, Error> {
    let user_id = call.user_id()?.to_owned();
    let provider = provider(&call.services.settings);
    if call.body.provider.as_deref().is_some_and(|named| named != provider) {
        return Err(Error::invalid("/provider", format!("expected {provider}")));
    }
    let (router, wallet) = (&call.services.router, wallet::id(&user_id));
    let command = Command::AttachMethod { token: call.body.token.clone(), make_default: call.body.default };
    let answer = router.ask::<Wallet>(&wallet, command, &call.origin).await?;
    let Answer::Method { method, .. } = answer else { return Err(unexpected()) };
    let origin = wait::reading(&call.origin);
    let look = || async {
        let command = Command::GetMethod { id: method.id.clone() };
        let answer = router.ask::<Wallet>(&wallet, command, &origin).await?;
        let Answer::Method { method, default } = answer else { return Err(unexpected()) };
        let pending = method.status == MethodStatus::Pending;
        Ok(if pending { Seen::NotYet((method, default)) } else { Seen::Done((method, default)) })
    };
    let (method, default) = wait::until(look).await?;
    let status = match &method.status {
        MethodStatus::Ready(_) => 201,
        MethodStatus::Pending => 202,
        MethodStatus::Failed(error) => return Err(error.clone()),
    };
    Ok(Reply::json(status, &PaymentMethodView::new(&method, provider, default)))
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let user_id = call.user_id()?.to_owned();
    Ok(Reply::ok(&List::part(all(&call, &user_id).await?, &call.query()?, call.list())?))
}

/// Every payment method of a person, in the order they were added.
///
/// # Errors
/// `unavailable`.
pub(super) async fn all(call: &Call<()>, user_id: &str) -> Result<Vec<PaymentMethodView>, Error> {
    let wallet = wallet::id(user_id);
    let answer = call.services.router.ask::<Wallet>(&wallet, Command::ListMethods, &call.origin).await?;
    let Answer::Methods { methods, default } = answer else { return Err(unexpected()) };
    let provider = provider(&call.services.settings);
    let is_default = |method: &Method| default.as_deref() == Some(method.id.as_str());
    let views = methods.iter().map(|method| PaymentMethodView::new(method, provider, is_default(method)));
    Ok(views.collect())
}

/// A usable payment method of a person.
///
/// # Errors
/// `not_found` when there is none with this id.
pub(super) async fn read_method(
    router: &crate::actors::runtime::Router,
    user_id: &str,
    id: &str,
    origin: &Origin,
) -> Result<(Method, bool), Error> {
    let command = Command::GetMethod { id: id.to_owned() };
    let answer = router.ask::<Wallet>(&wallet::id(user_id), command, &wait::reading(origin)).await?;
    let Answer::Method { method, default } = answer else { return Err(unexpected()) };
    if matches!(method.status, MethodStatus::Failed(_)) {
        return Err(Error::not_found("payment method"));
    }
    Ok((method, default))
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    let (router, user_id) = (&call.services.router, call.user_id()?);
    let (method, default) = read_method(router, user_id, call.param("id"), &call.origin).await?;
    Ok(Reply::ok(&PaymentMethodView::new(&method, provider(&call.services.settings), default)))
}

async fn make_default(call: Call<()>) -> Result<Reply, Error> {
    let wallet = wallet::id(call.user_id()?);
    let command = Command::SetDefault { id: call.param("id").to_owned() };
    let answer = call.services.router.ask::<Wallet>(&wallet, command, &call.origin).await?;
    let Answer::Method { method, default } = answer else { return Err(unexpected()) };
    Ok(Reply::ok(&PaymentMethodView::new(&method, provider(&call.services.settings), default)))
}

async fn delete(call: Call<()>) -> Result<Reply, Error> {
    let wallet = wallet::id(call.user_id()?);
    let command = Command::DetachMethod { id: call.param("id").to_owned() };
    call.services.router.ask::<Wallet>(&wallet, command, &call.origin).await?;
    Ok(Reply::empty(204))
}
