//! The pages behind mailed links in a real browser, by keyboard alone; every word of theirs under their strict policy.

use serde_json::{Value, json};

use super::browser::Browser;
use crate::http::Client;
use crate::mail::{Mail, Mailbox, Maildir};
use crate::node::{Node, Plan};
use crate::person::PASSWORD;

const EMAIL: &str = "ada@example.com";
const NEW_PASSWORD: &str = "nine blue kettles hum at dusk";

async fn mailed(node: &Node, subject: &str, count: usize) -> Mail {
    Maildir::of(&node.data()).wait_for(EMAIL, subject, count).await.pop().expect("a mail")
}

async fn sign_in(api: &Client, password: &str) -> u16 {
    api.post("/v1/sessions", &json!({ "email": EMAIL, "password": password })).await.status
}

async fn enter(browser: &mut Browser) {
    browser.press("Enter", 13, "\r").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_confirms_an_address_and_sets_a_new_password_in_a_browser() {
    let node = Plan::sandbox().start().await;
    let api = node.api();
    let mut browser = Browser::start("en").await;
    let body = json!({ "email": EMAIL, "password": PASSWORD, "role": "consumer" });
    api.post("/v1/signup", &body).await.expect(202);
    let link = mailed(&node, "", 1).await.link();

    browser.open(&link).await;
    browser.until("!document.querySelector('form').hidden").await;
    assert_eq!(browser.value("location.search").await, json!(""), "the token left the address bar");
    assert_eq!(browser.value("document.querySelector('[role=status]').hidden").await, json!(true));
    browser.picture("verify").await;
    assert_eq!(sign_in(&api, PASSWORD).await, 401, "opening the page confirmed nothing");
    browser.value("document.querySelector('button').focus()").await;
    enter(&mut browser).await;
    browser.until("document.getElementById('outcome').className === 'good'").await;
    browser.picture("verify-done").await;
    assert!(browser.text().await.contains("Your address is confirmed"), "{}", browser.text().await);
    assert_eq!(browser.value("document.activeElement.id").await, json!("outcome"), "what happened is read out");
    let tokens = api.post("/v1/sessions", &json!({ "email": EMAIL, "password": PASSWORD })).await;
    let person = api.with_token(tokens.expect(201)["access_token"].as_str().expect("a token"));
    let alone = async || person.get("/v1/sessions").await.expect(200)["items"].as_array().map(Vec::len) == Some(1);
    let deadline = tokio::time::Instant::now() + crate::mail::ARRIVES_WITHIN;
    while !alone().await {
        assert!(tokio::time::Instant::now() < deadline, "the page leaves no session behind");
    }
    browser.open(&link).await;
    browser.value("document.querySelector('button').click()").await;
    browser.until("document.getElementById('outcome').className === 'bad'").await;
    browser.picture("verify-used").await;
    assert!(browser.text().await.contains("was used already or has expired"), "{}", browser.text().await);

    api.post("/v1/password/forgot", &json!({ "email": EMAIL })).await.expect(202);
    let link = mailed(&node, "password", 1).await.link();
    browser.open(&link).await;
    browser.value("document.getElementById('password').focus()").await;
    browser.type_in("password").await;
    browser.picture("reset").await;
    enter(&mut browser).await;
    browser.until("document.getElementById('password').getAttribute('aria-invalid') === 'true'").await;
    browser.picture("reset-weak").await;
    assert!(browser.text().await.contains("too easy to guess"), "{}", browser.text().await);
    browser.value("document.getElementById('password').select()").await;
    browser.type_in(NEW_PASSWORD).await;
    enter(&mut browser).await;
    browser.until("document.getElementById('outcome').className === 'good'").await;
    browser.picture("reset-done").await;
    assert_eq!((sign_in(&api, PASSWORD).await, sign_in(&api, NEW_PASSWORD).await), (401, 201));
    browser.open(link.split("token=").next().expect("a link")).await;
    assert!(browser.text().await.contains("not whole"), "{}", browser.text().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_speak_german_and_the_documentation_shows_every_operation() {
    let node = Plan::sandbox().start().await;
    let mut browser = Browser::start("de").await;
    browser.open(&format!("http://{}/reset?token=x", node.gateway)).await;
    browser.until("document.documentElement.lang === 'de'").await;
    browser.picture("reset-german").await;
    let missing = "[...document.querySelectorAll('[data-word]')].filter(e => !(e.dataset.word in WORDS.de)).length";
    assert_eq!(browser.value(missing).await, json!(0), "every word is translated");
    assert_eq!(browser.value("Object.keys(ENGLISH).filter(name => !(name in WORDS.de)).length").await, json!(0));
    let contrast = "getComputedStyle(document.querySelector('main')).maxWidth";
    assert_ne!(browser.value(contrast).await, json!("none"), "the style is there");

    browser.open(&format!("http://{}/docs", node.gateway)).await;
    browser.until("document.querySelectorAll('article').length > 0").await;
    let description = node.api().get("/openapi.json").await.expect(200).clone();
    let operations: usize = description["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|item| item.as_object().map_or(0, |item| item.len()))
        .sum();
    assert_eq!(browser.value("document.querySelectorAll('article').length").await, json!(operations));
    let clicked = "document.querySelector('nav a[href=\"#createSubscription\"]').click(); location.hash";
    assert_eq!(browser.value(clicked).await, Value::from("#createSubscription"));
    let shown = browser.value("document.getElementById('createSubscription').innerText").await.to_string();
    assert!(shown.contains("-d '{\\\"plan_id\\\":\\\"text\\\"}'"), "the command has what is required: {shown}");
    assert!(shown.contains("(1 to 255 characters") && !shown.contains("undefined"), "{shown}");
    browser.picture("docs").await;
}
