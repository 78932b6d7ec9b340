//! Who a node is to other nodes: its certificate, and the cluster's certificate authority.
//!
//! The authority's key is derived from the cluster's keys (`keys.derive`): every member holds it, sealed in its keyset,
//! and there is nothing more to store, replicate or lose. Its certificate is a pure function of that key and the
//! cluster's id, so that all members trust the same bytes. A node's own key is made on the node and never leaves it.
//! Files, under `DATA/cluster/`: `node.key` and its copy `node.copy.key` (PKCS #8, mode 0600), `node.crt` and `ca.crt`, all
//! DER.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::providers::keys::KeyWrapper;

/// What tells one cluster from another; made when it is formed.
pub type ClusterId = [u8; 16];

const CA_LABEL: &str = "cluster ca v1";
/// PKCS #8 (RFC 8410 §7) of an Ed25519 private key, without the 32 bytes of the key itself.
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
pub(super) const ED25519_BYTES: usize = 32;

/// Why a node has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path} cannot be read or written")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("a public key has {0} bytes; an Ed25519 key has {ED25519_BYTES}")]
    PublicKey(usize),
}

/// The authority that signs the certificates of a cluster's nodes.
pub struct Authority {
    cluster: ClusterId,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// The authority of the cluster that these keys belong to.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn derive(keys: &dyn KeyWrapper, cluster: ClusterId) -> Result<Self, IdentityError> {
        let seed = keys.derive(CA_LABEL);
        let key = Zeroizing::new([&ED25519_PKCS8[..], seed.as_ref()].concat());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key.as_slice()), &PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("construct cluster {}", hex::encode(cluster)));
        params.serial_number = Some(serial(key.public_key_raw()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { cluster, issuer: Issuer::new(params, key), certificate })
    }

    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a node's public key (raw Ed25519). Valid for as long as the cluster: who may take part is
    /// decided by membership at every handshake, not by a date that a wrong clock could miss.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn issue(&self, node: u64, public_key: &[u8]) -> Result<CertificateDer<'static>, IdentityError> {
        if public_key.len() != ED25519_BYTES {
            return Err(IdentityError::PublicKey(public_key.len()));
        }
        let mut params = CertificateParams::new([node_name(node, &self.cluster), member_name(&self.cluster)])?;
        params.distinguished_name.push(DnType::CommonName, format!("construct node {node}"));
        params.serial_number = Some(serial(public_key));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&PublicKey(public_key), &self.issuer)?.der().clone())
    }
}

struct PublicKey<'a>(&'a [u8]);

impl PublicKeyData for PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// The name in a node's certificate that only this node has.
pub(super) fn node_name(node: u64, cluster: &ClusterId) -> String {
    format!("node-{node}.{}.construct", hex::encode(cluster))
}

/// The name in the certificate of every member.
pub(super) fn member_name(cluster: &ClusterId) -> String {
    format!("member.{}.construct", hex::encode(cluster))
}

/// SHA-256 of a certificate.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    sha256(certificate)
}

pub(in crate::cluster) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn serial(public_key: &[u8]) -> SerialNumber {
    // 16 bytes with the top bit clear: a positive INTEGER of at most 20 octets (RFC 5280 §4.1.2.2).
    let mut bytes = sha256(public_key)[..16].to_vec();
    bytes[0] &= 0x7f;
    SerialNumber::from(bytes)
}

/// A node's key and certificate, and the authority's certificate that it trusts.
pub struct Identity {
    pub node: u64,
    pub cluster: ClusterId,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) authority: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// What the data directory holds. A member signs itself its certificate, and again when the kept one is damaged or of
    /// another authority.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(data_dir: &Path, node: u64, cluster: ClusterId, keys: &dyn KeyWrapper) -> Result<Self, IdentityError> {
        let (authority, key) = (Authority::derive(keys, cluster)?, NodeKey::open(data_dir)?);
        let certificate = authority.issue(node, &key.public_key())?;
        if !key.keeps(&certificate, &authority.certificate)? {
            key.keep(&certificate, &authority.certificate)?;
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.key.serialize_der()));
        Ok(Self { node, cluster, certificate, authority: authority.certificate, key })
    }

    /// SHA-256 of the authority's certificate: what a join token carries.
    #[must_use]
    pub fn authority_fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.authority)
    }
}

/// The node's own key pair in its data directory, made at first use. Members know a node by its key, so it is kept twice;
/// a damaged file is written again from the other, and with both damaged the node is another one to them.
pub struct NodeKey {
    directory: PathBuf,
    key: KeyPair,
}

impl NodeKey {
    /// # Errors
    /// [`IdentityError`].
    pub fn open(data_dir: &Path) -> Result<Self, IdentityError> {
        let directory = data_dir.join("cluster");
        fs::create_dir_all(&directory).map_err(io_at(&directory))?;
        let paths = ["node.key", "node.copy.key"].map(|name| directory.join(name));
        let [kept, copy] = [read_key(&paths[0])?, read_key(&paths[1])?];
        let whole = [kept.is_some(), copy.is_some()];
        let key = match kept.or(copy) {
            Some(key) => key,
            None => KeyPair::generate_for(&PKCS_ED25519)?,
        };
        for (path, _) in paths.iter().zip(whole).filter(|(_, whole)| !whole) {
            write(path, &Zeroizing::new(key.serialize_der()), 0o600)?;
        }
        Ok(Self { directory, key })
    }

    /// The raw Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public_key_raw().to_vec()
    }

    /// SHA-256 of the public key, by which the members know the node.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.key.public_key_raw())
    }

    /// Keeps what the authority issued.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn keep(&self, certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> Result<(), IdentityError> {
        write(&self.directory.join("node.crt"), certificate, 0o644)?;
        write(&self.directory.join("ca.crt"), authority, 0o644)
    }

    /// Whether these are what is kept.
    fn keeps(&self, certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> Result<bool, IdentityError> {
        let holds = |name: &str, wanted: &[u8]| {
            let path = self.directory.join(name);
            match fs::read(&path) {
                Ok(bytes) => Ok(bytes == wanted),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(io_at(&path)(error)),
            }
        };
        Ok(holds("node.crt", certificate)? && holds("ca.crt", authority)?)
    }
}

/// The key in a file, if there is a whole one; a damaged file is set aside.
fn read_key(path: &Path) -> Result<Option<KeyPair>, IdentityError> {
    let bytes = match fs::read(path).map(Zeroizing::new) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(path)(error)),
    };
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(bytes.as_slice()), &PKCS_ED25519);
    if let Err(error) = &key {
        let aside = path.with_extension("damaged");
        tracing::error!(%error, aside = %aside.display(), "a file with this node's key is damaged");
        fs::rename(path, &aside).map_err(io_at(path))?;
    }
    Ok(key.ok())
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

/// Replaces a file atomically and durably.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(io_at(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::providers::keys::FileKeys;

    #[test]
    fn members_derive_one_authority_and_a_node_keeps_its_certificate() {
        let (keys_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = FileKeys::open(keys_dir.path()).unwrap();
        let [first, second] = [(); 2].map(|()| Authority::derive(&keys, [7; 16]).unwrap());
        assert_eq!(first.certificate(), second.certificate());
        assert_ne!(first.certificate(), Authority::derive(&keys, [8; 16]).unwrap().certificate());

        let made = Identity::open(dir.path(), 3, [7; 16], &keys).unwrap();
        let opened = Identity::open(dir.path(), 3, [7; 16], &keys).unwrap();
        assert_eq!((made.certificate, made.key), (opened.certificate, opened.key));
        let mode = fs::metadata(dir.path().join("cluster/node.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Another cluster's authority: the kept certificate is worth nothing to it.
        let other = Identity::open(dir.path(), 3, [8; 16], &keys).unwrap();
        assert_ne!(other.certificate, Identity::open(dir.path(), 3, [7; 16], &keys).unwrap().certificate);
        assert!(matches!(first.issue(1, &[1; 31]), Err(IdentityError::PublicKey(31))));
    }

    #[test]
    fn a_damaged_key_or_certificate_is_mended() {
        let (keys_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = FileKeys::open(keys_dir.path()).unwrap();
        let made = Identity::open(dir.path(), 3, [7; 16], &keys).unwrap();
        for name in ["node.crt", "ca.crt", "node.key", "node.copy.key"] {
            let path = dir.path().join("cluster").join(name);
            let whole = fs::read(&path).unwrap();
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                for bytes in [&damaged[..], &whole[..at]] {
                    fs::write(&path, bytes).unwrap();
                    let opened = Identity::open(dir.path(), 3, [7; 16], &keys).unwrap();
                    assert_eq!(opened.certificate, made.certificate, "{name}: byte {at}");
                    assert_eq!(opened.authority, made.authority);
                    assert_eq!(fs::read(&path).unwrap(), whole, "{name}: byte {at}");
                }
            }
        }
        for name in ["node.key", "node.copy.key"] {
            fs::write(dir.path().join("cluster").join(name), b"gone").unwrap();
        }
        assert_ne!(Identity::open(dir.path(), 3, [7; 16], &keys).unwrap().certificate, made.certificate);
    }
}
