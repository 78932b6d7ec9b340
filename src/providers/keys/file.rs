//! The key service of a node without a KMS: the root key in a file of its own.
//!
//! `root.key` holds 32 random bytes; `keyset` holds the KEK versions and the derivation secret, each sealed with
//! AES-256-GCM under the root key. Both are made at first start with mode 0600 and synced before first use, and
//! replaced only by an atomic rename. All members of a cluster have the same root key, under which new versions travel
//! between them. A keyset without its root key is never papered over with a new one. The two
//! files are enough to read everything: back them up apart from the data.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{KeyError, KeyWrapper, WrappedKey};
use crate::kernel::fail_point;

const ROOT_FILE: &str = "root.key";
const KEYSET_FILE: &str = "keyset";
const ROOT_HEADER: &str = "construct root key v1";
/// What is lost with either file, and the remedy.
const FROM_BACKUP: &str =
    "restore the file from its backup (without it nothing personal in this data directory can be read)";
const NONCE_BYTES: usize = 12;
/// Far above any real file of these two; a larger one is not ours.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

type Key = Zeroizing<[u8; 32]>;

/// [`KeyWrapper`] over two files in the data directory. Cheap to clone.
#[derive(Clone)]
pub struct FileKeys {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    root: Key,
    derivation: Key,
    keks: RwLock<Keks>,
    /// Held while the keyset file is being replaced.
    writing: Mutex<()>,
}

/// The versions of the KEK, and which of them wraps; there always is that one.
#[derive(Clone)]
struct Keks {
    current: u32,
    keys: BTreeMap<u32, Key>,
}

/// The stored form of the keyset; every value is base64 of `nonce ‖ ciphertext ‖ tag`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKeyset {
    format: u32,
    derivation: String,
    keks: BTreeMap<u32, String>,
    /// The version that wraps, where that is not the newest: while a rotation hands that one out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<u32>,
}

impl FileKeys {
    /// Refuses a data directory that is in use but whose keys are gone: new ones would open nothing that is there.
    ///
    /// # Errors
    /// [`KeyError::Refused`] with the remedy.
    pub fn must_exist(directory: &Path) -> Result<(), KeyError> {
        let missing = [ROOT_FILE, KEYSET_FILE].map(|file| directory.join(file)).into_iter().find(|path| !path.exists());
        let problem = format!("the file is missing, but this data directory is in use; {FROM_BACKUP}");
        missing.map_or(Ok(()), |path| Err(refused(&path, &problem)))
    }

    /// Opens the keys in `directory`, making them when there are none.
    ///
    /// # Errors
    /// [`KeyError::Refused`] when a file is readable by others, damaged, or the keyset's root key is missing or
    /// another one; [`KeyError::Io`].
    pub fn open(directory: &Path) -> Result<Self, KeyError> {
        let (root_path, keyset_path) = (directory.join(ROOT_FILE), directory.join(KEYSET_FILE));
        let keyset = read_private(&keyset_path)?;
        let root = match (read_private(&root_path)?, &keyset) {
            (Some(text), _) => parse_root(&root_path, &text)?,
            (None, None) => create_root(&root_path)?,
            (None, Some(_)) => {
                let problem = format!("the root key is missing, but keys sealed under it exist; {FROM_BACKUP}");
                return Err(refused(&root_path, &problem));
            }
        };
        let (derivation, keks) = match keyset {
            Some(text) => parse_keyset(&keyset_path, &text, &root)?,
            None => {
                let keks = Keks { current: 1, keys: BTreeMap::from([(1, random_key())]) };
                let derivation = random_key();
                write_keyset(directory, &root, &derivation, &keks)?;
                (derivation, keks)
            }
        };
        let (keks, writing) = (RwLock::new(keks), Mutex::new(()));
        let inner = Inner { directory: directory.to_owned(), root, derivation, keks, writing };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writes these keys over those of another directory with the same root key.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn copy_to(&self, directory: &Path) -> Result<(), KeyError> {
        write_keyset(directory, &self.inner.root, &self.inner.derivation, &self.inner.keks())
    }
}

impl Inner {
    fn keks(&self) -> RwLockReadGuard<'_, Keks> {
        self.keks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kek(&self, version: u32) -> Result<Key, KeyError> {
        self.keks().keys.get(&version).cloned().ok_or(KeyError::NoSuchVersion { version })
    }

    fn current(&self) -> (u32, Key) {
        let keks = self.keks();
        (keks.current, keks.keys.get(&keks.current).expect("a keyset always has a current version").clone())
    }

    /// Writes the keyset that `change` makes of the present one, if it changes it, then takes it into use.
    async fn replace(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Keks) -> Result<bool, KeyError> + Send + 'static,
    ) -> Result<(), KeyError> {
        let inner = Arc::clone(self);
        let replaced = tokio::task::spawn_blocking(move || {
            let _writing = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut keks = inner.keks().clone();
            if change(&mut keks)? {
                write_keyset(&inner.directory, &inner.root, &inner.derivation, &keks)?;
                *inner.keks.write().unwrap_or_else(PoisonError::into_inner) = keks;
            }
            Ok(())
        });
        replaced.await.map_err(|error| failed(&self.directory.join(KEYSET_FILE), "written", io::Error::other(error)))?
    }
}

#[async_trait]
impl KeyWrapper for FileKeys {
    async fn wrap(&self, owner: &str, key: &[u8; 32]) -> Result<WrappedKey, KeyError> {
        let (version, kek) = self.inner.current();
        Ok(WrappedKey { version, bytes: seal(&kek, &owner_place(owner), key) })
    }

    async fn unwrap(&self, owner: &str, wrapped: &WrappedKey) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let version = wrapped.version;
        let kek = self.inner.kek(version)?;
        open(&kek, &owner_place(owner), &wrapped.bytes).ok_or(KeyError::DoesNotOpen)
    }

    fn current_version(&self) -> u32 {
        self.inner.current().0
    }

    fn versions(&self) -> Vec<u32> {
        self.inner.keks().keys.keys().copied().collect()
    }

    async fn make(&self, version: u32) -> Result<(), KeyError> {
        let change = move |keks: &mut Keks| match keks.keys.last_key_value() {
            Some((newest, _)) if *newest == version => Ok(false),
            Some((newest, _)) if *newest > version => Err(KeyError::NoSuchVersion { version }),
            _ => Ok(keks.keys.insert(version, random_key()).is_none()),
        };
        self.inner.replace(change).await
    }

    async fn wrap_under(&self, version: u32) -> Result<(), KeyError> {
        let change = move |keks: &mut Keks| {
            if keks.current >= version {
                return Ok(false);
            }
            keks.keys.get(&version).ok_or(KeyError::NoSuchVersion { version })?;
            keks.current = version;
            Ok(true)
        };
        self.inner.replace(change).await
    }

    async fn hand_out(&self, version: u32) -> Result<Vec<u8>, KeyError> {
        Ok(seal(&self.inner.root, &kek_place(version), &*self.inner.kek(version)?))
    }

    async fn take_in(&self, version: u32, sealed: &[u8]) -> Result<(), KeyError> {
        let key = open(&self.inner.root, &kek_place(version), sealed).ok_or(KeyError::DoesNotOpen)?;
        let change = move |keks: &mut Keks| match keks.keys.get(&version) {
            Some(held) if *held == key => Ok(false),
            Some(_) => Err(KeyError::DoesNotOpen),
            // Destroyed here, and so on its way out everywhere.
            None if keks.keys.first_key_value().is_some_and(|(oldest, _)| *oldest > version) => {
                Err(KeyError::NoSuchVersion { version })
            }
            None => Ok(keks.keys.insert(version, key).is_none()),
        };
        self.inner.replace(change).await
    }

    async fn destroy_below(&self, version: u32) -> Result<(), KeyError> {
        let change = move |keks: &mut Keks| {
            if version > keks.current {
                return Err(KeyError::NoSuchVersion { version });
            }
            let kept = keks.keys.split_off(&version);
            Ok(!std::mem::replace(&mut keks.keys, kept).is_empty())
        };
        self.inner.replace(change).await
    }

    fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        let mut output = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, b"construct derive v1")
            .extract(self.inner.derivation.as_ref())
            .expand(&[label.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(output.as_mut()))
            .expect("32 bytes are within what HKDF-SHA-256 gives");
        output
    }
}

fn owner_place(owner: &str) -> String {
    format!("construct data key of {owner}")
}

fn kek_place(version: u32) -> String {
    format!("construct kek {version}")
}

const DERIVATION_PLACE: &str = "construct derivation secret";

fn random_key() -> Key {
    let mut key = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(key.as_mut()).expect("the operating system's generator works");
    key
}

fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a 32-byte key"))
}

/// `nonce (12) ‖ ciphertext (32) ‖ tag (16)`.
fn seal(key: &[u8; 32], place: &str, plain: &[u8; 32]) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut nonce).expect("the operating system's generator works");
    let mut body = Zeroizing::new(*plain);
    let tag = aead(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place.as_bytes()), body.as_mut())
        .expect("32 bytes are within the limit of AES-GCM");
    [&nonce[..], &body[..], tag.as_ref()].concat()
}

fn open(key: &[u8; 32], place: &str, sealed: &[u8]) -> Option<Key> {
    let (nonce, body) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut body = Zeroizing::new(body.to_vec());
    let plain = aead(key).open_in_place(nonce, Aad::from(place.as_bytes()), &mut body).ok()?;
    let plain: &[u8; 32] = (&*plain).try_into().ok()?;
    Some(Zeroizing::new(*plain))
}

fn create_root(path: &Path) -> Result<Key, KeyError> {
    let root = random_key();
    let text = Zeroizing::new(format!("{ROOT_HEADER}\n{}\n", Zeroizing::new(BASE64.encode(root.as_ref())).as_str()));
    write_private(path, text.as_bytes())?;
    Ok(root)
}

fn parse_root(path: &Path, text: &str) -> Result<Key, KeyError> {
    let mut lines = text.lines();
    let key = match (lines.next(), lines.next(), lines.next()) {
        (Some(ROOT_HEADER), Some(key), None) => BASE64.decode(key.trim()).ok().map(Zeroizing::new),
        _ => None,
    };
    let key = key.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    key.map(Zeroizing::new).ok_or_else(|| {
        let problem = format!(
            "not a root key; expected a line {ROOT_HEADER:?} and a line with 32 bytes in base64; {FROM_BACKUP}"
        );
        refused(path, &problem)
    })
}

fn parse_keyset(path: &Path, text: &str, root: &[u8; 32]) -> Result<(Key, Keks), KeyError> {
    let stored: StoredKeyset =
        serde_json::from_str(text).map_err(|error| refused(path, &format!("not a keyset: {error}; {FROM_BACKUP}")))?;
    if stored.format != 1 || stored.keks.is_empty() {
        return Err(refused(path, &format!("not a keyset of format 1 with at least one version; {FROM_BACKUP}")));
    }
    let opened = |place: &str, text: &str| {
        let sealed = BASE64.decode(text).ok();
        sealed.and_then(|sealed| open(root, place, &sealed)).ok_or_else(|| {
            let problem = format!(
                "the {place} does not open with {ROOT_FILE}: another root key, or one of the two files is damaged; \
                 {FROM_BACKUP}"
            );
            refused(path, &problem)
        })
    };
    let mut keys = BTreeMap::new();
    for (version, text) in &stored.keks {
        keys.insert(*version, opened(&kek_place(*version), text)?);
    }
    let current = stored.current.or(keys.last_key_value().map(|(newest, _)| *newest));
    let Some(current) = current.filter(|current| keys.contains_key(current)) else {
        return Err(refused(path, &format!("the version that wraps is missing; {FROM_BACKUP}")));
    };
    Ok((opened(DERIVATION_PLACE, &stored.derivation)?, Keks { current, keys }))
}

fn write_keyset(directory: &Path, root: &[u8; 32], derivation: &[u8; 32], keks: &Keks) -> Result<(), KeyError> {
    let sealed = |place: &str, key: &[u8; 32]| BASE64.encode(seal(root, place, key));
    let newest = keks.keys.last_key_value().map(|(newest, _)| *newest);
    let stored = StoredKeyset {
        format: 1,
        derivation: sealed(DERIVATION_PLACE, derivation),
        keks: keks.keys.iter().map(|(version, key)| (*version, sealed(&kek_place(*version), key))).collect(),
        current: Some(keks.current).filter(|current| newest != Some(*current)),
    };
    let text = serde_json::to_vec_pretty(&stored).expect("text always serializes");
    write_private(&directory.join(KEYSET_FILE), &text)
}

/// The text of a file that only its owner may read; `None` when there is no such file.
fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, KeyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, "opened", error)),
    };
    let metadata = file.metadata().map_err(|error| failed(path, "examined", error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if !metadata.is_file() {
        return Err(refused(path, "not a regular file"));
    }
    if mode & 0o077 != 0 {
        let shown = path.display();
        let problem = format!("others can read it (mode {mode:04o}); run: chmod 600 {shown}");
        return Err(refused(path, &problem));
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(FILE_LIMIT_BYTES).read_to_string(&mut text);
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            text.zeroize();
            Err(refused(path, &format!("damaged: not text; {FROM_BACKUP}")))
        }
        Err(error) => {
            text.zeroize();
            Err(failed(path, "read", error))
        }
    }
}

/// Replaces `path` atomically and durably with a file of mode 0600.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fail_point::reach("keyset.written");
        fs::rename(&temporary, path)?;
        fail_point::reach("keyset.named");
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(|error| failed(path, "written", error))
}

fn refused(path: &Path, problem: &str) -> KeyError {
    KeyError::Refused { path: path.display().to_string(), problem: problem.to_owned() }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> KeyError {
    KeyError::Io { path: path.display().to_string(), action, source }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
