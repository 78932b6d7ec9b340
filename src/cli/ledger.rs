//! `construct ledger verify`: whether the books hold.

use clap::Subcommand;
use serde_json::Value;

use super::CliError;
use super::admin::{Admin, AdminArgs, block_on};
use super::output::say;
use super::table::{cell, render};

pub const EXAMPLES: &str = "\
Examples:
  construct ledger verify
  construct ledger verify --json | jq .balances

Exit code 4 when a transaction does not sum to zero or an invoice does not recompute.";

#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Check that every transaction sums to zero, every invoice recomputes and no number is missing
    Verify(AdminArgs),
}

pub fn run(command: &LedgerCommand) -> Result<(), CliError> {
    let LedgerCommand::Verify(args) = command;
    block_on(verify(args))?
}

async fn verify(args: &AdminArgs) -> Result<(), CliError> {
    let report = Admin::open(args)?.get("/admin/v1/ledger/verify").await?;
    say(&if args.json { format!("{report:#}\n") } else { shown(&report) })?;
    match report["fault_count"].as_u64() {
        Some(0) => Ok(()),
        Some(faults) => Err(CliError::NotVerified(format!("{faults} faults in the books"))),
        None => Err(CliError::NotVerified("the node's report does not say how many faults there are".to_owned())),
    }
}

fn shown(report: &Value) -> String {
    let count = |name: &str| cell(&report[name]);
    let counts = [count("transactions"), count("invoices"), count("numbers")];
    let mut text = format!("Checked {} transactions, {} invoices, {} numbers.\n", counts[0], counts[1], counts[2]);
    let balances = report["balances"].as_object().cloned().unwrap_or_default();
    let rows: Vec<_> = balances.iter().map(|(account, balance)| vec![account.clone(), cell(balance)]).collect();
    text.push_str(&render(&["ACCOUNT", "BALANCE (MINOR UNITS)"], &rows));
    for fault in report["faults"].as_array().into_iter().flatten() {
        text.push_str("FAULT: ");
        text.push_str(&cell(fault));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_shows_counts_balances_and_faults() {
        let report = json!({ "transactions": 3, "invoices": 2, "numbers": 2, "balances": { "cash USD": 9800 },
            "fault_count": 1, "faults": ["inv_1 does not recompute"] });
        let text = shown(&report);
        assert!(text.starts_with("Checked 3 transactions, 2 invoices, 2 numbers.\nACCOUNT"), "{text}");
        assert!(text.contains("cash USD  9800\n") && text.ends_with("FAULT: inv_1 does not recompute\n"), "{text}");
    }
}
