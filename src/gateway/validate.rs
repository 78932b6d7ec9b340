//! From bytes to a typed body: media type, depth, syntax (400), then shape (422 with JSON Pointers).
//!
//! Invariant: a body that carries a payment card number anywhere is refused before any handler, log or store sees it.
//! Deliberately absent: rules between members; those belong to the handler or the entity.

mod objects;
mod scan;

use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use self::objects::Objects;
use self::scan::{is_control, scan};
use super::request::Head;
use crate::kernel::pan::contains_card_number;
use crate::kernel::{Error, ErrorCode};

/// How deep arrays and objects may be nested.
pub const MAX_DEPTH: usize = 32;

/// Refuses a body of another media type than one of `accepted` (`application/json` also takes `+json` types).
///
/// # Errors
/// `unsupported_media_type`.
pub fn check_media_type(head: &Head, accepted: &[&str]) -> Result<(), Error> {
    let refuse = || {
        let detail = format!("Send the body as {}.", accepted.join(" or "));
        Err(Error::new(ErrorCode::UnsupportedMediaType, detail))
    };
    let Some(sent) = head.header(CONTENT_TYPE.as_str()).and_then(|text| text.parse::<mime::Mime>().ok()) else {
        return refuse();
    };
    if sent.get_param(mime::CHARSET).is_some_and(|charset| charset != mime::UTF_8) {
        return refuse();
    }
    let json_suffix = sent.suffix() == Some(mime::JSON) && accepted.contains(&mime::APPLICATION_JSON.as_ref());
    if json_suffix || accepted.contains(&sent.essence_str()) { Ok(()) } else { refuse() }
}

/// A JSON body as `T`.
///
/// # Errors
/// `malformed` when it is not JSON or nested too deep; `invalid` when it has a card number, a control character, or an
/// unknown, missing, mistyped or repeated member.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    scan(bytes)?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(Objects(&mut deserializer)).map_err(|error| {
        let pointer = pointer(error.path());
        shape_error(pointer, &error.inner().to_string())
    })
}

/// A query or `application/x-www-form-urlencoded` body as `T`.
///
/// # Errors
/// `malformed` when it is not UTF-8; `invalid` when it has a card number, a control character, or an unknown, missing,
/// mistyped or repeated member.
pub fn form<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    if percent_decode(bytes).decode_utf8().is_err() {
        return Err(Error::new(ErrorCode::Malformed, "The query or form is not UTF-8."));
    }
    for (name, value) in form_urlencoded::parse(bytes) {
        for text in [&name, &value] {
            if contains_card_number(text) {
                return Err(card_number_refused(""));
            }
            if text.chars().any(is_control) {
                return Err(Error::invalid("", "holds a control character"));
            }
        }
    }
    let deserializer = serde_urlencoded::Deserializer::new(form_urlencoded::parse(bytes));
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        shape_error(pointer, &error.inner().to_string())
    })
}

/// What serde says of a member, as one field error. Serde names missing and unknown members only in its text.
fn shape_error(mut pointer: String, text: &str) -> Error {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    let named = |prefix: &str| text.strip_prefix(prefix)?.split('`').next();
    if let Some(member) = named("missing field `") {
        push(&mut pointer, member);
        return Error::invalid(&pointer, "is required");
    }
    if let Some(member) = named("unknown field `") {
        let suffix = format!("/{}", escaped(member));
        if !pointer.ends_with(&suffix) {
            pointer.push_str(&suffix);
        }
        return Error::invalid(&pointer, "is not a known member");
    }
    if let Some(member) = named("duplicate field `") {
        let suffix = format!("/{}", escaped(member));
        if !pointer.ends_with(&suffix) {
            pointer.push_str(&suffix);
        }
        return Error::invalid(&pointer, "is given twice");
    }
    Error::invalid(&pointer, text.chars().take(200).collect::<String>())
}

fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

fn push(pointer: &mut String, member: &str) {
    pointer.push('/');
    pointer.push_str(&escaped(member));
}

/// RFC 6901 §3.
fn escaped(member: &str) -> String {
    member.replace('~', "~0").replace('/', "~1")
}

fn card_number_refused(pointer: &str) -> Error {
    Error::invalid(pointer, "holds a payment card number; send a token of the payment provider instead")
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        name: String,
        #[serde(default)]
        lines: Vec<Line>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        quantity: u32,
    }

    fn refusal(body: &str) -> (ErrorCode, String, String) {
        let error = json::<Order>(body.as_bytes()).expect_err("refused");
        let field = error.errors.first().cloned();
        let (pointer, detail) = field.map_or((String::new(), error.detail), |f| (f.pointer, f.detail));
        (error.code, pointer, detail)
    }

    #[test]
    fn the_member_at_fault_is_named() {
        let check = |body: &str, pointer: &str, detail: &str| {
            let (code, found, text) = refusal(body);
            assert_eq!((code, found.as_str()), (ErrorCode::Invalid, pointer), "{body}");
            assert!(text.contains(detail), "{body}: {text}");
        };
        check("{}", "/name", "is required");
        check(r#"{"name":"x","nick~name":1}"#, "/nick~0name", "not a known member");
        check(r#"{"name":"x","name":"y"}"#, "/name", "given twice");
        check(r#"{"name":7}"#, "/name", "expected a string");
        check(r#"{"name":"x","lines":[{"quantity":1},{"quantity":-1}]}"#, "/lines/1/quantity", "u32");
        check(r#"{"name":"x","lines":[{}]}"#, "/lines/0/quantity", "is required");
        check(r#"{"name":"x","lines":[{"quantity":1,"a":2}]}"#, "/lines/0/a", "not a known member");
        check("[]", "", "");
        check(r#"["x",[]]"#, "", "expected struct Order");
        check(r#"{"name":"x","lines":[[1]]}"#, "/lines/0", "expected struct Line");
        check(r#"{"name":"a\u0000b"}"#, "/name", "control character");
        check(r#"{"name":"x","lines":[{"quantity":1,"quantity":1}]}"#, "/lines/0/quantity", "given twice");
        check(r#"{"name":"x","lines":[{"quantity":1.0}]}"#, "/lines/0/quantity", "u32");
        check(r#"{"name":"x","lines":[{"quantity":4294967296}]}"#, "/lines/0/quantity", "u32");
        check(r#"{"name":"x","lines":[{"quantity":-0}]}"#, "/lines/0/quantity", "u32");
        assert!(json::<Value>(br#"{"a":{"b":1,"c":[{"b":1},{"b":1}]},"b":1}"#).is_ok());
        assert!(json::<Value>(br#"{"a":[{"b":1,"b":1}]}"#).is_err());
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = format!(r#"{{"name":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
        let not_utf8 = b"{\"name\":\"\xff\"}";
        assert_eq!(json::<Order>(not_utf8).expect_err("refused").code, ErrorCode::Malformed);
        let lone = r#"{"name":"\ud800"}"#;
        let huge = r#"{"name":1e400}"#;
        for body in ["", "{", "nope", r#"{"name":"x"} {}"#, deep.as_str(), lone, huge, "\u{feff}{}", "{\"name\":NaN}"] {
            assert_eq!(refusal(body).0, ErrorCode::Malformed, "{body}");
        }
        assert!(json::<Value>(br#"{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"{{"}"#).is_ok());
    }

    #[test]
    fn forms_are_utf8_and_give_each_member_once() {
        let refused = |bytes: &[u8]| form::<Line>(bytes).map(drop).map_err(|error| error.code).err();
        assert_eq!(refused(b"quantity=1"), None);
        assert_eq!(refused(b"quantity=%31&"), None);
        assert_eq!(refused(b"quantity=1&quantity=1"), Some(ErrorCode::Invalid));
        assert_eq!(refused(b"quantity=1%00"), Some(ErrorCode::Invalid));
        for bad in [&b"quantity=%ff"[..], b"quantity=\xff", b"%c0%80=1", b"quantity=%ed%a0%80"] {
            assert_eq!(refused(bad), Some(ErrorCode::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn card_numbers_are_refused_wherever_they_hide() {
        let (code, pointer, detail) = refusal(r#"{"name":"x","lines":[{"deep":{"n":4242424242424242}}]}"#);
        assert_eq!((code, pointer.as_str()), (ErrorCode::Invalid, "/lines/0/deep/n"));
        assert!(!detail.contains("4242"));
        assert!(form::<std::collections::HashMap<String, String>>(b"a=4242+4242+4242+4242").is_err());
    }

    #[test]
    fn only_the_accepted_media_types_pass() {
        let check = |sent: Option<&str>, accepted: &[&str]| {
            let mut head = Head::new(Method::POST, "/");
            if let Some(sent) = sent {
                head.headers.insert(CONTENT_TYPE, sent.parse().expect("a value"));
            }
            check_media_type(&head, accepted).is_ok()
        };
        assert!(check(Some("application/json"), &["application/json"]));
        assert!(check(Some("Application/JSON; charset=UTF-8"), &["application/json"]));
        assert!(check(Some("application/merge-patch+json"), &["application/json"]));
        assert!(!check(Some("application/json; charset=latin1"), &["application/json"]));
        assert!(!check(Some("text/plain"), &["application/json"]));
        assert!(!check(None, &["application/json"]));
        assert!(check(Some("application/x-www-form-urlencoded"), &["application/x-www-form-urlencoded"]));
    }
}
