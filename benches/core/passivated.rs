//! A node that holds a million entities, none of them in memory: how much memory it takes, how long a restart and an
//! activation last, against a point read of sled from the same database.
//!
//! The node under test is a process of its own, so that its memory and its start are its own. It is killed, not
//! stopped, before the restart that is timed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use construct::actors::runtime::Router;
use construct::kernel::Entity;

use super::support::callers::{RECORD_BYTES, origin, overwrite};
use super::support::rig::{Note, NoteCommand, Rig, settings};
use super::support::{Goal, Measured, Run, percentile, process};

const RESIDENT_MB: f64 = 300.0;
const ACTIVATION_MS: f64 = 2.0;
const READY_SECONDS: f64 = 3.0;
/// Entities brought into memory, and records read.
const SAMPLES: usize = 10_000;

pub fn run(run: &Run) {
    if !run.wants("passivated") {
        return;
    }
    let count = if run.quick { 100_000 } else { 1_000_000 };
    let dir = tempfile::tempdir_in(&run.place).expect("a directory");
    let mut filling = Node::start("fill", dir.path(), count);
    filling.says("filled");
    filling.kill();
    let began = Instant::now();
    let mut node = Node::start("activate", dir.path(), count);
    node.says("ready");
    let ready = began.elapsed();
    let activation = Duration::from_micros(node.says("activated").parse().expect("a number"));
    node.says("passivated");
    let resident = process::resident(Some(node.process.id()));
    node.kill();
    let read = point_read(dir.path(), count);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let resident = resident as f64 / f64::from(1 << 20);
    Measured::alone(resident).print(&format!("passivated x{count}, resident MB"), Goal::AtMost(RESIDENT_MB));
    let (ours, raw) = (activation.as_secs_f64() * 1e3, read.as_secs_f64() * 1e3);
    let measured = Measured { ours, raw: Some(raw), ratio: Some(ours / raw) };
    measured.print(&format!("passivated x{count}, activation p99 ms"), Goal::AtMost(ACTIVATION_MS));
    let ready = Measured::alone(ready.as_secs_f64());
    ready.print(&format!("passivated x{count}, killed to ready s"), Goal::AtMost(READY_SECONDS));
}

/// This program again, as the node.
struct Node {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Node {
    fn start(part: &str, dir: &Path, count: usize) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg("--child").arg(part).arg(dir).arg(count.to_string());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the node starts");
        let lines = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, lines }
    }

    /// Waits until the node says `word`; what it says of it.
    fn says(&mut self, word: &str) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("readable");
        let told = line.trim().strip_prefix(word);
        told.unwrap_or_else(|| panic!("the node says `{line}` where `{word}` is due")).trim().to_owned()
    }

    fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
}

/// The node's own part.
pub fn child(part: &str, dir: &Path, count: usize) {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut settings = settings();
    // Nobody waits five minutes for the memory of a node at rest.
    settings.actors.idle_after_ms = 500;
    super::support::rig::telemetry(&settings);
    tokio.block_on(async {
        let rig = Rig::notes(dir, &settings).await;
        if part == "fill" {
            fill(&rig, count).await;
            println!("filled");
        } else {
            println!("ready");
            let p99 = activate(&rig.runtime.router, count).await;
            println!("activated {}", p99.as_micros());
            let live = || rig.runtime.router.led().iter().map(|shard| shard.parts.directory.len()).sum::<usize>();
            while live() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            println!("passivated");
        }
        std::future::pending::<()>().await;
    });
}

/// Writes each entity once, as a caller would.
pub async fn fill(rig: &Rig, count: usize) {
    const CALLERS: usize = 512;
    let calls = (0..CALLERS).map(|caller| {
        let router = rig.runtime.router.clone();
        tokio::spawn(async move {
            let origin = origin();
            for number in (caller..count).step_by(CALLERS) {
                overwrite(&router, number, &origin).await;
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic");
    }
}

/// The time that 99 of 100 activations are not above.
async fn activate(router: &Router, count: usize) -> Duration {
    let origin = origin();
    let mut took = Vec::with_capacity(SAMPLES);
    for sample in 0..SAMPLES {
        let id = Note::id(scattered(sample, count));
        let began = Instant::now();
        let length = router.ask::<Note>(&id, NoteCommand::GetLength, &origin).await.expect("answered");
        took.push(began.elapsed());
        assert_eq!(length, RECORD_BYTES as u64, "{id} is there");
    }
    percentile(&mut took, 0.99)
}

/// Entities all over, none twice.
fn scattered(sample: usize, count: usize) -> usize {
    // A prime that divides neither count.
    sample * 611_953 % count
}

/// The same of a point read from the same database: the entity's head by its key.
fn point_read(dir: &Path, count: usize) -> Duration {
    let settings = settings();
    let config = sled::Config::new().path(dir.join("state")).segment_size(16 << 20);
    let db = config.cache_capacity(settings.storage.cache_bytes).open().expect("the database opens");
    let mut took = Vec::with_capacity(SAMPLES);
    for sample in 0..SAMPLES {
        let id = Note::id(scattered(sample, count));
        let shard = id.slot().shard(settings.cluster.shards);
        let tree = db.open_tree(format!("shard-{shard}")).expect("the shard's tree");
        let key = [b"E", id.as_str().as_bytes(), &[0, 0]].concat();
        let began = Instant::now();
        let found = tree.get(&key).expect("readable");
        took.push(began.elapsed());
        assert!(found.is_some(), "{} {id} is there", Note::KIND);
    }
    percentile(&mut took, 0.99)
}
