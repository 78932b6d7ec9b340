//! Finds payment card numbers in text, so that they are refused at the door and never stored or logged.
//!
//! A card number is 13 to 19 digits, written whole or in groups parted by one space, dash or dot, that begins like a
//! number of a card network and passes the Luhn check (ISO/IEC 7812-1). Digits after a plus sign are a telephone
//! number (E.164). Deliberately absent: the number itself, which is neither returned nor copied.

const MIN_DIGITS: usize = 13;
const MAX_DIGITS: usize = 19;

/// Whether a payment card number stands anywhere in `text`.
#[must_use]
pub fn contains_card_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        if !bytes[start].is_ascii_digit() {
            start += 1;
            continue;
        }
        let end = group_end(bytes, start);
        let telephone = start > 0 && bytes[start - 1] == b'+';
        if !telephone && card_from(bytes, start) {
            return true;
        }
        start = end;
    }
    false
}

/// Whether a card number begins with the group of digits at `start` and ends where some group ends.
fn card_from(bytes: &[u8], start: usize) -> bool {
    let after_letter = start > 0 && bytes[start - 1].is_ascii_alphanumeric();
    let mut digits = [0u8; MAX_DIGITS];
    let (mut count, mut position) = (0, start);
    for groups in 1.. {
        let end = group_end(bytes, position);
        if end == position || count + (end - position) > MAX_DIGITS {
            return false;
        }
        for byte in &bytes[position..end] {
            digits[count] = byte - b'0';
            count += 1;
        }
        // Grouped digits that touch a letter are part of something else, such as a UUID.
        let grouped_in_word = groups > 1 && (after_letter || bytes.get(end).is_some_and(u8::is_ascii_alphabetic));
        if count >= MIN_DIGITS && !grouped_in_word && known_network(&digits[..count]) && luhn(&digits[..count]) {
            return true;
        }
        if !matches!(bytes.get(end), Some(b' ' | b'-' | b'.')) {
            return false;
        }
        position = end + 1;
    }
    false
}

fn group_end(bytes: &[u8], start: usize) -> usize {
    start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The issuer ranges of the networks in use, with the lengths they issue.
fn known_network(digits: &[u8]) -> bool {
    let lead = digits[..4].iter().fold(0u32, |number, digit| number * 10 + u32::from(*digit));
    let length = digits.len();
    match lead {
        4000..=4999 => matches!(length, 13 | 16 | 18 | 19),
        2221..=2720 | 5100..=5599 => length == 16,
        3400..=3499 | 3700..=3799 => length == 15,
        3000..=3059 | 3095 | 3600..=3699 | 3800..=3999 => matches!(length, 14 | 16..=19),
        2131 | 1800 => length == 15,
        3528..=3589 | 6011 | 6200..=6299 | 6440..=6599 | 8100..=8199 => (16..=19).contains(&length),
        2200..=2204 | 5000..=5099 | 5600..=5899 | 6000..=6999 => (13..=19).contains(&length),
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let mut sum = 0u32;
    for (place, digit) in digits.iter().rev().enumerate() {
        let digit = u32::from(*digit);
        sum += if place % 2 == 0 {
            digit
        } else if digit > 4 {
            digit * 2 - 9
        } else {
            digit * 2
        };
    }
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_numbers_are_found_however_they_are_written() {
        for text in [
            "4242424242424242",
            "4242 4242 4242 4242",
            "5555-5555-5555-4444",
            r#"{"token":"x","note":"my card is 378282246310005, thanks"}"#,
            r#"{"n":6011111111111117}"#,
            "3782 822463 10005",
            "30569309025904",
            "3530111333300000",
            "6200.0000.0000.0005",
            "4222222222222",
            "2223003122003222",
            "order 12 4242 4242 4242 4242 of May",
            "card4242424242424242",
            "6304000000000000",
        ] {
            assert!(contains_card_number(text), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_left_alone() {
        for text in [
            "",
            "4242424242424241",
            "1700000000000",
            "+4915123456788",
            "424242424242424242424242",
            "usr_01h455vb4pex5vsknk084sn02q",
            "550e8400-e29b-41d4-a716-446655440000",
            "2026-01-31T10:00:00.000Z",
            "0000000000000000",
            "9999999999999995",
            "4242  4242  4242  4242",
            "a4242-4242-4242-4242b",
            "größe 4242",
        ] {
            assert!(!contains_card_number(text), "{text}");
        }
    }
}
