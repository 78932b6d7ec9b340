use super::{BY_VERSION, Command, Event, Keyring, ROW, Reply, TABLE, by_version_key};
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, Entity, EntityId, ErrorCode, codec};
use crate::providers::keys::WrappedKey;

const USER: &str = "usr_01h455vb4pex5vsknk084sn02q";

fn wrapped(version: u32) -> WrappedKey {
    WrappedKey { version, bytes: vec![version as u8; 60] }
}

fn held() -> Given<Keyring> {
    let mut given = Given::new(USER);
    given.when(Command::Create { wrapped: wrapped(1) }).expect("created");
    given
}

fn erased() -> Given<Keyring> {
    let mut given = held();
    given.when(Command::Erase).expect("erased");
    given
}

fn get(given: &mut Given<Keyring>) -> Reply {
    let decision = given.when(Command::Get).expect("answered");
    assert!(decision.is_query());
    decision.reply
}

fn refusal(given: &mut Given<Keyring>, command: Command) -> ErrorCode {
    given.when(command).err().expect("refused").code
}

#[test]
fn a_key_is_made_once_and_lies_in_its_row_alone() {
    let mut given = Given::<Keyring>::new(USER);
    assert_eq!(get(&mut given), Reply::Absent);
    let decision = given.when(Command::Create { wrapped: wrapped(1) }).expect("created");
    assert_eq!(decision.reply, Reply::Accepted);
    let row =
        Change::Row { table: TABLE.into(), key: ROW.into(), value: Some(codec::encode(&wrapped(1)).expect("encodes")) };
    let indexed = Change::Index { index: BY_VERSION.into(), key: by_version_key(1, USER), value: Some(Vec::new()) };
    assert_eq!(decision.changes, vec![row, indexed]);
    let event = codec::encode(&decision.events[0]).expect("encodes");
    assert!(!event.windows(8).any(|window| window == [1; 8]), "events are kept by feeds");
    assert_eq!(get(&mut given), Reply::Held { version: 1 });
    assert_eq!(refusal(&mut given, Command::Create { wrapped: wrapped(2) }), ErrorCode::Conflict);
    assert_eq!(get(&mut given), Reply::Held { version: 1 });
    assert_eq!(given.state.subject(&EntityId::new("keyring", USER)), None, "or sealing would need itself");
}

#[test]
fn erasure_purges_is_audited_and_is_for_good() {
    let mut given = held();
    let decision = given.when(Command::Erase).expect("erased");
    assert!(decision.purge);
    assert_eq!(decision.events, vec![Event::Erased { at: given.context.now }]);
    assert_eq!((decision.audit[0].action.as_str(), decision.audit[0].target.as_str()), ("data_key.erase", USER));
    let row = Change::Row { table: TABLE.into(), key: ROW.into(), value: None };
    let unindexed = Change::Index { index: BY_VERSION.into(), key: by_version_key(1, USER), value: None };
    assert_eq!(decision.changes, vec![row, unindexed]);

    let answer = Reply::Erased { at: given.context.now };
    assert_eq!(get(&mut given), answer);
    let again = given.when(Command::Erase).expect("answered");
    assert!(again.is_query() && again.reply == answer);
    assert_eq!(refusal(&mut given, Command::Create { wrapped: wrapped(1) }), ErrorCode::Gone);
    assert_eq!(refusal(&mut given, Command::Rewrap { from: 1, wrapped: wrapped(2) }), ErrorCode::Gone);
}

#[test]
fn a_person_without_a_key_can_be_erased_and_gets_none_later() {
    let mut given = Given::<Keyring>::new(USER);
    assert!(given.when(Command::Erase).expect("erased").purge);
    assert_eq!(refusal(&mut given, Command::Create { wrapped: wrapped(1) }), ErrorCode::Gone);
}

#[test]
fn rewrapping_replaces_the_row() {
    let mut given = held();
    let decision = given.when(Command::Rewrap { from: 1, wrapped: wrapped(3) }).expect("rewrapped");
    assert_eq!(decision.changes.len(), 3);
    assert_eq!(get(&mut given), Reply::Held { version: 3 });
    let repeat = given.when(Command::Rewrap { from: 1, wrapped: wrapped(3) }).expect("a repeat is answered");
    assert!(repeat.is_query());
    assert_eq!(refusal(&mut given, Command::Rewrap { from: 4, wrapped: wrapped(5) }), ErrorCode::Conflict);
    assert_eq!(refusal(&mut given, Command::Rewrap { from: 3, wrapped: wrapped(3) }), ErrorCode::Conflict);
    let mut absent = Given::<Keyring>::new(USER);
    assert_eq!(refusal(&mut absent, Command::Rewrap { from: 1, wrapped: wrapped(2) }), ErrorCode::NotFound);
}

#[test]
fn what_was_announced_and_not_made_is_barred_to_old_versions() {
    let bar = |from, lowest| Command::Bar { from, lowest };
    let unindexed = |from| Change::Index { index: BY_VERSION.into(), key: by_version_key(from, USER), value: None };
    let mut given = Given::<Keyring>::new(USER);
    let decision = given.when(bar(1, 2)).expect("barred");
    assert_eq!((decision.changes, decision.events.len()), (vec![unindexed(1)], 1));
    assert_eq!(get(&mut given), Reply::Absent);
    let late = given.when(Command::Create { wrapped: wrapped(1) }).expect("answered");
    assert!(late.is_query() && late.reply == Reply::Superseded);
    assert_eq!(given.when(bar(1, 2)).expect("a repeat").events, []);
    assert_eq!(given.when(Command::Create { wrapped: wrapped(2) }).expect("made").reply, Reply::Accepted);

    assert_eq!(refusal(&mut given, bar(2, 3)), ErrorCode::Conflict);
    for mut given in [given, erased()] {
        let decision = given.when(bar(1, 3)).expect("a stray announcement goes");
        assert_eq!((decision.changes, decision.events.len()), (vec![unindexed(1)], 0));
    }
}

#[test]
fn the_event_left_by_a_purge_rebuilds_the_state_alone() {
    for (mut given, last) in
        [(held(), Command::Rewrap { from: 1, wrapped: wrapped(2) }), (held(), Command::Erase), (erased(), Command::Get)]
    {
        let decision = given.when(last).expect("decided");
        if decision.purge {
            let mut replayed = Keyring::default();
            decision.events.iter().for_each(|event| replayed.apply(event));
            assert_eq!(replayed, given.state);
        }
    }
}
