//! The unit for systemd: read by systemd's own tools, and the protocol it relies on.

use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::file;
use crate::node::Plan;

const HEARD_WITHIN: Duration = Duration::from_secs(60);
/// Of systemd's scale from 0 to 100; a service that restricts nothing has 96.
const MOST_EXPOSURE: &str = "--threshold=15";

async fn analyze(arguments: &[&str]) -> (bool, String) {
    let ran = Command::new("systemd-analyze").args(arguments).output().await;
    let Output { status, stdout, stderr } = ran.expect("systemd-analyze; run these tests through scripts/test");
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

#[tokio::test]
async fn the_unit_is_valid_and_exposes_little() {
    let unit = std::fs::read_to_string(file("deploy/systemd/construct.service")).expect("the unit");
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("construct.service");
    let installed = "ExecStart=/usr/local/bin/construct serve --config /etc/construct/node.toml";
    assert!(unit.contains(installed), "{unit}");
    let built = unit.replace("/usr/local/bin/construct", env!("CARGO_BIN_EXE_construct"));
    std::fs::write(&path, built).expect("a file");
    let path = path.to_str().expect("a path");
    let (fine, said) = analyze(&["verify", path]).await;
    assert!(fine && said.is_empty(), "{said}");
    let (fine, said) = analyze(&["security", "--offline=true", "--no-pager", MOST_EXPOSURE, path]).await;
    assert!(fine, "{said}");
}

#[tokio::test]
async fn the_configuration_beside_it_is_one() {
    let node = Plan::sandbox().prepare();
    let path = file("deploy/systemd/node.toml").display().to_string();
    let printed = node.command(&["config", "print", "--config", &path]).output().await.expect("the binary runs");
    let text = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert!(text.contains("data_dir = \"/var/lib/construct/data\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_when_the_node_serves_and_when_it_stops() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(HEARD_WITHIN)).expect("a deadline");
    let hear = || {
        let mut text = [0; 256];
        let length = socket.recv(&mut text).expect("a message within the deadline");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let mut node = Plan::sandbox().variable("NOTIFY_SOCKET", path.to_str().expect("a path")).prepare();
    node.spawn();
    assert_eq!(hear(), "READY=1");
    assert_eq!(node.api().get("/readyz").await.status, 200, "it serves by then");
    node.stop().await;
    assert_eq!(hear(), "STOPPING=1");
}
