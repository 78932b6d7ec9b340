//! The main job with programs made elsewhere at every edge: maildev takes the mail, localstripe the charges, the npm
//! `centrifuge` client listens, pyotp is the authenticator.
//!
//! They are installed by `scripts/test`, which names their directory in `CONSTRUCT_TEST_PEERS`. Without it these tests
//! fail; they never skip.

mod adapters;
mod browser;
mod centrifuge;
mod clock_jump;
mod counting_proxy;
mod localstripe;
mod maildev;
mod pages;
mod pyotp;
mod recovery;
mod restoring;
mod schemathesis;
mod tour;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where `scripts/test` put the peers.
pub fn installed(path: &str) -> PathBuf {
    let root = std::env::var_os("CONSTRUCT_TEST_PEERS").map(PathBuf::from);
    let root = root.expect("CONSTRUCT_TEST_PEERS names the installed peers; run these tests through scripts/test");
    let path = root.join(path);
    assert!(path.exists(), "{} is not there; run scripts/test", path.display());
    path
}

fn npm() -> PathBuf {
    installed("npm/node_modules").with_file_name("")
}

/// A program of the other side, ended with its test.
fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Waits until a peer answers HTTP at all.
async fn answers(url: &str) {
    let client = crate::http::plain();
    let deadline = Instant::now() + READY_WITHIN;
    let mut poll = tokio::time::interval(Duration::from_millis(50));
    loop {
        poll.tick().await;
        if client.get(url).send().await.is_ok() {
            return;
        }
        assert!(Instant::now() < deadline, "{url} does not answer within {READY_WITHIN:?}");
    }
}
