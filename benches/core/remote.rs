//! A question to an entity on another node, over the entity lane with its certificates and TLS, against the same
//! question on this node; and what an envelope costs a request.
//!
//! The other node is a process of its own on the same processors.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use construct::actors::runtime::Router;
use construct::actors::runtime::remote::{Refusal, Remote, RemoteError, RemoteHandler};
use construct::cluster::entities::{EntityLane, HandlerCell};
use construct::cluster::link::Link;
use construct::kernel::{Origin, ShardId, codec};
use tokio::time::Instant;

use super::ask::{ask, calls};
use super::support::callers::origin;
use super::support::rig::{Note, NoteCommand, Rig, link, settings};
use super::support::{Goal, Measured, Run, process};

const RATIO: f64 = 0.4;
/// Processor time of both ends a request, with a body of 64 bytes that comes back.
const ENVELOPE_MICROSECONDS: f64 = 4.0;
const BODY: usize = 64;
/// Requests about entities, and requests that come back as they are.
const ENTITIES: ShardId = ShardId(1);
const ECHO: ShardId = ShardId(2);
const DEADLINE: Duration = Duration::from_secs(10);

pub fn run(run: &Run) {
    if !run.wants("remote asks/s") && !run.wants("envelope") {
        return;
    }
    let dir = tempfile::tempdir_in(&run.place).expect("a directory");
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut other = Other::start(dir.path());
    let (link, lane) = tokio.block_on(connect(dir.path(), &other.address));
    let rig = tokio.block_on(Rig::notes(&dir.path().join("1"), &settings()));
    for callers in [1, 64] {
        let origin = Arc::new(origin());
        let remote = |caller: usize| {
            let lane = lane.clone();
            move || remote_ask(lane.clone(), caller)
        };
        let local = |caller: usize| {
            let (router, origin, id) = (rig.runtime.router.clone(), Arc::clone(&origin), Note::id(caller));
            move || ask(router.clone(), id.clone(), Arc::clone(&origin))
        };
        // Brings the entities of both nodes into memory.
        calls(&tokio, callers, Duration::from_millis(200), remote);
        calls(&tokio, callers, Duration::from_millis(200), local);
        let measured =
            run.pairs(|| calls(&tokio, callers, run.turn(), remote), || calls(&tokio, callers, run.turn(), local));
        // Alone a caller waits for two processes to take turns: the figure is printed, the goal is for many.
        let goal = if callers == 64 { Goal::Ratio(RATIO) } else { Goal::None };
        measured.print(&format!("remote asks/s x{callers}, against local"), goal);
    }
    for callers in [64, 1024] {
        let echo = |_| {
            let lane = lane.clone();
            move || echo(lane.clone())
        };
        let busy = || process::cpu(None) + process::cpu(Some(other.process.id()));
        let before = busy();
        let rate = calls(&tokio, callers, run.turn(), echo);
        let spent = (busy() - before).as_secs_f64() * 1e6 / (rate * run.turn().as_secs_f64());
        Measured::alone(rate).print(&format!("envelope requests/s x{callers}"), Goal::None);
        let goal = if callers == 1024 { Goal::AtMost(ENVELOPE_MICROSECONDS) } else { Goal::None };
        Measured::alone(spent).print(&format!("envelope CPU us a request x{callers}"), goal);
    }
    tokio.block_on(async {
        link.shutdown().await;
        rig.stop().await;
    });
    drop(other.process.stdin.take());
    other.process.wait().expect("it ends");
}

/// This program again, as the other node.
struct Other {
    process: Child,
    address: String,
}

impl Other {
    fn start(dir: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg("--child").arg("remote").arg(dir).arg("0").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the node starts");
        let mut address = String::new();
        let mut lines = BufReader::new(process.stdout.take().expect("piped"));
        lines.read_line(&mut address).expect("it says where it listens");
        Self { process, address: address.trim().to_owned() }
    }
}

/// The other node's own part: answers until its standard input ends.
pub fn child(dir: &Path) {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    super::support::rig::telemetry(&settings());
    tokio.block_on(async {
        let link = link(dir, 2).await;
        let members = BTreeMap::from([(1, String::new()), (2, link.address().to_string())]);
        link.set_members(members).expect("kept");
        let rig = Rig::notes(&dir.join("2"), &settings()).await;
        let handler = HandlerCell::default();
        let notes = Notes { router: rig.runtime.router.clone(), origin: origin() };
        handler.set(Arc::new(notes)).ok().expect("set once");
        EntityLane::start(link.clone(), handler, "cookie").await.expect("the lane starts");
        println!("{}", link.address());
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = ended.await;
        link.shutdown().await;
        rig.stop().await;
    });
}

async fn connect(dir: &Path, other: &str) -> (Link, EntityLane) {
    let link = link(dir, 1).await;
    let members = BTreeMap::from([(1, link.address().to_string()), (2, other.to_owned())]);
    link.set_members(members).expect("kept");
    let lane = EntityLane::start(link.clone(), HandlerCell::default(), "cookie").await.expect("the lane starts");
    while matches!(lane.call(2, ECHO, vec![0], soon()).await, Err(RemoteError::Unreachable { .. })) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (link, lane)
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

/// Answers as a node's runtime does: an entity's number in, its reply out.
struct Notes {
    router: Router,
    origin: Origin,
}

#[async_trait::async_trait]
impl RemoteHandler for Notes {
    async fn handle(&self, _: u64, shard: ShardId, request: Vec<u8>, _: Instant) -> Result<Vec<u8>, Refusal> {
        if shard == ECHO {
            return Ok(request);
        }
        let number: u64 = codec::decode(&request).map_err(|_| Refusal::Unreadable)?;
        let id = Note::id(usize::try_from(number).map_err(|_| Refusal::Unreadable)?);
        let length = self.router.ask::<Note>(&id, NoteCommand::GetLength, &self.origin).await;
        codec::encode(&length).map_err(|_| Refusal::Unreadable)
    }
}

async fn remote_ask(lane: EntityLane, number: usize) -> u64 {
    let request = codec::encode(&(number as u64)).expect("encodes");
    let reply = lane.call(2, ENTITIES, request, soon()).await.expect("answered");
    codec::decode::<Result<u64, construct::kernel::Error>>(&reply).expect("decodes").expect("a length")
}

async fn echo(lane: EntityLane) -> u64 {
    lane.call(2, ECHO, vec![7; BODY], soon()).await.expect("answered").len() as u64
}
