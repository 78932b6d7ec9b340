//! The edge against its raw limits: a real node in a process of its own, its clients in this one.
//! `cargo bench --bench edge -- [--quick] [--place DIR] [NAME...]`
//!
//! What stands for the raw limit (hyper alone, sockets alone) runs in a process of its own too, this program started
//! again, so that both sides pay for the same clients on the same cores. `CONSTRUCT_BENCH_BINARY` names another build
//! of the node to be measured.
#[path = "../support/mod.rs"]
mod support;

mod fan_out;
#[path = "../../tests/it/overload/generator.rs"]
mod generator;
mod load;
mod overload;
mod raw;
mod requests;
mod sign_in;
mod sockets;

use support::Run;

fn main() {
    // As the product does.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    if raw::is_asked_for() {
        return raw::serve();
    }
    let run = Run::start();
    requests::run(&run);
    sign_in::run(&run);
    sockets::run(&run);
    overload::run(&run);
}
