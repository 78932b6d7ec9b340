//! `construct audit …`: the tamper-evident log as a file, and whether a file is what it says.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use construct::actors::compliance::audit_log::export;

use super::CliError;
use super::admin::{Admin, AdminArgs, block_on};
use super::output::{note, say};
use super::table::render;

pub const EXAMPLES: &str = "\
Examples:
  construct audit export --output audit.jsonl
  construct audit verify audit.jsonl
  construct audit verify audit.jsonl --key \"$(cat pinned-key)\"

An export proves itself: `verify` needs no node and no network. Pin keys with --key to know that they are the right ones.";

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Write every entry and signed checkpoint to a file
    Export {
        #[command(flatten)]
        admin: AdminArgs,
        /// The file to write; must not exist
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Check an export offline
    Verify {
        /// The export to check
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// A verifier key known from elsewhere; with any given, each log's must be one of them
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
    },
}

pub fn run(command: &AuditCommand) -> Result<(), CliError> {
    match command {
        AuditCommand::Export { admin, output } => block_on(export_to(admin, output))?,
        AuditCommand::Verify { file, keys } => verify(file, keys),
    }
}

async fn export_to(args: &AdminArgs, output: &PathBuf) -> Result<(), CliError> {
    let admin = Admin::open(args)?;
    let shown = || output.display().to_string();
    let mut file = File::create_new(output).with_context(shown)?;
    let bytes = match admin.download("/admin/v1/audit/export", &mut file).await {
        Ok(bytes) => bytes,
        Err(error) => {
            // A part of an export verifies as nothing; it is not left behind.
            std::fs::remove_file(output).with_context(shown)?;
            return Err(error);
        }
    };
    file.sync_all().with_context(shown)?;
    note(&format!("{bytes} bytes written to {}; check them with: construct audit verify {0}", output.display()));
    Ok(())
}

fn verify(path: &PathBuf, keys: &[String]) -> Result<(), CliError> {
    let shown = || path.display().to_string();
    let file = BufReader::new(File::open(path).with_context(shown)?);
    let verified = export::verify(file, keys).map_err(|error| CliError::NotVerified(error.to_string()))?;
    let rows: Vec<_> = verified
        .logs
        .iter()
        .map(|log| vec![log.shard.to_string(), log.entries.to_string(), hex::encode(log.root), log.verifier.clone()])
        .collect();
    let table = render(&["SHARD", "ENTRIES", "ROOT", "KEY"], &rows);
    let hint = "The keys are the file's own. Pin them with --key to know that they are the right ones.\n";
    let hint = if keys.is_empty() { hint } else { "" };
    say(&format!("Verified: the audit log of {} as of {}.\n{table}{hint}", verified.origin, verified.exported_at))
}
