use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::kernel::Money;
use crate::providers::payment::{Refund, RefundProgress, RefundReceipt};

/// Answers one connection after another with the given responses and keeps what it was asked.
async fn server(answers: Vec<Option<(u16, &'static str)>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut request = vec![0; 16 << 10];
            let mut length = 0;
            while !whole(&request[..length]) {
                length += stream.read(&mut request[length..]).await.expect("reads");
            }
            seen.lock().expect("not poisoned").push(String::from_utf8_lossy(&request[..length]).into_owned());
            let Some((status, body)) = answer else { continue };
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("writes");
        }
    });
    (base, asked)
}

fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn stripe(api_base: String) -> Stripe {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let secret_key = Secret::new("sk_test_1".to_owned());
    Stripe::new(StripeConfig { api_base, secret_key, connect_timeout_ms: 2_000, timeout_ms: 5_000 }).expect("builds")
}

fn charge() -> Vec<u8> {
    let charge = Charge {
        amount: Money::new(1999, Currency::USD),
        customer: "cus_1".into(),
        token: "pm_1".into(),
        reference: "inv_1/1".into(),
        description: "Pro".into(),
        off_session: true,
    };
    codec::encode(&PaymentRequest::Charge(charge)).expect("encodes")
}

const PAID: &str =
    r#"{"id":"pi_1","amount":1999,"currency":"usd","status":"succeeded","metadata":{"reference":"inv_1/1"}}"#;

#[tokio::test]
async fn a_charge_carries_key_credentials_and_reference() {
    let (base, asked) = server(vec![Some((200, PAID))]).await;
    let receipt = stripe(base).execute("invoice/inv_1:4:0", &charge(), 1).await.expect("charged");
    let PaymentReceipt::Charge(receipt) = codec::decode(&receipt).expect("decodes") else { panic!("a charge") };
    assert_eq!((receipt.id.as_str(), receipt.status), ("pi_1", ChargeStatus::Succeeded));
    let asked = asked.lock().expect("not poisoned")[0].to_ascii_lowercase();
    for part in [
        "post /v1/payment_intents http/1.1",
        "idempotency-key: invoice/inv_1:4:0",
        "authorization: bearer sk_test_1",
        "amount=1999&currency=usd&customer=cus_1&payment_method=pm_1",
        "metadata%5binvoice%5d=inv_1&metadata%5breference%5d=inv_1%2f1",
        "off_session=true",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
}

#[tokio::test]
async fn every_answer_says_exactly_what_is_known() {
    let answers = vec![
        Some((402, r#"{"error":{"code":"card_declined","decline_code":"insufficient_funds"}}"#)),
        Some((200, r#"{"id":"pi_2","amount":1999,"currency":"usd","status":"requires_action","client_secret":"s"}"#)),
        Some((429, "{}")),
        Some((400, r#"{"error":{"message":"no"}}"#)),
        Some((500, "oops")),
        Some((200, "not json")),
        None,
    ];
    let (base, _) = server(answers).await;
    let stripe = stripe(base);
    let mut said = Vec::new();
    for _ in 0..7 {
        said.push(match stripe.execute("k", &charge(), 1).await {
            Ok(_) => "receipt".to_owned(),
            Err(ProviderError::Refused(error)) => super::super::decline_code(&error),
            Err(ProviderError::Retry(_)) => "retry".to_owned(),
            Err(ProviderError::Unknown(_)) => "unknown".to_owned(),
        });
    }
    assert_eq!(said, ["insufficient_funds", "receipt", "retry", "invalid", "unknown", "unknown", "unknown"]);
}

#[tokio::test]
async fn a_request_that_was_never_sent_may_be_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    assert!(matches!(stripe(base).execute("k", &charge(), 1).await, Err(ProviderError::Retry(_))));
}

const NOTHING: &str = r#"{"data":[]}"#;

#[tokio::test]
async fn a_lost_answer_is_found_by_its_reference() {
    let other = r#"{"data":[{"id":"pi_0","amount":1,"currency":"usd","status":"succeeded"}],"has_more":true}"#;
    let ours = r#"{"data":[{"id":"pi_1","amount":1999,"currency":"usd","status":"succeeded",
        "metadata":{"reference":"inv_1/1"}}],"has_more":false}"#;
    let (base, asked) = server([other, ours, NOTHING, NOTHING].map(|answer| Some((200, answer))).to_vec()).await;
    let stripe = stripe(base);
    assert!(stripe.reconcile("k", &charge()).await.expect("known").is_some());
    assert!(stripe.reconcile("k", &charge()).await.expect("known").is_none());
    assert!(asked.lock().expect("not poisoned")[1].contains("starting_after=pi_0"));
}

#[tokio::test]
async fn what_paid_the_invoice_is_found_whoever_paid_and_by_whichever_attempt() {
    let attempts = r#"{"data":[
        {"id":"pi_0","amount":1999,"currency":"usd","status":"succeeded","metadata":{"reference":"inv_10/1"}},
        {"id":"pi_1","amount":1999,"currency":"usd","status":"requires_payment_method","metadata":{"reference":"inv_1/1"}},
        {"id":"pi_2","amount":1999,"currency":"usd","status":"succeeded","metadata":{"reference":"inv_1/2"}}]}"#;
    let declined = r#"{"data":[
        {"id":"pi_1","amount":1999,"currency":"usd","status":"requires_payment_method","metadata":{"reference":"inv_1/1"}}]}"#;
    let refused = r#"{"error":{"type":"invalid_request_error"}}"#;
    let answers = [
        (200, attempts),
        (200, NOTHING),
        (200, attempts),
        // Search is not for every account, and a service may not know customers: then all are looked through.
        (200, declined),
        (400, refused),
        (400, refused),
        (200, NOTHING),
        (200, NOTHING),
        (500, refused),
    ];
    let (base, asked) = server(answers.map(Some).to_vec()).await;
    let stripe = stripe(base);
    for _ in 0..2 {
        let found = stripe.reconcile("k", &charge()).await.expect("known").expect("paid");
        let receipt = codec::decode(&found).expect("decodes");
        assert!(matches!(&receipt, PaymentReceipt::Charge(charge) if charge.id == "pi_2"), "{receipt:?}");
    }
    assert!(matches!(stripe.reconcile("k", &charge()).await, Err(ProviderError::Refused(_))));
    assert!(stripe.reconcile("k", &charge()).await.expect("known").is_none());
    assert!(matches!(stripe.reconcile("k", &charge()).await, Err(ProviderError::Unknown(_))), "not looked up");
    let asked = asked.lock().expect("not poisoned");
    let search = "GET /v1/payment_intents/search?query=metadata%5B%22invoice%22%5D%3A%22inv%5F1%22&limit=100 ";
    assert!(asked[2].starts_with(search), "{}", asked[2]);
}

fn refund() -> Refund {
    Refund { charge: "pi_1".into(), amount: Money::new(900, Currency::USD), reference: "inv_1/cn_1".into() }
}

#[tokio::test]
async fn a_refund_is_what_its_status_says_and_not_that_it_was_taken() {
    let answers = [
        r#"{"id":"re_1","status":"succeeded"}"#,
        r#"{"id":"re_1","status":"pending"}"#,
        r#"{"id":"re_1","status":"requires_action"}"#,
        r#"{"id":"re_1","status":"failed","failure_reason":"expired_or_canceled_card"}"#,
        r#"{"id":"re_1","status":"canceled"}"#,
        r#"{"id":"re_1"}"#,
    ];
    let (base, _) = server(answers.map(|answer| Some((200, answer))).to_vec()).await;
    let stripe = stripe(base);
    let request = codec::encode(&PaymentRequest::Refund(refund())).expect("encodes");
    let mut said = Vec::new();
    for _ in answers {
        said.push(match stripe.execute("k", &request, 1).await {
            Ok(bytes) => match codec::decode(&bytes).expect("decodes") {
                PaymentReceipt::Refund { .. } => "back",
                PaymentReceipt::RefundPending { .. } => "pending",
                other => panic!("{other:?}"),
            },
            Err(ProviderError::Refused(_)) => "not back",
            Err(ProviderError::Unknown(_)) => "unknown",
            Err(ProviderError::Retry(_)) => "retry",
        });
    }
    assert_eq!(said, ["back", "pending", "pending", "not back", "not back", "unknown"]);
}

#[tokio::test]
async fn a_refund_is_found_by_its_reference_and_the_one_that_got_furthest_counts() {
    let other =
        r#"{"data":[{"id":"re_0","status":"succeeded","metadata":{"reference":"inv_1/cn_0"}}],"has_more":true}"#;
    let ours = r#"{"data":[{"id":"re_1","status":"failed","metadata":{"reference":"inv_1/cn_1"}},
        {"id":"re_2","status":"succeeded","metadata":{"reference":"inv_1/cn_1"}},
        {"id":"re_3","status":"failed","metadata":{"reference":"inv_1/cn_1"}}]}"#;
    let nothing = r#"{"data":[{"id":"re_0","status":"succeeded","metadata":null}]}"#;
    let (base, asked) = server(vec![
        Some((200, other)),
        Some((200, ours)),
        Some((200, nothing)),
        Some((500, "")),
        Some((200, ours)),
        Some((200, nothing)),
    ])
    .await;
    let stripe = stripe(base);
    let find = PaymentRequest::FindRefund { charge: "pi_1".into(), reference: "inv_1/cn_1".into() };
    let find = codec::encode(&find).expect("encodes");
    let mut found: Vec<PaymentReceipt> = Vec::new();
    for _ in 0..2 {
        let receipt = stripe.execute("k", &find, 1).await.expect("known");
        found.push(codec::decode(&receipt).expect("decodes"));
    }
    let receipt = RefundReceipt { id: "re_2".into(), progress: RefundProgress::Succeeded };
    assert_eq!(found, [PaymentReceipt::FoundRefund(Some(receipt)), PaymentReceipt::FoundRefund(None)]);
    assert!(matches!(stripe.execute("k", &find, 1).await, Err(ProviderError::Unknown(_))));
    let request = codec::encode(&PaymentRequest::Refund(refund())).expect("encodes");
    assert!(stripe.can_find(&request));
    assert!(stripe.reconcile("k", &request).await.expect("known").is_some());
    assert!(stripe.reconcile("k", &request).await.expect("known").is_none());
    let asked = asked.lock().expect("not poisoned");
    assert!(asked[0].starts_with("GET /v1/refunds?payment_intent=pi_1&limit=100 "), "{}", asked[0]);
    assert!(asked[1].contains("starting_after=re_0"), "{}", asked[1]);
}

#[test]
fn any_bytes_as_an_answer() {
    let seeds: [&[u8]; 3] = [
        br#"{"id":"pi_1","amount":4900,"currency":"usd","status":"requires_action","client_secret":"s"}"#,
        br#"{"error":{"code":"card_declined","decline_code":"do_not_honor","type":"card_error"}}"#,
        br#"{"id":"pi_1","amount":-9223372036854775808,"currency":"QQQ","status":"canceled"}"#,
    ];
    crate::kernel::fuzz_tests::fuzz("stripe", &seeds, |bytes| {
        let receipt = serde_json::from_slice::<Intent>(bytes).map(Intent::receipt);
        let receipt =
            receipt.map(|receipt| receipt.map(|receipt| format!("{:?}", std::mem::discriminant(&receipt.status))));
        let refusals = [400, 401, 402, 404, 409, 429, 500].map(|status| match refusal(status, bytes) {
            ProviderError::Retry(_) => 'r',
            ProviderError::Refused(_) => 'f',
            ProviderError::Unknown(_) => 'u',
        });
        // What an answer means for the attempt hangs on its status alone, whatever its body says.
        assert_eq!(refusals, ['f', 'r', 'f', 'f', 'u', 'r', 'u']);
        format!("{:?}", receipt.map_err(|error| error.classify()).map(|inner| inner.map_err(|_| ())))
    });
}
