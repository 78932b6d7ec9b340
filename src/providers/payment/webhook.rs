//! Stripe's webhooks: is the report authentic, and what does it say.
//!
//! The signature is HMAC-SHA-256 over `<t>.<body>` (<https://docs.stripe.com/webhooks#verify-manually>), compared in
//! constant time; a report signed too long ago or in the future is refused, so that it cannot be replayed. Whether it
//! was seen before is the receiving entity's question: reports come more than once and in any order.

use ring::hmac;
use serde::Deserialize;

use super::ChargeReceipt;
use super::stripe::Intent;
use crate::kernel::{Error, Secret, Timestamp};

/// How far the time of a signature may be from ours, in seconds.
pub const TOLERANCE_SECONDS: i64 = 300;

/// An authentic report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The processor's event id, the same for every delivery of it.
    pub id: String,
    pub kind: String,
    /// Set when the report is about a charge of ours.
    pub charge: Option<ChargeReceipt>,
}

/// Checks `header` (`Stripe-Signature`) for `body` at `now`.
///
/// # Errors
/// `malformed` when the header cannot be read, the signature is wrong, or its time is out of tolerance. The three are
/// not told apart.
pub fn verify(header: &str, body: &[u8], secret: &Secret<String>, now: Timestamp) -> Result<(), Error> {
    let refused = || Error::new(crate::kernel::ErrorCode::Malformed, "The webhook signature is not valid.");
    let mut signed_at = None;
    let mut signatures = Vec::new();
    for part in header.split(',').take(16) {
        match part.trim().split_once('=') {
            Some(("t", seconds)) => signed_at = Some(seconds),
            Some(("v1", signature)) => signatures.push(signature),
            _ => {}
        }
    }
    let signed_at = signed_at.ok_or_else(refused)?;
    let seconds: i64 = signed_at.parse().map_err(|_| refused())?;
    if now.as_seconds().abs_diff(seconds) > TOLERANCE_SECONDS.unsigned_abs() {
        return Err(refused());
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    let message = [signed_at.as_bytes(), b".", body].concat();
    let good = |text: &&str| hex::decode(text).is_ok_and(|tag| hmac::verify(&key, &message, &tag).is_ok());
    if secret.expose().is_empty() || !signatures.iter().any(good) {
        return Err(refused());
    }
    Ok(())
}

#[derive(Deserialize)]
struct Event {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    data: EventData,
}

#[derive(Deserialize)]
struct EventData {
    object: serde_json::Value,
}

/// Reads the body of a verified report. Kinds we do not know are reports about nothing.
///
/// # Errors
/// `malformed` when it is not an event.
pub fn read(body: &[u8]) -> Result<Report, Error> {
    let unreadable = |_| Error::new(crate::kernel::ErrorCode::Malformed, "The body is not a webhook event.");
    let event: Event = serde_json::from_slice(body).map_err(unreadable)?;
    let charge = match event.kind.as_str() {
        "payment_intent.succeeded"
        | "payment_intent.payment_failed"
        | "payment_intent.processing"
        | "payment_intent.canceled" => {
            let intent: Result<Intent, _> = serde_json::from_value(event.data.object);
            intent.ok().and_then(|intent| intent.receipt().ok())
        }
        _ => None,
    };
    Ok(Report { id: event.id, kind: event.kind, charge })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::payment::ChargeStatus;

    fn sign(at: i64, body: &[u8], secret: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let message = [at.to_string().as_bytes(), b".", body].concat();
        format!("t={at},v0=00,v1={}", hex::encode(hmac::sign(&key, &message)))
    }

    #[test]
    fn only_fresh_signatures_of_the_secret_are_taken() {
        let secret = Secret::new("whsec_1".to_owned());
        let now = Timestamp::from_millis(1_700_000_000_000);
        let body = br#"{"id":"evt_1"}"#;
        let good = sign(1_700_000_000, body, "whsec_1");
        assert!(verify(&good, body, &secret, now).is_ok());
        assert!(verify(&good, b"{}", &secret, now).is_err());
        assert!(verify(&good, body, &secret, now.plus_seconds(301)).is_err());
        assert!(verify(&good, body, &secret, now.plus_seconds(-301)).is_err());
        assert!(verify(&sign(1_700_000_000, body, "other"), body, &secret, now).is_err());
        assert!(verify(&sign(1_700_000_000, body, ""), body, &Secret::default(), now).is_err());
        for bad in ["", "t=1", "v1=00", "t=x,v1=00", "t=1700000000,v1=zz"] {
            assert!(verify(bad, body, &secret, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn reports_about_charges_carry_our_reference() {
        let body = br#"{"id":"evt_1","type":"payment_intent.payment_failed","data":{"object":{"id":"pi_1","amount":5,
            "currency":"usd","status":"requires_payment_method","metadata":{"reference":"inv_1/2"},
            "last_payment_error":{"code":"card_declined","decline_code":"lost_card"}}}}"#;
        let charge = read(body).expect("an event").charge.expect("about a charge");
        assert_eq!(charge.reference, "inv_1/2");
        assert_eq!(charge.status, ChargeStatus::Declined { code: "lost_card".into() });
        let other = read(br#"{"id":"evt_2","type":"customer.created","data":{"object":{}}}"#).expect("an event");
        assert_eq!(other.charge, None);
        assert!(read(b"[]").is_err());
    }

    #[test]
    fn any_bytes_as_a_report_and_its_signature() {
        let secret = Secret::new("whsec_1".to_owned());
        let now = Timestamp::from_millis(1_700_000_000_000);
        let body = br#"{"id":"evt_1","type":"payment_intent.succeeded","data":{"object":{"id":"pi_1","amount":4900,"currency":"usd","status":"succeeded","metadata":{"reference":"inv_1/1"}}}}"#;
        let signature = sign(now.as_seconds(), body, "whsec_1");
        crate::kernel::fuzz_tests::fuzz("webhook", &[body, signature.as_bytes()], |bytes| {
            let header = String::from_utf8_lossy(bytes);
            let signed = verify(&header, body, &secret, now).is_ok();
            let genuine = header.contains(signature.split_once("v1=").map_or("", |(_, tag)| tag));
            assert!(
                !signed || genuine || header.to_lowercase().contains(&signature[signature.len() - 64..]),
                "{header}"
            );
            let report = read(bytes).map(|report| report.charge.map(|charge| charge.amount.amount > 0));
            format!("{signed} {:?}", report.map_err(|error| error.code))
        });
    }
}
