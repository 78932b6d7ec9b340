//! Random bytes, fetched from the operating system by the kilobyte: a system call for each request would cost more than
//! the rest of its identifiers.

use std::cell::RefCell;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

const POOL_BYTES: usize = 2048;

struct Pool {
    bytes: [u8; POOL_BYTES],
    /// Those before it were given out.
    next: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], next: POOL_BYTES }) };
}

/// 32 bytes from the operating system's generator, never given out twice and not kept.
#[must_use]
pub fn entropy() -> [u8; 32] {
    POOL.with_borrow_mut(|pool| {
        if pool.next == POOL_BYTES {
            SystemRandom::new().fill(&mut pool.bytes).expect("the operating system's generator works");
            pool.next = 0;
        }
        let mut taken = [0; 32];
        let given = &mut pool.bytes[pool.next..pool.next + taken.len()];
        taken.copy_from_slice(given);
        given.zeroize();
        pool.next += taken.len();
        taken
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_bytes_are_given_out_twice_and_none_are_kept() {
        let taken: BTreeSet<[u8; 32]> = (0..200).map(|_| entropy()).collect();
        assert_eq!(taken.len(), 200);
        POOL.with_borrow(|pool| assert!(pool.bytes[..pool.next].iter().all(|byte| *byte == 0)));
    }
}
