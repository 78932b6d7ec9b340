use std::io::Write;

use super::*;
use crate::kernel::Currency;

async fn ask(sandbox: &Sandbox, key: &str, request: &PaymentRequest) -> Result<PaymentReceipt, ProviderError> {
    let bytes = codec::encode(request).expect("encodes");
    let receipt = sandbox.execute(key, &bytes, 1).await?;
    Ok(codec::decode(&receipt).expect("receipts decode"))
}

async fn customer(sandbox: &Sandbox) -> String {
    let request = PaymentRequest::CreateCustomer { reference: "usr_1".into() };
    match ask(sandbox, "customer", &request).await {
        Ok(PaymentReceipt::Customer { id }) => id,
        other => panic!("expected a customer, got {other:?}"),
    }
}

fn charge(customer: &str, token: &str, reference: &str) -> PaymentRequest {
    PaymentRequest::Charge(Charge {
        amount: Money::new(1999, Currency::USD),
        customer: customer.to_owned(),
        token: token.to_owned(),
        reference: reference.to_owned(),
        description: "Pro".to_owned(),
        off_session: false,
    })
}

#[tokio::test]
async fn one_key_moves_money_once_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let sandbox = Sandbox::open(directory.path()).expect("opens");
    let customer = customer(&sandbox).await;
    let request = charge(&customer, "pm_card_visa", "inv_1/1");
    let first = ask(&sandbox, "k1", &request).await.expect("charged");
    assert_eq!(ask(&sandbox, "k1", &request).await.expect("repeated"), first);
    drop(sandbox);

    let path = directory.path().join("journal.jsonl");
    let mut torn = std::fs::OpenOptions::new().append(true).open(&path).expect("opens");
    torn.write_all(br#"{"key":"torn","wh"#).expect("writes");
    let sandbox = Sandbox::open(directory.path()).expect("opens again");
    assert_eq!(ask(&sandbox, "k1", &request).await.expect("repeated"), first);
    let find = PaymentRequest::FindCharge { customer, reference: "inv_1/1".into() };
    let PaymentReceipt::Charge(receipt) = first else { panic!("expected a charge") };
    assert_eq!(ask(&sandbox, "-", &find).await.expect("found"), PaymentReceipt::Found(Some(receipt)));
    let journal = std::fs::read_to_string(path).expect("reads");
    assert_eq!(journal.lines().count(), 2);
}

#[tokio::test]
async fn another_attempt_is_answered_by_what_paid_the_invoice() {
    let directory = tempfile::tempdir().expect("a directory");
    let sandbox = Sandbox::open(directory.path()).expect("opens");
    let customer = customer(&sandbox).await;
    let paid = ask(&sandbox, "k1", &charge(&customer, "pm_card_visa", "inv_1/1")).await.expect("charged");
    for (reference, answer) in [("inv_1/2", Some(paid)), ("inv_10/1", None), ("inv_0/1", None)] {
        let request = codec::encode(&charge("cus_other", "pm_card_visa", reference)).expect("encodes");
        let found = sandbox.reconcile("k2", &request).await.expect("known");
        assert_eq!(found.map(|bytes| codec::decode(&bytes).expect("decodes")), answer, "{reference}");
    }
}

#[tokio::test]
async fn two_nodes_on_one_journal_are_one_processor() {
    let directory = tempfile::tempdir().expect("a directory");
    let [one, two] = [(); 2].map(|()| Sandbox::open(directory.path()).expect("opens"));
    let customer = customer(&one).await;
    let first = ask(&one, "k1", &charge(&customer, "pm_card_visa", "inv_1/1")).await.expect("charged");
    assert_eq!(ask(&two, "k1", &charge(&customer, "pm_card_visa", "inv_1/1")).await.expect("repeated"), first);
    let asks = (0..40).map(|n| {
        let sandbox = if n % 2 == 0 { &one } else { &two };
        let request = charge(&customer, "pm_card_visa", &format!("inv_2/{}", n / 2));
        async move { ask(sandbox, &format!("key {}", n / 2), &request).await }
    });
    assert!(futures::future::join_all(asks).await.iter().all(Result::is_ok));
    let journal = std::fs::read_to_string(directory.path().join("journal.jsonl")).expect("reads");
    assert_eq!(journal.lines().count(), 2 + 20, "each key once");
}

#[tokio::test]
async fn test_tokens_behave_as_stripes_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let sandbox = Sandbox::open(directory.path()).expect("opens");
    let customer = customer(&sandbox).await;
    for (token, code) in [
        ("pm_card_chargeDeclined", "card_declined"),
        ("pm_card_visa_chargeDeclined", "card_declined"),
        ("pm_card_chargeCustomerFail", "card_declined"),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ] {
        let attach = PaymentRequest::AttachMethod { customer: customer.clone(), token: token.into() };
        let Ok(PaymentReceipt::Method(card)) = ask(&sandbox, &format!("a{token}"), &attach).await else {
            panic!("{token} attaches")
        };
        let refused = ask(&sandbox, &format!("c{token}"), &charge(&customer, &card.token, token)).await;
        let Err(ProviderError::Refused(error)) = refused else { panic!("{token} declines, got {refused:?}") };
        assert_eq!(super::super::decline_code(&error), code);
    }
    let asked = ask(&sandbox, "3ds", &charge(&customer, "pm_card_authenticationRequired", "3ds")).await;
    let Ok(PaymentReceipt::Charge(receipt)) = asked else { panic!("a challenge is a receipt") };
    assert!(matches!(receipt.status, ChargeStatus::RequiresAction { .. }));
    let attach = PaymentRequest::AttachMethod { customer, token: "pm_unknown".into() };
    assert!(matches!(ask(&sandbox, "u", &attach).await, Err(ProviderError::Refused(_))));
}

#[tokio::test]
async fn refunds_never_exceed_the_charge() {
    let directory = tempfile::tempdir().expect("a directory");
    let sandbox = Sandbox::open(directory.path()).expect("opens");
    let customer = customer(&sandbox).await;
    let paid = ask(&sandbox, "c", &charge(&customer, "pm_card_visa", "inv_1/1")).await;
    let Ok(PaymentReceipt::Charge(receipt)) = paid else { panic!("charged") };
    let refund = |amount| {
        let amount = Money::new(amount, Currency::USD);
        PaymentRequest::Refund(Refund { charge: receipt.id.clone(), amount, reference: "re".into() })
    };
    assert!(ask(&sandbox, "r1", &refund(1500)).await.is_ok());
    assert!(ask(&sandbox, "r1", &refund(1500)).await.is_ok(), "the same key gives the same answer");
    assert!(matches!(ask(&sandbox, "r2", &refund(500)).await, Err(ProviderError::Refused(_))));
    assert!(ask(&sandbox, "r3", &refund(499)).await.is_ok());
    for (reference, there) in [("re", true), ("inv_1/1", false), ("no", false)] {
        let find = PaymentRequest::FindRefund { charge: receipt.id.clone(), reference: reference.into() };
        let Ok(PaymentReceipt::FoundRefund(found)) = ask(&sandbox, "-", &find).await else { panic!("known") };
        assert_eq!(found.is_some(), there, "{reference}");
    }
    assert_eq!(sandbox.reconcile("never", &[]).await.expect("known"), None);
}
