//! Three nodes against their raw limits and another system. `cargo bench --bench cluster -- [--quick] [--place DIR] [NAME...]`
//!
//! `commits` runs three nodes without their edges in this process, over links with TLS; `nodes` runs the binary, three times,
//! and kills it. etcd is wanted beside it: `scripts/bench` unpacks Debian's and names it in `CONSTRUCT_BENCH_ETCD`.
//! `CONSTRUCT_BENCH_BINARY` names another build of the node.

mod commits;
mod etcd;
mod nodes;
#[path = "../support/mod.rs"]
mod support;
mod trio;
mod writing;

use support::Run;

/// The product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // As the product does.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let run = Run::start();
    support::rig::telemetry(&support::rig::settings());
    commits::run(&run);
    nodes::run(&run);
}
