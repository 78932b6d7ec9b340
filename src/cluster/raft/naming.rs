//! Whom a group's membership means by an id.
//!
//! An id may be given again to a node with an empty disk, once all groups are without it. The log that such a node is sent
//! begins with memberships from before, in which the id votes; but what it had confirmed then, it has forgotten. So a
//! membership names its members by the keys that they joined with, behind their addresses (`host:port#key`), and a replica
//! votes and stands for election only once its own log names it by its own key: that entry comes after all that the node had
//! confirmed in an earlier life, since it comes after the entry that took it away.

use openraft::RaftMetrics;

use crate::storage::types::TypeConfig;

const SEPARATOR: char = '#';
/// Bytes of the SHA-256 of a public key that name it.
const KEY_BYTES: usize = 16;

/// A member as a membership has it; without `key` whoever has the id is meant.
#[must_use]
pub fn named(address: &str, key: Option<&[u8; 32]>) -> String {
    key.map_or_else(|| address.to_owned(), |key| format!("{address}{SEPARATOR}{}", name_of(key)))
}

/// The address in what a membership has.
#[must_use]
pub fn address(member: &str) -> &str {
    member.split(SEPARATOR).next().unwrap_or_default()
}

/// The name of the key in what a membership has.
#[must_use]
pub fn key(member: &str) -> Option<&str> {
    member.split_once(SEPARATOR).map(|(_, key)| key)
}

/// The name of a key, given by its SHA-256.
#[must_use]
pub fn name_of(key: &[u8; 32]) -> String {
    hex::encode(&key[..KEY_BYTES])
}

/// Whether a replica's log means this node by its id. `own` is none for nodes that had no earlier life: the founder of a
/// cluster, and those that joined before memberships named keys.
pub(super) fn means(metrics: &RaftMetrics<TypeConfig>, own: Option<&str>) -> bool {
    own.is_none()
        || metrics.membership_config.membership().get_node(&metrics.id).and_then(|node| key(&node.addr)) == own
}

/// Whether this node votes, by its own log.
pub(super) fn votes(metrics: &RaftMetrics<TypeConfig>, own: Option<&str>) -> bool {
    metrics.membership_config.membership().voter_ids().any(|voter| voter == metrics.id) && means(metrics, own)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use openraft::{BasicNode, Membership, StoredMembership};

    use super::*;

    #[test]
    fn who_is_not_meant_by_its_key_has_no_vote() {
        let key = name_of(&[7; 32]);
        let report = |voters: &[u64], address: String| {
            let members = BTreeMap::from([(1, BasicNode::new(address)), (2, BasicNode::new("b:1"))]);
            let members = Membership::new(vec![voters.iter().copied().collect()], members).expect("a membership");
            let mut report = RaftMetrics::<TypeConfig>::new_initial(1);
            report.membership_config = Arc::new(StoredMembership::new(None, members));
            report
        };
        assert!(votes(&report(&[1, 2], named("a:1", Some(&[7; 32]))), Some(&key)));
        assert!(!votes(&report(&[1, 2], named("a:1", Some(&[8; 32]))), Some(&key)), "another had the id");
        assert!(!votes(&report(&[1, 2], named("a:1", None)), Some(&key)), "nobody named it yet");
        assert!(votes(&report(&[1, 2], named("a:1", None)), None), "a founder is meant without a key");
        assert!(!votes(&report(&[2], named("a:1", Some(&[7; 32]))), Some(&key)), "it learns");
    }

    #[test]
    fn a_member_is_an_address_and_a_key() {
        let of = |member: &str| (address(member).to_owned(), key(member).map(str::to_owned));
        assert_eq!(of(&named("[::1]:7000", None)), ("[::1]:7000".to_owned(), None));
        let key = [0xab; 32];
        assert_eq!(of(&named("a.example:1", Some(&key))), ("a.example:1".to_owned(), Some("ab".repeat(16))));
    }
}
