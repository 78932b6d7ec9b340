//! localstripe: a stateful server of the Stripe API.

use std::net::TcpListener;

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
}
