//! The clock of one process, stepped under it (libfaketime).

use std::path::PathBuf;

use crate::node::Plan;

/// Moved by rewriting a file.
pub struct SteppedClock {
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl SteppedClock {
    pub fn new() -> Self {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let clock = Self { file: directory.path().join("clock"), _directory: directory };
        clock.step(0);
        clock
    }

    /// Sets the process's clock to so many seconds from the machine's.
    pub fn step(&self, seconds: i64) {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, format!("{seconds:+}\n")).expect("a written file");
        std::fs::rename(&fresh, &self.file).expect("a renamed file");
    }

    /// Only the date is moved: a step of a machine's clock leaves its monotonic one alone.
    pub fn under(&self, plan: Plan) -> Plan {
        plan.variable("LD_PRELOAD", &library())
            .variable("FAKETIME_TIMESTAMP_FILE", &self.file.display().to_string())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

fn library() -> String {
    let found = std::fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(|entry| {
        let library = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
        library.exists().then(|| library.display().to_string())
    });
    found.last().expect("the Debian package libfaketime, which scripts/test installs")
}
