//! `construct compact`: gives the space back that the state database no longer needs.

use anyhow::Context;
use construct::settings::Settings;
use construct::storage::data_dir::DataDir;
use construct::storage::state::compact;

use super::output::say;
use super::{CliError, NodeArgs};

pub const EXAMPLES: &str = "\
Examples:
  construct compact
  construct compact --data-dir /var/lib/construct

The node must be stopped. A crash in the middle leaves the database as it was.";

pub fn run(args: &NodeArgs) -> Result<(), CliError> {
    let settings = Settings::load(&args.layers())?;
    let data_dir = DataDir::open(&settings.node.data_dir).context("the data directory")?;
    let done = compact(data_dir.path()).context("the state database")?;
    let mib = |bytes: u64| bytes / (1 << 20);
    let (before, after) = (mib(done.before_bytes), mib(done.after_bytes));
    say(&format!("Rewrote {} values of {} shards: {before} MiB before, {after} MiB after.\n", done.values, done.shards))
}
