//! What was written before a place knew since when its offer holds.

use super::*;
use crate::actors::billing::subscription::protocol::Place;
use crate::kernel::{Entity, snapshot};

/// The bytes of a value as they were before: without what says since when.
fn before<T: serde::Serialize>(value: &T, since: Timestamp) -> Vec<u8> {
    let (mut bytes, mark) = (codec::encode(value).expect("encodes"), codec::encode(&since).expect("encodes"));
    let whole = bytes.len();
    while let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        bytes.drain(at..at + mark.len());
    }
    assert!(bytes.len() < whole, "it has a place");
    bytes
}

#[test]
fn events_and_states_with_a_place_of_the_first_form_are_read() {
    let body = active(1999).state.body.expect("started");
    let since = Timestamp::from_millis(0x0123_4567_89ab);
    let (old, new) = (body.place, Place { since, ..body.place });
    assert_eq!(old.since, old.period.start, "what an old one stands for");
    let settling = Settling { invoice_id: "inv_1".into(), reason: invoice::Reason::Renewal, credit_used: 3 };
    let pending = |place| Pending { offer: body.offer.clone(), quantity: 2, place };
    let events = |place| {
        let mut events = Vec::new();
        for settling in [None, Some(settling.clone())] {
            let (request, at) = (Box::new(body.request()), old.period.start);
            events.push(Event::Started { request, place, trialing: false, settling: settling.clone(), at });
            events.push(Event::Renewed { place, balance: -1, settling: settling.clone() });
            events.push(Event::Restarted { place, settling, balance: 7 });
        }
        events.push(Event::ChangeProposed { pending: pending(place), settling: settling.clone(), balance: 0 });
        events.push(Event::Changed { offer: body.offer.clone(), quantity: 1, place, balance: 0 });
        events.push(Event::Resumed { place });
        events
    };
    for (now, then) in events(new).iter().zip(events(old)) {
        let read = |bytes: &[u8]| Subscription::read_event(bytes).expect("it is read");
        assert_eq!(&read(&codec::encode(now).expect("encodes")), now);
        assert_eq!(read(&before(now, since)), then);
    }
    for pending in [None, Some(pending(new))] {
        let mut body = body.clone();
        (body.place, body.pending) = (new, pending);
        let state = Subscription { body: Some(body) };
        let today = codec::encode(&state).expect("encodes");
        let kept: Subscription = snapshot::decode(&today).expect("one of today's form, of version 1");
        assert_eq!(codec::encode(&kept).expect("encodes"), today);
        let old: Subscription = snapshot::decode(&before(&state, since)).expect("one of the first form");
        let read = old.body.expect("it is there");
        assert_eq!((read.place, read.balance), (self::old(new), state.body.as_ref().expect("there").balance));
        assert_eq!(
            read.pending.map(|pending| pending.place),
            state.body.expect("there").pending.map(|p| self::old(p.place))
        );
    }
    assert!(snapshot::decode::<Subscription>(&[0]).expect("none yet").body.is_none());
    assert!(Subscription::read_event(&[9; 40]).is_err());
}

/// A place of the first form as it is read.
fn old(place: Place) -> Place {
    Place { since: place.period.start, ..place }
}
