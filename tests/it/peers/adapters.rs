//! The adapters alone against the programs they talk to, before a node stands between.

use construct::kernel::{Currency, ErrorCode, Money, Secret, codec};
use construct::providers::payment::stripe::{Stripe, StripeConfig};
use construct::providers::payment::{CardFacts, Charge, ChargeStatus, PaymentReceipt, PaymentRequest, Refund};
use construct::providers::{Provider, ProviderError};

use super::counting_proxy::CountingProxy;
use super::localstripe::Localstripe;

async fn ask(stripe: &Stripe, key: &str, request: &PaymentRequest) -> Result<PaymentReceipt, ProviderError> {
    let request = codec::encode(request).expect("an encodable request");
    let bytes = stripe.execute(key, &request, 1).await?;
    Ok(codec::decode(&bytes).expect("a receipt"))
}

async fn customer(stripe: &Stripe) -> String {
    let request = PaymentRequest::CreateCustomer { reference: "usr_1".into() };
    match ask(stripe, "customer", &request).await {
        Ok(PaymentReceipt::Customer { id }) => id,
        other => panic!("{other:?}"),
    }
}

async fn attach(stripe: &Stripe, customer: &str, token: &str) -> CardFacts {
    let request = PaymentRequest::AttachMethod { customer: customer.to_owned(), token: token.to_owned() };
    match ask(stripe, &format!("attach {token}"), &request).await {
        Ok(PaymentReceipt::Method(facts)) => facts,
        other => panic!("{other:?}"),
    }
}

fn charge(customer: &str, token: &str, reference: &str) -> PaymentRequest {
    PaymentRequest::Charge(Charge {
        amount: Money::new(4900, Currency::USD),
        customer: customer.to_owned(),
        token: token.to_owned(),
        reference: reference.to_owned(),
        description: "Builder".to_owned(),
        off_session: true,
    })
}

async fn stripe() -> (Stripe, CountingProxy, Localstripe) {
    let localstripe = Localstripe::start().await;
    let proxy = CountingProxy::start(localstripe.base.clone()).await;
    let config = StripeConfig {
        api_base: format!("http://{}", proxy.address),
        secret_key: Secret::new("sk_test_adapter".to_owned()),
        connect_timeout_ms: 5_000,
        timeout_ms: 20_000,
    };
    (Stripe::new(config).expect("a client"), proxy, localstripe)
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe_charges_once_for_a_key_and_refunds() {
    let (stripe, proxy, _localstripe) = stripe().await;
    let customer = customer(&stripe).await;
    let card = attach(&stripe, &customer, "pm_card_visa").await;
    assert_eq!((card.brand.as_str(), card.last4.as_str()), ("visa", "4242"));
    let request = charge(&customer, &card.token, "inv_1/1");
    let first = ask(&stripe, "charge-1", &request).await.expect("charged");
    let again = ask(&stripe, "charge-1", &request).await.expect("answered again");
    assert_eq!(first, again);
    assert_eq!((proxy.forwarded("POST /v1/payment_intents"), proxy.repeats()), (1, 1));
    let PaymentReceipt::Charge(receipt) = first else { panic!("{first:?}") };
    assert_eq!((receipt.status, receipt.amount.amount), (ChargeStatus::Succeeded, 4900));
    let refund = Refund { charge: receipt.id, amount: Money::new(900, Currency::USD), reference: "crn_1".into() };
    let refunded = ask(&stripe, "refund-1", &PaymentRequest::Refund(refund)).await;
    assert!(matches!(refunded, Ok(PaymentReceipt::Refund { .. })), "{refunded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe_declines_are_refusals_and_lost_answers_are_unknown_until_looked_up() {
    let (stripe, proxy, _localstripe) = stripe().await;
    let customer = customer(&stripe).await;
    let bad = attach(&stripe, &customer, "pm_card_chargeCustomerFail").await;
    let declined = ask(&stripe, "charge-2", &charge(&customer, &bad.token, "inv_2/1")).await;
    let refused = matches!(&declined, Err(ProviderError::Refused(error)) if error.code == ErrorCode::PaymentDeclined);
    assert!(refused, "{declined:?}");

    let good = attach(&stripe, &customer, "pm_card_visa").await;
    let request = charge(&customer, &good.token, "inv_3/1");
    proxy.lose_answers(1);
    let lost = ask(&stripe, "charge-3", &request).await;
    assert!(matches!(lost, Err(ProviderError::Unknown(_))), "{lost:?}");
    let encoded = codec::encode(&request).expect("encodable");
    let found = stripe.reconcile("charge-3", &encoded).await.expect("looked up").expect("it was charged");
    let receipt: PaymentReceipt = codec::decode(&found).expect("a receipt");
    assert!(matches!(&receipt, PaymentReceipt::Charge(charge) if charge.reference == "inv_3/1"), "{receipt:?}");
    assert_eq!(proxy.unkeyed(), 0);
}
