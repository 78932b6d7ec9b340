//! The one place that knows the binary format of disk and wire: bincode 1.3 (fixed integers, little endian), with
//! limits, inside a record `(kind: u8, version: u16, body)`.
//!
//! Persisted types are append-only: new enum variants go last, new fields go into a new version of the record.
//! bincode is no longer maintained (RUSTSEC-2025-0141); it is named here and nowhere else, so it can be replaced.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest record this build writes or reads, in bytes.
pub const LIMIT_BYTES: u64 = 16 << 20;

/// Bytes that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("record of kind {kind} cannot be encoded")]
    Encode {
        kind: u8,
        #[source]
        source: bincode::Error,
    },
    #[error("record of kind {kind} cannot be decoded")]
    Decode {
        kind: u8,
        #[source]
        source: bincode::Error,
    },
    #[error("record is of kind {found}, expected {expected}")]
    Kind { expected: u8, found: u8 },
    #[error("record of kind {kind} has version {found}; this build reads up to {newest}")]
    Version { kind: u8, found: u16, newest: u16 },
    #[error("record is cut short")]
    Short,
    /// Decoded, but not a value of its type.
    #[error("record of kind {kind} is not valid: {what}")]
    Invalid { kind: u8, what: String },
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(LIMIT_BYTES).reject_trailing_bytes()
}

/// `value` without a header, for bodies whose kind and version are known from their place.
///
/// # Errors
/// [`CodecError::Encode`] when the value passes [`LIMIT_BYTES`] or refuses to serialize.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    options().serialize(value).map_err(|source| CodecError::Encode { kind: 0, source })
}

/// # Errors
/// [`CodecError::Decode`] when the bytes are not exactly one such value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options().deserialize(bytes).map_err(|source| CodecError::Decode { kind: 0, source })
}

/// `value` behind its `(kind, version)` header.
///
/// # Errors
/// [`CodecError::Encode`] when the value passes [`LIMIT_BYTES`] or refuses to serialize.
pub fn encode_record<T: Serialize + ?Sized>(kind: u8, version: u16, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(kind);
    bytes.extend_from_slice(&version.to_le_bytes());
    options().serialize_into(&mut bytes, value).map_err(|source| CodecError::Encode { kind, source })?;
    Ok(bytes)
}

/// The version and body of a record of `kind`; `newest` is the newest version the caller reads.
///
/// # Errors
/// [`CodecError`] when the header is cut short, of another kind, or of a version from the future.
pub fn open_record(kind: u8, newest: u16, bytes: &[u8]) -> Result<(u16, &[u8]), CodecError> {
    let [found, low, high, body @ ..] = bytes else { return Err(CodecError::Short) };
    if *found != kind {
        return Err(CodecError::Kind { expected: kind, found: *found });
    }
    let version = u16::from_le_bytes([*low, *high]);
    if version > newest || version == 0 {
        return Err(CodecError::Version { kind, found: version, newest });
    }
    Ok((version, body))
}

/// A record that so far has had one version.
///
/// # Errors
/// As [`open_record`] and [`decode`].
pub fn decode_record<T: DeserializeOwned>(kind: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let (_, body) = open_record(kind, 1, bytes)?;
    options().deserialize(body).map_err(|source| CodecError::Decode { kind, source })
}

/// For fields that are a list of byte strings: written as any list of lists, byte for byte, but each string at once. (A
/// single one has `serde_bytes`.)
pub mod byte_strings {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_bytes::{ByteBuf, Bytes};

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(strings: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(strings.iter().map(|string| Bytes::new(string)))
    }

    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let strings = Vec::<ByteBuf>::deserialize(deserializer)?;
        Ok(strings.into_iter().map(ByteBuf::into_vec).collect())
    }
}
