//! Hides what looks like a secret in a line of log.
//!
//! A net under the `Secret` type, not instead of it: it knows the shapes of credentials that pass through this process
//! (bearer tokens, JWTs, tokens in links, keys of providers, passwords in URLs, card numbers) and nothing else.

const HIDDEN: &str = "[redacted]";

/// What follows one of these, up to the first character that cannot be in a token, is hidden. The second part says
/// whether the marker itself may stay.
const MARKERS: [(&str, bool); 12] = [
    ("Bearer ", true),
    ("bearer ", true),
    ("Basic ", true),
    ("token=", true),
    ("password=", true),
    ("secret=", true),
    ("\"password\":\"", true),
    ("\"token\":\"", true),
    ("eyJ", false),
    ("sk_live_", false),
    ("sk_test_", false),
    ("whsec_", false),
];

/// Fewest characters after a marker for it to be a secret and not a word.
const SHORTEST: usize = 6;

/// `line` with credentials and card numbers replaced.
#[must_use]
pub fn redact(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        if let Some((kept, length)) = credential(rest).or_else(|| userinfo(rest)) {
            out.push_str(kept);
            out.push_str(HIDDEN);
            rest = &rest[length..];
        } else if let Some(length) = card_number(rest).filter(|length| stands_alone(&out, &rest[*length..])) {
            out.push_str(HIDDEN);
            rest = &rest[length..];
        } else {
            // Digits are taken as one run, so that a card number is not found inside a longer number.
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let length = if digits > 0 { digits } else { rest.chars().next().map_or(1, char::len_utf8) };
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    out
}

/// A marker and its secret at the start of `text`: what may stay, and how long both are.
fn credential(text: &str) -> Option<(&'static str, usize)> {
    MARKERS.iter().find_map(|(marker, keep)| {
        let after = text.strip_prefix(marker)?;
        let length = after.bytes().take_while(|b| is_token_byte(*b)).count();
        (length >= SHORTEST).then_some((if *keep { *marker } else { "" }, marker.len() + length))
    })
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=%!*$".contains(&byte)
}

/// `://user:password@` at the start of `text`.
fn userinfo(text: &str) -> Option<(&'static str, usize)> {
    let after = text.strip_prefix("://")?;
    let length = after.bytes().take_while(|b| !b.is_ascii_whitespace() && !b"/@\"'<>".contains(b)).count();
    let (user, at) = after.split_at(length);
    (at.starts_with('@') && user.contains(':')).then_some(("://", 3 + length))
}

/// A run of 14 to 19 digits, perhaps in groups, that passes the Luhn check (ISO/IEC 7812-1). 13 digits would be
/// every timestamp in milliseconds.
fn card_number(text: &str) -> Option<usize> {
    let mut digits = Vec::with_capacity(19);
    let mut length = 0;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => {
                digits.push(byte - b'0');
                length = index + 1;
            }
            b' ' | b'-' if !digits.is_empty() && index == length => {}
            _ => break,
        }
        if digits.len() > 19 {
            return None;
        }
    }
    ((14..=19).contains(&digits.len()) && luhn(&digits)).then_some(length)
}

/// Whether what is between these is a word of its own: digits within an id are part of that.
fn stands_alone(before: &str, after: &str) -> bool {
    let inside = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    !inside(before.bytes().next_back()) && !inside(after.bytes().next())
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = u32::from(*digit) * if place % 2 == 1 { 2 } else { 1 };
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_hidden_and_the_rest_stays() {
        for (line, expected) in [
            ("authorization: Bearer abc.def-ghi_jkl", "authorization: Bearer [redacted]"),
            ("GET /v1/verify?token=Zm9vYmFyYmF6&x=1", "GET /v1/verify?token=[redacted]&x=1"),
            ("jwt eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2ln done", "jwt [redacted] done"),
            ("key sk_test_51Habcdefgh, ok", "key [redacted], ok"),
            ("smtp://user:hunter2@mail:587 up", "smtp://[redacted]@mail:587 up"),
            ("card 4242 4242 4242 4242 seen", "card [redacted] seen"),
            ("card 4242-4242-4242-4242.", "card [redacted]."),
            (
                "entity=idempotency/c7ac4242424242424242fd53 \"4242424242424242\"",
                "entity=idempotency/c7ac4242424242424242fd53 \"[redacted]\"",
            ),
            ("{\"password\":\"correct-horse\"}", "{\"password\":\"[redacted]\"}"),
            ("at 1700000000000 ms, id 4242424242424241", "at 1700000000000 ms, id 4242424242424241"),
            ("http://127.0.0.1:8080/x and token=no", "http://127.0.0.1:8080/x and token=no"),
            ("Grüße 42 ✓", "Grüße 42 ✓"),
        ] {
            assert_eq!(redact(line), expected);
        }
    }
}
