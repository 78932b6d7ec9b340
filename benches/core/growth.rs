//! What a command costs when the node holds a thousand entities and when it holds a million: processor time of the
//! whole process for each command, of 64 callers with an entity each, all the others at rest.
//!
//! The second row is for information: each command goes to another entity, so that in the large node every one of them
//! pays for bringing its entity into memory and another out of it.

use std::time::Instant;

use construct::actors::runtime::Router;
use tokio::runtime::Runtime;

use super::passivated::fill;
use super::support::callers::{origin, overwrite, write};
use super::support::process;
use super::support::rig::{Rig, settings};
use super::support::{Goal, Measured, Run, median};

const GOAL: f64 = 1.2;
const CALLERS: usize = 64;
const SMALL: usize = 1_000;

pub fn run(run: &Run) {
    let large = if run.quick { 50_000 } else { 1_000_000 };
    let name = format!("CPU us a command, {large} / {SMALL} entities");
    if !run.wants(&name) {
        return;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (mut busy, mut all) = (Vec::new(), Vec::new());
    for count in [large, SMALL] {
        let dir = tempfile::tempdir_in(&run.place).expect("a directory");
        let rig = tokio.block_on(Rig::notes(dir.path(), &settings()));
        tokio.block_on(async {
            fill(&rig, count).await;
            rig.settle().await;
        });
        let mut turns = Vec::new();
        for _ in 0..run.turns() {
            turns.push(write(&tokio, |_| rig.runtime.router.clone(), CALLERS, run.turn()).1);
            tokio.block_on(rig.settle());
        }
        busy.push(median(turns));
        all.push(everywhere(&tokio, &rig.runtime.router, count, run));
        tokio.block_on(rig.settle());
        tokio.block_on(rig.stop());
    }
    let measured =
        |values: &[f64]| Measured { ours: values[0], raw: Some(values[1]), ratio: Some(values[0] / values[1]) };
    measured(&busy).print(&name, Goal::RatioAtMost(GOAL));
    measured(&all).print(&format!("{name}, all of them"), Goal::None);
}

/// Processor time in microseconds of each command, when every command goes to another entity.
fn everywhere(tokio: &Runtime, router: &Router, count: usize, run: &Run) -> f64 {
    let (began, cpu) = (Instant::now(), process::cpu(None));
    let turn = run.turn();
    let done: u64 = tokio.block_on(async {
        let calls = (0..CALLERS).map(|caller| {
            let router = router.clone();
            tokio::spawn(async move {
                let (origin, mut done) = (origin(), 0u64);
                let mut number = caller;
                while began.elapsed() < turn {
                    // A step that shares no factor with either count visits everybody.
                    number = (number + CALLERS * 7919 + 1) % count;
                    overwrite(&router, number, &origin).await;
                    done += 1;
                }
                done
            })
        });
        let mut done = 0;
        for call in calls.collect::<Vec<_>>() {
            done += call.await.expect("no panic");
        }
        done
    });
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let micros = (process::cpu(None) - cpu).as_secs_f64() * 1e6 / done as f64;
    micros
}
