//! `construct cluster restore` and what an operator decides after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use construct::actors::runtime::steady::wall_now;
use construct::cluster::restore::{Founder, Source, restore};
use construct::kernel::{Secret, Timestamp};
use construct::settings::{ClockMode, Settings};
use construct::storage::backup::Archive;
use construct::storage::data_dir::DataDir;
use reqwest::Method;
use serde_json::{Value, json};

use super::admin::{Admin, AdminArgs};
use super::backup::{BackupArgs, id_of};
use super::output::note;
use super::table::{cell, render};
use super::{CliError, NodeArgs};

/// Which backup becomes a cluster again, and how.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    backup: BackupArgs,
    /// The backup to restore, by its id; else the newest that opens
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    past: PastArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// What a new cluster is told of the old one.
#[derive(Debug, Clone, Args)]
pub struct PastArgs {
    /// File with ids of people to erase anew, a line each, as `cluster erasures` prints it; beside those that are known
    #[arg(long, value_name = "FILE")]
    erasures: Vec<PathBuf>,
    /// Until when the old cluster may have acted: what was due by then is not sent or charged blindly; now, if not given
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Makes a new cluster of one node from a backup.
pub async fn run(args: &RestoreArgs) -> Result<String, CliError> {
    let settings = Settings::load(&args.node.layers())?;
    let until = args.past.until(&settings)?;
    let key = args.backup.key()?;
    let files: BTreeMap<String, PathBuf> = args.backup.files()?.into_iter().map(|path| (id_of(&path), path)).collect();
    let (archive, newer) = choose(args, &key)?;
    let mut archive = archive;
    let erasures = erasures(args, &mut archive, newer)?;
    let data_dir = DataDir::open(&settings.node.data_dir).context("the data directory")?;
    let founder =
        Founder { node: settings.node.id, address: settings.cluster.address.clone(), shards: settings.cluster.shards };
    let (taken_at, count) = (archive.manifest.taken_at, erasures.len());
    let source = Source { archive, others: &files, key: &key, until, erasures };
    let made = restore(&data_dir, &founder, source).await.context("the restore")?;
    Ok(format!(
        "\
Cluster {} of {} shards is in {}, as of {taken_at}. {count} people are erased anew.
Start it: construct serve --data-dir {} --node-id {}   (others join with a token, as always)
Be sure first that no node of the old cluster runs any more. What it may have done until {until} is not done blindly:
mails wait for you (construct cluster held), payments are looked up first, sessions are over.
",
        hex::encode(made.cluster),
        made.shards,
        data_dir.path().display(),
        data_dir.path().display(),
        founder.node,
    ))
}

impl PastArgs {
    /// The time until which the old cluster may have acted.
    pub(super) fn until(&self, settings: &Settings) -> Result<Timestamp, CliError> {
        let now = wall_now();
        let Some(text) = &self.until else { return Ok(now) };
        let until: Timestamp = text.parse().with_context(|| format!("--until {text}"))?;
        if settings.clock == ClockMode::System && until > now {
            return Err(anyhow!("--until {text} has not come yet").into());
        }
        Ok(until)
    }

    /// The ids that are in the files.
    pub(super) fn erasures(&self) -> Result<BTreeSet<String>, CliError> {
        let mut ids = BTreeSet::new();
        for path in &self.erasures {
            ids.extend(lines(&fs::read_to_string(path).with_context(|| path.display().to_string())?));
        }
        Ok(ids)
    }
}

/// The backup that was asked for, and those that were taken after it.
fn choose(args: &RestoreArgs, key: &Secret<String>) -> Result<(Archive, Vec<Archive>), CliError> {
    let (mut chosen, mut newer) = (None, Vec::new());
    for path in args.backup.files()?.into_iter().rev() {
        match Archive::open(&path, key) {
            Ok(archive) if args.id.as_ref().is_none_or(|id| *id == archive.manifest.id) => {
                chosen = Some(archive);
                break;
            }
            Ok(archive) => newer.push(archive),
            Err(error) if args.id.as_ref() == Some(&id_of(&path)) => {
                return Err(anyhow!("{}: {error}", path.display()).into());
            }
            Err(error) => note(&format!("{} is passed over: {error}", path.display())),
        }
    }
    let chosen = chosen.ok_or_else(|| anyhow!("there is no such backup in {}", args.backup.dir.display()))?;
    Ok((chosen, newer))
}

fn erasures(args: &RestoreArgs, archive: &mut Archive, newer: Vec<Archive>) -> Result<BTreeSet<String>, CliError> {
    let mut ids = args.past.erasures()?;
    let listed = |archive: &mut Archive| {
        let section = archive.manifest.erased.clone();
        archive.read(&section).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    ids.extend(lines(&listed(archive).context("who was erased")?));
    for mut archive in newer {
        ids.extend(lines(&listed(&mut archive).context("who was erased, of a newer backup")?));
    }
    Ok(ids)
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned)
}

/// What waits for an operator.
pub async fn held(args: &AdminArgs) -> Result<String, CliError> {
    let held = Admin::open(args)?.get("/admin/v1/held-effects").await?;
    if args.json {
        return Ok(format!("{:#}\n", held["items"]));
    }
    let columns = ["id", "provider", "source", "user_id"];
    let rows: Vec<Vec<String>> = held["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| columns.iter().map(|column| cell(&item[*column])).collect())
        .collect();
    Ok(render(&["ID", "PROVIDER", "SOURCE", "USER"], &rows))
}

/// Releases or drops what is held: these, or all.
pub async fn decide(args: &AdminArgs, action: &str, ids: &[String]) -> Result<String, CliError> {
    let admin = Admin::open(args)?;
    let body = if ids.is_empty() { json!({}) } else { json!({ "ids": ids }) };
    let mut done = 0;
    loop {
        let path = format!("/admin/v1/held-effects/{action}");
        let decided = admin.change(Method::POST, &path, Some(&body)).await?;
        done += decided["done"].as_u64().unwrap_or(0);
        if decided["more"] != Value::Bool(true) {
            break;
        }
    }
    Ok(if args.json { format!("{:#}\n", json!({ "done": done })) } else { format!("Done: {done}.\n") })
}

/// The ids of everybody who was erased.
pub async fn list_erasures(args: &AdminArgs) -> Result<String, CliError> {
    let mut lines = Vec::new();
    Admin::open(args)?.download("/admin/v1/erasures", &mut lines).await?;
    Ok(String::from_utf8_lossy(&lines).into_owned())
}
