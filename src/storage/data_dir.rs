//! The directory of everything a node keeps, held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "LOCK";

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data directory {path} is in use by {holder}; one process at a time may open it")]
    InUse { path: PathBuf, holder: String },
    #[error("data directory: cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The locked directory. The lock goes with the value, and with the process however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be, durably and for this user alone, and locks it.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] when another process has it, otherwise what the system says.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |action| move |source| DataDirError::Io { action, path: path.to_owned(), source };
        create(path).map_err(io("create"))?;
        let lock = path.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io("open the lock file of"))?;
        if !fs4::fs_std::FileExt::try_lock_exclusive(&file).map_err(io("lock"))? {
            return Err(DataDirError::InUse { path: path.to_owned(), holder: holder(&mut file) });
        }
        write_holder(&mut file).map_err(io("write the lock file of"))?;
        sync_dir(path).map_err(io("sync"))?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside, created durably if need be.
    ///
    /// # Errors
    /// What the system says.
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(name);
        match create(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(DataDirError::Io { action: "create", path, source }),
        }
    }
}

/// Creates the directory and those above it, each synced into its parent, so that none is lost with its contents.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    sync_dir(parent)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(std::process::id().to_string().as_bytes())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => format!("process {text}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_holder_at_a_time_and_it_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("a/b");
        let held = DataDir::open(&path).expect("free");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        assert!(held.subdirectory("wal").expect("created").is_dir());
        let refused = DataDir::open(&path).expect_err("in use").to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(held);
        DataDir::open(&path).expect("free again");
    }

    #[test]
    fn a_place_that_cannot_be_a_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let refused = DataDir::open(&file.path().join("x")).expect_err("not a directory").to_string();
        assert!(refused.contains("cannot create"), "{refused}");
    }
}
