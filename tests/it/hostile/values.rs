//! Well-framed requests whose values are the trap: JSON at its edges, numbers of money and quantity, ids of another
//! kind, cursors that were tampered with, addresses that look like another.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Siege, hasty};
use crate::http::{Answer, fresh_key, plain};
use crate::person::{PASSWORD, plan};

impl Siege {
    /// A body as it is, however wrong.
    async fn body(&self, method: Method, path: &str, token: &str, body: impl Into<reqwest::Body>) -> Answer {
        let url = format!("http://{}{path}", self.node.gateway);
        let request = plain().request(method, &url).header("content-type", "application/json");
        let request = request.header("idempotency-key", fresh_key()).bearer_auth(token).body(body);
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { what: path.to_owned(), status, headers, text, json }
    }
}

/// The member that was refused.
fn pointer(answer: &Answer) -> &str {
    answer.json["errors"][0]["pointer"].as_str().unwrap_or("")
}

#[tokio::test(flavor = "multi_thread")]
async fn json_at_its_edges_is_refused_and_named() {
    let siege = Siege::lay(hasty()).await;
    let token = siege.who.api.token().to_owned();
    let nested = |depth: usize| format!(r#"{{"display_name":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let table: Vec<(Vec<u8>, u16, &str)> = vec![
        (b"".to_vec(), 400, ""),
        (b"{".to_vec(), 400, ""),
        (b"{\"display_name\":\"\xff\"}".to_vec(), 400, ""),
        (b"\xef\xbb\xbf{}".to_vec(), 400, ""),
        (b"{\0}".to_vec(), 400, ""),
        (br#"{"display_name":"\ud800"}"#.to_vec(), 400, ""),
        (br#"{"display_name":"\udc00\ud800"}"#.to_vec(), 400, ""),
        (br#"{"display_name":1e400}"#.to_vec(), 400, ""),
        (br#"{"display_name":NaN}"#.to_vec(), 400, ""),
        (br#"{"display_name":"x"}{}"#.to_vec(), 400, ""),
        (br#"{'display_name':'x'}"#.to_vec(), 400, ""),
        (nested(33).into_bytes(), 400, ""),
        (nested(100_000).into_bytes(), 400, ""),
        (b"[".repeat(1_000_000), 400, ""),
        (br#"{"display_name":"a","display_name":"b"}"#.to_vec(), 422, "/display_name"),
        (br#"{"display_name":"a\u0000b"}"#.to_vec(), 422, "/display_name"),
        (br#"{"display_name":"a\u001bb"}"#.to_vec(), 422, "/display_name"),
        (br#"{"display_name":["a"]}"#.to_vec(), 422, "/display_name"),
        (br#"{"display_name":-0}"#.to_vec(), 422, "/display_name"),
        (br#"{"display_name":{"display_name":"a"}}"#.to_vec(), 422, "/display_name"),
        (br#"{"Display_Name":"a"}"#.to_vec(), 422, "/Display_Name"),
        (br#"{"display_name":"4242 4242 4242 4242"}"#.to_vec(), 422, "/display_name"),
        (br#"["a",null,null]"#.to_vec(), 422, ""),
        (b"null".to_vec(), 422, ""),
        (b"\"a\"".to_vec(), 422, ""),
    ];
    for (body, status, at) in table {
        let what = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = siege.body(Method::PATCH, "/v1/me", &token, body).await;
        assert_eq!((answer.status, pointer(&answer)), (status, at), "{what}: {}", answer.text);
    }
    let big = format!(r#"{{"display_name":"{}"}}"#, "x".repeat(2 << 20));
    assert_eq!(siege.body(Method::PATCH, "/v1/me", &token, big).await.status, 413);
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_money_and_quantity_keep_their_bounds() {
    let siege = Siege::lay(hasty()).await;
    let (api, token) = (&siege.who.api, siege.who.api.token().to_owned());
    let plus = plan(api, "Plus").await;
    let id = plus["id"].as_str().expect("an id").to_owned();
    let edges = [
        "-9223372036854775808",
        "-9223372036854775809",
        "-1",
        "0",
        "-0",
        "1.0",
        "1.5",
        "1e0",
        "1e400",
        "1e-400",
        "9223372036854775808",
        "18446744073709551616",
        "1000001",
        "9223372036854775807",
        "\"1\"",
        "true",
        "[1]",
        "{}",
    ];
    for edge in edges {
        let refused = |answer: Answer| {
            assert!(matches!(answer.status, 400 | 422), "{edge}: {} {}", answer.status, answer.text);
        };
        let order = format!(r#"{{"plan_id":"{id}","quantity":{edge}}}"#);
        refused(siege.body(Method::POST, "/v1/subscriptions/preview", &token, order.clone()).await);
        refused(siege.body(Method::POST, "/v1/subscriptions", &token, order).await);
        if edge != "0" && edge != "1000001" && edge != "9223372036854775807" {
            let limit = siege.node.api().get(&format!("/v1/plans?limit={edge}")).await;
            refused(limit);
        }
    }
    // Prices are an operator's; the largest that is allowed times the largest quantity must not overflow anywhere.
    let operator = siege.node.operator_api();
    for amount in ["-1", "-9223372036854775808", "9223372036854775808", "1e2", "1.0", "-0", "9223372036854775807"] {
        let body = format!(
            r#"{{"key":"edge","name":"Edge","audience":"user","prices":[{{"interval":"month","unit_price":{{"amount":{amount},"currency":"USD"}}}}]}}"#
        );
        let answer = siege.body(Method::POST, "/v1/plans", operator.token(), body).await;
        assert!(matches!(answer.status, 400 | 422), "{amount}: {} {}", answer.status, answer.text);
    }
    let costly = json!({
        "key": "costly", "name": "Costly", "audience": "user",
        "prices": [{ "interval": "month", "unit_price": { "amount": 100_000_000_000_i64, "currency": "USD" } }],
    });
    let made = operator.post("/v1/plans", &costly).await;
    if made.status == 201 {
        let order = json!({ "plan_id": made.text_at("/id"), "quantity": 1_000_000 });
        let answer = api.post("/v1/subscriptions/preview", &order).await;
        assert!(answer.status == 200 || answer.status == 422, "{} {}", answer.status, answer.text);
    } else {
        made.expect(422);
    }
    let currencies = ["usd", "US", "USDX", "\u{ff35}SD", "", "QQQ1"];
    for currency in currencies {
        let order = json!({ "plan_id": id, "currency": currency });
        api.post("/v1/subscriptions/preview", &order).await.expect(422);
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_another_kind_and_forged_cursors_find_nothing() {
    let siege = Siege::lay(hasty()).await;
    let api = &siege.who.api;
    let user = siege.who.id.clone();
    let twisted = [
        user.clone(),
        user.to_uppercase(),
        user.replace("usr_", "inv_"),
        user.replace("usr_", "sub_"),
        format!("{user}x"),
        user[..user.len() - 1].to_owned(),
        format!("sub_{}", "z".repeat(26)),
        "sub_".to_owned(),
        "sub_%00".to_owned(),
        "%2e%2e%2f".to_owned(),
        "\u{ff53}ub_1".to_owned(),
        "x".repeat(5000),
        "-1".to_owned(),
        "null".to_owned(),
        "*".to_owned(),
    ];
    for id in &twisted {
        for kind in ["subscriptions", "invoices", "payment-methods", "notifications", "plans"] {
            let answer = api.get(&format!("/v1/{kind}/{id}")).await;
            assert_eq!(answer.status, 404, "/v1/{kind}/{id}: {}", answer.text);
        }
        for kind in ["sessions", "devices", "api-keys", "payment-methods"] {
            let answer = api.delete(&format!("/v1/{kind}/{id}")).await;
            assert_eq!(answer.status, 404, "DELETE /v1/{kind}/{id}: {}", answer.text);
        }
        let answer = api.post(&format!("/v1/subscriptions/{id}/cancel"), &json!({})).await;
        assert_eq!(answer.status, 404, "cancel {id}: {}", answer.text);
    }
    let forged = ["!!!", "AAAA=", "////", "%00", "a", &"A".repeat(20_000), "AAAAAAAAAAAAAAAAAAAA", "\u{ff21}"];
    for cursor in forged {
        for list in ["invoices", "sessions", "devices", "plans", "inbox", "subscriptions", "payment-methods"] {
            let answer = api.get(&format!("/v1/{list}?cursor={cursor}")).await;
            // A cursor is a place; one that is well made and leads nowhere in particular starts a page somewhere.
            let fine = matches!(answer.status, 200 | 400 | 422);
            assert!(fine, "{list} {} characters: {} {}", cursor.len(), answer.status, answer.text);
        }
        if cursor != "AAAAAAAAAAAAAAAAAAAA" && cursor != "////" {
            let answer = api.get(&format!("/v1/plans?cursor={cursor}")).await;
            assert!(matches!(answer.status, 400 | 422), "{}", answer.status);
        }
    }
    siege.lift(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_looks_like_another_does_not_get_an_account() {
    let siege = Siege::lay(hasty()).await;
    let sign_up = async |email: &str| {
        let body = json!({ "email": email, "password": PASSWORD, "role": "consumer" });
        siege.node.api().post("/v1/signup", &body).await
    };
    for alike in [
        "h\u{43e}nest@example.org",
        "\u{570}onest@example.org",
        "honest@ex\u{430}mple.org",
        "hon\u{435}st@example.org",
        "ho\u{3bf}est@example.org",
        "h\u{1d0f}nest@example.org",
        "hone\u{455}t@example.org",
        "\u{13bb}onest@example.org",
        "honest@\u{435}\u{445}\u{430}m\u{440}le.org",
        "ho\u{200d}nest@example.org",
        "ho\u{ad}nest@example.org",
        "\u{202e}tsenoh@example.org",
        "honest\u{0}@example.org",
        "honest@example.org\r\nbcc: x@example.org",
    ] {
        let answer = sign_up(alike).await;
        assert_eq!((answer.status, pointer(&answer)), (422, "/email"), "{}: {}", alike.escape_unicode(), answer.text);
    }
    // The same mailbox in other letters is the same account; the answer does not tell that there is one.
    for same in ["HONEST@EXAMPLE.ORG", "\u{ff48}onest@example.org", " honest@example.org. "] {
        sign_up(same).await.expect(202);
    }
    siege.lift(64).await;
}
