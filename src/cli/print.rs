//! `construct config print`.

use construct::settings::Settings;

use super::output::say;
use super::{CliError, NodeArgs};

pub const EXAMPLES: &str = "\
Examples:
  construct config print                                 what a node would run with, and every key there is
  CONSTRUCT__GATEWAY__LISTEN=0.0.0.0:80 construct config print
  construct config print --config node.toml > whole.toml";

pub fn run(node: &NodeArgs) -> Result<(), CliError> {
    say(&Settings::print(&node.layers())?)
}
