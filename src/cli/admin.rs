//! The client of a node's admin endpoint.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use construct::kernel::Secret;
use serde_json::Value;

use super::CliError;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Where the admin endpoint is and what opens it.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The admin endpoint of any member
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081", global = true)]
    admin: String,
    /// File with the administrator token; a node writes it at first start
    #[arg(long, value_name = "FILE", default_value = "./data/admin-token", global = true)]
    token_file: PathBuf,
    /// PEM file: the authority of the admin endpoint's certificate, where that is not a public one
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// PEM file: the client certificate of an operator, where the endpoint asks for one; with --key-file
    #[arg(long, value_name = "FILE", global = true, requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// PEM file: the key of --cert-file
    #[arg(long, value_name = "FILE", global = true, requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    pub json: bool,
}

impl AdminArgs {
    /// A node of this machine that speaks plain HTTP.
    pub fn local(admin: String, token_file: PathBuf) -> Self {
        Self { admin, token_file, ca_file: None, cert_file: None, key_file: None, json: false }
    }
}

/// Why the admin endpoint did not answer as asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot read the administrator token {}: {source} (a node writes it into its data directory at first start; name it with --token-file)", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("cannot use {}: {detail}", path.display())]
    Certificate { path: PathBuf, detail: String },
    #[error("--admin {url}: {detail}")]
    Url { url: String, detail: String },
    #[error("cannot reach {url}: {detail} (is the node running there? name its admin endpoint with --admin)")]
    Unreachable { url: String, detail: String },
    #[error("{url} answered {status}: {detail}")]
    Refused { url: String, status: u16, detail: String },
    #[error("{url} did not answer with JSON: {detail}")]
    Unreadable { url: String, detail: String },
}

/// An open client.
#[derive(Debug)]
pub struct Admin {
    base: String,
    /// How long it waits for an answer.
    patience: Duration,
    token: Secret<String>,
    client: reqwest::Client,
}

impl Admin {
    pub fn open(args: &AdminArgs) -> Result<Self, AdminError> {
        Self::waiting(args, TIMEOUT)
    }

    /// A client that waits so long for an answer.
    pub fn waiting(args: &AdminArgs, patience: Duration) -> Result<Self, AdminError> {
        let base = args.admin.trim_end_matches('/').to_owned();
        let url = |detail: String| AdminError::Url { url: base.clone(), detail };
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(url("expected http://HOST:PORT or https://HOST:PORT".to_owned()));
        }
        let client = secured(args, reqwest::Client::builder().connect_timeout(TIMEOUT).read_timeout(patience))?;
        let client = client.build().map_err(|e| url(root_cause(&e)))?;
        Ok(Self { token: read_token(&args.token_file)?, base, patience, client })
    }

    /// GETs JSON from a path of the admin endpoint.
    pub async fn get(&self, path: &str) -> Result<Value, AdminError> {
        let response = self.ask(path).await?;
        let url = response.url().to_string();
        let body = response.bytes().await.map_err(|e| unreachable(&url, &e))?;
        serde_json::from_slice(&body).map_err(|e| AdminError::Unreadable { url, detail: e.to_string() })
    }

    /// POSTs JSON to a path of the admin endpoint, or DELETEs it without a body.
    pub async fn change(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Value, AdminError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.request(method, &url).bearer_auth(self.token.expose()).timeout(self.patience);
        let request = body.into_iter().fold(request, |request, body| request.json(body));
        let response = answered(request, url).await?;
        let url = response.url().to_string();
        let body = response.bytes().await.map_err(|e| unreachable(&url, &e))?;
        serde_json::from_slice(&body).map_err(|e| AdminError::Unreadable { url, detail: e.to_string() })
    }

    /// Streams a path of the admin endpoint into `output`; answers the number of bytes.
    pub async fn download(&self, path: &str, output: &mut impl Write) -> Result<u64, CliError> {
        let response = self.ask(path).await?;
        self.keep(response, output).await
    }

    async fn keep(&self, mut response: reqwest::Response, output: &mut impl Write) -> Result<u64, CliError> {
        let url = response.url().to_string();
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(&url, &e))? {
            output.write_all(&chunk).context("the output file")?;
            bytes += chunk.len() as u64;
        }
        Ok(bytes)
    }

    /// POSTs JSON to a path of the admin endpoint and streams the answer into `output`.
    pub async fn receive(&self, path: &str, body: &Value, output: &mut impl Write) -> Result<u64, CliError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.post(&url).bearer_auth(self.token.expose()).json(body);
        self.keep(answered(request, url).await?, output).await
    }

    async fn ask(&self, path: &str) -> Result<reqwest::Response, AdminError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.get(&url).bearer_auth(self.token.expose());
        answered(request, url).await
    }
}

/// Whom to trust, and who we are, where that was said.
fn secured(args: &AdminArgs, mut client: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, AdminError> {
    let failed = |path: &Path, detail: String| AdminError::Certificate { path: path.to_owned(), detail };
    let read = |path: &Path| std::fs::read(path).map_err(|error| failed(path, error.to_string()));
    if let Some(path) = &args.ca_file {
        let authorities = reqwest::Certificate::from_pem_bundle(&read(path)?);
        client = client.tls_certs_only(authorities.map_err(|error| failed(path, root_cause(&error)))?);
    }
    if let (Some(certificate), Some(key)) = (&args.cert_file, &args.key_file) {
        let pem = [read(certificate)?, read(key)?].join(&b'\n');
        let identity = reqwest::Identity::from_pem(&pem);
        client = client.identity(identity.map_err(|error| failed(certificate, root_cause(&error)))?);
    }
    Ok(client)
}

/// Sends a request; an answer that is not a success is an error with the problem's detail.
async fn answered(request: reqwest::RequestBuilder, url: String) -> Result<reqwest::Response, AdminError> {
    let response = request.send().await.map_err(|e| unreachable(&url, &e))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.unwrap_or_default();
    let problem = serde_json::from_slice::<Value>(&body).ok();
    let detail = problem.and_then(|problem| problem["detail"].as_str().map(str::to_owned));
    let detail = detail.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
    Err(AdminError::Refused { url, status: status.as_u16(), detail })
}

fn unreachable(url: &str, error: &reqwest::Error) -> AdminError {
    AdminError::Unreachable { url: url.to_owned(), detail: root_cause(error) }
}

fn read_token(path: &Path) -> Result<Secret<String>, AdminError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Secret::new(text.trim().to_owned())),
        Err(source) => Err(AdminError::Token { path: path.to_owned(), source }),
    }
}

/// The innermost reason, such as "Connection refused"; the outer ones repeat the URL.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Runs a client's command on a small runtime of its own.
pub fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}
