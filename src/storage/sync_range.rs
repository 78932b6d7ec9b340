//! Makes sled's `flush` durable: the process's own `sync_file_range` is `fdatasync`. See docs/adr/0001-sync-file-range.md.
//!
//! sled 0.34 ends a flush in `sync_file_range(2)`, which writes pages back but neither the metadata needed to find
//! them nor the disk's write cache (its manual page: "not suitable for data integrity"). The linker resolves sled's
//! call to the definition below, because one in the executable comes before the one in the C library. Whoever opens
//! sled calls [`ensure_linked`] first, which also keeps this object file in every executable that has sled in it.
#![expect(unsafe_code, reason = "defining a C symbol, and calling one, are unsafe; nothing else in the crate is")]

use std::io;

use libc::{c_int, c_uint, off64_t};

/// `sync_file_range(2)` for this process: syncs all of the file's data, and what is needed to read it back.
///
/// # Safety
/// None needed: it takes any numbers, as `fdatasync(2)` does.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, _offset: off64_t, _bytes: off64_t, _flags: c_uint) -> c_int {
    // SAFETY: fdatasync takes any integer and touches no memory of ours.
    unsafe { libc::fdatasync(fd) }
}

/// Checks that a call through the C library's name lands in the definition above.
///
/// # Errors
/// When it does not: then sled's flush is not durable here, and the node must not start.
pub fn ensure_linked() -> io::Result<()> {
    let (reader, _writer) = io::pipe()?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&reader);
    // The system's sync_file_range refuses a pipe with ESPIPE, fdatasync with EINVAL.
    // SAFETY: the call takes numbers only, and the descriptor is open.
    let outcome = unsafe { std::hint::black_box(libc::sync_file_range)(descriptor, 0, 0, 0) };
    let error = io::Error::last_os_error();
    if outcome == -1 && error.raw_os_error() == Some(libc::EINVAL) {
        return Ok(());
    }
    Err(io::Error::other("sync_file_range is not replaced by fdatasync in this executable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_through_the_c_library_lands_here() {
        ensure_linked().expect("linked");
        assert_eq!(sync_file_range(-1, 0, 0, 0), -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    }
}
