//! The command that makes a new cluster, from a backup or of what is left, is killed at each of its steps: what it leaves does not
//! start as if it were whole, and the same command again makes it whole.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;

use super::restoring::restored;
use super::{Shelf, text};
use crate::mail::Maildir;
use crate::node::{Node, Plan};
use crate::person::Person;

/// Where the command is killed, and after how many passages.
pub const POINTS: [(&str, u64); 9] = [
    ("beginning.begun", 0),
    ("secrets.file_named", 1),
    ("secrets.file_named", 3),
    ("snapshot.written", 2),
    ("snapshot.named", 4),
    ("planting.log_begun", 3),
    ("formation.adopted", 0),
    ("beginning.noted", 0),
    ("beginning.finished", 0),
];

const SIGABRT: i32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_whose_making_is_killed_is_made_again_and_never_half_of_it_starts() {
    let shelf = Shelf::new();
    let mut old = Plan::sandbox().start().await;
    let outside = old.data();
    let ada = Person::sign_up(&old, &Maildir::of(&outside), "ada@example.com", "consumer").await;
    shelf.take(&old, &[]).await;
    old.kill().await;
    let from = text(&old.data());
    for (number, (point, before)) in POINTS.into_iter().enumerate() {
        for recovers in [false, true] {
            let mut node = restored(&outside);
            let data = text(&node.data());
            let recover = ["cluster", "recover", "--from", &from, "--accept-loss", "--data-dir", &data];
            let make = async |node: &Node| match recovers {
                true => node.command(&recover).output().await.expect("the binary runs"),
                false => shelf.restore(node, &[]).await,
            };
            let what = format!("{point} of {}", if recovers { "recover" } else { "restore" });
            node.arm(point, before);
            let killed = make(&node).await;
            assert_eq!(killed.status.signal(), Some(SIGABRT), "{what}: {}", said(&killed));
            node.disarm();
            let whole = point == "beginning.finished";
            if !whole {
                node.spawn();
                assert!(!node.comes_up().await, "{what}: half of it starts");
                assert!(node.log().contains("did not come to its end; do it again"), "{what}: {}", node.log());
            }
            let again = make(&node).await;
            assert_eq!(again.status.success(), !whole, "{what}: {}", said(&again));
            assert!(!whole || said(&again).contains("is in use"), "{what}: {}", said(&again));
            // Of every other one, which takes its time: it starts, and is what it was.
            if (number + usize::from(recovers)) % 2 == 0 {
                node.start().await;
                let me = ada.sign_in(&node).await.api.get("/v1/me").await;
                assert_eq!(me.expect(200)["email"], ada.email.as_str(), "{what}");
                node.kill().await;
            }
        }
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}
