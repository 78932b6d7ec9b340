//! How a shard changes hands, in every order of events within bounds; the model is in `tests/model`.

use hand_off_model::{Flaw, HandOff, Op, counter_example};

const READ_AND_ADD: [Op; 2] = [Op::Read, Op::Add];
const TWO_ADD: [Op; 2] = [Op::Add, Op::Add];

#[test]
fn no_order_of_events_gives_a_wrong_answer() {
    for (requests, restarts, hand_overs) in [(READ_AND_ADD, 1, 0), (READ_AND_ADD, 0, 1), (TWO_ADD, 0, 0)] {
        let model = HandOff { flaw: Flaw::None, requests, terms: 2, restarts, hand_overs };
        assert_eq!(counter_example(model), None);
    }
}

#[test]
fn each_rule_is_needed() {
    let flaws = [
        (Flaw::ForgetsPromises, READ_AND_ADD, 2, 1, 0),
        (Flaw::ProposesInAnyTerm, TWO_ADD, 3, 0, 0),
        (Flaw::ReadsWithoutLease, READ_AND_ADD, 2, 0, 0),
        (Flaw::LeaseFromTheAnswer, READ_AND_ADD, 2, 0, 0),
        (Flaw::ReadsWhileHandingOver, READ_AND_ADD, 2, 0, 1),
        (Flaw::ServesUnrecovered, TWO_ADD, 2, 0, 0),
    ];
    for (flaw, requests, terms, restarts, hand_overs) in flaws {
        let found = counter_example(HandOff { flaw, requests, terms, restarts, hand_overs });
        assert!(found.is_some(), "{flaw:?} does no harm");
    }
}
