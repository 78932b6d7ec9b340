//! `construct cluster …`: what an operator asks of a running cluster.

use clap::Subcommand;
use serde_json::Value;

use super::CliError;
use super::admin::{Admin, AdminArgs, block_on};
use super::output::say;
use super::table::{cell, render};

pub const EXAMPLES: &str = "\
Examples:
  construct cluster status
  construct cluster shards --json
  construct cluster members --admin http://10.0.0.7:8081 --token-file /etc/construct/admin-token";

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Members, and whether every shard has a leader
    Status(AdminArgs),
    /// Members: address, state, version, zone, shards led
    Members(AdminArgs),
    /// Shards: leader, term, applied position, replicas
    Shards(AdminArgs),
}

pub fn run(command: &ClusterCommand) -> Result<(), CliError> {
    let text = block_on(async {
        match command {
            ClusterCommand::Status(args) => status(args).await,
            ClusterCommand::Members(args) => members(args).await,
            ClusterCommand::Shards(args) => shards(args).await,
        }
    })??;
    say(&text)
}

async fn status(args: &AdminArgs) -> Result<String, CliError> {
    let admin = Admin::open(args)?;
    let cluster = admin.get("/admin/v1/cluster").await?;
    let shards = admin.get("/admin/v1/shards").await?;
    if args.json {
        return Ok(pretty(&serde_json::json!({ "cluster": cluster, "shards": list(&shards, "shards") })));
    }
    let shards = list(&shards, "shards");
    let led = shards.iter().filter(|shard| !shard["leader"].is_null()).count();
    let summary = match shards.len() - led {
        0 => format!("All {led} shards have a leader.\n"),
        missing => format!("{missing} of {} shards have NO leader.\n", shards.len()),
    };
    Ok(summary + &member_table(&cluster))
}

async fn members(args: &AdminArgs) -> Result<String, CliError> {
    let cluster = Admin::open(args)?.get("/admin/v1/cluster").await?;
    Ok(if args.json { pretty(&Value::Array(list(&cluster, "members"))) } else { member_table(&cluster) })
}

async fn shards(args: &AdminArgs) -> Result<String, CliError> {
    let shards = Admin::open(args)?.get("/admin/v1/shards").await?;
    let shards = list(&shards, "shards");
    if args.json {
        return Ok(pretty(&Value::Array(shards)));
    }
    let row = |shard: &Value| {
        let replicas = list(&shard["replicas"], "items");
        let replicas: Vec<_> = replicas
            .iter()
            .map(|replica| {
                format!("{}:{}@{}", cell(&replica["node"]), cell(&replica["role"]), cell(&replica["matched"]))
            })
            .collect();
        let mut row: Vec<_> = ["id", "leader", "term", "applied"].iter().map(|key| cell(&shard[*key])).collect();
        row.push(replicas.join(" "));
        row
    };
    Ok(render(&["SHARD", "LEADER", "TERM", "APPLIED", "REPLICAS"], &shards.iter().map(row).collect::<Vec<_>>()))
}

fn member_table(cluster: &Value) -> String {
    let columns = ["id", "address", "state", "version", "zone", "leaders"];
    let rows: Vec<Vec<_>> = list(cluster, "members")
        .iter()
        .map(|member| columns.iter().map(|column| cell(&member[*column])).collect())
        .collect();
    render(&["NODE", "ADDRESS", "STATE", "VERSION", "ZONE", "LEADERS"], &rows)
}

/// The items of an answer: itself a list, or its member `name` or `items`.
fn list(answer: &Value, name: &str) -> Vec<Value> {
    let found = [answer, &answer[name], &answer["items"]].into_iter().find_map(Value::as_array);
    found.cloned().unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
