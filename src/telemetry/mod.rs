//! What a node says about itself: logs to standard error, metrics for Prometheus, traces for a collector.
//!
//! Every log line passes [`redact`] on its way out, as the last line of defence: the first is the `Secret` type.
//! Deliberately absent: a listener; the gateway's serve [`render_metrics`].

mod help;
mod meter;
mod otlp;
mod process;
mod redact;
mod scope;

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::settings::{LogFormat, Telemetry};

pub use meter::Meter;
pub use redact::redact;
pub use scope::Scope;

/// Seconds; the bounds of every histogram whose name ends in `_seconds`.
const LATENCY_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Counts and bytes; the bounds of every other histogram.
const SIZE_BUCKETS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 65_536.0, 1_048_576.0];

/// Histograms collect samples until somebody folds them into their buckets.
const FOLD_EVERY: Duration = Duration::from_secs(5);

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("another log subscriber is installed already")]
    LogsTaken,
    #[error("telemetry.log_level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry.otlp_endpoint: {0}")]
    Traces(#[source] io::Error),
    #[error("the metrics recorder cannot be installed: {0}")]
    Metrics(#[from] BuildError),
    #[error("no thread for the metrics: {0}")]
    Thread(#[from] io::Error),
}

/// Starts logs and metrics of this process. Once.
///
/// # Errors
/// [`TelemetryError`] when called twice or when the filter cannot be read.
pub fn start(settings: &Telemetry, node_id: u64) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&settings.log_level)?;
    let registry = tracing_subscriber::registry();
    // Without a collector the one filter stands before everything, which costs least.
    let installed = if settings.otlp_endpoint.is_empty() {
        registry.with(filter).with(lines(settings.log_format)).try_init()
    } else {
        let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), Level::DEBUG);
        let traces = otlp::Traces::start(&settings.otlp_endpoint, node_id).map_err(TelemetryError::Traces)?;
        registry.with(lines(settings.log_format).with_filter(filter)).with(traces.with_filter(ours)).try_init()
    };
    installed.map_err(|_| TelemetryError::LogsTaken)?;
    let handle = recorder()?.install_recorder()?;
    fold(handle.clone())?;
    // A second start was refused above, so nobody set it before.
    let _ = METRICS.set(handle);
    help::describe();
    Ok(())
}

/// Folds samples for as long as the process lives, so that they do not pile up where nobody scrapes.
fn fold(handle: PrometheusHandle) -> io::Result<()> {
    let fold = move || loop {
        std::thread::park_timeout(FOLD_EVERY);
        handle.run_upkeep();
    };
    std::thread::Builder::new().name("metrics".to_owned()).spawn(fold).map(drop)
}

/// Log lines as configured, on whatever else listens.
fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(Redacted);
    match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

fn recorder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(&SIZE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)
}

/// All metrics in the Prometheus text format; empty before [`start`].
#[must_use]
pub fn render_metrics() -> String {
    let Some(handle) = METRICS.get() else { return String::new() };
    process::sample();
    handle.run_upkeep();
    handle.render()
}

/// Standard error, with every line redacted and marked with the request it belongs to.
struct Redacted;

impl<'a> MakeWriter<'a> for Redacted {
    type Writer = Redacted;

    fn make_writer(&'a self) -> Self::Writer {
        Redacted
    }
}

impl Write for Redacted {
    /// The subscriber hands over one whole line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let mut text = redact(&text);
        Scope::stamp(&mut text);
        io::stderr().lock().write_all(text.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_have_buckets_and_process_metrics_are_there() {
        let recorder = recorder().expect("valid buckets").build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("command_seconds").record(0.003);
            metrics::histogram!("batch_commands").record(3.0);
            help::describe();
            process::sample();
        });
        let text = handle.render();
        assert!(text.contains("command_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("batch_commands_bucket{le=\"4\"} 1"), "{text}");
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_cpu_seconds",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
        }
    }
}
