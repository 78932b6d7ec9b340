//! localstripe: a stateful server of the Stripe API.

use std::net::TcpListener;

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{answers, installed, start};

pub struct Localstripe {
    pub base: String,
    _child: Child,
}

impl Localstripe {
    pub async fn start() -> Self {
        // It listens on every address, so the port must be free on all of them.
        let port = TcpListener::bind("0.0.0.0:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut command = Command::new(installed("venv/bin/python"));
        command.args(["-m", "localstripe", "--port", &port.to_string(), "--from-scratch"]);
        let child = start(command);
        let base = format!("http://127.0.0.1:{port}");
        answers(&format!("{base}/v1/customers")).await;
        Self { base, _child: child }
    }

    /// Everything it was ever asked to charge, newest first.
    pub async fn payment_intents(&self) -> Vec<Value> {
        let url = format!("{}/v1/payment_intents?limit=100", self.base);
        let answer = crate::http::plain().get(url).bearer_auth("sk_test_tour").send().await.expect("an answer");
        let page: Value = answer.json().await.expect("JSON");
        assert_eq!(page["has_more"], false, "one page holds them");
        page["data"].as_array().expect("a list").clone()
    }
}
