//! Mail into a Maildir (<https://cr.yp.to/proto/maildir.html>): what a node does that was told no mail server.
//!
//! Invariant: one effect is one file. The name is made from the effect's key, so a repeat finds the mail there (in
//! `new`, or in `cur` where a reader moved it) and writes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Sender, decode, name_of, receipt};
use crate::kernel::ProviderKind;
use crate::providers::{Provider, ProviderError};

/// Writes mails under one directory.
#[derive(Debug, Clone)]
pub struct Maildir {
    root: PathBuf,
    sender: Sender,
}

impl Maildir {
    /// Makes `root/{tmp,new,cur}`.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(root: &Path, sender: Sender) -> io::Result<Self> {
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(root.join(part))?;
        }
        Ok(Self { root: root.to_owned(), sender })
    }

    fn delivered(&self, name: &str) -> io::Result<bool> {
        if self.root.join("new").join(name).try_exists()? {
            return Ok(true);
        }
        for entry in fs::read_dir(self.root.join("cur"))? {
            let found = entry?.file_name();
            let found = found.to_string_lossy();
            if found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Durable before it is visible: written and synced in `tmp`, renamed into `new`, and the rename synced too.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.delivered(name)? {
            return Ok(());
        }
        let (from, to) = (self.root.join("tmp").join(name), self.root.join("new").join(name));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&from)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&from, &to)?;
        File::open(self.root.join("new"))?.sync_all()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[async_trait]
impl Provider for Maildir {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Email
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let message = self.sender.message(key, &decode(request)?)?.formatted();
        let (maildir, name) = (self.clone(), name_of(key));
        blocking(move || maildir.write(&name, &message))
            .await
            .map_err(|error| ProviderError::Retry(format!("the Maildir cannot be written: {error}")))?;
        Ok(receipt(self.sender.message_id(key)))
    }

    async fn reconcile(&self, key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        let (maildir, name) = (self.clone(), name_of(key));
        let delivered = blocking(move || maildir.delivered(&name)).await;
        match delivered {
            Ok(delivered) => Ok(delivered.then(|| receipt(self.sender.message_id(key)))),
            Err(error) => Err(ProviderError::Unknown(format!("the Maildir cannot be read: {error}"))),
        }
    }
}
