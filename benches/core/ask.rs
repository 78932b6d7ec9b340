//! A question to an entity that is in memory, against a bare call of a ractor actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use construct::actors::runtime::Router;
use construct::kernel::{EntityId, Origin};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use super::support::callers::origin;
use super::support::rig::{Note, NoteCommand, Rig, settings};
use super::support::{Goal, Run, rate};

const GOAL: f64 = 0.5;

struct Bare;

enum Question {
    Length(RpcReplyPort<u64>),
}

impl ractor::Message for Question {}

impl Actor for Bare {
    type Msg = Question;
    type State = u64;
    type Arguments = u64;

    async fn pre_start(&self, _myself: ActorRef<Question>, length: u64) -> Result<u64, ActorProcessingErr> {
        Ok(length)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Question>,
        Question::Length(reply): Question,
        length: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(*length);
        Ok(())
    }
}

pub fn run(run: &Run) {
    if !run.wants("actor asks/s") {
        return;
    }
    let dir = tempfile::tempdir_in(&run.place).expect("a directory");
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rig = tokio.block_on(Rig::notes(dir.path(), &settings()));
    for callers in [1, 64] {
        let origin = Arc::new(origin());
        let entity = |caller: usize| {
            let (router, origin, id) = (rig.runtime.router.clone(), Arc::clone(&origin), Note::id(caller));
            move || ask(router.clone(), id.clone(), Arc::clone(&origin))
        };
        let bare: Vec<_> =
            (0..callers).map(|_| tokio.block_on(Actor::spawn(None, Bare, 1)).expect("spawned").0).collect();
        let actor = |caller: usize| {
            let actor = bare[caller].clone();
            move || bare_call(actor.clone())
        };
        // Brings the entities into memory.
        calls(&tokio, callers, Duration::from_millis(200), entity);
        let measured =
            run.pairs(|| calls(&tokio, callers, run.turn(), entity), || calls(&tokio, callers, run.turn(), actor));
        measured.print(&format!("actor asks/s x{callers}"), Goal::Ratio(GOAL));
        for actor in bare {
            actor.stop(None);
        }
    }
    tokio.block_on(rig.stop());
}

pub async fn ask(router: Router, id: EntityId, origin: Arc<Origin>) -> u64 {
    router.ask::<Note>(&id, NoteCommand::GetLength, &origin).await.expect("answered")
}

async fn bare_call(actor: ActorRef<Question>) -> u64 {
    ractor::call!(actor, Question::Length).expect("answered")
}

/// Calls a second of so many callers.
pub fn calls<C, F>(tokio: &tokio::runtime::Runtime, callers: usize, turn: Duration, call: impl Fn(usize) -> C) -> f64
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = u64> + Send,
{
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    tokio.block_on(async {
        let mut running = Vec::new();
        for caller in 0..callers {
            let (call, stop, done) = (call(caller), Arc::clone(&stop), Arc::clone(&done));
            running.push(tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    call().await;
                    count += 1;
                }
                done.fetch_add(count, Ordering::Relaxed);
            }));
        }
        tokio::time::sleep(turn).await;
        stop.store(true, Ordering::Relaxed);
        for call in running {
            call.await.expect("no panic");
        }
    });
    rate(done.load(Ordering::Relaxed), began.elapsed())
}
