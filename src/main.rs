//! The binary: reads the command line and hands over. Everything else is in the library and in `cli`.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use construct::kernel::fail_point;
use mimalloc::MiMalloc;

/// glibc's allocator keeps what password hashing leaves: gigabytes after minutes of load (docs/adr/0062-allocator.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // What a page of 2 MiB holds that is still used keeps all of it (docs/adr/0117-small-pages.md). Without it, more memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let _armed = fail_point::arm();
    // Before any TLS: with two providers linked, rustls refuses to choose one.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("construct: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    cli::run(cli::Cli::parse())
}
