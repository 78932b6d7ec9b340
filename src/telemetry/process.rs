//! Metrics of the process, read from `/proc` when somebody asks. Elsewhere than on Linux they are absent.

use std::fs;

#[expect(clippy::cast_precision_loss, reason = "gauges are floats; nothing here comes near 2^52")]
pub(super) fn sample() {
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The directory being read is open itself.
        metrics::gauge!("process_open_fds").set(entries.count().saturating_sub(1) as f64);
    }
    if let Some(most) = most_descriptors() {
        metrics::gauge!("process_max_fds").set(most as f64);
    }
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return };
    // The name of the process stands in parentheses and may hold spaces; fields are counted after it (proc(5)).
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    if let (Some(user), Some(system), Some(threads)) = (fields.get(11), fields.get(12), fields.get(17)) {
        // Linux counts in ticks of 10 ms on every architecture this runs on.
        metrics::gauge!("process_cpu_seconds").set((user + system) as f64 / 100.0);
        metrics::gauge!("process_threads").set(*threads as f64);
    }
}

/// The soft limit; `None` where there is none.
fn most_descriptors() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
