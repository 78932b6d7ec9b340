//! Message encryption for Web Push: RFC 8291 on RFC 8188 (`aes128gcm`), one record.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::MAX_PAYLOAD_BYTES;

const RECORD_BYTES: u32 = 4096;

/// A message that cannot be encrypted for this subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    #[error("the subscription's keys are not valid")]
    Keys,
    #[error("the payload is larger than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    #[error("the operating system's generator failed")]
    Random,
}

/// The body of the request: header and the one record. `receiver` is the subscription's `p256dh`, `auth` its secret.
///
/// # Errors
/// [`EncryptError`] when the keys are no keys or the payload does not fit.
pub fn encrypt(receiver: &[u8], auth: &[u8], payload: &[u8]) -> Result<Vec<u8>, EncryptError> {
    let random = SystemRandom::new();
    let mut salt = [0; 16];
    random.fill(&mut salt).map_err(|_| EncryptError::Random)?;
    let ours = EphemeralPrivateKey::generate(&ECDH_P256, &random).map_err(|_| EncryptError::Random)?;
    let sender = ours.compute_public_key().map_err(|_| EncryptError::Random)?;
    let theirs = UnparsedPublicKey::new(&ECDH_P256, receiver);
    agree_ephemeral(ours, &theirs, |secret| seal(secret, sender.as_ref(), receiver, auth, salt, payload))
        .map_err(|_| EncryptError::Keys)?
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

/// RFC 8291 §3.4 and RFC 8188 §2, from the shared secret on.
fn seal(
    secret: &[u8],
    sender: &[u8],
    receiver: &[u8],
    auth: &[u8],
    salt: [u8; 16],
    payload: &[u8],
) -> Result<Vec<u8>, EncryptError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(EncryptError::TooLarge);
    }
    if auth.len() != 16 {
        return Err(EncryptError::Keys);
    }
    let key = hmac_sha256(auth, &[secret]);
    let keying = hmac_sha256(key.as_ref(), &[b"WebPush: info\0", receiver, sender, &[1]]);
    let extracted = hmac_sha256(&salt, &[keying.as_ref()]);
    let content_key = hmac_sha256(extracted.as_ref(), &[b"Content-Encoding: aes128gcm\0", &[1]]);
    let nonce = hmac_sha256(extracted.as_ref(), &[b"Content-Encoding: nonce\0", &[1]]);

    let mut record = payload.to_vec();
    record.push(2); // The delimiter of the last record.
    let key = UnboundKey::new(&AES_128_GCM, &content_key.as_ref()[..16]).map_err(|_| EncryptError::Keys)?;
    let nonce = Nonce::try_assume_unique_for_key(&nonce.as_ref()[..12]).map_err(|_| EncryptError::Keys)?;
    LessSafeKey::new(key)
        .seal_in_place_append_tag(nonce, Aad::empty(), &mut record)
        .map_err(|_| EncryptError::TooLarge)?;

    let mut body = Vec::with_capacity(21 + sender.len() + record.len());
    body.extend_from_slice(&salt);
    body.extend_from_slice(&RECORD_BYTES.to_be_bytes());
    body.push(u8::try_from(sender.len()).map_err(|_| EncryptError::Keys)?);
    body.extend_from_slice(sender);
    body.extend_from_slice(&record);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    }

    #[test]
    fn the_example_of_rfc_8291_appendix_a() {
        let secret = bytes("kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs");
        let sender = bytes("BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8");
        let receiver = bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4");
        let auth = bytes("BTBZMqHH6r4Tts7J_aSIgg");
        let salt: [u8; 16] = bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().expect("16 bytes");
        let body = seal(&secret, &sender, &receiver, &auth, salt, b"When I grow up, I want to be a watermelon");
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8\
                        wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(URL_SAFE_NO_PAD.encode(body.expect("sealed")), expected);
    }

    #[test]
    fn a_message_fits_one_record_and_bad_keys_are_refused() {
        let receiver = bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4");
        let largest = encrypt(&receiver, &[1; 16], &[b'x'; MAX_PAYLOAD_BYTES]).expect("sealed");
        assert_eq!(largest.len(), 4096);
        let other = encrypt(&receiver, &[1; 16], &[b'x'; MAX_PAYLOAD_BYTES]).expect("sealed");
        assert_ne!(largest, other);
        assert_eq!(encrypt(&receiver, &[1; 16], &[0; MAX_PAYLOAD_BYTES + 1]), Err(EncryptError::TooLarge));
        assert_eq!(encrypt(&receiver, &[1; 15], b"x"), Err(EncryptError::Keys));
        assert_eq!(encrypt(&[4; 65], &[1; 16], b"x"), Err(EncryptError::Keys));
    }
}
