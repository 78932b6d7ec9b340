//! `construct config print`.

use std::io::{self, Write};

use anyhow::Context;
use construct::settings::Settings;

use super::{CliError, NodeArgs};

pub fn run(node: &NodeArgs) -> Result<(), CliError> {
    let text = Settings::print(&node.layers())?;
    io::stdout().write_all(text.as_bytes()).context("standard output")?;
    Ok(())
}
