//! What the kernel says of a process: processor time and resident memory.

use std::fs;
use std::time::Duration;

/// Processor time of all threads, living and gone, in user and system mode. `None`: this process.
pub fn cpu(pid: Option<u32>) -> Duration {
    let stat = fs::read_to_string(path(pid, "stat")).expect("a living process has a stat file");
    // The name in parentheses may hold anything; fields are counted behind it. Ticks are a hundredth of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Resident memory in bytes. `None`: this process.
pub fn resident(pid: Option<u32>) -> u64 {
    let status = fs::read_to_string(path(pid, "status")).expect("a living process has a status file");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

fn path(pid: Option<u32>, file: &str) -> String {
    pid.map_or_else(|| format!("/proc/self/{file}"), |pid| format!("/proc/{pid}/{file}"))
}
