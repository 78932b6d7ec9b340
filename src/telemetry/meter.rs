//! The counter and the histogram of calls that end in one of a few ways, looked up once for each way and not for each
//! call: finding a metric by its labels costs more than a microsecond.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Histogram};

/// Endings remembered at most; what ends in yet another way is looked up each time.
const ENDINGS: usize = 64;

/// Handles by ending: a status, an outcome.
#[derive(Default)]
pub struct Meter<K> {
    known: RwLock<Vec<(K, Counter, Histogram)>>,
}

impl<K: PartialEq> Meter<K> {
    #[must_use]
    pub const fn new() -> Self {
        Self { known: RwLock::new(Vec::new()) }
    }

    /// Counts a call that ended so after `elapsed`; `find` looks up the metrics of that ending.
    pub fn record(&self, ending: K, elapsed: Duration, find: impl FnOnce(&K) -> (Counter, Histogram)) {
        let seconds = elapsed.as_secs_f64();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter, histogram)) = known.iter().find(|(known, ..)| *known == ending) {
            counter.increment(1);
            histogram.record(seconds);
            return;
        }
        drop(known);
        let (counter, histogram) = find(&ending);
        counter.increment(1);
        histogram.record(seconds);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < ENDINGS && !known.iter().any(|(known, ..)| *known == ending) {
            known.push((ending, counter, histogram));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_counted_and_each_ending_looked_up_once() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let (meter, mut looked_up) = (Meter::new(), 0);
        metrics::with_local_recorder(&recorder, || {
            for status in [200, 404, 200, 200] {
                meter.record(status, Duration::from_millis(2), |status| {
                    looked_up += 1;
                    let labels = [("status", status.to_string())];
                    (metrics::counter!("calls", &labels), metrics::histogram!("seconds", &labels))
                });
            }
        });
        let text = handle.render();
        assert_eq!(looked_up, 2);
        assert!(text.contains("calls{status=\"200\"} 3") && text.contains("calls{status=\"404\"} 1"), "{text}");
        assert!(text.contains("seconds_count{status=\"200\"} 3"), "{text}");
    }
}
