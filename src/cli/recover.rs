//! `construct cluster recover`: a new cluster from what is left of one that lost its majority.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use construct::cluster::recovery::{Remains, recover};
use construct::cluster::restore::Founder;
use construct::settings::Settings;
use construct::storage::data_dir::DataDir;

use super::restore::PastArgs;
use super::table::render;
use super::{CliError, NodeArgs};

/// What is left, and what the operator takes upon themselves.
#[derive(Debug, Clone, Args)]
pub struct RecoverArgs {
    /// Data directory of a surviving node, or a copy of it; give all there are: of each shard the newest replica is taken
    #[arg(long = "from", value_name = "DIR", required = true)]
    survivors: Vec<PathBuf>,
    /// What only the lost nodes had is lost, also if it was acknowledged: say that you know
    #[arg(long, required = true)]
    accept_loss: bool,
    #[command(flatten)]
    past: PastArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// Makes the new cluster of one node.
pub async fn run(args: &RecoverArgs) -> Result<String, CliError> {
    if !args.accept_loss {
        return Err(anyhow!("--accept-loss is needed").into());
    }
    let settings = Settings::load(&args.node.layers())?;
    let (until, erasures) = (args.past.until(&settings)?, args.past.erasures()?);
    let data_dir = DataDir::open(&settings.node.data_dir).context("the data directory")?;
    let founder =
        Founder { node: settings.node.id, address: settings.cluster.address.clone(), shards: settings.cluster.shards };
    let remains = Remains { survivors: &args.survivors, until, erasures };
    let (cluster, shards) = recover(&data_dir, &founder, remains).await.context("the recovery")?;
    let cells = |shard: &construct::cluster::recovery::Recovered| {
        let last = format!("{} in term {}", shard.last.index, shard.last.term);
        vec![shard.shard.to_string(), shard.node.to_string(), last, shard.unsure.to_string()]
    };
    let rows: Vec<Vec<String>> = shards.iter().map(cells).collect();
    let data = data_dir.path().display();
    Ok(format!(
        "\
{}
Cluster {} is in {data}. Entries not known to be committed are in it; what only the lost nodes had is not.
Start it: construct serve --data-dir {data} --node-id {}   (others join with a token, with empty data directories)
Be sure first that no node of the lost cluster serves any more. What it may have done until {until} is not done blindly:
mails wait for you (construct cluster held), payments are looked up first, sessions are over.
",
        render(&["SHARD", "FROM NODE", "LAST ENTRY", "NOT KNOWN COMMITTED"], &rows),
        hex::encode(cluster),
        founder.node,
    ))
}
