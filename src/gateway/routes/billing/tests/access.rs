//! Who may start which plan, and who reaches what is another person's.

use super::*;

fn names(plans: &[Value]) -> Vec<&str> {
    plans.iter().map(|plan| plan["key"].as_str().expect("a key")).collect()
}

fn holder(n: u8, grants: &str) -> String {
    bearer(n).replace("consumer", grants)
}

#[tokio::test]
async fn a_plan_is_seen_and_started_by_those_it_is_for() {
    let mut stage = Stage::new().await;
    let all = send(&stage.gateway, Method::GET, "/v1/plans", &[], "").await.json();
    assert_eq!(names(all["items"].as_array().expect("items")), ["free", "plus", "pro", "builder", "studio"]);
    let builder = all["items"][3]["id"].clone();
    assert_eq!(names(&stage.items("/v1/plans").await), ["free", "plus", "pro"]);
    assert_eq!(stage.items("/v1/plans?audience=provider").await, Vec::<Value>::new());
    let visa = stage.card("pm_card_visa").await;
    let plus = text(&stage.subscribe("plus").await.json()["id"]);
    for path in [
        "/v1/subscriptions",
        "/v1/subscriptions/preview",
        &format!("/v1/subscriptions/{plus}/change"),
        &format!("/v1/subscriptions/{plus}/preview"),
    ] {
        let refused = stage.post(path, json!({"plan_id": builder, "payment_method_id": visa})).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/plan_id")), "{path}");
    }
    assert_eq!(stage.items("/v1/invoices").await.len(), 1, "nothing but the plan for users was charged");

    stage.bearer = holder(2, "robot_builder,provider-plans.subscribe");
    assert_eq!(stage.items("/v1/plans").await.len(), 5);
    assert_eq!(stage.subscribe("builder").await.status, 201);
    let unscoped = holder(2, "robot_builder");
    let refused = send(&stage.gateway, Method::GET, "/v1/plans?audience=provider", &[&unscoped], "").await;
    assert_eq!(refused.json()["items"], json!([]), "the permission decides, not the name of the role");

    stage.bearer = holder(3, "administrator,plans.write");
    let retire = format!("/v1/plans/{}", text(&all["items"][1]["id"]));
    let json = "content-type: application/json";
    let retired = send(&stage.gateway, Method::PATCH, &retire, &[&stage.bearer, json], r#"{"active": false}"#).await;
    assert_eq!(retired.status, 200, "{}", retired.json());
    assert_eq!(stage.items("/v1/plans").await.len(), 5, "an administrator sees every plan");
    stage.bearer = bearer(1);
    assert_eq!(names(&stage.items("/v1/plans").await), ["free", "pro"]);
}

#[tokio::test]
async fn permissions_reach_what_is_another_persons_and_role_names_do_not() {
    let mut stage = Stage::new().await;
    stage.card("pm_card_visa").await;
    let id = text(&stage.subscribe("plus").await.json()["id"]);
    let invoice = text(&stage.items("/v1/invoices").await[0]["id"]);
    let (subscription, invoice) = (format!("/v1/subscriptions/{id}"), format!("/v1/invoices/{invoice}"));
    let owner = bearer(1).split(' ').nth(2).and_then(|token| token.split(':').next()).expect("an id").to_owned();
    let (subscriptions, invoices) =
        (format!("/v1/subscriptions?user_id={owner}"), format!("/v1/invoices?user_id={owner}"));
    let cancel = format!("{subscription}/cancel");
    let paths = [&subscription, &subscriptions, &invoice, &invoices];
    for (grants, reads, cancels) in [
        ("consumer", [404, 403, 404, 403], 404),
        ("administrator", [404, 403, 404, 403], 404),
        ("support,subscriptions.read", [200, 200, 404, 403], 404),
        ("support,invoices.read", [404, 403, 200, 200], 404),
        ("support,subscriptions.write", [404, 403, 404, 403], 200),
        ("support,*", [200, 200, 200, 200], 200),
    ] {
        stage.bearer = holder(2, grants);
        for (path, status) in paths.iter().zip(reads) {
            let answered = stage.get(path).await;
            assert_eq!(answered.status, status, "{path} with {grants}");
            if status == 200 && path.contains('?') {
                assert_eq!(answered.json()["items"].as_array().map(Vec::len), Some(1), "{path} with {grants}");
            }
        }
        assert_eq!(stage.post(&cancel, json!({})).await.status, cancels, "{cancel} with {grants}");
    }
    let operator = format!("authorization: Bearer {OPERATOR}");
    for path in paths {
        assert_eq!(send(&stage.gateway, Method::GET, path, &[&operator], "").await.status, 200, "{path}");
    }
    let nobody = stage.get("/v1/invoices?user_id=me").await;
    assert_eq!((nobody.status, &nobody.json()["errors"][0]["pointer"]), (422, &json!("/user_id")));
}
