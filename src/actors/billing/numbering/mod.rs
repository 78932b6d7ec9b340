//! Gapless document numbers, one entity per series: `numbering/INV` gives invoices 1, 2, 3, …
//!
//! A document asks by a Tell; the number comes back in the reply. Exactly once in two ways: the outbox delivers a Tell
//! once and repeats its first reply, and the series itself remembers its last [`REMEMBERED`] assignments. A number is
//! taken in the same commit that indexes it under [`INDEX`] (`<series>/<number>` → document), so there are no gaps and
//! a check can walk them. Deliberately absent: giving numbers back; a document that is voided keeps its number.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::kernel::{Context, Decision, Entity, Error};

/// Shard-wide index of the numbers given.
pub const INDEX: &str = "numbers";

/// How many of the last assignments a series answers again.
pub const REMEMBERED: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The number of this document; a new one if it has none yet.
    Assign { document_id: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Assigned { document_id: String, number: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Number(u64),
}

/// One series of numbers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Numbering {
    given: u64,
    recent: VecDeque<(String, u64)>,
}

/// The key of a number in [`INDEX`]; sorts by number within a series.
#[must_use]
pub fn index_key(series: &str, number: u64) -> String {
    format!("{series}/{number:020}")
}

/// How a number is printed: `INV-000001`.
#[must_use]
pub fn printed(series: &str, number: u64) -> String {
    format!("{series}-{number:06}")
}

impl Entity for Numbering {
    const KIND: &'static str = "numbering";

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        let Command::Assign { document_id } = command;
        if let Some((_, number)) = self.recent.iter().find(|(known, _)| *known == document_id) {
            return Ok(Decision::reply(Reply::Number(*number)));
        }
        let number = self.given + 1;
        let key = index_key(context.id.key(), number);
        Ok(Decision::reply(Reply::Number(number))
            .index(INDEX, key, document_id.as_str())
            .event(Event::Assigned { document_id, number }))
    }

    fn apply(&mut self, event: &Event) {
        let Event::Assigned { document_id, number } = event;
        self.given = *number;
        self.recent.push_back((document_id.clone(), *number));
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::runtime::testing::Given;

    #[test]
    fn numbers_have_no_gaps_and_a_document_keeps_its_own() {
        let mut series = Given::<Numbering>::new("INV");
        let mut number = |id: &str| {
            let Reply::Number(number) =
                series.when(Command::Assign { document_id: id.into() }).expect("assigned").reply;
            number
        };
        assert_eq!([number("a"), number("b"), number("a"), number("c"), number("b")], [1, 2, 1, 3, 2]);
        for n in 4..300 {
            assert_eq!(number(&format!("d{n}")), n);
        }
        assert_eq!(printed("INV", 299), "INV-000299");
    }
}
