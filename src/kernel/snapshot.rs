//! How the state of an entity stands in its snapshots: behind the version of its form, so that a state may gain members.
//!
//! `SIGN, version (u16, little endian), state`. A state without the sign is one of version 1, from before there were
//! versions. None of those can begin like the sign: read as a length or a count it is larger than any, and read as a tag
//! it is none.

use super::codec::{self, CodecError};
use super::entity::Entity;

const KIND: u8 = b'E';
const SIGN: [u8; 8] = *b"\xffstate\xff\xff";

/// # Errors
/// [`CodecError::Encode`] when the state is too large or refuses to serialize.
pub fn encode<E: Entity>(state: &E) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&SIGN);
    bytes.extend_from_slice(&E::STATE_VERSION.to_le_bytes());
    bytes.extend(codec::encode(state)?);
    Ok(bytes)
}

/// Reads a state of any version up to this build's.
///
/// # Errors
/// [`CodecError`] when it is of a version from the future, or not such a state.
pub fn decode<E: Entity>(bytes: &[u8]) -> Result<E, CodecError> {
    let newest = E::STATE_VERSION;
    let (mut version, state) = match bytes.strip_prefix(&SIGN) {
        Some([low, high, state @ ..]) => (u16::from_le_bytes([*low, *high]), state),
        Some(_) => return Err(CodecError::Short),
        None => (1, bytes),
    };
    let unreadable = |version| CodecError::Version { kind: KIND, found: version, newest };
    if version == newest {
        return codec::decode(state);
    }
    let mut state = state.to_vec();
    while version != newest {
        if version > newest {
            return Err(unreadable(version));
        }
        state = E::upgrade(version, state).ok_or_else(|| unreadable(version))?;
        version += 1;
    }
    codec::decode(&state)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::kernel::{Context, Decision, Error};

    /// At version 1 it was a count alone; version 2 gave it a name, version 3 doubled what is counted.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Counter {
        count: u64,
        name: String,
    }

    impl Entity for Counter {
        const KIND: &'static str = "counter";
        const STATE_VERSION: u16 = 3;
        type Command = ();
        type Event = ();
        type Reply = ();

        fn decide(&self, (): (), _: &Context) -> Result<Decision<Self>, Error> {
            Ok(Decision::reply(()))
        }

        fn apply(&mut self, (): &()) {}

        fn upgrade(version: u16, mut state: Vec<u8>) -> Option<Vec<u8>> {
            match version {
                1 => state.extend(codec::encode("").ok()?),
                2 => *state.first_mut()? *= 2,
                _ => return None,
            }
            Some(state)
        }
    }

    fn hexed(bytes: &[u8]) -> String {
        hex::encode(bytes)
    }

    #[test]
    fn states_of_every_version_are_read_and_keep_their_bytes() {
        let now = Counter { count: 42, name: "a".into() };
        let golden = "ff7374617465ffff0300\
                      2a00000000000000010000000000000061";
        assert_eq!(hexed(&encode(&now).expect("encodes")), golden);
        assert_eq!(decode::<Counter>(&hex::decode(golden).expect("hex")).expect("reads"), now);
        for (old, count, name) in [
            ("2a00000000000000", 84, ""),
            ("ff7374617465ffff01002a00000000000000", 84, ""),
            ("ff7374617465ffff02002a00000000000000010000000000000061", 84, "a"),
        ] {
            let read = decode::<Counter>(&hex::decode(old).expect("hex")).expect("reads");
            assert_eq!((read.count, read.name.as_str()), (count, name), "{old}");
        }
    }

    #[test]
    fn what_no_build_wrote_is_refused() {
        for bad in ["", "2a", "ff7374617465ffff", "ff7374617465ffff03", "ff7374617465ffff0400", "ff7374617465ffff0000"]
        {
            assert!(decode::<Counter>(&hex::decode(bad).expect("hex")).is_err(), "{bad}");
        }
        let future = decode::<Counter>(&hex::decode("ff7374617465ffff0400").expect("hex"));
        assert!(matches!(future, Err(CodecError::Version { found: 4, newest: 3, .. })));
    }
}
