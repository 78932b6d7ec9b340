//! Mail that the node sent: read back from the embedded Maildir, and as much MIME as that takes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use tokio::time::Instant;

pub const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// A message as its reader sees it.
#[derive(Debug, Clone)]
pub struct Mail {
    pub to: String,
    pub subject: String,
    /// The text part, decoded.
    pub text: String,
    /// Of `List-Unsubscribe`, without its brackets.
    pub unsubscribe: String,
}

impl Mail {
    /// The first link in the text part.
    #[track_caller]
    pub fn link(&self) -> String {
        let (_, rest) = self.text.split_once("http").unwrap_or_else(|| panic!("no link in {self:?}"));
        format!("http{}", rest.split_whitespace().next().unwrap_or_default())
    }

    /// The `token` query parameter of the first link in the text part.
    #[track_caller]
    pub fn token(&self) -> String {
        let (_, rest) = self.text.split_once("token=").unwrap_or_else(|| panic!("no token in {self:?}"));
        let end = rest.find(|c: char| c.is_whitespace() || "&\"'<>)".contains(c)).unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').to_owned()
    }
}

/// Where the node's mail arrives.
pub trait Mailbox {
    /// Every message so far.
    async fn all(&self) -> Vec<Mail>;

    /// Messages to an address whose subject contains `subject`, whatever the case.
    async fn matching(&self, to: &str, subject: &str) -> Vec<Mail> {
        let mut mails = self.all().await;
        mails.retain(|mail| mail.to.contains(to) && mail.subject.to_lowercase().contains(subject));
        mails
    }

    /// Waits until `count` messages match, and answers them. More than that is a failure.
    async fn wait_for(&self, to: &str, subject: &str, count: usize) -> Vec<Mail> {
        let deadline = Instant::now() + ARRIVES_WITHIN;
        let mut poll = tokio::time::interval(Duration::from_millis(50));
        loop {
            poll.tick().await;
            let found = self.matching(to, subject).await;
            if found.len() >= count {
                assert_eq!(found.len(), count, "mails to {to} about {subject}: {found:#?}");
                return found;
            }
            if Instant::now() > deadline {
                let all = self.all().await;
                panic!("{} of {count} mails to {to} about {subject:?} came; all: {all:#?}", found.len());
            }
        }
    }
}

/// The embedded default: a Maildir in the data directory.
pub struct Maildir(pub PathBuf);

impl Maildir {
    pub fn of(data: &Path) -> Self {
        Self(data.join("outbox/mail"))
    }
}

impl Maildir {
    /// The messages in files not seen before, oldest first; notes their names.
    pub fn unread(&self, seen: &mut HashSet<OsString>) -> Vec<Mail> {
        let entries = std::fs::read_dir(self.0.join("new")).into_iter().flatten().map(|entry| entry.expect("an entry"));
        let mut fresh: Vec<_> = entries.filter(|entry| seen.insert(entry.file_name())).collect();
        fresh.sort_by_cached_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok());
        let read = |entry: std::fs::DirEntry| std::fs::read(entry.path()).expect("a readable message");
        fresh.into_iter().map(|entry| parse(&String::from_utf8_lossy(&read(entry)))).collect()
    }
}

impl Mailbox for Maildir {
    async fn all(&self) -> Vec<Mail> {
        let mut mails = Vec::new();
        for folder in ["new", "cur"] {
            let Ok(entries) = std::fs::read_dir(self.0.join(folder)) else { continue };
            for entry in entries {
                let path = entry.expect("an entry").path();
                let bytes = std::fs::read(&path).expect("a readable message");
                mails.push(parse(&String::from_utf8_lossy(&bytes)));
            }
        }
        mails
    }
}

/// Reads a message (RFC 5322, 2045, 2047) as far as this product writes them.
pub fn parse(source: &str) -> Mail {
    let source = source.replace("\r\n", "\n");
    let (head, body) = source.split_once("\n\n").unwrap_or((&source, ""));
    let headers = unfold(head);
    let field = |name: &str| header(&headers, name);
    let text = text_part(&headers, body).unwrap_or_default();
    let unsubscribe = field("list-unsubscribe").trim_matches(['<', '>']).to_owned();
    Mail { to: decode_words(&field("to")), subject: decode_words(&field("subject")), text, unsubscribe }
}

fn unfold(head: &str) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in head.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
    headers
}

fn header(headers: &[(String, String)], name: &str) -> String {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn text_part(headers: &[(String, String)], body: &str) -> Option<String> {
    let kind = header(headers, "content-type");
    if let Some((_, boundary)) = kind.split_once("boundary=") {
        let boundary = boundary.trim_start_matches('"').split(['"', ';']).next()?.to_owned();
        return body.split(&format!("--{boundary}")).find_map(|part| {
            let part = part.trim_start_matches('\n');
            let (head, body) = part.split_once("\n\n")?;
            text_part(&unfold(head), body)
        });
    }
    if !kind.is_empty() && !kind.to_lowercase().starts_with("text/plain") {
        return None;
    }
    Some(match header(headers, "content-transfer-encoding").to_lowercase().as_str() {
        "quoted-printable" => quoted_printable(body),
        "base64" => {
            let compact: String = body.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(compact).expect("base64");
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => body.to_owned(),
    })
}

fn quoted_printable(body: &str) -> String {
    let joined = body.replace("=\n", "");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (byte, hex) {
            (b'=', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encoded words (RFC 2047) in a header.
fn decode_words(value: &str) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("=?") {
        out.push_str(before);
        let parts: Vec<&str> = after.splitn(4, '?').collect();
        let [_, encoding, text, tail] = parts[..] else { break };
        match encoding {
            "b" | "B" => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
                out.push_str(&String::from_utf8_lossy(&bytes));
            }
            _ => out.push_str(&quoted_printable(&text.replace('_', " "))),
        }
        rest = tail.strip_prefix('=').unwrap_or(tail);
        if rest.trim_start().starts_with("=?") {
            rest = rest.trim_start();
        }
    }
    out + rest
}

#[test]
fn a_message_of_several_parts_is_read() {
    let mail = parse(concat!(
        "Message-ID: <1@x>\r\nTo: a@x\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n",
        "Content-Type: multipart/alternative;\r\n boundary=\"b\"\r\n\r\n--b\r\n",
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
        "Open http://x/verify?token=3Dabc=\r\ndef\r\n\r\nBye\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b--\r\n",
    ));
    assert_eq!((mail.subject.as_str(), mail.to.as_str()), ("Grüße", "a@x"));
    assert!(mail.text.contains("token=abcdef\n"), "{}", mail.text);
}
