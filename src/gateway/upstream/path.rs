//! The one spelling of a path that a route is chosen by and an upstream gets.
//!
//! A gateway that lets a path through by how it is written, to a server that decodes before it looks, guards nothing:
//! `/%61dmin` is `/admin` to it. So what can be spelled in two ways is spelled plainly (RFC 3986 §6.2.2.2), and what
//! servers read in different ways is refused.

use crate::kernel::{Error, ErrorCode};

/// The path with every unreserved character plain and every escape in capitals.
///
/// # Errors
/// `malformed` for dot segments, empty segments before the last, backslashes, escaped slashes and controls, and percent
/// signs that escape nothing.
pub(super) fn one_spelling(path: &str) -> Result<String, Error> {
    let malformed = |detail| Err(Error::new(ErrorCode::Malformed, detail));
    let bytes = path.as_bytes();
    let (mut plain, mut at) = (String::with_capacity(path.len()), 0);
    while at < bytes.len() {
        let byte = match bytes[at] {
            b'%' => {
                let digits =
                    path.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    return malformed("The path has a percent sign that escapes nothing.");
                };
                at += 3;
                if !matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') {
                    if matches!(byte, b'/' | b'\\') || byte.is_ascii_control() {
                        return malformed("The path has an escaped slash, backslash or control character.");
                    }
                    plain.push_str(&format!("%{byte:02X}"));
                    continue;
                }
                byte
            }
            byte => {
                at += 1;
                byte
            }
        };
        if byte == b'\\' || !byte.is_ascii() {
            return malformed("The path has a backslash or a character that must be escaped.");
        }
        plain.push(char::from(byte));
    }
    let inner = plain.strip_prefix('/').unwrap_or(&plain);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.split('/').any(|segment| matches!(segment, "." | "..")) {
        return malformed("The path has dot segments.");
    }
    if !inner.is_empty() && inner.split('/').any(str::is_empty) || plain.starts_with("//") {
        return malformed("The path has empty segments.");
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling_or_none() {
        let spelled = |path: &str| one_spelling(path).ok();
        for (path, plain) in [
            ("/", "/"),
            ("/admin", "/admin"),
            ("/%61dm%69n/x/", "/admin/x/"),
            ("/a%20b%c3%a9/~x", "/a%20b%C3%A9/~x"),
            ("/%7e", "/~"),
            ("/a%3Fb", "/a%3Fb"),
        ] {
            assert_eq!(spelled(path).as_deref(), Some(plain), "{path}");
        }
        for path in [
            "//admin",
            "/a//b",
            "/a//",
            "/./a",
            "/a/..",
            "/%2e%2e/a",
            "/a/%2E",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%0ab",
            "/a%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "//",
        ] {
            assert_eq!(spelled(path), None, "{path}");
        }
    }
}
