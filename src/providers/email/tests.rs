//! The Maildir's exactly-once files, and every way an SMTP server can fail against a scripted one.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::kernel::Secret;
use crate::providers::Provider;

fn request() -> EmailRequest {
    EmailRequest {
        to: "ada@example.org".into(),
        to_name: Some("Ada Lovelace".into()),
        subject: "Your receipt Ä-1".into(),
        text: format!("Open\n\n{PUBLIC_URL}/verify?token=abc\n"),
        html: Some("<p>Open</p>".into()),
        unsubscribe: Some("/u/usr_x.promotional.p".into()),
    }
}

fn sender() -> Sender {
    Sender::new("construct <no-reply@node.example>", "https://gate.example/").expect("a sender")
}

#[tokio::test]
async fn a_repeat_is_the_same_file_wherever_the_reader_put_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let maildir = Maildir::open(directory.path(), sender()).expect("a Maildir");
    let bytes = codec::encode(&request()).expect("bytes");
    let count = |part: &str| std::fs::read_dir(directory.path().join(part)).expect("listed").count();
    assert!(matches!(maildir.reconcile("delivery/ntf_1:3:0", &bytes).await, Ok(None)));
    let first = maildir.execute("delivery/ntf_1:3:0", &bytes, 0).await.expect("sent");
    assert_eq!(maildir.execute("delivery/ntf_1:3:0", &bytes, 1).await.expect("sent"), first);
    assert_eq!((count("new"), count("tmp")), (1, 0));
    let file = std::fs::read_dir(directory.path().join("new")).expect("listed").next().expect("one").expect("a file");
    let text = std::fs::read_to_string(file.path()).expect("text");
    for expected in [
        "To: \"Ada Lovelace\" <ada@example.org>\r\n",
        "List-Unsubscribe: <https://gate.example/u/usr_x.promotional.p>\r\n",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        "https://gate.example/verify?token=abc",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let read = format!("{}:2,S", file.file_name().to_string_lossy());
    std::fs::rename(file.path(), directory.path().join("cur").join(read)).expect("moved");
    maildir.execute("delivery/ntf_1:3:0", &bytes, 2).await.expect("sent");
    assert_eq!(count("new"), 0);
    assert!(matches!(maildir.reconcile("delivery/ntf_1:3:0", &bytes).await, Ok(Some(_))));
    maildir.execute("delivery/ntf_2:3:0", &bytes, 0).await.expect("sent");
    assert_eq!(count("new"), 1);
}

/// A server that answers each line with what `reply` says; `None` hangs up. Answers the text of the accepted message.
async fn scripted(listener: TcpListener, reply: fn(&str) -> Option<&'static str>) -> String {
    let (stream, _) = listener.accept().await.expect("a client");
    let (read, mut write) = stream.into_split();
    let (mut lines, mut text, mut in_data) = (BufReader::new(read).lines(), String::new(), false);
    write.write_all(b"220 test\r\n").await.expect("written");
    while let Ok(Some(line)) = lines.next_line().await {
        if in_data && line != "." {
            text.push_str(&line);
            text.push('\n');
            continue;
        }
        in_data = false;
        let Some(answer) = reply(&line) else { return text };
        in_data |= answer.starts_with("354");
        if write.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
            break;
        }
    }
    text
}

async fn outcome(reply: fn(&str) -> Option<&'static str>) -> (Result<Vec<u8>, ProviderError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("smtp://{}?tls=none", listener.local_addr().expect("an address"));
    let server = tokio::spawn(scripted(listener, reply));
    let options = SmtpOptions { url: Secret::new(url), timeout: Duration::from_secs(2), dkim: None };
    let smtp = Smtp::new(&options, sender()).expect("options");
    let bytes = codec::encode(&request()).expect("bytes");
    let result = smtp.execute("delivery/ntf_1:3:0", &bytes, 0).await;
    drop(smtp);
    (result, server.await.expect("the server"))
}

fn normal(line: &str) -> Option<&'static str> {
    match line.split([' ', ':']).next().unwrap_or_default() {
        "EHLO" => Some("250-test\r\n250 8BITMIME"),
        "DATA" => Some("354 go on"),
        _ => Some("250 ok"),
    }
}

#[tokio::test]
async fn an_accepted_mail_has_the_message_id_of_its_key() {
    let (result, text) = outcome(normal).await;
    let receipt: EmailReceipt = codec::decode(&result.expect("sent")).expect("a receipt");
    assert!(text.contains(&format!("Message-ID: {}", receipt.message_id)), "{text}");
    assert_eq!(receipt.message_id, sender().message_id("delivery/ntf_1:3:0"));
}

#[tokio::test]
async fn what_is_known_of_a_failure_decides_whether_it_is_tried_again() {
    let (refused, _) =
        outcome(|line| if line.starts_with("RCPT") { Some("550 no such user") } else { normal(line) }).await;
    assert!(matches!(refused, Err(ProviderError::Refused(_))), "{refused:?}");
    let (later, _) = outcome(|line| if line.starts_with("MAIL") { Some("451 busy") } else { normal(line) }).await;
    assert!(matches!(later, Err(ProviderError::Retry(_))), "{later:?}");
    let (lost_early, _) = outcome(|line| if line.starts_with("DATA") { None } else { normal(line) }).await;
    assert!(matches!(lost_early, Err(ProviderError::Retry(_))), "{lost_early:?}");
    let (lost, _) = outcome(|line| if line == "." { None } else { normal(line) }).await;
    assert!(matches!(lost, Err(ProviderError::Unknown(_))), "{lost:?}");
    let (rejected, _) = outcome(|line| if line == "." { Some("554 spam") } else { normal(line) }).await;
    assert!(matches!(rejected, Err(ProviderError::Refused(_))), "{rejected:?}");
    let (put_off, _) = outcome(|line| if line == "." { Some("452 full") } else { normal(line) }).await;
    assert!(matches!(put_off, Err(ProviderError::Retry(_))), "{put_off:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("smtp://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let options = SmtpOptions { url: Secret::new(url), timeout: Duration::from_secs(2), dkim: None };
    let smtp = Smtp::new(&options, sender()).expect("options");
    let bytes = codec::encode(&request()).expect("bytes");
    assert!(matches!(smtp.execute("k", &bytes, 0).await, Err(ProviderError::Retry(_))));
}
