//! Passwords: their policy, and Argon2id (RFC 9106) on a bounded pool of blocking threads.
//!
//! Hashing happens before a command is sent, never inside an entity. Few wait, and not for long: at either bound the
//! caller hears `overloaded` and when to come back, so that under any load the threads work for callers who still
//! listen. A dummy hash stands in where there is none, so that an unknown address costs the same time as a wrong
//! password.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization;

use crate::actors::runtime::background::Background;
use crate::kernel::{Error, Secret};

/// The OWASP floor for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;

/// More is refused.
const MAX_CHARS: usize = 256;

/// What a new password must be like, and how many are hashed at a time.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub min_chars: usize,
    /// Of zxcvbn: 0 to 4.
    pub min_score: u8,
    /// Hashes computed at once, 19 MiB each.
    pub parallel: usize,
    /// Callers who may wait behind them.
    pub waiting: usize,
    /// How long one may wait for a thread.
    pub patience: Duration,
}

/// The pool. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// What the last hashes worked in; at most as many as run at once. Fresh memory would cost a tenth of the hash.
    spare: Arc<Mutex<Vec<Memory>>>,
    dummy: Arc<str>,
    policy: Policy,
    /// Gives way to those who wait for a hash.
    background: Arc<Background>,
}

fn refusals() -> metrics::Counter {
    metrics::counter!("construct_password_jobs_refused_total")
}

impl Passwords {
    #[must_use]
    pub fn new(policy: Policy, background: Arc<Background>) -> Self {
        let parallel = policy.parallel.max(1);
        let dummy = hash_now("no account has this password", &mut Memory::default()).expose().as_str().into();
        drop(refusals());
        Self {
            admitted: Arc::new(Semaphore::new(parallel + policy.waiting)),
            running: Arc::new(Semaphore::new(parallel)),
            spare: Arc::default(),
            dummy,
            policy,
            background,
        }
    }

    /// Checks the policy for a new password and hashes it; the PHC string. `inputs` are words it must not be made
    /// of, such as the address. `pointer` names the request member in a refusal.
    ///
    /// # Errors
    /// `invalid` when it is too short, too long or too easy to guess; `overloaded` when the pool is full.
    pub async fn hash_new(
        &self,
        password: Secret<String>,
        inputs: Vec<String>,
        pointer: &'static str,
    ) -> Result<Secret<String>, Error> {
        let policy = self.policy;
        self.run(move |memory| {
            let plain = normalize(&password);
            check_strength(policy, plain.expose(), &inputs, pointer)?;
            Ok(hash_now(plain.expose(), memory))
        })
        .await?
    }

    /// Whether the password belongs to the PHC string; without one, `false` after the same work.
    ///
    /// # Errors
    /// `overloaded` when the pool is full.
    pub async fn verify(&self, password: Secret<String>, phc: Option<Secret<String>>) -> Result<bool, Error> {
        let dummy = Arc::clone(&self.dummy);
        self.run(move |memory| {
            let plain = normalize(&password);
            let known = phc.is_some();
            let text = phc.as_ref().map_or(&*dummy, |phc| phc.expose().as_str());
            let matches = plain.expose().chars().count() <= MAX_CHARS && verify_now(plain.expose(), text, memory);
            matches && known
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Memory) -> T + Send + 'static) -> Result<T, Error> {
        let full = || {
            refusals().increment(1);
            Error::overloaded("The queue for passwords")
        };
        let place = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| full())?;
        let waited = self.background.waited();
        let turn = tokio::time::timeout(self.policy.patience, Arc::clone(&self.running).acquire_owned());
        let turn = turn.await.map_err(|_| full())?.map_err(|_| Error::internal())?;
        // The permits move along: a caller who gives up does not free a thread that still works.
        let spare = Arc::clone(&self.spare);
        let job = tokio::task::spawn_blocking(move || {
            let mut memory = spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            let done = work(&mut memory);
            spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
            drop((turn, place, waited));
            done
        });
        job.await.map_err(|error| {
            tracing::error!(%error, "a password job did not finish");
            Error::internal()
        })
    }
}

/// One password however its letters were composed (NIST SP 800-63B §5.1.1.2). Long texts are cut where every policy
/// refuses them anyway.
fn normalize(password: &Secret<String>) -> Secret<String> {
    Secret::new(password.expose().chars().take(MAX_CHARS * 4).nfkc().collect())
}

/// The blocks of one hash, used again for the next. Every hash writes each of them before it reads it.
#[derive(Default)]
struct Memory(Vec<Block>);

impl Memory {
    fn hash(&mut self, argon2: &Argon2, plain: &str, salt: &[u8], out: &mut [u8]) -> Result<(), argon2::Error> {
        let count = argon2.params().block_count();
        if self.0.len() < count {
            self.0.resize(count, Block::new());
        }
        argon2.hash_password_into_with_memory(plain.as_bytes(), salt, out, &mut self.0[..count])
    }
}

fn hash_now(plain: &str, memory: &mut Memory) -> Secret<String> {
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).expect("the operating system's generator works");
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("parameters within their bounds");
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
    memory.hash(&argon2, plain, &salt, &mut out).expect("a salt of 16 bytes and bounded input");
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).expect("known parameters"),
        salt: Some(Salt::new(&salt).expect("16 bytes")),
        hash: Some(Output::new(&out).expect("32 bytes")),
    };
    Secret::new(hash.to_string())
}

/// Whether the text is this PHC string's, under the parameters that the string itself names.
fn verify_now(plain: &str, phc: &str, memory: &mut Memory) -> bool {
    matches(plain, phc, memory).unwrap_or(false)
}

/// `None`: the string is no hash of a kind we know.
fn matches(plain: &str, phc: &str, memory: &mut Memory) -> Option<bool> {
    let hash = PasswordHash::new(phc).ok()?;
    let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
    let algorithm = Algorithm::try_from(&*hash.algorithm).ok()?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let argon2 = Argon2::new(algorithm, version, Params::try_from(&hash).ok()?);
    let mut out = [0; Output::MAX_LENGTH];
    let out = out.get_mut(..expected.len())?;
    memory.hash(&argon2, plain, salt, out).ok()?;
    // Compares in constant time.
    Some(Output::new(out).ok()? == *expected)
}

fn check_strength(policy: Policy, plain: &str, inputs: &[String], pointer: &str) -> Result<(), Error> {
    let chars = plain.chars().count();
    if chars < policy.min_chars {
        return Err(Error::invalid(pointer, format!("must have at least {} characters", policy.min_chars)));
    }
    if chars > MAX_CHARS {
        return Err(Error::invalid(pointer, format!("must have at most {MAX_CHARS} characters")));
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let estimate = zxcvbn::zxcvbn(plain, &inputs);
    if u8::from(estimate.score()) >= policy.min_score {
        return Ok(());
    }
    let mut detail = "is too easy to guess".to_owned();
    if let Some(feedback) = estimate.feedback() {
        if let Some(warning) = feedback.warning() {
            detail = format!("{detail}. {}", warning.to_string().trim_end_matches('.'));
        }
        for suggestion in feedback.suggestions().iter().take(2) {
            detail = format!("{detail}. {}", suggestion.to_string().trim_end_matches('.'));
        }
    }
    Err(Error::invalid(pointer, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ErrorCode;

    fn pool(waiting: usize) -> Passwords {
        let policy = Policy { min_chars: 8, min_score: 2, parallel: 1, waiting, patience: Duration::from_secs(60) };
        Passwords::new(policy, Background::new())
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_known_again_however_it_was_composed() {
        let pool = pool(4);
        let phc = pool.hash_new(secret("caf\u{e9} robot lantern"), vec![], "/password").await.expect("accepted");
        assert!(phc.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let check = |text| pool.verify(secret(text), Some(phc.clone()));
        assert_eq!(check("cafe\u{301} robot lantern").await, Ok(true));
        assert_eq!(check("cafe robot lantern").await, Ok(false));
        assert_eq!(pool.verify(secret("no account has this password"), None).await, Ok(false));
    }

    #[test]
    fn memory_that_was_used_before_changes_no_hash_and_old_parameters_are_honoured() {
        let mut memory = Memory::default();
        let one = hash_now("first", &mut memory);
        let two = hash_now("second", &mut memory);
        let mut fresh = Memory::default();
        assert!(verify_now("second", two.expose(), &mut fresh) && verify_now("first", one.expose(), &mut memory));
        assert!(!verify_now("first", two.expose(), &mut memory));
        // Of the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 8 -p 1 -l 24 -e
        let smaller = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(verify_now("password", smaller, &mut memory) && !verify_now("passw0rd", smaller, &mut memory));
        assert!(!verify_now("password", "no hash", &mut memory));
    }

    #[tokio::test]
    async fn weak_passwords_are_refused_by_field() {
        let pool = pool(4);
        let long = "a1".repeat(129);
        for weak in ["short", "password1", "12345678", "ada.lovelace@example.org", &long] {
            let inputs = vec!["ada.lovelace@example.org".to_owned(), "ada.lovelace".to_owned()];
            let error = pool.hash_new(secret(weak), inputs, "/password").await.expect_err(weak);
            assert_eq!((error.code, error.errors[0].pointer.as_str()), (ErrorCode::Invalid, "/password"));
        }
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let pool = pool(0);
        let _busy = Arc::clone(&pool.admitted).try_acquire_owned().expect("free");
        let error = pool.verify(secret("x"), None).await.expect_err("full");
        assert_eq!(error.code, ErrorCode::Overloaded);
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_patience_and_their_place_is_free_again() {
        let mut pool = pool(4);
        pool.policy.patience = Duration::from_millis(20);
        let busy = Arc::clone(&pool.running).acquire_owned().await.expect("a turn");
        let (one, two) = tokio::join!(pool.verify(secret("x"), None), pool.verify(secret("y"), None));
        for refused in [one, two] {
            let error = refused.expect_err("too late");
            assert_eq!((error.code, error.retry_after_seconds), (ErrorCode::Overloaded, Some(1)));
        }
        assert_eq!(pool.admitted.available_permits(), 5);
        drop(busy);
        assert_eq!(pool.verify(secret("x"), None).await, Ok(false));
    }
}
