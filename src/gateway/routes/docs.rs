//! The documentation of the other endpoints: the OpenAPI document, and a page that shows it without any network.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::gateway::{Access, Call, Class, Endpoint, LimitClass, Reply, openapi, websocket};
use crate::kernel::Error;
use crate::settings::Settings;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// These endpoints and those that document them, reached at `address`.
#[must_use]
pub fn documented(mut endpoints: Vec<Endpoint>, address: fn(&Settings) -> String) -> Vec<Endpoint> {
    let document = Arc::new(OnceLock::new());
    let (served, written) = (document.clone(), Arc::new(OnceLock::new()));
    endpoints.push(
        Endpoint::get("/openapi.json", "getOpenApi")
            .class(Class::Bulk)
            .summary("The description of every endpoint (OpenAPI 3.1)")
            .tag("gateway")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .response::<Value>(200, "The document")
            .handle(move |call: Call<()>| {
                let (served, written) = (served.clone(), written.clone());
                async move { get_openapi(&served, &written, || address(&call.services.settings)) }
            }),
    );
    endpoints.push(page("/docs", "getDocs", "text/html; charset=utf-8", include_str!("../assets/docs.html")));
    endpoints.push(page("/docs/docs.js", "getDocsScript", "text/javascript", include_str!("../assets/docs.js")));
    endpoints.push(page("/docs/docs.css", "getDocsStyle", "text/css", include_str!("../assets/docs.css")));
    let declarations: Vec<_> = endpoints.iter().map(|endpoint| endpoint.declaration.clone()).collect();
    document.get_or_init(|| openapi::document(&declarations));
    endpoints
}

/// These endpoints and the description of the WebSocket among them.
#[must_use]
pub fn with_asyncapi(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let declarations: Vec<_> = endpoints.iter().map(|endpoint| endpoint.declaration.clone()).collect();
    let document = Arc::new(websocket::asyncapi(&declarations));
    endpoints.push(
        Endpoint::get("/asyncapi.json", "getAsyncApi")
            .summary("The description of the WebSocket and its channels (AsyncAPI 3.0)")
            .tag("gateway")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .response::<Value>(200, "The document")
            .handle(move |call: Call<()>| {
                let mut document = Value::clone(&document);
                async move {
                    document["servers"] = server(&call.services.settings.gateway.public_url);
                    Ok(Reply::ok(&document).header("cache-control", "no-cache"))
                }
            }),
    );
    endpoints
}

/// The WebSocket of this gateway, as AsyncAPI names servers.
fn server(public_url: &str) -> Value {
    let (scheme, rest) = public_url.split_once("://").unwrap_or(("http", public_url));
    let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
    let protocol = if scheme == "https" { "wss" } else { "ws" };
    let security = json!([{"$ref": "#/components/securitySchemes/token"}]);
    let mut server = json!({"host": host, "protocol": protocol, "description": "This node", "security": security});
    if !path.is_empty() {
        server["pathname"] = json!(path);
    }
    json!({ "gateway": server })
}

/// The document as bytes, written once: however many answers wait to be taken, they share them.
fn get_openapi(
    document: &OnceLock<Value>,
    written: &OnceLock<Bytes>,
    address: impl FnOnce() -> String,
) -> Result<Reply, Error> {
    let document = document.get().ok_or_else(Error::internal)?;
    let bytes = written.get_or_init(|| {
        let (mut document, address) = (document.clone(), address());
        document["info"]["contact"]["url"] = json!(format!("{address}/docs"));
        document["servers"] = json!([{"url": address, "description": "This node"}]);
        Bytes::from(document.to_string())
    });
    Ok(Reply::bytes(200, "application/json", bytes.clone()).header("cache-control", "no-cache"))
}

fn page(path: &'static str, operation: &'static str, content_type: &'static str, text: &'static str) -> Endpoint {
    let draft = Endpoint::get(path, operation)
        .summary("The documentation, to be read in a browser")
        .tag("gateway")
        .access(Access::Public)
        .limit(LimitClass::Public)
        .content(200, "The documentation", content_type);
    let draft = if path == "/docs" { draft } else { draft.hidden() };
    draft.handle(move |_: Call<()>| async move {
        let reply = Reply::bytes(200, content_type, text).header("content-security-policy", POLICY);
        Ok(reply.header("cache-control", "no-cache"))
    })
}
