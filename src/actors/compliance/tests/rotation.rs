//! A rotation that runs whole between two steps of making a person's first key.

use tokio::sync::Semaphore;

use super::*;
use crate::actors::compliance::Compliance;
use crate::actors::compliance::keyring::fence;
use crate::actors::compliance::sealer::Keyrings;
use crate::actors::identity::Authority;
use crate::actors::runtime::Router;
use crate::kernel::Clock;
use crate::providers::keys::WrappedKey;
use crate::settings::Settings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    BeforeAnnounced,
    BeforeMade,
    Made,
}

/// The keyrings as another node reaches them, whose maker halts once at a step until it may go on.
struct Halting {
    router: Router,
    at: Mutex<Option<Step>>,
    reached: Semaphore,
    go_on: Semaphore,
}

impl Halting {
    async fn pass(&self, step: Step) {
        if self.at.lock().expect("not poisoned").take_if(|at| *at == step).is_none() {
            return;
        }
        self.reached.add_permits(1);
        self.go_on.acquire().await.expect("open").forget();
    }
}

#[async_trait]
impl Keyrings for Halting {
    async fn ask(&self, user_id: &str, command: keyring::Command) -> Result<keyring::Reply, Error> {
        let makes = matches!(command, keyring::Command::Create { .. });
        if makes {
            self.pass(Step::BeforeMade).await;
        }
        let answer = Keyrings::ask(&self.router, user_id, command).await;
        if makes {
            self.pass(Step::Made).await;
        }
        answer
    }

    async fn announce(&self, user_id: &str, version: u32) -> Result<fence::Reply, Error> {
        self.pass(Step::BeforeAnnounced).await;
        self.router.announce(user_id, version).await
    }

    async fn wrapped(&self, user_id: &str) -> Result<Option<WrappedKey>, Error> {
        self.router.wrapped(user_id).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_lost_to_a_rotation_that_overtakes_its_making() {
    let world = World::new().await;
    let (router, keys) = (world.runtime.router.clone(), Arc::clone(&world.keys) as Arc<dyn KeyWrapper>);
    let clock = Arc::new(NodeClock::virtual_at(world.runtime.clock_now())) as Arc<dyn Clock>;
    let identity = Authority::new(router.clone(), clock, Arc::clone(&keys), &Settings::embedded());
    identity.start().await.expect("makes a signing key");
    let compliance = Compliance::open(router.clone(), Arc::clone(&keys), Arc::clone(&world.sealer), "example.org");
    let compliance = compliance.await.expect("opens");
    for (step, seed) in [(Step::BeforeAnnounced, 11), (Step::BeforeMade, 12), (Step::Made, 13)] {
        let halting = Arc::new(Halting {
            router: router.clone(),
            at: Mutex::new(Some(step)),
            reached: Semaphore::new(0),
            go_on: Semaphore::new(0),
        });
        let elsewhere = KeyringSealer::new(Arc::clone(&keys), 100);
        elsewhere.connect(Arc::clone(&halting) as Arc<dyn Keyrings>);
        let id = type_id("usr", world.runtime.clock_now(), Slot(seed), [1; 8]);
        let person = id.clone();
        let making = tokio::spawn(async move { elsewhere.key(&person, true).await });
        let reached = tokio::time::timeout(Duration::from_secs(20), halting.reached.acquire()).await;
        reached.expect("the maker gets there").expect("open").forget();

        let rotated = compliance.rotate_keys(&identity, &Origin::system("test")).await.expect("rotated");
        assert_eq!(keys.versions(), [rotated.version], "{step:?}");
        halting.go_on.add_permits(1);
        let made = making.await.expect("runs").expect("made").expect("not erased");
        let found = world.sealer.key(&id, false).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert!(found.is_some_and(|found| found.expose() == made.expose()), "{step:?}");
    }
    world.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_announced_and_never_made_does_not_hold_a_rotation_up() {
    let world = World::new().await;
    let (router, keys) = (world.runtime.router.clone(), Arc::clone(&world.keys) as Arc<dyn KeyWrapper>);
    let id = type_id("usr", world.runtime.clock_now(), Slot(14), [1; 8]);
    let late = keys.wrap(&id, &[7; 32]).await.expect("wrapped");
    assert_eq!(router.announce(&id, late.version).await, Ok(fence::Reply::Done));
    let clock = Arc::new(NodeClock::virtual_at(world.runtime.clock_now())) as Arc<dyn Clock>;
    let identity = Authority::new(router.clone(), clock, Arc::clone(&keys), &Settings::embedded());
    let compliance = Compliance::open(router.clone(), Arc::clone(&keys), Arc::clone(&world.sealer), "example.org");
    let compliance = compliance.await.expect("opens");
    compliance.rotate_keys(&identity, &Origin::system("test")).await.expect("rotated");
    // What its maker sent before it was cut off arrives only now.
    let create = keyring::Command::Create { wrapped: late };
    assert_eq!(Keyrings::ask(&router, &id, create).await, Ok(keyring::Reply::Superseded));
    assert!(world.sealer.key(&id, true).await.expect("made").is_some());
    world.runtime.stop().await;
}
