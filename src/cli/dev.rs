//! `construct dev --nodes 3`: a whole local cluster of real processes, until Ctrl-C.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::CliError;
use super::admin::{Admin, AdminArgs, block_on};

pub const EXAMPLES: &str = "\
Examples:
  construct dev                                three nodes, data under ./data/dev
  construct dev --nodes 5 --port 9000          five nodes on ports from 9000 on
  CONSTRUCT__CLOCK=virtual construct dev       with one clock for all that the admin endpoint advances";

/// Ports from one node to the next.
const STRIDE: u16 = 10;
const READY_WITHIN: Duration = Duration::from_secs(120);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Directory of all nodes; what is there is gone on with
    #[arg(long, value_name = "DIR", default_value = "./data/dev")]
    data_dir: PathBuf,
    /// First port: the first node's gateway; its admin endpoint and cluster port follow, the next node ten further
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
}

pub fn run(args: &DevArgs) -> Result<(), CliError> {
    Ok(block_on(cluster(args))??)
}

/// One node's process and places.
struct DevNode {
    id: u16,
    directory: PathBuf,
    log: PathBuf,
    ports: [u16; 3],
    child: Option<Child>,
}

impl DevNode {
    fn new(args: &DevArgs, id: u16) -> anyhow::Result<Self> {
        let first = args.port.checked_add((id - 1) * STRIDE).context("the ports are beyond 65535")?;
        let ports = [first, first.saturating_add(1), first.saturating_add(2)];
        let directory = args.data_dir.join(format!("node-{id}"));
        let log = args.data_dir.join(format!("node-{id}.log"));
        Ok(Self { id, directory, log, ports, child: None })
    }

    fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[index]))
    }

    fn is_new(&self) -> bool {
        !self.directory.join("cluster.json").exists()
    }

    fn spawn(&mut self, args: &DevArgs, join: Option<(&DevNode, &str)>) -> anyhow::Result<()> {
        for index in 0..3 {
            let address = self.address(index);
            TcpListener::bind(address)
                .with_context(|| format!("{address} is in use; choose other ports with --port"))?;
        }
        let log = File::options().create(true).append(true).open(&self.log).context("a log file")?;
        let mut command = Command::new(std::env::current_exe().context("this program")?);
        command.arg("serve").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let text = |path: &Path| path.display().to_string();
        let first = format!("http://127.0.0.1:{}", args.port);
        for (name, value) in [
            ("NODE__ID", self.id.to_string()),
            ("NODE__DATA_DIR", text(&self.directory)),
            ("NODE__SANDBOX_DIR", text(&args.data_dir.join("outside"))),
            ("GATEWAY__LISTEN", self.address(0).to_string()),
            ("GATEWAY__PUBLIC_URL", first),
            ("ADMIN__LISTEN", self.address(1).to_string()),
            ("CLUSTER__LISTEN", self.address(2).to_string()),
        ] {
            command.env(format!("CONSTRUCT__{name}"), value);
        }
        if let Some((member, token)) = join {
            command.env("CONSTRUCT__CLUSTER__JOIN", member.address(2).to_string());
            command.env("CONSTRUCT__CLUSTER__TOKEN", token);
        }
        self.child = Some(command.spawn().context("a node")?);
        Ok(())
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let (client, url) = (reqwest::Client::new(), format!("http://{}/readyz", self.address(0)));
        let deadline = Instant::now() + READY_WITHIN;
        let mut poll = tokio::time::interval(Duration::from_millis(100));
        loop {
            poll.tick().await;
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("node {} ended with {status}; see {}", self.id, self.log.display());
            }
            ensure!(Instant::now() < deadline, "node {} is not ready; see {}", self.id, self.log.display());
        }
    }

    /// Waits for its end by itself: with SIGTERM, unless the terminal told it already.
    async fn stop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let process = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(process) = process {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(ENDS_WITHIN, child.wait()).await.is_err() {
            eprintln!("construct: node {} does not end and is killed", self.id);
        }
    }
}

async fn cluster(args: &DevArgs) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    std::fs::create_dir_all(&args.data_dir).context("the data directory")?;
    let mut nodes = (1..=args.nodes).map(|id| DevNode::new(args, id)).collect::<anyhow::Result<Vec<_>>>()?;
    let served = tokio::select! {
        started = start(args, &mut nodes) => started.map(|()| true),
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
    };
    if matches!(served, Ok(true)) {
        print!("{}", banner(&nodes));
        // A node that ends by itself or is killed is told of; the others go on, as in a real cluster.
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tell_ends(&mut nodes) => {}
        }
    }
    futures::future::join_all(nodes.iter_mut().map(DevNode::stop)).await;
    served.map(|_| ())
}

/// Nodes that were there are started at once, as each waits for a majority; new ones join one by one.
async fn start(args: &DevArgs, nodes: &mut [DevNode]) -> anyhow::Result<()> {
    let founding = nodes.first().is_some_and(DevNode::is_new);
    let old: Vec<usize> =
        (0..nodes.len()).filter(|index| (*index == 0 && founding) || !nodes[*index].is_new()).collect();
    let new: Vec<usize> = (0..nodes.len()).filter(|index| !old.contains(index)).collect();
    for index in &old {
        nodes[*index].spawn(args, None)?;
    }
    for index in old {
        nodes[index].ready().await?;
    }
    for index in new {
        let token_file = nodes[0].directory.join("admin-token");
        let admin = Admin::open(&AdminArgs::local(format!("http://{}", nodes[0].address(1)), token_file))?;
        let token = admin.change(reqwest::Method::POST, "/admin/v1/cluster/tokens", Some(&json!({}))).await?;
        let token = token["token"].as_str().context("a join token")?.to_owned();
        let (before, after) = nodes.split_at_mut(index);
        after[0].spawn(args, Some((&before[0], &token)))?;
        after[0].ready().await?;
    }
    Ok(())
}

/// Tells of each node that ends; returns when none is left.
async fn tell_ends(nodes: &mut [DevNode]) {
    let ends = nodes.iter_mut().filter_map(|node| {
        let (id, log, child) = (node.id, node.log.display().to_string(), node.child.as_mut()?);
        Some(async move {
            let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            eprintln!("construct: node {id} ended with {status}; see {log}");
        })
    });
    futures::future::join_all(ends).await;
}

fn banner(nodes: &[DevNode]) -> String {
    let mut text = String::new();
    for node in nodes {
        let [gateway, admin, cluster] = [0, 1, 2].map(|index| node.address(index));
        text += &format!("node {}   gateway http://{gateway}   admin http://{admin}   cluster {cluster}\n", node.id);
    }
    let Some(first) = nodes.first() else { return text };
    text += &format!(
        "Try:  construct cluster status --admin http://{} --token-file {}\nCtrl-C stops them all.\n",
        first.address(1),
        first.directory.join("admin-token").display()
    );
    text
}
