//! The command line. Each subcommand is a file; this one says what there is and how a command ends.

mod admin;
mod audit;
mod backup;
mod cluster;
mod compact;
mod dev;
mod keys;
mod ledger;
mod output;
mod print;
mod recover;
mod restore;
mod serve;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use construct::settings::{Layers, SettingsError};

use admin::AdminError;

const EXAMPLES: &str = "\
Examples:
  construct                                    a complete node on embedded defaults, data under ./data
  construct config print                       every setting, as it would take effect
  construct cluster status                     how the running node is
  CONSTRUCT__CLOCK=virtual construct           a sandbox whose clock the admin endpoint advances

Settings: embedded defaults < --config FILE < CONSTRUCT__SECTION__KEY environment < flags.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 the node cannot be reached or refuses, 4 verification failed.";

/// Identity, billing, notifications, compliance and an API gateway, as supervised durable actors in one binary.
#[derive(Debug, Parser)]
#[command(name = "construct", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a command the node serves.
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node (also without any command)
    #[command(after_help = serve::EXAMPLES)]
    Serve(NodeArgs),
    /// Run a whole local cluster of real processes, until Ctrl-C
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::DevArgs),
    /// Look at the configuration
    #[command(subcommand, after_help = print::EXAMPLES)]
    Config(ConfigCommand),
    /// Look at a running cluster, over the admin endpoint
    #[command(subcommand, after_help = cluster::EXAMPLES)]
    Cluster(cluster::ClusterCommand),
    /// Export the audit log, and check an export offline
    #[command(subcommand, after_help = audit::EXAMPLES)]
    Audit(audit::AuditCommand),
    /// Rewrite the state database of a stopped node, to give space back
    #[command(after_help = compact::EXAMPLES)]
    Compact(NodeArgs),
    /// Check the books
    #[command(subcommand, after_help = ledger::EXAMPLES)]
    Ledger(ledger::LedgerCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration as TOML, secrets redacted
    Print(NodeArgs),
}

/// Which node this is; the uppermost layer of its configuration.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// TOML file laid over the embedded defaults; see config/default.toml for every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Id of this node, unique in the cluster [node.id]
    #[arg(long, value_name = "N")]
    node_id: Option<String>,
    /// Directory of everything this node keeps [node.data_dir]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Member of a cluster to join; may be given several times [cluster.join]
    #[arg(long, value_name = "HOST:PORT")]
    join: Vec<String>,
}

impl NodeArgs {
    fn layers(&self) -> Layers {
        let join = (!self.join.is_empty()).then(|| self.join.join(","));
        Layers::from_process(self.config.clone())
            .flag("--node-id", "node.id", self.node_id.clone())
            .flag("--data-dir", "node.data_dir", self.data_dir.clone())
            .flag("--join", "cluster.join", join)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("not verified: {0}")]
    NotVerified(String),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Settings(_) => ExitCode::from(2),
            Self::Admin(_) => ExitCode::from(3),
            Self::NotVerified(_) => ExitCode::from(4),
        }
    }
}

/// Runs the command and says how it ended.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command.unwrap_or(Command::Serve(cli.node)) {
        Command::Serve(node) => serve::run(&node),
        Command::Dev(args) => dev::run(&args),
        Command::Config(ConfigCommand::Print(node)) => print::run(&node),
        Command::Cluster(command) => cluster::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Ledger(command) => ledger::run(&command),
        Command::Compact(node) => compact::run(&node),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("construct: {error}"));
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_examples_and_says_what_each_argument_is_for() {
        fn walk(command: &clap::Command, taught: bool) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let taught = taught || help.contains("Examples:\n  construct");
            assert!(command.get_about().is_some(), "{} says what it does", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{}: {} is explained", command.get_name(), argument.get_id());
            }
            assert!(command.has_subcommands() || taught, "{} has examples, or its group has", command.get_name());
            command.get_subcommands().for_each(|one| walk(one, taught && command.get_name() != "construct"));
        }
        walk(&Cli::command(), false);
    }

    /// The command lines in a text: of its fenced shell, from the start or after `--`, and those in its prose.
    fn commands(text: &str) -> Vec<String> {
        let mut fenced = false;
        let mut found = Vec::new();
        for line in text.lines() {
            if line.starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if !fenced {
                let quoted = line.split('`').skip(1).step_by(2);
                found.extend(quoted.filter(|code| code.starts_with("construct ")).map(str::to_owned));
                continue;
            }
            let line = line.split(" #").next().unwrap_or(line);
            let line = line.split_once(" -- ").map_or(line, |(_, command)| command).trim_end_matches(')');
            let words = line.split_whitespace().skip_while(|word| word.starts_with("CONSTRUCT__"));
            let words: Vec<&str> = words.collect();
            if words.first() == Some(&"construct") {
                found.push(words.join(" "));
            }
        }
        found
    }

    #[test]
    fn every_command_of_the_handbook_exists() {
        let mut all = 0;
        for (path, text) in [
            ("docs/operations.md", include_str!("../../docs/operations.md")),
            ("deploy/systemd/README.md", include_str!("../../deploy/systemd/README.md")),
            ("deploy/kubernetes/README.md", include_str!("../../deploy/kubernetes/README.md")),
        ] {
            let found = commands(text);
            assert!(!found.is_empty(), "{path} has commands");
            all += found.len();
            for line in found {
                let parsed = Cli::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{path}: {line}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
            }
        }
        assert!(all > 30, "the handbook's commands were found: {all}");
    }

    #[test]
    fn flags_of_a_node_stand_with_and_without_the_subcommand() {
        for line in [["construct", "--node-id", "2"].as_slice(), &["construct", "serve", "--node-id", "2"]] {
            let cli = Cli::try_parse_from(line).expect("a valid command line");
            let node = match cli.command {
                None => cli.node,
                Some(Command::Serve(node)) => node,
                other => panic!("{other:?}"),
            };
            assert_eq!(node.node_id.as_deref(), Some("2"));
        }
    }
}
