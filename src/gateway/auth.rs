//! Who calls, and whether they may: the one place where access is decided.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use ring::{digest, hmac};

use super::call::Permissions;
use super::registry::{Access, Declaration};
use super::request::Head;
use crate::kernel::{Error, ErrorCode, Principal, Secret, fail_point};

/// Someone the gateway knows, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub principal: Principal,
    pub permissions: Permissions,
}

impl Caller {
    #[must_use]
    pub fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, permissions: Permissions::default() }
    }

    #[must_use]
    pub fn operator() -> Self {
        Self { principal: Principal::Operator, permissions: Permissions::all() }
    }

    fn is_operator(&self) -> bool {
        match &self.principal {
            Principal::Operator => true,
            Principal::User { roles, .. } => roles.iter().any(|role| role == "administrator"),
            Principal::Anonymous | Principal::System => false,
        }
    }

    /// # Errors
    /// `unauthenticated` without credentials where some are needed; `forbidden` when they do not suffice.
    pub fn check(&self, access: Access) -> Result<(), Error> {
        if access == Access::Public {
            return Ok(());
        }
        if matches!(self.principal, Principal::Anonymous | Principal::System) {
            return Err(Error::unauthenticated("Send an access token as `Authorization: Bearer …`."));
        }
        match access {
            Access::Permission(permission) if !self.permissions.allows(permission) => {
                Err(Error::forbidden(format!("This needs the permission {permission}.")))
            }
            Access::Operator if !self.is_operator() => Err(Error::forbidden("This is for administrators.")),
            _ => Ok(()),
        }
    }

    /// Whether other people's objects are reached through this endpoint.
    #[must_use]
    pub fn reaches_others(&self, declaration: &Declaration) -> bool {
        declaration.others.is_some_and(|permission| self.permissions.allows(permission))
    }
}

/// Turns a bearer token (an access token or an API key) into its holder. Implemented by the identity service.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// # Errors
    /// `unauthenticated` when the token is unknown, expired or revoked; `unavailable` when that cannot be found out.
    async fn authenticate(&self, bearer: &str) -> Result<Caller, Error>;

    /// Who a caller is by now that was let in with this token, which may have run out since: as long as the session, or
    /// the key, lives.
    ///
    /// # Errors
    /// `unauthenticated` when it does not; `unavailable` when that cannot be found out.
    async fn still(&self, principal: &Principal, bearer: &str) -> Result<Caller, Error>;
}

/// The bearer token of a request, if it has one.
#[must_use]
pub fn bearer(head: &Head) -> Option<&str> {
    let (scheme, token) = head.header("authorization")?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// What a token made here begins with. It goes on with 64 hexadecimal digits, and 8 of their CRC-32C.
const TOKEN_PREFIX: &str = "ct1-";
const TOKEN_LENGTH: usize = 76;
/// A token from elsewhere has at least as many characters.
const MIN_TOKEN_LENGTH: usize = 32;

fn checksum(digits: &str) -> String {
    format!("{:08x}", crc32c::crc32c(digits.as_bytes()))
}

/// Whether a token can be what was written: whole, or from elsewhere and without a checksum.
fn is_whole(token: &str) -> bool {
    let body = token.split_at_checked(TOKEN_PREFIX.len());
    let sum = body.and_then(|(_, body)| body.split_at_checked(64)).is_some_and(|(digits, sum)| checksum(digits) == sum);
    match token.strip_prefix(TOKEN_PREFIX) {
        Some(_) => sum && token.len() == TOKEN_LENGTH,
        // With a right checksum only its beginning is damaged.
        None => token.len() >= MIN_TOKEN_LENGTH && !sum,
    }
}

/// Makes a file of mode 0600 that is there whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fail_point::reach("token.written");
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

/// The administrator token of a data directory.
pub struct OperatorToken(Secret<String>);

impl OperatorToken {
    /// Reads the token, or makes one at first start in a file that only its owner may read. A token made here carries a
    /// checksum, so that a damaged file is not taken for another token; an empty file is all that a crash may leave of
    /// making one.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is damaged.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let found = match fs::read(path) {
            Ok(bytes) => Some(String::from_utf8(bytes).unwrap_or_else(|_| "not text".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let token = match found.as_deref().map(str::trim) {
            None => Self::create(path)?,
            Some("") => {
                tracing::warn!(path = %path.display(),
                    "the administrator token was empty and is made anew; the nodes of a cluster are to have the same");
                Self::create(path)?
            }
            Some(token) if is_whole(token) => token.to_owned(),
            Some(_) => {
                let problem = format!(
                    "{} is damaged. Lost with it: the token, nothing else. Remedy: restore the file (in a cluster, from \
                     another node), or remove it; then the next start makes a new token",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
        };
        Ok(Self(Secret::new(token)))
    }

    fn create(path: &Path) -> io::Result<String> {
        let digits = hex::encode(crate::actors::runtime::entropy());
        let token = format!("{TOKEN_PREFIX}{digits}{}", checksum(&digits));
        write_private(path, format!("{token}\n").as_bytes())?;
        Ok(token)
    }

    /// A token known from elsewhere.
    #[must_use]
    pub fn new(token: Secret<String>) -> Self {
        Self(token)
    }

    /// Compares digests, so that the time it takes tells nothing but the length, which is no secret.
    #[must_use]
    pub fn matches(&self, bearer: &str) -> bool {
        let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
        bearer.len() == self.0.expose().len() && digest(bearer).as_ref() == digest(self.0.expose()).as_ref()
    }
}

/// Turns network addresses into pseudonyms that only holders of the key can link to an address.
pub struct SourceKey {
    key: hmac::Key,
    /// Those made lately: an address asks many times.
    known: Mutex<HashMap<IpAddr, String>>,
}

impl SourceKey {
    /// Pseudonyms remembered at most; then all are made anew.
    const REMEMBERED: usize = 10_000;

    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), known: Mutex::default() }
    }

    /// 16 hexadecimal bytes; the same for all addresses of one IPv6 /64.
    #[must_use]
    pub fn pseudonym(&self, address: IpAddr) -> String {
        let network = super::server::network(address);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pseudonym) = known.get(&network) {
            return pseudonym.clone();
        }
        let tag = hmac::sign(&self.key, network.to_string().as_bytes());
        let pseudonym = hex::encode(&tag.as_ref()[..16]);
        if known.len() >= Self::REMEMBERED {
            known.clear();
        }
        known.insert(network, pseudonym.clone());
        pseudonym
    }
}

/// Adds to a 401 what RFC 6750 §3 wants to be said of a token that was refused.
#[must_use]
pub fn challenge(error: &Error, sent_token: bool) -> Option<&'static str> {
    match error.code {
        ErrorCode::Unauthenticated if sent_token => Some("Bearer realm=\"construct\", error=\"invalid_token\""),
        ErrorCode::Unauthenticated => Some("Bearer realm=\"construct\""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn user(roles: &[&str], permissions: &[&str]) -> Caller {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let principal = Principal::User { id: "usr_1".into(), session: None, roles: owned(roles) };
        Caller { principal, permissions: Permissions::new(owned(permissions)) }
    }

    #[test]
    fn access_is_granted_by_role_and_permission() {
        let permission = Access::Permission("users:read");
        let check = |caller: &Caller, access, code: Option<ErrorCode>| {
            assert_eq!(caller.check(access).err().map(|error| error.code), code, "{caller:?} {access:?}");
        };
        let (anonymous, consumer) = (Caller::anonymous(), user(&["consumer"], &[]));
        check(&anonymous, Access::Public, None);
        check(&anonymous, Access::User, Some(ErrorCode::Unauthenticated));
        check(&anonymous, permission, Some(ErrorCode::Unauthenticated));
        check(&anonymous, Access::Operator, Some(ErrorCode::Unauthenticated));
        check(&consumer, Access::User, None);
        check(&consumer, permission, Some(ErrorCode::Forbidden));
        check(&consumer, Access::Operator, Some(ErrorCode::Forbidden));
        check(&user(&[], &["users:read"]), permission, None);
        check(&user(&[], &["users:*"]), permission, None);
        check(&user(&[], &["users:write", "roles:*"]), permission, Some(ErrorCode::Forbidden));
        check(&user(&["administrator"], &[]), Access::Operator, None);
        check(&Caller::operator(), permission, None);
        check(&Caller::operator(), Access::Operator, None);
    }

    #[test]
    fn only_bearer_tokens_are_read() {
        let read = |value: &str| {
            let mut head = Head::new(Method::GET, "/");
            head.headers.insert("authorization", value.parse().expect("a value"));
            bearer(&head).map(str::to_owned)
        };
        assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(read("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(read("Basic abc"), None);
        assert_eq!(read("Bearer "), None);
        assert_eq!(read("Bearer"), None);
    }

    #[test]
    fn the_operators_token_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin-token");
        OperatorToken::load_or_create(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        let token = fs::read_to_string(&path).expect("a token");
        let again = OperatorToken::load_or_create(&path).expect("read");
        assert!(again.matches(token.trim()));
        assert!(!again.matches("") && !again.matches(&token.trim()[1..]));
        for at in 0..token.trim().len() {
            let mut damaged = token.clone().into_bytes();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("written");
            let refused = OperatorToken::load_or_create(&path).err().expect("refused").to_string();
            assert!(refused.contains("admin-token is damaged"), "{refused}");
            if at > 0 {
                fs::write(&path, &token[..at]).expect("written");
                assert!(OperatorToken::load_or_create(&path).is_err(), "cut at {at}");
            }
        }
        let elsewhere = "0123456789abcdef".repeat(4);
        fs::write(&path, &elsewhere).expect("written");
        assert!(OperatorToken::load_or_create(&path).expect("a token from elsewhere").matches(&elsewhere));
        fs::write(&path, "").expect("emptied");
        let made = OperatorToken::load_or_create(&path).expect("made anew");
        let token = fs::read_to_string(&path).expect("a token");
        assert!(made.matches(token.trim()) && is_whole(token.trim()));
    }

    #[test]
    fn a_source_is_a_pseudonym_of_the_network() {
        let key = SourceKey::new(b"key");
        let of = |text: &str| key.pseudonym(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("10.0.0.1"), SourceKey::new(b"other").pseudonym("10.0.0.1".parse().expect("an address")));
        assert!(!of("10.0.0.1").contains("10.0"));
    }
}
