//! `construct cluster keys` and `construct cluster rotate-keys`: the key-encryption key.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::CliError;
use super::admin::{Admin, AdminArgs};
use super::cluster::{list, pretty};
use super::table::{cell, render};

/// The node's own bound for a rotation, and some more.
const ROTATED_WITHIN: Duration = Duration::from_secs(3660);

/// What each member has.
pub async fn status(args: &AdminArgs) -> Result<String, CliError> {
    let keys = Admin::open(args)?.get("/admin/v1/keys").await?;
    Ok(if args.json { pretty(&keys) } else { table(&keys) })
}

/// Rotates, and says what was done.
pub async fn rotate(args: &AdminArgs) -> Result<String, CliError> {
    let rotated = Admin::waiting(args, ROTATED_WITHIN)?.change(Method::POST, "/admin/v1/keys/rotate", None).await?;
    Ok(if args.json { pretty(&rotated) } else { done(&rotated) })
}

fn table(keys: &Value) -> String {
    let (active, retired_below) = (keys["active"].as_u64(), keys["retired_below"].as_u64());
    let state = |member: &Value| {
        let versions: Vec<u64> = list(member, "versions").iter().filter_map(Value::as_u64).collect();
        if !member["unanswered"].is_null() {
            return cell(&member["unanswered"]);
        }
        let lacks = !versions.iter().any(|version| Some(*version) == active);
        let keeps = versions.first().is_some_and(|oldest| retired_below.is_some_and(|below| *oldest < below));
        let faults = [(lacks, "lacks the one in use"), (keeps, "has not destroyed old ones yet")];
        let faults: Vec<&str> = faults.into_iter().filter_map(|(is, text)| is.then_some(text)).collect();
        if faults.is_empty() { "ok".to_owned() } else { faults.join(", ") }
    };
    let members = list(keys, "members");
    let rows: Vec<Vec<String>> =
        members.iter().map(|member| vec![cell(&member["node"]), cell(&member["versions"]), state(member)]).collect();
    let mut text = format!("Version {} is in use.\n", cell(&keys["active"]));
    if keys["unfinished"] == true {
        text += "A rotation is under way, or ended before it was done: `construct cluster rotate-keys` finishes it.\n";
    }
    text + &render(&["NODE", "VERSIONS", "STATE"], &rows)
}

fn done(rotated: &Value) -> String {
    let (version, rewrapped) = (cell(&rotated["version"]), cell(&rotated["rewrapped"]));
    let mut text = format!("Version {version} is in use; {rewrapped} data keys were wrapped anew.\n");
    for node in list(rotated, "waiting") {
        text += &format!("Node {} has not destroyed the old versions yet: it does when it is back.\n", cell(&node));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_says_who_lacks_and_who_keeps_what() {
        let member = |node: u64, versions: &[u64], unanswered: Option<&str>| json!({ "node": node, "versions": versions, "unanswered": unanswered });
        let members = [
            member(1, &[3], None),
            member(2, &[2, 3], None),
            member(3, &[2], None),
            member(4, &[], Some("No answer.")),
        ];
        let text = table(&json!({ "active": 3, "retired_below": 3, "unfinished": false, "members": members }));
        let expected = "Version 3 is in use.\nNODE  VERSIONS  STATE\n1     3         ok\n2     2,3       has not \
                        destroyed old ones yet\n3     2         lacks the one in use, has not destroyed old ones yet\n\
                        4     -         No answer.\n";
        assert_eq!(text, expected);
        let text = table(
            &json!({ "active": 3, "retired_below": 2, "unfinished": true, "members": [member(1, &[2, 3], None)] }),
        );
        assert!(
            text.contains("`construct cluster rotate-keys` finishes it") && text.ends_with("2,3       ok\n"),
            "{text}"
        );
    }

    #[test]
    fn a_rotation_says_who_is_late() {
        let text = done(&json!({ "version": 2, "rewrapped": 5, "waiting": [3] }));
        assert!(text.starts_with("Version 2 is in use; 5 data keys were wrapped anew.\nNode 3 has not"), "{text}");
    }
}
