//! Text messages into a file of JSON lines: what a node does that was told no vendor.
//!
//! Invariant: one effect is one line, synced before it counts ([`LineFile`]).

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{decode, receipt};
use crate::kernel::ProviderKind;
use crate::providers::line_file::{Held, LineFile};
use crate::providers::{Provider, ProviderError};

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    id: String,
    key: String,
    from: String,
    to: String,
    body: String,
    /// RFC 3339, of the wall clock.
    at: String,
}

struct Open {
    file: LineFile,
    /// Hashes of the keys in the file.
    known: HashSet<[u8; 16]>,
}

/// Appends messages to one file.
#[derive(Clone)]
pub struct SmsFile {
    open: Arc<Mutex<Open>>,
    from: String,
    public_url: String,
}

fn hash(key: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(&SHA256, key.as_bytes()).as_ref()[..16]);
    bytes
}

fn id_of(key: &str) -> String {
    format!("SM{}", hex::encode(hash(key)))
}

impl SmsFile {
    /// Opens or makes the file and reads which messages it holds.
    ///
    /// # Errors
    /// When the file cannot be read or repaired.
    pub fn open(path: &Path, from: &str, public_url: &str) -> io::Result<Self> {
        let kept = "which text messages were sent; one in doubt may be sent again";
        let mut open = Open { file: LineFile::open(path, kept)?, known: HashSet::new() };
        let held = open.file.hold()?;
        open.catch_up(&held)?;
        let public_url = public_url.trim_end_matches('/').to_owned();
        Ok(Self { open: Arc::new(Mutex::new(open)), from: from.to_owned(), public_url })
    }

    fn append(&self, line: &Line) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let held = open.file.hold()?;
        open.catch_up(&held)?;
        if open.known.contains(&hash(&line.key)) {
            return Ok(());
        }
        open.file.append(&held, line)?;
        open.known.insert(hash(&line.key));
        Ok(())
    }

    fn holds(&self, key: &str) -> io::Result<bool> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let held = open.file.hold()?;
        open.catch_up(&held)?;
        Ok(open.known.contains(&hash(key)))
    }
}

impl Open {
    /// Reads what other processes wrote.
    fn catch_up(&mut self, held: &Held) -> io::Result<()> {
        let lines = self.file.read_new::<Line>(held)?;
        self.known.extend(lines.iter().map(|line| hash(&line.key)));
        Ok(())
    }
}

#[async_trait]
impl Provider for SmsFile {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Sms
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, key: &str, request: &[u8], _attempt: u32) -> Result<Vec<u8>, ProviderError> {
        let request = decode(request, &self.public_url)?;
        let (id, from) = (id_of(key), self.from.clone());
        // The wall clock and not domain time: this is what a vendor would stamp.
        #[expect(clippy::disallowed_methods, reason = "the wall clock is meant")]
        let at = jiff::Timestamp::now().to_string();
        let line = Line { id: id.clone(), key: key.to_owned(), from, to: request.to, body: request.body, at };
        let file = self.clone();
        let written = tokio::task::spawn_blocking(move || file.append(&line)).await.map_err(io::Error::other);
        match written {
            Ok(Ok(())) => Ok(receipt(id)),
            Ok(Err(error)) | Err(error) => Err(ProviderError::Retry(format!("the file cannot be written: {error}"))),
        }
    }

    async fn reconcile(&self, key: &str, _request: &[u8]) -> Result<Option<Vec<u8>>, ProviderError> {
        let (file, of) = (self.clone(), key.to_owned());
        let held = tokio::task::spawn_blocking(move || file.holds(&of)).await.map_err(io::Error::other);
        match held {
            Ok(Ok(held)) => Ok(held.then(|| receipt(id_of(key)))),
            Ok(Err(error)) | Err(error) => Err(ProviderError::Retry(format!("the file cannot be read: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kernel::codec;
    use crate::providers::sms::SmsRequest;

    #[tokio::test]
    async fn one_effect_is_one_line_also_after_a_torn_write_and_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("outbox/sms.jsonl");
        let request = SmsRequest { to: "+14155550100".into(), body: "Your code is 123456.".into() };
        let bytes = codec::encode(&request).expect("bytes");
        let file = SmsFile::open(&path, "+1555", "http://x").expect("opened");
        let first = file.execute("a:1:0", &bytes, 0).await.expect("written");
        assert_eq!(file.execute("a:1:0", &bytes, 1).await.expect("written"), first);
        drop(file);
        let torn = [fs::read(&path).expect("bytes"), b"{\"id\":\"SM".to_vec()].concat();
        fs::write(&path, torn).expect("torn");
        let file = SmsFile::open(&path, "+1555", "http://x").expect("opened");
        assert!(matches!(file.reconcile("a:1:0", &bytes).await, Ok(Some(_))));
        assert!(matches!(file.reconcile("b:1:0", &bytes).await, Ok(None)));
        file.execute("a:1:0", &bytes, 0).await.expect("known");
        file.execute("b:1:0", &bytes, 0).await.expect("written");
        let lines: Vec<Line> = fs::read_to_string(&path)
            .expect("text")
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line"))
            .collect();
        assert_eq!(lines.iter().map(|line| line.key.as_str()).collect::<Vec<_>>(), ["a:1:0", "b:1:0"]);
        assert_eq!(lines[0].body, request.body);
    }
}
