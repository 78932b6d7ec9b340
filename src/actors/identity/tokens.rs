//! Access tokens: JSON Web Tokens (RFC 7519) of the profile of RFC 9068, signed with Ed25519 (RFC 8037).
//!
//! Invariants: only the one algorithm is known, so that no header can choose another; a token names its key and is
//! checked with that key alone; time comes from the caller. A token is proof of who signed in and until when, not
//! that the session still lives: see `authority`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::session::SessionView;
use super::signing_keys::SigningKey;
use crate::kernel::{Error, Secret, Timestamp};
use crate::providers::keys::{KeyError, KeyWrapper};

const TYPE: &str = "at+jwt";
const ALGORITHM: &str = "EdDSA";
/// The platform itself: audience of its tokens, and the client that people sign in with directly.
const PLATFORM: &str = "construct";
/// Longer texts are no tokens of ours.
const MAX_CHARS: usize = 4096;

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is not an access token")]
    Malformed,
    #[error("its key is not known")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it is for another audience or from another issuer")]
    Foreign,
    #[error("it has expired")]
    Expired,
}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        Error::unauthenticated(format!("The access token is not valid: {error}."))
    }
}

/// The claims of an access token. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    pub aud: String,
    pub client_id: String,
    pub sid: String,
    pub roles: Vec<String>,
    pub iat: i64,
    pub exp: i64,
    pub auth_time: i64,
    pub amr: Vec<String>,
    pub jti: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
    /// RFC 7515 §4.1.11: extensions that must be understood. None is.
    #[serde(default, skip_serializing)]
    crit: Option<serde_json::Value>,
}

/// A public key as RFC 7517 and RFC 8037 write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Jwk {
    pub kty: &'static str,
    pub crv: &'static str,
    pub x: String,
    pub kid: String,
    pub alg: &'static str,
    #[serde(rename = "use")]
    pub usage: &'static str,
}

/// The keys in use on this node: one that signs, and those that verify.
pub struct KeySet {
    issuer: String,
    signing: Ed25519KeyPair,
    signing_kid: String,
    verifying: Vec<SigningKey>,
}

fn owner(kid: &str) -> String {
    format!("signing_keys/{kid}")
}

/// RFC 7638 §3 over the required members of an OKP key (RFC 8037 §2).
fn thumbprint(public_key: &[u8]) -> String {
    let x = URL_SAFE_NO_PAD.encode(public_key);
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
}

/// A new key pair, its private half wrapped by the key service.
///
/// # Errors
/// [`KeyError`] of the key service.
pub async fn new_signing_key(keys: &dyn KeyWrapper, now: Timestamp) -> Result<SigningKey, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(seed.as_mut()).expect("the operating system's generator works");
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).expect("any 32 bytes are a seed");
    let mut public_key = [0; 32];
    public_key.copy_from_slice(pair.public_key().as_ref());
    let kid = thumbprint(&public_key);
    let wrapped_seed = keys.wrap(&owner(&kid), &seed).await?;
    Ok(SigningKey { kid, public_key, wrapped_seed, created_at: now, verifies_until: None })
}

impl KeySet {
    /// From the stored keys, the signing one first.
    ///
    /// # Errors
    /// [`KeyError`] when there is none or its private half does not open.
    pub async fn open(issuer: &str, stored: Vec<SigningKey>, keys: &dyn KeyWrapper) -> Result<Self, KeyError> {
        let first = stored.first().ok_or(KeyError::DoesNotOpen)?;
        let seed = keys.unwrap(&owner(&first.kid), &first.wrapped_seed).await?;
        let signing = Ed25519KeyPair::from_seed_and_public_key(seed.as_ref(), &first.public_key)
            .map_err(|_| KeyError::DoesNotOpen)?;
        Ok(Self { issuer: issuer.to_owned(), signing, signing_kid: first.kid.clone(), verifying: stored })
    }

    /// An access token for a session, good for `seconds`.
    #[must_use]
    pub fn issue(&self, session: &SessionView, now: Timestamp, seconds: i64) -> Secret<String> {
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).expect("the operating system's generator works");
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: session.user_id.clone(),
            aud: PLATFORM.to_owned(),
            client_id: PLATFORM.to_owned(),
            sid: session.id.clone(),
            roles: session.roles.clone(),
            iat: now.as_seconds(),
            exp: now.as_seconds().saturating_add(seconds),
            auth_time: session.authenticated_at.as_seconds(),
            amr: session.methods.iter().map(|method| method.amr().to_owned()).collect(),
            jti: URL_SAFE_NO_PAD.encode(id),
        };
        Secret::new(self.sign(&claims))
    }

    fn sign(&self, claims: &Claims) -> String {
        let header = Header { alg: ALGORITHM.into(), typ: TYPE.into(), kid: self.signing_kid.clone(), crit: None };
        let header = serde_json::to_vec(&header).expect("strings serialize");
        let body = serde_json::to_vec(claims).expect("strings and numbers serialize");
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        let signature = URL_SAFE_NO_PAD.encode(self.signing.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The claims of a good token.
    ///
    /// # Errors
    /// [`TokenError`]: nothing of it may be believed.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > MAX_CHARS {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, body) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = part(header)?;
        if header.alg != ALGORITHM || !header.typ.eq_ignore_ascii_case(TYPE) || header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = self.verifying.iter().find(|key| key.kid == header.kid).ok_or(TokenError::UnknownKey)?;
        if key.verifies_until.is_some_and(|until| until <= now) {
            return Err(TokenError::UnknownKey);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        UnparsedPublicKey::new(&ED25519, &key.public_key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = part(body)?;
        if claims.iss != self.issuer || claims.aud != PLATFORM {
            return Err(TokenError::Foreign);
        }
        claims.check_time(now)?;
        Ok(claims)
    }

    #[must_use]
    pub fn knows(&self, kid: &str) -> bool {
        self.verifying.iter().any(|key| key.kid == kid)
    }

    /// What others verify tokens with.
    #[must_use]
    pub fn jwks(&self) -> Vec<Jwk> {
        let jwk = |key: &SigningKey| Jwk {
            kty: "OKP",
            crv: "Ed25519",
            x: URL_SAFE_NO_PAD.encode(key.public_key),
            kid: key.kid.clone(),
            alg: ALGORITHM,
            usage: "sig",
        };
        self.verifying.iter().map(jwk).collect()
    }
}

impl Claims {
    /// # Errors
    /// [`TokenError::Expired`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        if now.as_seconds() >= self.exp { Err(TokenError::Expired) } else { Ok(()) }
    }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::identity::session::{Client, Method};
    use crate::providers::keys::FileKeys;

    fn session() -> SessionView {
        SessionView {
            id: "ses_1".to_owned(),
            user_id: "usr_1".to_owned(),
            roles: vec!["consumer".to_owned()],
            methods: vec![Method::Password, Method::Totp],
            client: Client::default(),
            created_at: NOW,
            last_used_at: NOW,
            authenticated_at: NOW,
            expires_at: NOW.plus_days(1),
            ended: None,
        }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    async fn key_set(issuer: &str) -> (KeySet, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = FileKeys::open(directory.path()).expect("keys");
        let key = new_signing_key(&keys, NOW).await.expect("a key");
        (KeySet::open(issuer, vec![key], &keys).await.expect("opens"), directory)
    }

    fn with_header(token: &str, header: &str) -> String {
        let (_, rest) = token.split_once('.').expect("three parts");
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
    }

    #[tokio::test]
    async fn a_token_carries_its_claims_until_it_expires() {
        let (keys, _directory) = key_set("https://id.example").await;
        let token = keys.issue(&session(), NOW, 900);
        let claims = keys.verify(token.expose(), NOW.plus_seconds(899)).expect("good");
        assert_eq!((claims.sub.as_str(), claims.sid.as_str(), claims.exp - claims.iat), ("usr_1", "ses_1", 900));
        assert_eq!(claims.amr, ["pwd", "otp"]);
        assert_eq!(keys.verify(token.expose(), NOW.plus_seconds(900)), Err(TokenError::Expired));
        assert_eq!(keys.jwks()[0].kid, keys.signing_kid);
    }

    #[tokio::test]
    async fn forged_tokens_are_refused() {
        let (keys, _directory) = key_set("https://id.example").await;
        let (others, _other_directory) = key_set("https://id.example").await;
        let token = keys.issue(&session(), NOW, 900).expose().clone();
        let kid = &keys.signing_kid;
        let (head, rest) = token.split_once('.').expect("three parts");
        let (body, signature) = rest.split_once('.').expect("three parts");
        let mut claims: Claims = part(body).expect("claims");
        claims.roles = vec!["administrator".to_owned()];
        let raised = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).expect("serializes"));
        claims.iss = "https://evil.example".to_owned();
        let table = [
            (with_header(&token, r#"{"alg":"none","typ":"at+jwt","kid":"x"}"#), TokenError::Malformed),
            (format!("{head}.{body}."), TokenError::Signature),
            (with_header(&token, &format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}"}}"#)), TokenError::Malformed),
            (with_header(&token, &format!(r#"{{"alg":"EdDSA","typ":"JWT","kid":"{kid}"}}"#)), TokenError::Malformed),
            (
                with_header(&token, &format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}","crit":["x"]}}"#)),
                TokenError::Malformed,
            ),
            (with_header(&token, r#"{"alg":"EdDSA","typ":"at+jwt","kid":"x"}"#), TokenError::UnknownKey),
            (others.issue(&session(), NOW, 900).expose().clone(), TokenError::UnknownKey),
            (format!("{head}.{raised}.{signature}"), TokenError::Signature),
            (keys.sign(&claims), TokenError::Foreign),
            ("a.b".to_owned(), TokenError::Malformed),
            (String::new(), TokenError::Malformed),
            ("a".repeat(5000), TokenError::Malformed),
        ];
        for (token, error) in table {
            assert_eq!(keys.verify(&token, NOW), Err(error), "{token}");
        }
    }

    #[tokio::test]
    async fn any_bytes_as_an_access_token() {
        let (keys, _directory) = key_set("https://id.example").await;
        let good = keys.issue(&session(), NOW, 900).expose().clone();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt","kid":"x"}"#);
        crate::kernel::fuzz_tests::fuzz("jws", &[good.as_bytes(), none.as_bytes()], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let verified = keys.verify(&text, NOW);
            assert_eq!(verified.is_ok(), text == good, "only the token itself is the token: {text}");
            format!("{:?}", verified.err())
        });
    }
}
