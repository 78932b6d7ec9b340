//! Log, runtime and state against their raw limits. `cargo bench --bench core -- [--quick] [--place DIR] [NAME...]`

#[path = "../support/mod.rs"]
mod support;

mod ask;
mod commands;
mod growth;
mod instructions;
mod passivated;
mod remote;
mod renewals;
mod wal;

use support::Run;

/// The product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // As the product does.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, child, part, dir, count] = &arguments[..]
        && child == "--child"
    {
        if part == "remote" {
            return remote::child(dir.as_ref());
        }
        return passivated::child(part, dir.as_ref(), count.parse().expect("a number"));
    }
    if let [_, mode, path, count] = &arguments[..]
        && mode == "--instructions"
    {
        return instructions::run(path, count.parse().expect("a number"));
    }
    let run = Run::start();
    support::rig::telemetry(&support::rig::settings());
    wal::run(&run);
    commands::run(&run);
    ask::run(&run);
    remote::run(&run);
    passivated::run(&run);
    renewals::run(&run);
    growth::run(&run);
}
