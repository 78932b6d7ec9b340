//! Spans as OpenTelemetry traces: OTLP over HTTP in its JSON form (opentelemetry-proto 1.x, "OTLP/HTTP").
//!
//! A span belongs to a trace because it says so (`trace_id`, `span_id`, `parent_id`), because it continues a
//! `traceparent` (W3C Trace Context), or because it is within one that does. All others are left alone.
//!
//! Invariant: nothing waits for the collector. Spans that close go into a bounded queue; a thread of its own sends them
//! in batches; what does not fit or is not taken is dropped and counted. Values pass [`super::redact`] like log lines.

mod export;

use std::fmt::Debug;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use ring::rand::{SecureRandom, SystemRandom};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::redact;

/// Spans waiting to be sent.
const QUEUE: usize = 8192;
/// Attributes of one span, and letters of one value.
const MOST_ATTRIBUTES: usize = 16;
const LONGEST_VALUE: usize = 256;

/// A span on its way to the collector.
#[derive(Debug, Clone)]
struct Finished {
    trace_id: String,
    span_id: String,
    parent_id: String,
    name: &'static str,
    server: bool,
    start_ns: u64,
    end_ns: u64,
    attributes: Vec<(&'static str, String)>,
}

/// Collects spans that belong to traces.
pub(super) struct Traces {
    queue: SyncSender<Finished>,
}

impl Traces {
    /// Starts the sender to the collector at `endpoint` (its base URL).
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn start(endpoint: &str, node_id: u64) -> std::io::Result<Self> {
        let (queue, spans) = sync_channel(QUEUE);
        export::spawn(endpoint, node_id, spans)?;
        Ok(Self { queue })
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Traces {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut seen = Seen::default();
        attributes.record(&mut seen);
        let above = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Finished>().map(|above| (above.trace_id.clone(), above.span_id.clone()))
        });
        let own = seen.own.take();
        let server = own.is_some();
        let resumed = || seen.traceparent.as_deref().and_then(continued);
        let inherited = || above.or_else(resumed).map(|(trace_id, parent)| (trace_id, new_span_id(), parent));
        let Some((trace_id, span_id, parent_id)) = own.or_else(inherited) else { return };
        let name = attributes.metadata().name();
        let start_ns = now_ns();
        let attributes = seen.attributes;
        let started = Finished { trace_id, span_id, parent_id, name, server, start_ns, end_ns: 0, attributes };
        span.extensions_mut().insert(started);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Finished>() {
            let mut seen = Seen::default();
            values.record(&mut seen);
            let room = MOST_ATTRIBUTES.saturating_sub(open.attributes.len());
            open.attributes.extend(seen.attributes.into_iter().take(room));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(mut span) = context.span(&id).and_then(|span| span.extensions_mut().remove::<Finished>()) else {
            return;
        };
        span.end_ns = now_ns();
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(span) {
            export::count("dropped", 1);
        }
    }
}

/// What a span says of itself.
#[derive(Default)]
struct Seen {
    trace_id: Option<String>,
    span_id: Option<String>,
    parent_id: Option<String>,
    /// Trace, span and parent, once the first two are known.
    own: Option<(String, String, String)>,
    traceparent: Option<String>,
    attributes: Vec<(&'static str, String)>,
}

impl Seen {
    fn take(&mut self, field: &Field, text: String) {
        match field.name() {
            "trace_id" => self.trace_id = Some(text),
            "span_id" => self.span_id = Some(text),
            "parent_id" => self.parent_id = Some(text),
            "traceparent" => self.traceparent = Some(text),
            name if self.attributes.len() < MOST_ATTRIBUTES => {
                let shown: String = redact(&text).chars().take(LONGEST_VALUE).collect();
                self.attributes.push((name, shown));
            }
            _ => {}
        }
        if let (Some(trace), Some(span)) = (&self.trace_id, &self.span_id) {
            self.own = Some((trace.clone(), span.clone(), self.parent_id.clone().unwrap_or_default()));
        }
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.take(field, format!("{value:?}"));
    }
}

/// Trace and parent of a `traceparent` that the gateway made.
fn continued(traceparent: &str) -> Option<(String, String)> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace_id, parent) = (parts.next()?, parts.next()?);
    (trace_id.len() == 32 && parent.len() == 16).then(|| (trace_id.to_owned(), parent.to_owned()))
}

fn new_span_id() -> String {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the operating system's generator works");
    hex::encode(bytes)
}

#[expect(clippy::disallowed_methods, reason = "collectors join spans of many programs by the wall clock")]
fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced(work: impl FnOnce()) -> Receiver<Finished> {
        let (queue, spans) = sync_channel(16);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Traces { queue }), work);
        spans
    }

    #[test]
    fn a_span_is_its_own_or_within_one_or_continues_a_trace() {
        let spans = traced(|| {
            let own = tracing::info_span!(
                "request",
                trace_id = "4bf92f3577b34da6a3ce929d0e0e4736",
                span_id = "00f067aa0ba902b7",
                parent_id = "aaaaaaaaaaaaaaaa",
                operation = tracing::field::Empty
            );
            own.record("operation", "getMe");
            own.in_scope(|| {
                drop(tracing::info_span!("within", token = "Bearer abcdefghijkl", traceparent = "nonsense"))
            });
            drop(own);
            drop(tracing::info_span!("later", traceparent = TRACEPARENT));
            drop(tracing::info_span!("alone"));
        });
        let spans: Vec<Finished> = spans.try_iter().collect();
        let names: Vec<_> = spans.iter().map(|span| (span.name, span.parent_id.as_str(), span.server)).collect();
        let request = "00f067aa0ba902b7";
        assert_eq!(
            names,
            [("within", request, false), ("request", "aaaaaaaaaaaaaaaa", true), ("later", request, false)]
        );
        assert!(spans.iter().all(|span| span.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(spans[1].attributes, [("operation", "getMe".to_owned())]);
        assert_eq!(spans[0].attributes, [("token", "Bearer [redacted]".to_owned())]);
        assert!(spans.iter().all(|span| span.end_ns >= span.start_ns && span.span_id.len() == 16));
    }
}
