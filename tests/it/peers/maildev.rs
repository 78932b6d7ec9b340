//! maildev: an SMTP server with an HTTP API to look at what came.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{answers, installed, start};
use crate::mail::{Mail, Mailbox};
use crate::node::{free_port, loopback};

pub struct Maildev {
    pub smtp: SocketAddr,
    web: String,
    _child: Child,
}

impl Maildev {
    pub async fn start() -> Self {
        let ip: Ipv4Addr = loopback();
        let (smtp, web) = (free_port(ip), free_port(ip));
        let mut command = Command::new(installed("npm/node_modules/.bin/maildev"));
        let ip = ip.to_string();
        let (smtp_port, web_port) = (smtp.port().to_string(), web.port().to_string());
        command.args(["--ip", &ip, "--smtp", &smtp_port, "--web-ip", &ip, "--web", &web_port, "--silent"]);
        let child = start(command);
        let web = format!("http://{web}");
        answers(&format!("{web}/api/email")).await;
        Self { smtp, web, _child: child }
    }
}

impl Mailbox for Maildev {
    async fn all(&self) -> Vec<Mail> {
        let response =
            crate::http::plain().get(format!("{}/api/email", self.web)).send().await.expect("maildev answers");
        let mails: Vec<Value> = response.json().await.expect("a list of mails");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let read = |mail: &Value| Mail {
            to: mail["to"].to_string(),
            subject: text(&mail["subject"]),
            text: text(&mail["text"]),
            unsubscribe: text(&mail["headers"]["list-unsubscribe"]),
        };
        mails.iter().map(read).collect()
    }
}
