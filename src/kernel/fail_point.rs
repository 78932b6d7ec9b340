//! Named steps at which a test lets a node crash.
//!
//! Without the feature `failpoints` nothing of this is compiled. With it, the environment variable `FAILPOINTS` arms
//! points in the language of the crate `fail`: `wal.written=4*off->return` ends the process at the fifth time that the
//! write-ahead log was written and not yet synced. The armed action `return` means: abort here, as `kill -9` would.

/// The process passes the step `name`, or ends here if a test wants it to.
#[cfg(feature = "failpoints")]
pub fn reach(name: &'static str) {
    fail::fail_point!(name, |_| {
        eprintln!("fail point {name}: the process ends here");
        std::process::abort();
    });
}

/// Nothing, in a build without fail points.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_name: &'static str) {}

/// Arms what `FAILPOINTS` says, for as long as the answer lives.
///
/// # Panics
/// When `FAILPOINTS` cannot be read: a test that arms nothing would pass for no reason.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn arm() -> impl Sized {
    fail::FailScenario::setup()
}

/// Nothing, in a build without fail points.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub fn arm() -> impl Sized {}
