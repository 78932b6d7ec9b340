//! Links in mails: what they open, and that opening them, as mail scanners do, uses nothing up.

use reqwest::Method;
use serde_json::json;

use crate::mail::{Mailbox, Maildir};
use crate::node::Plan;
use crate::person::PASSWORD;

const EMAIL: &str = "ada@example.com";
const NEW_PASSWORD: &str = "nine blue kettles hum at dusk";

#[tokio::test(flavor = "multi_thread")]
async fn opening_a_mailed_link_uses_nothing_up_and_leaves_no_token_in_the_log() {
    let node = Plan::sandbox().set("telemetry.log_level", "debug,construct=trace,warp=trace").start().await;
    let (api, mailbox) = (node.api(), Maildir::of(&node.data()));
    let body = json!({ "email": EMAIL, "password": PASSWORD, "role": "consumer" });
    api.post("/v1/signup", &body).await.expect(202);
    let verify = mailbox.wait_for(EMAIL, "", 1).await.remove(0);
    let opened = async |link: String| {
        let path = link.strip_prefix(&format!("http://{}", node.gateway)).expect("a link to this gateway").to_owned();
        for method in [Method::GET, Method::HEAD, Method::GET] {
            let page = api.send(method, &path, None, None).await;
            page.expect(200);
            assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
        }
    };
    opened(verify.link()).await;
    api.post("/v1/signup/verify", &json!({ "token": verify.token() })).await.expect(201);

    api.post("/v1/password/forgot", &json!({ "email": EMAIL })).await.expect(202);
    let reset = mailbox.wait_for(EMAIL, "password", 1).await.remove(0);
    opened(reset.link()).await;
    let body = json!({ "token": reset.token(), "new_password": NEW_PASSWORD });
    api.post("/v1/password/reset", &body).await.expect(204);
    api.post("/v1/sessions", &json!({ "email": EMAIL, "password": NEW_PASSWORD })).await.expect(201);

    let log = node.whole_log();
    assert!(log.contains("showReset"), "the pages were asked for under a level that shows requests");
    assert!(!log.contains("/reset?") && !log.contains("/verify?"), "no query is logged");
    for token in [verify.token(), reset.token()] {
        assert!(!log.contains(&token), "a token is in the log");
    }
}
