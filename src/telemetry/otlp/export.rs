//! Batches of spans to the collector, from a thread of their own.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Finished;

const BATCH: usize = 512;
const EVERY: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn spawn(endpoint: &str, node_id: u64, spans: Receiver<Finished>) -> io::Result<()> {
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(io::Error::other)?;
    let run = move || {
        let mut well = true;
        while let Some(batch) = gather(&spans) {
            let count = batch.len() as u64;
            let sent = runtime.block_on(send(&client, &url, &body(node_id, &batch)));
            match &sent {
                Ok(()) if !well => tracing::info!(url, "the trace collector takes spans again"),
                Err(error) if well => tracing::warn!(url, error, "the trace collector does not take spans"),
                _ => {}
            }
            well = sent.is_ok();
            self::count(if well { "sent" } else { "refused" }, count);
        }
    };
    std::thread::Builder::new().name("otlp".to_owned()).spawn(run).map(drop)
}

pub(super) fn count(outcome: &'static str, spans: u64) {
    metrics::counter!("construct_trace_spans_total", "outcome" => outcome).increment(spans);
}

/// The next batch: full, or what came within a while. `None`: no more will come.
fn gather(spans: &Receiver<Finished>) -> Option<Vec<Finished>> {
    let mut batch = vec![spans.recv().ok()?];
    let end = Instant::now() + EVERY;
    while batch.len() < BATCH {
        match spans.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(span) => batch.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}

async fn send(client: &reqwest::Client, url: &str, body: &Value) -> Result<(), String> {
    let answer = client.post(url).json(body).send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}

/// `ExportTraceServiceRequest` in JSON: ids in hexadecimal, 64-bit numbers as text.
fn body(node_id: u64, batch: &[Finished]) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let spans: Vec<Value> = batch
        .iter()
        .map(|span| {
            let attributes: Vec<Value> = span.attributes.iter().map(|(key, value)| text(key, value)).collect();
            json!({
                "traceId": span.trace_id,
                "spanId": span.span_id,
                "parentSpanId": span.parent_id,
                "name": span.name,
                // SPAN_KIND_SERVER and SPAN_KIND_INTERNAL.
                "kind": if span.server { 2 } else { 1 },
                "startTimeUnixNano": span.start_ns.to_string(),
                "endTimeUnixNano": span.end_ns.to_string(),
                "attributes": attributes,
            })
        })
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = [
        text("service.name", "construct"),
        text("service.version", version),
        text("service.instance.id", &node_id.to_string()),
    ];
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "construct", "version": version}, "spans": spans}],
    }]})
}
