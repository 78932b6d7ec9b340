//! A real node in a process of its own, on ports of its own, over a data directory that outlives `kill -9`.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, Once};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::http::Client;

/// A debug build on a busy machine starts in seconds; more is a defect.
const READY_WITHIN: Duration = Duration::from_secs(90);
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 120;

static SAYS_PANICS: Once = Once::new();
static NEXT: AtomicU32 = AtomicU32::new(0);
static GIVEN: LazyLock<Mutex<HashSet<SocketAddr>>> = LazyLock::new(Mutex::default);

/// What a node is started with: the sandbox defaults of the tests, and what a test sets on top.
#[derive(Clone)]
pub struct Plan {
    environment: Vec<(String, String)>,
    /// Where the data goes; elsewhere than beside the log when a test wants a disk of its own.
    data: Option<PathBuf>,
    /// What the node runs under, such as strace(1) and its arguments.
    under: Vec<String>,
    /// Another binary than the one under test.
    binary: Option<PathBuf>,
    ip: Option<Ipv4Addr>,
}

impl Plan {
    /// Virtual clock, limits out of the way, everything else embedded defaults.
    pub fn sandbox() -> Self {
        let plan = Self { environment: Vec::new(), data: None, under: Vec::new(), binary: None, ip: None };
        let plan = plan.set("clock", "virtual");
        ["auth", "account", "public", "read", "write", "money"].iter().fold(plan, |plan, class| {
            let plan = plan.set(&format!("limits.{class}.per_minute"), "1000000");
            plan.set(&format!("limits.{class}.burst"), "1000000")
        })
    }

    /// Sets a key of the configuration, such as `mail.transport`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.environment.push((variable(key), value.to_owned()));
        self
    }

    /// Sets a variable of the process.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps the data in this directory.
    pub fn data(mut self, path: PathBuf) -> Self {
        self.data = Some(path);
        self
    }

    /// Runs the node under another program.
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs this binary instead of the one under test.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.binary = Some(path);
        self
    }

    /// Listens on this address instead of one that no other test uses: where a name must resolve to it.
    pub fn at(mut self, ip: Ipv4Addr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// Starts the node and waits until it is ready.
    pub async fn start(self) -> Node {
        let mut node = self.prepare();
        node.start().await;
        node
    }

    /// The node, not started yet.
    pub fn prepare(self) -> Node {
        SAYS_PANICS.call_once(say_panics);
        let directory = TempDir::new().expect("a temporary directory");
        let ip = self.ip.unwrap_or_else(loopback);
        Node {
            gateway: free_port(ip),
            admin: free_port(ip),
            cluster: free_port(ip),
            environment: self.environment,
            data: self.data.unwrap_or_else(|| directory.path().join("data")),
            under: self.under,
            binary: self.binary,
            directory,
            child: None,
        }
    }
}

/// Says of every panic, beside the progress of the tests, what is otherwise in the middle of thousands of lines at their end.
fn say_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string().replace('\n', " ");
        // Not captured, unlike what `eprintln` says.
        let _ = writeln!(std::io::stderr(), "{text:.600}");
        before(panic);
    }));
}

/// The binary that was built with the tests, or the one that `CONSTRUCT_TEST_BINARY` names.
pub fn under_test() -> PathBuf {
    std::env::var_os("CONSTRUCT_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_construct").into(), PathBuf::from)
}

/// The environment variable of a key of the configuration.
fn variable(key: &str) -> String {
    format!("CONSTRUCT__{}", key.to_uppercase().replace('.', "__"))
}

/// A loopback address that no other test of this run uses.
pub fn loopback() -> Ipv4Addr {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, _, _, pid] = std::process::id().to_be_bytes();
    let [_, _, high, low] = (number + 2).to_be_bytes();
    Ipv4Addr::new(127, 1 + pid % 250, high, low)
}

/// A port that was free a moment ago on an address that nobody else uses; never one that was answered before.
pub fn free_port(ip: Ipv4Addr) -> SocketAddr {
    let mut given = GIVEN.lock().expect("nobody panics with it");
    loop {
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        if given.insert(address) {
            return address;
        }
    }
}

/// A running node. Killed when dropped; its log is printed when the test failed.
pub struct Node {
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
    pub cluster: SocketAddr,
    environment: Vec<(String, String)>,
    data: PathBuf,
    under: Vec<String>,
    binary: Option<PathBuf>,
    directory: TempDir,
    child: Option<Child>,
}

impl Node {
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// What the node is called in its cluster.
    pub fn id(&self) -> u64 {
        let set = self.environment.iter().find(|(name, _)| name == "CONSTRUCT__NODE__ID");
        set.map_or(1, |(_, id)| id.parse().expect("a number"))
    }

    /// Sets a key of the configuration from the next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        let name = variable(key);
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.to_owned()));
    }

    /// Resident memory of the process in bytes.
    pub fn resident(&self) -> u64 {
        let id = self.child.as_ref().and_then(Child::id).expect("a running node");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.expect("a size") << 10
    }

    /// The gateway, without credentials.
    pub fn api(&self) -> Client {
        Client::new(format!("http://{}", self.gateway))
    }

    /// The admin endpoint, with the administrator token of the data directory.
    pub fn operator(&self) -> Client {
        let token = std::fs::read_to_string(self.data().join("admin-token")).expect("an administrator token");
        Client::new(format!("http://{}", self.admin)).with_token(token.trim())
    }

    /// The gateway, with the administrator token.
    pub fn operator_api(&self) -> Client {
        let token = std::fs::read_to_string(self.data().join("admin-token")).expect("an administrator token");
        self.api().with_token(token.trim())
    }

    /// The node's binary with its flags and environment, for another subcommand.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let binary = self.binary.clone().unwrap_or_else(under_test);
        let mut command = Command::new(self.under.first().map_or(binary.as_path(), Path::new));
        if !self.under.is_empty() {
            command.args(&self.under[1..]).arg(binary);
        }
        command.args(arguments).env_clear().envs(self.environment.clone()).current_dir(self.directory.path());
        command.stdin(Stdio::null()).kill_on_drop(true);
        for name in ["PATH", "HOME", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs the binary under test from the next start on, whatever it ran before.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub fn upgrade(&mut self) {
        self.binary = None;
    }

    /// Runs another binary from the next start on.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub fn downgrade(&mut self, to: PathBuf) {
        self.binary = Some(to);
    }

    /// Sets a variable of the process for its next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process over whatever the data directory holds.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_ready().await;
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        self.spawn_printing_to(log.into());
    }

    /// Starts the process with another standard output than the log.
    pub fn spawn_printing_to(&mut self, stdout: Stdio) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = self.command(&["serve"]);
        command
            .env("CONSTRUCT__NODE__DATA_DIR", self.data())
            .env("CONSTRUCT__GATEWAY__LISTEN", self.gateway.to_string())
            .env("CONSTRUCT__ADMIN__LISTEN", self.admin.to_string())
            .env("CONSTRUCT__CLUSTER__LISTEN", self.cluster.to_string())
            .stdout(stdout)
            .stderr(log);
        self.child = Some(command.spawn().expect("the binary starts"));
    }

    pub async fn wait_ready(&mut self) {
        assert!(self.ready_or_ended().await, "the node ended before it was ready\n{}", self.log());
    }

    /// Waits until the node is ready; false when it ended before.
    pub async fn ready_or_ended(&mut self) -> bool {
        let deadline = Instant::now() + READY_WITHIN;
        let client = self.api();
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        loop {
            poll.tick().await;
            if client.try_get("/readyz").await.is_some_and(|answer| answer.status == 200) {
                return true;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child to wait for"));
            if ended.is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "the node is not ready within {READY_WITHIN:?}\n{}", self.log());
        }
    }

    /// Lets the next process end itself once it passed a fail point `before` times and comes there again.
    #[cfg(feature = "failpoints")]
    pub fn arm(&mut self, point: &str, before: u64) {
        self.disarm();
        let skipped = if before > 0 { format!("{before}*off->") } else { String::new() };
        self.environment.push(("FAILPOINTS".to_owned(), format!("{point}={skipped}return")));
    }

    /// Lets every one of so many passages in a hundred of a fail point take so long, from the next start on.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub fn delay(&mut self, point: &str, percent: u64, milliseconds: u64) {
        self.disarm();
        let action = "sleep";
        self.environment.push(("FAILPOINTS".to_owned(), format!("{point}={percent}%{action}({milliseconds})")));
    }

    #[cfg(feature = "failpoints")]
    pub fn disarm(&mut self) {
        self.environment.retain(|(name, _)| name != "FAILPOINTS");
    }

    /// Waits until the process has ended.
    #[cfg(feature = "failpoints")]
    pub async fn ended(&mut self) {
        self.child.as_mut().expect("a running node").wait().await.expect("an exit status");
    }

    /// Waits until the process has ended by itself, by SIGABRT.
    #[cfg(feature = "failpoints")]
    pub async fn aborted(&mut self) {
        let mut child = self.child.take().expect("a running node");
        let ended = tokio::time::timeout(ENDS_WITHIN, child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("no end within {ENDS_WITHIN:?}\n{}", self.log()));
        let signal = std::os::unix::process::ExitStatusExt::signal(&status.expect("an exit status"));
        assert_eq!(signal, Some(6), "aborted\n{}", self.log());
    }

    /// The id of the running process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("a running node")
    }

    /// Stops the process as SIGSTOP does, or lets it go on.
    #[cfg(all(feature = "failpoints", feature = "peers"))]
    pub async fn pause(&self, pause: bool) {
        let signal = if pause { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &self.process().to_string()]).status().await.expect("kill(1)");
        assert!(sent.success(), "{signal} was sent");
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("a killed child");
        }
    }

    /// `kill -9` for whoever does not hold the node; `kill` must still follow.
    pub fn killer(&self) -> impl Future<Output = ()> + use<> {
        let id = self.process().to_string();
        async move {
            let sent = Command::new("kill").args(["-KILL", &id]).status().await.expect("kill(1)");
            assert!(sent.success(), "SIGKILL was sent");
        }
    }

    /// `kill -9` and a start over the same data.
    pub async fn crash(&mut self) {
        self.kill().await;
        self.start().await;
    }

    /// SIGTERM; the node must end by itself, in time and with success.
    pub async fn stop(&mut self) {
        let mut child = self.child.take().expect("a running node");
        let id = child.id().expect("a process id").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await.expect("kill(1)");
        assert!(sent.success(), "SIGTERM was sent");
        let ended = tokio::time::timeout(ENDS_WITHIN, child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("no end within {ENDS_WITHIN:?}\n{}", self.log()));
        assert!(status.expect("an exit status").success(), "a graceful end\n{}", self.log());
    }

    /// Waits until it ends by itself, and answers whether with success.
    pub async fn ends_well(&mut self) -> bool {
        let mut child = self.child.take().expect("a running node");
        let ended = tokio::time::timeout(ENDS_WITHIN, child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("no end within {ENDS_WITHIN:?}\n{}", self.log()));
        status.expect("an exit status").success()
    }

    /// Waits until it is ready, or has ended by itself: then false.
    pub async fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + READY_WITHIN;
        let client = self.api();
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        while self.runs() {
            assert!(Instant::now() < deadline, "neither ready nor ended within {READY_WITHIN:?}\n{}", self.log());
            if client.try_get("/readyz").await.is_some_and(|answer| answer.status == 200) {
                return true;
            }
            poll.tick().await;
        }
        self.child = None;
        false
    }

    /// Whether the process is there.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child to wait for").is_none())
    }

    /// Forgets what was logged so far.
    pub fn forget_log(&self) {
        std::fs::write(self.log_path(), b"").expect("a log file");
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("node.log")
    }

    /// Everything it logged, over all starts.
    pub fn whole_log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The end of the log.
    pub fn log(&self) -> String {
        tail(&self.log_path())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the node ---\n{}", self.log());
            if std::env::var_os("CONSTRUCT_TEST_KEEP").is_some() {
                self.directory.disable_cleanup(true);
                eprintln!("--- its data is kept in {}", self.directory.path().display());
            }
        }
    }
}

pub fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
