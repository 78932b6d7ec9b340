//! One look at a JSON text before anything is made of it: how deep it is nested, whether a member is given twice
//! (which readers resolve differently, RFC 8259 §4), control characters, payment card numbers.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{MAX_DEPTH, card_number_refused, push};
use crate::kernel::pan::contains_card_number;
use crate::kernel::{Error, ErrorCode};

/// Reads the text to its end and keeps nothing of it.
///
/// # Errors
/// `malformed` when it is not JSON or nested too deep; `invalid`, naming the member.
pub(super) fn scan(bytes: &[u8]) -> Result<(), Error> {
    let mut state = State::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Scan { state: &mut state, depth: 0 }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    let Err(error) = read else { return Ok(()) };
    Err(state.refusal.unwrap_or_else(|| {
        let place = format!("line {} column {}", error.line(), error.column());
        Error::new(ErrorCode::Malformed, format!("The body is not valid JSON ({place})."))
    }))
}

#[derive(Default)]
struct State {
    pointer: String,
    refusal: Option<Error>,
}

struct Scan<'s> {
    state: &'s mut State,
    depth: usize,
}

impl Scan<'_> {
    /// Stops the reading; what is said to serde is not looked at.
    fn refuse<E: de::Error>(self, refusal: Error) -> Result<(), E> {
        self.state.refusal = Some(refusal);
        Err(E::custom("refused"))
    }

    fn text<E: de::Error>(self, text: &str) -> Result<(), E> {
        if contains_card_number(text) {
            let refusal = card_number_refused(&self.state.pointer);
            return self.refuse(refusal);
        }
        if text.chars().any(is_control) {
            let refusal = Error::invalid(&self.state.pointer, "holds a control character");
            return self.refuse(refusal);
        }
        Ok(())
    }

    fn deeper<E: de::Error>(&mut self) -> Result<usize, E> {
        if self.depth < MAX_DEPTH {
            return Ok(self.depth + 1);
        }
        let detail = format!("The body is nested deeper than {MAX_DEPTH} levels.");
        self.state.refusal = Some(Error::new(ErrorCode::Malformed, detail));
        Err(E::custom("refused"))
    }
}

/// What no text of ours has: all of C0 but tab and line ends, and DEL.
pub(super) fn is_control(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        // Negative, and so no card number.
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.text(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        self.text(&number.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let length = self.state.pointer.len();
        for index in 0_usize.. {
            push(&mut self.state.pointer, &index.to_string());
            let next = items.next_element_seed(Scan { state: self.state, depth })?;
            self.state.pointer.truncate(length);
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let length = self.state.pointer.len();
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            Scan { state: self.state, depth }.text::<A::Error>(&name)?;
            push(&mut self.state.pointer, &name);
            if !seen.insert(name) {
                self.state.refusal = Some(Error::invalid(&self.state.pointer, "is given twice"));
                return Err(A::Error::custom("refused"));
            }
            members.next_value_seed(Scan { state: self.state, depth })?;
            self.state.pointer.truncate(length);
        }
        Ok(())
    }
}
