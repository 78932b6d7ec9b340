//! `construct cluster …`: what an operator asks of a running cluster.

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use super::CliError;
use super::admin::{Admin, AdminArgs, AdminError, block_on};
use super::backup::{self, BackupArgs};
use super::keys;
use super::output::say;
use super::recover::{self, RecoverArgs};
use super::restore::{self, RestoreArgs};
use super::table::{cell, render};

pub const EXAMPLES: &str = "\
Examples:
  construct cluster status
  construct cluster shards --json
  construct cluster actors                     what is live, what is parked and where
  construct cluster token                      lets one more node join
  construct cluster drain 2                    before node 2 is stopped for a while
  construct cluster undrain 2                  it stays after all
  construct cluster remove 2                   node 2 does not come back
  construct cluster backup /backups --backup-key-file backup.key
  construct cluster backups /backups --backup-key-file backup.key
  construct cluster restore /backups --backup-key-file backup.key --data-dir /var/lib/construct
  construct cluster recover --from /old --accept-loss --data-dir /new    when the majority is lost for good
  construct cluster rotate-keys                after it, erased people cannot be read from old disks and backups
  construct cluster keys                       which version of the key-encryption key each member has
  construct cluster held                       after a restore: what may have been sent before
  construct cluster members --admin http://10.0.0.7:8081 --token-file /etc/construct/admin-token";

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Members, and whether every shard has a leader
    Status(AdminArgs),
    /// Members: address, state, version, zone, shards led
    Members(AdminArgs),
    /// Shards: leader, term, applied position, replicas
    Shards(AdminArgs),
    /// Live actors of all members by kind, and the entities that crashed lately or are parked
    Actors(AdminArgs),
    /// A one-time token with which one node may join; it takes it from `cluster.token`
    Token {
        /// How long it may be used
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        expires_in: u32,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let another voter lead a shard
    Transfer {
        /// The shard, as `cluster shards` lists it
        shard: u16,
        /// The member that shall lead it; it must hold a voting replica
        #[arg(long, value_name = "NODE")]
        to: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take the leads of a member, and replicas where others can take them, until it starts again or `undrain`
    Drain {
        /// The member's number
        node: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let a drained member take part again without a restart
    Undrain {
        /// The member's number
        node: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Give a member up, running or not: others take over what it held, and it is forgotten
    Remove {
        /// The member's number
        node: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Wait until every shard is where it should be and led by whom it should be
    Rebalance(AdminArgs),
    /// Take a backup of the whole cluster while it serves, sealed under your key
    Backup {
        #[command(flatten)]
        backup: BackupArgs,
        /// Take every shard, also those that have not changed since the newest backup of the directory
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Make a new cluster of one node from a backup, in an empty data directory
    Restore(Box<RestoreArgs>),
    /// Make a new cluster of one node from what is left of one that lost its majority, in an empty data directory
    Recover(Box<RecoverArgs>),
    /// The key-encryption key: which version is in use, and which versions each member has
    Keys(AdminArgs),
    /// Make a new key-encryption key, wrap every key anew, and destroy the old ones; takes as long as there are people
    RotateKeys(AdminArgs),
    /// Mails, texts and pushes that the cluster before a restore may have sent: they wait for you
    Held(AdminArgs),
    /// Let held effects happen
    Release {
        /// Their ids, as `cluster held` lists them; all when none is given
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Give held effects up: whether they happened stays unknown
    Drop {
        /// Their ids, as `cluster held` lists them; all when none is given
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// The ids of everybody who was erased, a line each; for `cluster restore --erasures`
    Erasures(AdminArgs),
    /// List the backups of a directory, each read to its end; needs no node
    Backups {
        #[command(flatten)]
        backup: BackupArgs,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: &ClusterCommand) -> Result<(), CliError> {
    let text = block_on(async {
        match command {
            ClusterCommand::Status(args) => status(args).await,
            ClusterCommand::Members(args) => members(args).await,
            ClusterCommand::Shards(args) => shards(args).await,
            ClusterCommand::Actors(args) => actors(args).await,
            ClusterCommand::Token { expires_in, admin } => token(admin, *expires_in).await,
            ClusterCommand::Transfer { shard, to, admin } => {
                let body = serde_json::json!({ "to": to });
                change(admin, Method::POST, &format!("/admin/v1/shards/{shard}/transfer"), Some(&body)).await
            }
            ClusterCommand::Drain { node, admin } => {
                change(admin, Method::POST, &format!("/admin/v1/nodes/{node}/drain"), None).await
            }
            ClusterCommand::Undrain { node, admin } => {
                change(admin, Method::DELETE, &format!("/admin/v1/nodes/{node}/drain"), None).await
            }
            ClusterCommand::Remove { node, admin } => {
                change(admin, Method::DELETE, &format!("/admin/v1/nodes/{node}"), None).await
            }
            ClusterCommand::Backup { backup, full, admin } => backup::take(backup, *full, admin).await,
            ClusterCommand::Restore(args) => restore::run(args).await,
            ClusterCommand::Recover(args) => recover::run(args).await,
            ClusterCommand::Keys(admin) => keys::status(admin).await,
            ClusterCommand::RotateKeys(admin) => keys::rotate(admin).await,
            ClusterCommand::Held(admin) => restore::held(admin).await,
            ClusterCommand::Release { ids, admin } => restore::decide(admin, "release", ids).await,
            ClusterCommand::Drop { ids, admin } => restore::decide(admin, "drop", ids).await,
            ClusterCommand::Erasures(admin) => restore::list_erasures(admin).await,
            ClusterCommand::Backups { backup, json } => backup::list(backup, *json),
            ClusterCommand::Rebalance(admin) => change(admin, Method::POST, "/admin/v1/rebalance", None).await,
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
    let warnings: String =
        list(&cluster["warnings"], "items").iter().map(|text| format!("Warning: {}\n", cell(text))).collect();
    let level = format!("The cluster is at level {}.\n", cell(&cluster["level"]));
    Ok(summary + &level + &warnings + &member_table(&cluster))
}

async fn token(args: &AdminArgs, expires_in: u32) -> Result<String, CliError> {
    let body = serde_json::json!({ "expires_in_seconds": expires_in });
    let made = Admin::open(args)?.change(Method::POST, "/admin/v1/cluster/tokens", Some(&body)).await?;
    Ok(if args.json { pretty(&made) } else { format!("{}\n", cell(&made["token"])) })
}

/// Asks for a change until it is done; asking again changes nothing.
async fn change(args: &AdminArgs, method: Method, path: &str, body: Option<&Value>) -> Result<String, CliError> {
    let admin = Admin::open(args)?;
    let mut asked = false;
    loop {
        let progress = match admin.change(method.clone(), path, body).await {
            // A member that was being removed is forgotten by now.
            Err(AdminError::Refused { status: 404, .. }) if method == Method::DELETE && asked => Value::Null,
            other => other?,
        };
        if progress.is_null() || progress["done"].as_bool() == Some(true) {
            return Ok(if args.json {
                pretty(&serde_json::json!({ "done": true, "left": 0 }))
            } else {
                "Done.\n".to_owned()
            });
        }
        eprintln!("{} shards are still on their way.", cell(&progress["left"]));
        asked = true;
    }
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

async fn actors(args: &AdminArgs) -> Result<String, CliError> {
    let actors = Admin::open(args)?.get("/admin/v1/actors").await?;
    if args.json {
        return Ok(pretty(&actors));
    }
    let rows = |name: &str, columns: &[&str]| -> Vec<Vec<String>> {
        let row = |item: &Value| columns.iter().map(|column| cell(&item[*column])).collect();
        list(&actors[name], name).iter().map(row).collect()
    };
    let kinds = rows("kinds", &["node", "kind", "live", "mailbox_depth", "mailbox_deepest", "committing"]);
    let mut text = render(&["NODE", "KIND", "LIVE", "MAILBOX", "DEEPEST", "COMMITTING"], &kinds);
    for (name, title) in [("parked", "PARKED"), ("crashed", "CRASHED")] {
        let entities = rows(name, &["node", "shard", "entity", "restarts", "reason"]);
        if !entities.is_empty() {
            text += "\n";
            text += &render(&["NODE", "SHARD", title, "RESTARTS", "REASON"], &entities);
        }
    }
    if actors["unlisted"].as_u64().is_some_and(|more| more > 0) {
        text += &format!("\n{} more are not listed.\n", cell(&actors["unlisted"]));
    }
    for silent in list(&actors["unanswered"], "unanswered") {
        text += &format!("\nNode {} is missing here. {}\n", cell(&silent["node"]), cell(&silent["reason"]));
    }
    Ok(text)
}

fn member_table(cluster: &Value) -> String {
    let columns = ["id", "address", "state", "version", "level", "zone", "leaders", "replicas", "lag"];
    let rows: Vec<Vec<_>> = list(cluster, "members")
        .iter()
        .map(|member| columns.iter().map(|column| cell(&member[*column])).collect())
        .collect();
    render(&["NODE", "ADDRESS", "STATE", "VERSION", "LEVEL", "ZONE", "LEADERS", "REPLICAS", "LAG"], &rows)
}

/// The items of an answer: itself a list, or its member `name` or `items`.
pub(super) fn list(answer: &Value, name: &str) -> Vec<Value> {
    let found = [answer, &answer[name], &answer["items"]].into_iter().find_map(Value::as_array);
    found.cloned().unwrap_or_default()
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
