//! The admin listener away from loopback: only with client certificates, and only for those of the right authority.

use std::net::Ipv4Addr;

use crate::node::{Node, Plan};

fn file(name: &str) -> String {
    format!("{}/src/gateway/server/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A client that trusts the listener's certificate and shows this one.
fn client(certificate: Option<&str>) -> reqwest::Client {
    crate::http::plain();
    let read = |name: &str| std::fs::read(file(name)).expect("a file");
    let authority = reqwest::Certificate::from_pem(&read("cert.pem")).expect("a certificate");
    let mut builder = reqwest::Client::builder().tls_certs_only([authority]);
    if let Some(name) = certificate {
        let pem = [read(&format!("{name}.pem")), read(&format!("{name}-key.pem"))].concat();
        builder = builder.identity(reqwest::Identity::from_pem(&pem).expect("a certificate with its key"));
    }
    builder.build().expect("a client")
}

async fn status(node: &Node, client: &reqwest::Client, token: &str) -> Option<u16> {
    let url = format!("https://localhost:{}/admin/v1/cluster", node.admin.port());
    client.get(url).bearer_auth(token).send().await.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_need_a_certificate_of_the_authority_and_a_token() {
    let plan = Plan::sandbox().at(Ipv4Addr::LOCALHOST);
    let plan = plan.set("admin.tls.cert_file", &file("cert.pem")).set("admin.tls.key_file", &file("key.pem"));
    let node = plan.set("admin.tls.client_ca_file", &file("admin-ca.pem")).start().await;
    let token_file = node.data().join("admin-token");
    let token = std::fs::read_to_string(&token_file).expect("a token");
    assert_eq!(status(&node, &client(Some("admin-client")), token.trim()).await, Some(200));
    assert_eq!(status(&node, &client(Some("admin-client")), "not-the-token").await, Some(401));
    assert_eq!(
        status(&node, &client(Some("other-client")), token.trim()).await,
        None,
        "another authority's certificate"
    );
    assert_eq!(status(&node, &client(None), token.trim()).await, None, "no certificate at all");
    let plain = format!("http://localhost:{}/readyz", node.admin.port());
    assert!(crate::http::plain().get(plain).send().await.is_err(), "no plain HTTP beside it");

    let (admin, token_file) = (format!("https://localhost:{}", node.admin.port()), token_file.display().to_string());
    let (ca, certificate, key) = (file("cert.pem"), file("admin-client.pem"), file("admin-client-key.pem"));
    let at = ["cluster", "status", "--admin", &admin, "--token-file", &token_file, "--ca-file", &ca];
    let with = [at.as_slice(), &["--cert-file", &certificate, "--key-file", &key]].concat();
    let done = node.command(&with).output().await.expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let refused = node.command(&at).output().await.expect("the binary runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(3), 1), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn away_from_loopback_it_does_not_start_without_them() {
    let node = Plan::sandbox().start().await;
    let elsewhere = node.data().join("elsewhere");
    let start = async |tls: &[(&str, String)]| {
        let mut command = node.command(&["serve", "--data-dir", &elsewhere.display().to_string()]);
        command.env("CONSTRUCT__ADMIN__LISTEN", "0.0.0.0:0").env("CONSTRUCT__GATEWAY__LISTEN", "127.0.0.1:0");
        command.envs(tls.iter().map(|(name, value)| (*name, value.as_str())));
        let ended = command.output().await.expect("the binary runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = start(&[]).await;
    assert_eq!(code, Some(2), "{said}");
    for key in ["admin.tls.cert_file", "admin.tls.key_file", "admin.tls.client_ca_file"] {
        assert!(said.contains(&format!("{key}: expected a PEM file: admin.listen 0.0.0.0:0")), "{said}");
    }
    let files = [
        ("CONSTRUCT__ADMIN__TLS__CERT_FILE", file("cert.pem")),
        ("CONSTRUCT__ADMIN__TLS__KEY_FILE", file("key.pem")),
        ("CONSTRUCT__ADMIN__TLS__CLIENT_CA_FILE", file("key.pem")),
    ];
    let (code, said) = start(&files).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("admin.listen") && said.contains("key.pem holds no certificate"), "{said}");
}
