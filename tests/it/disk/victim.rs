//! The process whose power is cut: it says what it found, then works and says what was acknowledged, to its end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use construct::actors::runtime::log::ShardLog;
use construct::cluster::raft::{GroupSettings, Groups, Network};
use construct::kernel::{OpOutcome, ShardId};
use construct::storage::state::{StateOptions, StateStore, StoreOptions};
use construct::storage::wal::{Wal, WalOptions};

use super::ledger;

const DIRECTORY: &str = "CONSTRUCT_TEST_VICTIM";
const LOAD: &str = "CONSTRUCT_TEST_VICTIM_LOAD";
const SHARD: ShardId = ShardId(1);
/// What takes longer is stuck.
const SPEAKS_WITHIN: Duration = Duration::from_secs(60);
/// Batches between two flushes of the state alone.
const BATCHES_A_FLUSH: usize = 7;

/// What the victim works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Log, state and Raft group; acknowledged is what the group committed.
    Groups,
    /// The state store alone, without a log to repair it from; acknowledged is what a flush confirmed.
    Flushes,
    /// sled alone, set up as the state store does; acknowledged is what its flush confirmed.
    Sled,
}

/// A word of the victim about an entity and a sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Have(String, u64),
    /// Acknowledged, and when it was said, in nanoseconds of the wall clock.
    Acked(String, u64, u128),
    /// The state was rebuilt from snapshots and the log.
    Rebuilt,
    Ready,
    Complaint(String),
}

fn say(word: &str) {
    // One call, one line; a closed pipe means the parent has what it wanted.
    let _ = std::io::stdout().write_all(format!("@{word}\n").as_bytes());
}

fn acked(name: &str, sequence: u64) {
    #[expect(clippy::disallowed_methods, reason = "a time to compare with another process")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    say(&format!("acked {name} {sequence} {}", now.as_nanos()));
}

/// Run as an ordinary test it does nothing; started by another test it works until it is killed.
#[test]
fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    match std::env::var(LOAD).as_deref() {
        Ok("Groups") => groups(directory),
        Ok("Flushes") => flushes(directory),
        Ok("Sled") => sled(directory),
        other => panic!("no such load: {other:?}"),
    }
}

fn open_store(directory: &Path) -> Arc<StateStore> {
    let options = StoreOptions {
        cache_bytes: 4 << 20,
        flush_every: Duration::from_millis(30),
        compact_min_bytes: 1 << 20,
        shard: StateOptions { feed_keep: 50, overlay_bytes: 4 << 20 },
    };
    let store = StateStore::open(directory, options).expect("the state store opens");
    if store.rebuilding() {
        say("rebuilt");
    }
    store
}

/// Says what the shard holds, once it is checked.
fn tell(checked: Result<BTreeMap<String, u64>, String>) -> BTreeMap<String, u64> {
    let have = checked.unwrap_or_else(|complaint| {
        say(&format!("complaint {complaint}"));
        panic!("{complaint}");
    });
    have.iter().for_each(|(name, sequence)| say(&format!("have {name} {sequence}")));
    say("ready");
    have
}

fn groups(directory: &Path) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let wal = WalOptions { segment_bytes: 512 << 10, cache_bytes: 256 << 10, ..WalOptions::default() };
        let (wal, _) = Wal::open(&directory.join("wal"), wal).expect("the log opens");
        let store = open_store(directory);
        let early = store.shard(SHARD).expect("a shard");
        if let Err(complaint) = ledger::check(&early) {
            say(&format!("complaint before the log is replayed: {complaint}"));
            panic!("{complaint}");
        }
        let settings = GroupSettings {
            shards: 1,
            snapshot_every: Duration::ZERO,
            snapshot_log_bytes: 1 << 20,
            ..GroupSettings::default()
        };
        let groups = Groups::start(directory, wal, store, settings, Network::alone()).await.expect("the groups start");
        let group = Arc::clone(groups.shard(SHARD).expect("a shard"));
        let have = tell(ledger::check(group.state()));
        let term = group.leadership().borrow().leading.expect("the only voter leads");
        let tasks = ledger::names().into_iter().map(|name| {
            let (group, sequence) = (Arc::clone(&group), have.get(&name).copied().unwrap_or(0));
            tokio::spawn(async move {
                for sequence in sequence.. {
                    let Ok(proposed) = group.propose(term, ledger::op(&name, sequence)) else { return };
                    let Ok(Ok(outcome)) = proposed.await else { return };
                    assert_eq!(outcome, OpOutcome::Applied);
                    acked(&name, sequence + 1);
                }
            })
        });
        futures::future::join_all(tasks.collect::<Vec<_>>()).await;
        // Without power: until it is killed.
        std::future::pending::<()>().await;
    });
}

fn flushes(directory: &Path) {
    let store = open_store(directory);
    let state = store.shard(SHARD).expect("a shard");
    let mut have = tell(ledger::check(&state));
    let applied = state.position().expect("a position").0.map_or(0, |at| at.index);
    let names = ledger::names();
    for (step, index) in (applied + 1..).enumerate() {
        let name = &names[step % names.len()];
        let sequence = have.entry(name.clone()).or_default();
        state.apply(index, &[ledger::op(name, *sequence)]).expect("applied");
        *sequence += 1;
        if step % BATCHES_A_FLUSH == 0 {
            if store.flush().is_err() {
                break;
            }
            have.iter().for_each(|(name, sequence)| acked(name, *sequence));
        }
    }
    loop {
        std::thread::park();
    }
}

fn sled(directory: &Path) {
    construct::storage::sync_range::ensure_linked().expect("the repair is in place");
    let config = sled::Config::new().path(directory.join("state")).mode(sled::Mode::HighThroughput);
    let db = config.segment_size(16 << 20).flush_every_ms(None).open().expect("sled opens");
    let mut have = tell(ledger::names().into_iter().filter_map(|name| held(&db, name).transpose()).collect());
    let names = ledger::names();
    for (step, name) in names.iter().cycle().enumerate() {
        let sequence = have.entry(name.clone()).or_default();
        *sequence += 1;
        let value = [&sequence.to_le_bytes()[..], &ledger::value(name, *sequence)].concat();
        db.insert(name, value).expect("inserted");
        if step % BATCHES_A_FLUSH == 0 {
            if db.flush().is_err() {
                break;
            }
            have.iter().for_each(|(name, sequence)| acked(name, *sequence));
        }
    }
    loop {
        std::thread::park();
    }
}

/// Which of the values of `name` sled holds, if it is whole.
fn held(db: &sled::Db, name: String) -> Result<Option<(String, u64)>, String> {
    let Some(stored) = db.get(&name).map_err(|error| format!("{name}: {error}"))? else { return Ok(None) };
    let (number, value) = stored.split_first_chunk::<8>().ok_or_else(|| format!("{name}: cut short"))?;
    let number = u64::from_le_bytes(*number);
    let whole = *value == ledger::value(&name, number);
    if whole { Ok(Some((name, number))) } else { Err(format!("{name}: another value than was written")) }
}

/// The parent's side of a victim.
pub struct Victim {
    child: Child,
    lines: Receiver<String>,
}

impl Victim {
    /// Starts one over `directory`; `shim` stands before its syncs.
    pub fn start(directory: &Path, load: Load, shim: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this executable"));
        command.args(["disk::victim::victim", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(DIRECTORY, directory).env(LOAD, format!("{load:?}"));
        if let Some(shim) = shim {
            command.env("LD_PRELOAD", shim).env("SHIM_UNREPAIR", "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the victim starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Whole lines only: the last one may have been cut off by the kill.
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next word; none at the victim's end.
    pub fn hear(&self) -> Option<Word> {
        loop {
            let line = match self.lines.recv_timeout(SPEAKS_WITHIN) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("the victim said nothing for {SPEAKS_WITHIN:?}"),
            };
            let Some((_, words)) = line.split_once('@') else { continue };
            let number = |text: &str| text.parse().expect("a number");
            return Some(match words.split(' ').collect::<Vec<_>>()[..] {
                ["have", name, sequence] => Word::Have(name.to_owned(), number(sequence)),
                ["acked", name, sequence, at] => {
                    Word::Acked(name.to_owned(), number(sequence), at.parse().expect("a time"))
                }
                ["rebuilt"] => Word::Rebuilt,
                ["ready"] => Word::Ready,
                _ => Word::Complaint(words.to_owned()),
            });
        }
    }

    /// Kills it; what it had said by then can still be heard.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("dead");
    }
}
