//! How many files the process may have open. Connections take what is left after the storage: a flood of them must not
//! keep the log from beginning a segment.

use std::fs;

use crate::settings::Settings;

/// For log segments, the database, snapshots, mail and connections to other services.
const RESERVED: u32 = 384;
/// Connections below which serving makes no sense.
const FEWEST_CONNECTIONS: u32 = 16;

/// Lowers the number of connections to what the limit of open files allows.
///
/// # Errors
/// When the limit is too low to serve at all.
pub(super) fn fit(mut settings: Settings) -> Result<Settings, String> {
    let Some(limit) = limit() else { return Ok(settings) };
    let left = limit.saturating_sub(RESERVED);
    if left < FEWEST_CONNECTIONS {
        let fewest = RESERVED + FEWEST_CONNECTIONS;
        return Err(format!("{limit} open files are allowed and {fewest} are needed; raise the limit (ulimit -n)"));
    }
    let connections = usize::try_from(left).unwrap_or(usize::MAX);
    if connections < settings.gateway.max_connections {
        let wanted = settings.gateway.max_connections;
        tracing::warn!(limit, wanted, connections, "fewer connections than gateway.max_connections: see ulimit -n");
        settings.gateway.max_connections = connections;
    }
    Ok(settings)
}

/// The soft limit of this process (proc(5)); none where it is not known or there is none.
fn limit() -> Option<u32> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
