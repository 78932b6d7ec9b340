//! A node as shipped, in a process of its own over a data directory on the measured disk. Only bounds that a single
//! machine full of clients would run into are raised; the limits count all the same.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::call;

pub const PASSWORD: &str = "seven green kettles sing at dawn";
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub struct Node {
    pub gateway: SocketAddr,
    pub admin: SocketAddr,
    /// Where other nodes connect.
    pub cluster: SocketAddr,
    /// What it is started with beside that, as names and values of the environment.
    set: Vec<(String, String)>,
    child: Child,
    directory: TempDir,
}

/// Somebody with an account and a session.
pub struct Person {
    pub id: String,
    pub email: String,
    pub token: String,
}

pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound address")
}

impl Node {
    pub fn start(place: &Path) -> Self {
        Self::start_with(place, Vec::new())
    }

    /// A node that is started with more settings, by the names of their environment variables behind `CONSTRUCT__`.
    pub fn start_with(place: &Path, set: Vec<(String, String)>) -> Self {
        let directory = tempfile::tempdir_in(place).expect("a directory");
        let addresses = [free_port(), free_port(), free_port()];
        let child = launch(&directory, addresses, &set);
        let [gateway, admin, cluster] = addresses;
        let mut node = Self { gateway, admin, cluster, set, child, directory };
        node.wait_ready();
        node
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("a child");
    }

    /// Starts a killed node again.
    pub fn restart(&mut self) {
        self.child = launch(&self.directory, [self.gateway, self.admin, self.cluster], &self.set);
        self.wait_ready();
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        until(deadline, "the node is ready", || {
            assert!(self.child.try_wait().expect("a child").is_none(), "the node ended: {}", self.log());
            let reachable = std::net::TcpStream::connect(self.gateway).is_ok();
            (reachable && call(self.gateway, "GET", "/readyz", None, None).0 == 200).then_some(())
        });
    }

    /// The administrator token of its data directory.
    pub fn operator(&self) -> String {
        let path = self.data().join("admin-token");
        std::fs::read_to_string(path).expect("an administrator token").trim().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("node.log")).unwrap_or_default()
    }

    /// Signs up so many people, who may publish and subscribe to topics.
    pub fn people(&self, count: usize) -> Vec<Person> {
        let people = (0..count).map(|number| format!("person-{number}@example.org"));
        let people: Vec<String> = people.collect();
        for email in &people {
            let body = json!({ "email": email, "password": PASSWORD, "role": "developer" });
            let (status, answer) = call(self.gateway, "POST", "/v1/signup", None, Some(&body));
            assert_eq!(status, 202, "{answer}");
        }
        let verify = |email: String| {
            let body = json!({ "token": self.mailed_token(&email) });
            let (status, answer) = call(self.gateway, "POST", "/v1/signup/verify", None, Some(&body));
            assert_eq!(status, 201, "{answer}");
            Person { id: text(&answer["user"], "id"), token: text(&answer, "access_token"), email }
        };
        people.into_iter().map(verify).collect()
    }

    /// The token of the link in the mail to a new address.
    fn mailed_token(&self, email: &str) -> String {
        let mails = self.data().join("outbox/mail/new");
        let wanted = format!("To: {email}");
        until(Instant::now() + READY_WITHIN, "the mail arrives", || {
            let mails =
                std::fs::read_dir(&mails).ok()?.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
            let mail = mails.into_iter().find(|mail| mail.contains(&wanted))?;
            // Quoted-printable: soft line breaks, and the equals sign of the query written as =3D.
            let mail = mail.replace("=\r\n", "").replace("=\n", "").replace("=3D", "=");
            let (_, rest) = mail.split_once("token=")?;
            rest.split(|c: char| c.is_whitespace() || "&\"<>)".contains(c)).next().map(str::to_owned)
        })
    }
}

fn launch(directory: &TempDir, [gateway, admin, cluster]: [SocketAddr; 3], set: &[(String, String)]) -> Child {
    let binary = std::env::var_os("CONSTRUCT_BENCH_BINARY");
    let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_construct").into());
    let log = OpenOptions::new().create(true).append(true).open(directory.path().join("node.log")).expect("a log file");
    let mut command = Command::new(binary);
    command.arg("serve").env("CONSTRUCT__NODE__DATA_DIR", directory.path().join("data"));
    for (name, address) in [("GATEWAY", gateway), ("ADMIN", admin), ("CLUSTER", cluster)] {
        command.env(format!("CONSTRUCT__{name}__LISTEN"), address.to_string());
    }
    for class in ["AUTH", "ACCOUNT", "PUBLIC", "READ", "WRITE"] {
        command.env(format!("CONSTRUCT__LIMITS__{class}__PER_MINUTE"), "100000000");
        command.env(format!("CONSTRUCT__LIMITS__{class}__BURST"), "10000000");
    }
    for bound in ["MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS", "WEBSOCKET__MAX_CONNECTIONS"] {
        command.env(format!("CONSTRUCT__GATEWAY__{bound}"), "19000");
    }
    command.envs(set.iter().map(|(name, value)| (format!("CONSTRUCT__{name}"), value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the node starts")
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
}

/// Asks again until there is an answer.
pub fn until<T>(deadline: Instant, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::park_timeout(POLL);
    }
}
