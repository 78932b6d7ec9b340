//! Identifiers: TypeIDs seen outside, entity ids used inside, and the slot that places both on a shard.
//!
//! A public id is a TypeID (<https://github.com/jetify-com/typeid>, spec v0.3.0): a prefix and a UUIDv7 (RFC 9562).
//! The last two bytes of the UUID are the *slot* of the person the object belongs to, so that everything a person
//! owns lives on one shard and the shard of any object is known from its id alone, without a lookup.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mti::prelude::{MagicTypeId, TypeIdPrefix, TypeIdSuffix};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::Timestamp;

/// A shard of the cluster; one Raft group. Shard 0 is the *meta* group, replicated to every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The meta group: members, roles, plans, routes, keys and the virtual clock.
    pub const META: ShardId = ShardId(0);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One of 65,536 places of the key space. Shards own slots by `1 + slot % shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The shard that owns this slot when the cluster was formed with `shards` data shards (at least 1).
    #[must_use]
    pub fn shard(self, shards: u16) -> ShardId {
        ShardId(1 + self.0 % shards.max(1))
    }

    /// The slot of a public id (its last two bytes), or of any other text (its digest).
    #[must_use]
    pub fn of(key: &str) -> Self {
        if let Some(uuid) = type_id_uuid(key) {
            let bytes = uuid.as_bytes();
            return Self(u16::from_be_bytes([bytes[14], bytes[15]]));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        let bytes = digest.as_ref();
        Self(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// The name of an entity: `<kind>/<key>`, for example `user/usr_01h455vb4pex5vsknk084sn02q`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(Arc<str>);

impl EntityId {
    /// `kind` holds no slash; `key` is any text.
    #[must_use]
    pub fn new(kind: &str, key: &str) -> Self {
        debug_assert!(!kind.contains('/'), "an entity kind holds no slash");
        Self(format!("{kind}/{key}").into())
    }

    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }

    #[must_use]
    pub fn key(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, key)| key)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of(self.key())
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for EntityId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntityId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('/') {
            Ok(Self(text.into()))
        } else {
            Err(serde::de::Error::custom("an entity id is <kind>/<key>"))
        }
    }
}

/// A new public id such as `sub_01h…` at `at`, on `slot`, from 8 bytes of randomness.
///
/// Layout (RFC 9562 §5.7): 48 bits of milliseconds, version, 12 random bits, variant, 46 random bits, 16 bits of slot.
#[must_use]
pub fn type_id(prefix: &str, at: Timestamp, slot: Slot, random: [u8; 8]) -> String {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0).to_be_bytes();
    let mut bytes = [0u8; 16];
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6..14].copy_from_slice(&random);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes[14..].copy_from_slice(&slot.0.to_be_bytes());
    let prefix = TypeIdPrefix::from_str(prefix).expect("id prefixes are lower-case ASCII constants");
    MagicTypeId::new(prefix, TypeIdSuffix::from(Uuid::from_bytes(bytes))).to_string()
}

/// Whether `text` is a well-formed TypeID with this prefix.
#[must_use]
pub fn is_type_id(prefix: &str, text: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_')) && type_id_uuid(text).is_some()
}

/// When a public id was made, by the id itself; `None` for any other text.
#[must_use]
pub fn made_at(text: &str) -> Option<Timestamp> {
    let uuid = type_id_uuid(text)?;
    let [a, b, c, d, e, f, ..] = *uuid.as_bytes();
    i64::try_from(u64::from_be_bytes([0, 0, a, b, c, d, e, f])).ok().map(Timestamp::from_millis)
}

fn type_id_uuid(text: &str) -> Option<Uuid> {
    let (prefix, suffix) = text.rsplit_once('_')?;
    if prefix.is_empty() || suffix.len() != 26 {
        return None;
    }
    TypeIdSuffix::from_str(suffix).ok().map(|suffix| suffix.to_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_id_lies_on_its_owners_slot() {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let user = type_id("usr", at, Slot(0xbeef), [7; 8]);
        let subscription = type_id("sub", at, Slot::of(&user), [9; 8]);
        assert_eq!(Slot::of(&user), Slot(0xbeef));
        assert_eq!(Slot::of(&subscription), Slot(0xbeef));
        assert!(is_type_id("usr", &user) && !is_type_id("usr", &subscription));
        assert_eq!((made_at(&user), made_at("acme")), (Some(at), None));
        assert_eq!(type_id_uuid(&user).map(|u| u.get_version_num()), Some(7));
    }

    #[test]
    fn other_keys_are_placed_by_digest_and_bad_ids_are_not_ids() {
        assert_eq!(Slot::of("acme"), Slot::of("acme"));
        for bad in ["", "usr", "usr_", "usr_zzz", "usr_zzzzzzzzzzzzzzzzzzzzzzzzzz", "_01h455vb4pex5vsknk084sn02q"] {
            assert!(!is_type_id("usr", bad), "{bad}");
        }
    }
}
