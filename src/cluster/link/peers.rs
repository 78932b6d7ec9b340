//! Which nodes there are, where they are reached, and whether they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::hello::{Lane, Rejection};
use super::tls::KeyHash;

type Keys = BTreeMap<u64, KeyHash>;

const FILE: &str = "peers.json";
/// Streams of one lane that one node may have open towards this one.
const SNAPSHOT_STREAMS: usize = 4;

/// Keeps the members for the next start of a node.
pub(in crate::cluster) fn remember(data_dir: &Path, members: &BTreeMap<u64, String>) -> io::Result<()> {
    let directory = data_dir.join("cluster");
    fs::create_dir_all(&directory)?;
    write(&directory.join(FILE), members, &BTreeMap::new())
}

/// The file. Before it had a checksum it was the map alone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    members: BTreeMap<u64, String>,
    /// Of those that joined, in hexadecimal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    keys: BTreeMap<u64, String>,
    /// CRC-32C of the members and keys.
    checksum: u32,
}

impl Stored {
    fn new(members: &BTreeMap<u64, String>, keys: &Keys) -> Self {
        let keys = keys.iter().map(|(node, key)| (*node, hex::encode(key))).collect();
        let mut stored = Self { members: members.clone(), keys, checksum: 0 };
        stored.checksum = stored.sum();
        stored
    }

    fn sum(&self) -> u32 {
        let lines = self.members.iter().chain(&self.keys);
        lines.fold(0, |sum, (id, text)| crc32c::crc32c_append(sum, format!("{id} {text}\n").as_bytes()))
    }

    fn keys(&self) -> Option<Keys> {
        let decoded = self.keys.iter().map(|(node, key)| Some((*node, hex::decode(key).ok()?.try_into().ok()?)));
        decoded.collect()
    }
}

fn parse(path: &Path, bytes: &[u8]) -> io::Result<(BTreeMap<u64, String>, Keys)> {
    if let Ok(members) = serde_json::from_slice(bytes) {
        return Ok((members, Keys::new()));
    }
    let stored = serde_json::from_slice::<Stored>(bytes).ok();
    let whole = stored.filter(|stored| stored.sum() == stored.checksum);
    whole.and_then(|stored| Some((stored.members.clone(), stored.keys()?))).ok_or_else(|| {
        let problem = format!(
            "{} is damaged. Lost with it: where other nodes are reached, nothing else. Remedy: copy the file from another \
             node of the cluster, all of them have the same; on a single node remove it",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

fn write(path: &Path, members: &BTreeMap<u64, String>, keys: &Keys) -> io::Result<()> {
    let stored = Stored::new(members, keys);
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// How a node looks from this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub node: u64,
    pub address: String,
    /// Whether it can be reached and shows signs of life.
    pub connected: bool,
    /// Of its process, once known: changes when it restarts.
    pub incarnation: Option<u64>,
    /// Version of its program, once known.
    pub build: Option<String>,
    /// The newest version of the wire that it speaks, or at least the newest of this node's, once known.
    pub wire: Option<u16>,
}

/// The table of nodes. Members come from the cluster's membership; an address may be known before that.
pub(super) struct Peers {
    path: PathBuf,
    level: AtomicU16,
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    /// `None` until this node first hears of any members.
    members: Option<BTreeMap<u64, String>>,
    keys: Keys,
    /// Members and keys may be older than what the cluster has decided: nobody is refused for them.
    doubted: bool,
    /// Addresses of nodes that a shard's log names.
    learned: BTreeMap<u64, String>,
    seen: BTreeMap<u64, Seen>,
}

#[derive(Default)]
struct Seen {
    connected: bool,
    incarnation: Option<u64>,
    build: Option<String>,
    wire: Option<u16>,
    /// Streams that the node opened towards this one, with the key it showed.
    inbound: Vec<Inbound>,
    /// Told when the node shows that it is there.
    alive: Arc<Notify>,
}

struct Inbound {
    lane: Lane,
    key: Option<KeyHash>,
    stream: CancellationToken,
}

/// Who opens a stream, as its hello and its certificate say.
pub(super) struct Caller<'a> {
    pub node: u64,
    /// `None` in plain text.
    pub key: Option<KeyHash>,
    pub speaks: Speaks<'a>,
}

/// What the other side of a stream says of its process.
pub(super) struct Speaks<'a> {
    pub incarnation: u64,
    pub build: &'a str,
    /// The newest version of the wire that it speaks; of one that accepted a stream, the newest that both do.
    pub wire: u16,
}

impl Seen {
    fn hears(&mut self, speaks: &Speaks<'_>) {
        let same = self.incarnation.replace(speaks.incarnation) == Some(speaks.incarnation);
        self.wire = Some(speaks.wire).max(self.wire.filter(|_| same));
        self.build = Some(speaks.build.to_owned());
    }
}

impl Table {
    /// Without encryption nobody shows a key.
    fn is_key_of(&self, node: u64, shown: Option<KeyHash>) -> bool {
        self.doubted || self.keys.get(&node).is_none_or(|known| shown.is_none_or(|shown| shown == *known))
    }

    fn admits(&self, node: u64, key: Option<KeyHash>) -> Result<(), Rejection> {
        if !self.doubted && self.members.as_ref().is_some_and(|members| !members.contains_key(&node)) {
            return Err(Rejection::NotMember);
        }
        if self.is_key_of(node, key) { Ok(()) } else { Err(Rejection::Key) }
    }

    /// Closes the streams of whoever would not be let in any more.
    fn close_strangers(&mut self) {
        let mut seen = std::mem::take(&mut self.seen);
        for (node, seen) in &mut seen {
            seen.inbound.retain(|inbound| {
                let admitted = self.admits(*node, inbound.key).is_ok();
                if !admitted {
                    inbound.stream.cancel();
                }
                admitted
            });
        }
        self.seen = seen;
    }
}

impl Peers {
    /// Reads the members that were known last.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("cluster").join(FILE);
        let (members, keys) = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes).map(|(members, keys)| (Some(members), keys))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Keys::new()),
            Err(error) => return Err(error),
        };
        let table = Mutex::new(Table { members, keys, ..Table::default() });
        Ok(Self { path, level: AtomicU16::new(0), table, changed: watch::channel(0).0 })
    }

    /// Replaces the members, durably. Streams of a node that no longer is one are closed.
    pub fn set_members(&self, members: BTreeMap<u64, String>) -> io::Result<()> {
        let keys = {
            let mut table = self.lock();
            if table.members.as_ref() == Some(&members) {
                return Ok(());
            }
            table.learned.retain(|node, _| members.contains_key(node));
            table.members = Some(members.clone());
            table.close_strangers();
            table.keys.clone()
        };
        self.changed.send_modify(|changes| *changes += 1);
        write(&self.path, &members, &keys)
    }

    /// Replaces the keys of members, durably. Streams of whoever showed another key are closed.
    pub fn set_keys(&self, keys: Keys) -> io::Result<()> {
        let members = {
            let mut table = self.lock();
            if table.keys == keys {
                return Ok(());
            }
            table.keys.clone_from(&keys);
            table.close_strangers();
            table.members.clone()
        };
        members.map_or(Ok(()), |members| write(&self.path, &members, &keys))
    }

    /// Whether members and keys may be out of date; once they are not, the streams of strangers are closed.
    pub fn doubt(&self, doubted: bool) {
        let mut table = self.lock();
        table.doubted = doubted;
        table.close_strangers();
    }

    /// Whether a node may show this key.
    pub fn is_key_of(&self, node: u64, shown: Option<KeyHash>) -> bool {
        self.lock().is_key_of(node, shown)
    }

    /// An address that a shard's log names for a node. What the membership says goes before it.
    pub fn learn(&self, node: u64, address: &str) {
        let mut table = self.lock();
        if table.learned.get(&node).is_none_or(|known| known != address) {
            table.learned.insert(node, address.to_owned());
        }
    }

    pub fn address(&self, node: u64) -> Option<String> {
        let table = self.lock();
        let member = table.members.as_ref().and_then(|members| members.get(&node));
        member.or_else(|| table.learned.get(&node)).cloned()
    }

    /// The members of the cluster as known here.
    pub fn members(&self) -> BTreeMap<u64, String> {
        self.lock().members.clone().unwrap_or_default()
    }

    /// Counts the changes of the members.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Registers a stream that a node opened, or says why not. One of the raft or the entity lane takes the place of
    /// the one before it; a node that restarted loses all it had.
    pub fn admit(&self, caller: &Caller, lane: Lane, stream: &CancellationToken) -> Result<(), Rejection> {
        let Caller { node, key, ref speaks } = *caller;
        let mut table = self.lock();
        table.admits(node, key)?;
        let seen = table.seen.entry(node).or_default();
        seen.inbound.retain(|inbound| !inbound.stream.is_cancelled());
        let restarted = seen.incarnation.is_some_and(|known| known != speaks.incarnation);
        let replaced = |of: Lane| restarted || (of == lane && lane != Lane::Snapshot);
        seen.inbound.retain(|inbound| {
            if replaced(inbound.lane) {
                inbound.stream.cancel();
            }
            !replaced(inbound.lane)
        });
        if seen.inbound.iter().filter(|inbound| inbound.lane == lane).count() >= SNAPSHOT_STREAMS {
            return Err(Rejection::Busy);
        }
        seen.inbound.push(Inbound { lane, key, stream: stream.clone() });
        seen.hears(speaks);
        seen.alive.notify_waiters();
        Ok(())
    }

    /// What the other side said of itself on a stream of ours.
    pub fn met(&self, node: u64, speaks: &Speaks<'_>) {
        self.lock().seen.entry(node).or_default().hears(speaks);
    }

    /// The level of the cluster, as far as this node knows it.
    pub fn level(&self) -> u16 {
        self.level.load(Ordering::Relaxed)
    }

    pub fn set_level(&self, level: u16) {
        self.level.store(level, Ordering::Relaxed);
    }

    pub fn set_connected(&self, node: u64, connected: bool) {
        self.lock().seen.entry(node).or_default().connected = connected;
        metrics::gauge!("construct_link_connected", "peer" => node.to_string()).set(f64::from(u8::from(connected)));
    }

    pub fn is_connected(&self, node: u64) -> bool {
        self.lock().seen.get(&node).is_some_and(|seen| seen.connected)
    }

    /// Told when the node opens a stream towards this one.
    pub fn alive(&self, node: u64) -> Arc<Notify> {
        Arc::clone(&self.lock().seen.entry(node).or_default().alive)
    }

    /// Every node but `own`.
    pub fn status(&self, own: u64) -> Vec<PeerStatus> {
        let table = self.lock();
        let mut addresses = table.learned.clone();
        addresses.extend(table.members.clone().unwrap_or_default());
        addresses.remove(&own);
        let status = addresses.into_iter().map(|(node, address)| {
            let seen = table.seen.get(&node);
            PeerStatus {
                node,
                address,
                connected: seen.is_some_and(|seen| seen.connected),
                incarnation: seen.and_then(|seen| seen.incarnation),
                build: seen.and_then(|seen| seen.build.clone()),
                wire: seen.and_then(|seen| seen.wire),
            }
        });
        status.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_members_are_never_believed() {
        let dir = tempfile::tempdir().unwrap();
        let members = BTreeMap::from([(1, "127.0.0.1:8082".to_owned()), (2, "127.0.0.2:8082".to_owned())]);
        remember(dir.path(), &members).unwrap();
        let keys = Keys::from([(2, [7; 32])]);
        Peers::open(dir.path()).unwrap().set_keys(keys.clone()).unwrap();
        let path = dir.path().join("cluster").join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            for bytes in [&damaged[..], &whole[..at]] {
                fs::write(&path, bytes).unwrap();
                match Peers::open(dir.path()) {
                    Ok(peers) => {
                        assert_eq!((peers.members(), &peers.lock().keys), (members.clone(), &keys), "byte {at}");
                    }
                    Err(error) => assert!(error.to_string().contains("peers.json is damaged"), "{error}"),
                }
            }
        }
        fs::write(&path, serde_json::to_vec_pretty(&members).unwrap()).unwrap();
        assert_eq!(Peers::open(dir.path()).unwrap().members(), members, "written before there was a checksum");
    }
}
