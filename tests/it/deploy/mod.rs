//! What `deploy/` holds for operators, held against the node it speaks of and against the programs that read it.

#[cfg(feature = "peers")]
mod kubernetes;
#[cfg(feature = "peers")]
mod prometheus;
#[cfg(feature = "peers")]
mod queries;
mod systemd;
mod token_file;

use std::path::PathBuf;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
