use super::*;
use crate::actors::notifications::delivery::Category;
use crate::actors::runtime::testing::Given;
use crate::kernel::{Change, ErrorCode, codec};

fn append(n: usize) -> Command {
    let (id, title) = (format!("ntf_{n}"), format!("Number {n}"));
    Command::Append(NewItem { id, category: Category::Billing, title, body: "text".into(), url: None })
}

fn position(given: &mut Given<Inbox>) -> Position {
    match given.when(Command::GetPosition).expect("a position").reply {
        Reply::Position(position) => position,
        other => panic!("{other:?}"),
    }
}

#[test]
fn items_get_offsets_without_gaps_and_a_repeat_gets_its_old_one() {
    let mut given = Given::<Inbox>::new("usr_x");
    for n in 1..=3 {
        let decision = given.when(append(n)).expect("appended");
        assert_eq!(decision.reply, Reply::Appended { offset: n as u64 });
        let Some(Change::Row { table, key, value: Some(value) }) = decision.changes.last() else { panic!("a row") };
        let item: Item = codec::decode(value).expect("an item");
        assert_eq!((table.as_str(), row_offset(key), item.offset), (ITEMS, Some(n as u64), n as u64));
    }
    let repeat = given.when(append(2)).expect("repeat");
    assert!(repeat.is_query());
    assert_eq!(repeat.reply, Reply::Appended { offset: 2 });
    let position = position(&mut given);
    assert_eq!((position.offset, position.first, position.unread), (3, 1, 3));
    assert_eq!(position.epoch.len(), 8);
}

#[test]
fn opening_gives_an_epoch_that_stays() {
    let mut given = Given::<Inbox>::new("usr_x");
    let Reply::Position(opened) = given.when(Command::Open).expect("opened").reply else { panic!("a position") };
    assert_eq!((opened.offset, opened.first), (0, 1));
    assert!(given.when(Command::Open).expect("again").is_query());
    given.when(append(1)).expect("appended");
    assert_eq!(position(&mut given).epoch, opened.epoch);
}

#[test]
fn reading_counts_each_item_once() {
    let mut given = Given::<Inbox>::new("usr_x");
    for n in 1..=5 {
        given.when(append(n)).expect("appended");
    }
    let read = |ids: &[&str]| Command::Read { ids: ids.iter().map(|id| (*id).to_owned()).collect() };
    let decision = given.when(read(&["ntf_2", "ntf_2", "ntf_9"])).expect("read");
    assert_eq!(decision.reply, Reply::Marked { marked: 1, unread: 4 });
    assert!(given.when(read(&["ntf_2"])).expect("repeat").is_query());
    let decision = given.when(Command::ReadUpTo { offset: 3 }).expect("read");
    assert_eq!(decision.reply, Reply::Marked { marked: 2, unread: 2 });
    assert!(given.when(Command::ReadUpTo { offset: 3 }).expect("repeat").is_query());
    let marks = given.when(Command::GetMarks { after: 2, limit: 2 }).expect("marks").reply;
    let Reply::Marks { from, read_at, .. } = marks else { panic!("marks") };
    assert_eq!((from, read_at.iter().map(Option::is_some).collect::<Vec<_>>()), (3, vec![true, false]));
    given.when(Command::ReadUpTo { offset: u64::MAX }).expect("all");
    assert_eq!(position(&mut given).unread, 0);
    let too_many = Command::Read { ids: vec!["x".to_owned(); 501] };
    assert_eq!(given.when(too_many).expect_err("refused").code, ErrorCode::Invalid);
}

#[test]
fn old_items_are_trimmed_with_their_unread_marks() {
    let mut inbox = Inbox::default();
    let given = Given::<Inbox>::new("usr_x");
    for n in 1..=HISTORY + 2 {
        use crate::kernel::Entity as _;
        let decision = inbox.decide(append(n), &given.context).expect("appended");
        let trims = decision.changes.iter().filter(|c| matches!(c, Change::Row { value: None, .. })).count();
        assert_eq!(trims, usize::from(n > HISTORY));
        decision.events.iter().for_each(|event| inbox.apply(event));
    }
    let mut given = Given { state: inbox, ..given };
    let position = position(&mut given);
    assert_eq!((position.first, position.offset, position.unread), (3, HISTORY as u64 + 2, HISTORY as u64));
}
