//! pyotp: an authenticator app's library.

use tokio::process::Command;

use super::installed;

pub async fn code(secret: &str, at: i64) -> String {
    let program = "import sys, pyotp; print(pyotp.TOTP(sys.argv[1]).at(int(sys.argv[2])))";
    let mut command = Command::new(installed("venv/bin/python"));
    let output = command.args(["-c", program, secret, &at.to_string()]).output().await.expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
