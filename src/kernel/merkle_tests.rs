use std::collections::HashMap;

use super::*;

/// A tree kept as the product keeps it.
#[derive(Default)]
struct Stored {
    nodes: HashMap<(u8, u64), Hash>,
    size: u64,
}

impl Stored {
    fn of(leaves: &[Vec<u8>]) -> Self {
        let mut tree = Self::default();
        for leaf in leaves {
            let nodes = append(tree.size, leaf_hash(leaf), |level, index| tree.read(level, index));
            for (level, index, hash) in nodes {
                assert_eq!(tree.nodes.insert((level, index), hash), None, "a node is written once");
            }
            tree.size += 1;
        }
        tree
    }

    fn read(&self, level: u8, index: u64) -> Option<Hash> {
        self.nodes.get(&(level, index)).copied()
    }
}

/// MTH, PATH and SUBPROOF exactly as RFC 9162 §2.1 writes them.
mod naive {
    use super::super::{Hash, empty_root, leaf_hash, node_hash};

    fn k(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }

    pub fn mth(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => leaf_hash(leaf),
            _ => {
                let (left, right) = leaves.split_at(k(leaves.len()));
                node_hash(&mth(left), &mth(right))
            }
        }
    }

    pub fn path(m: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return Vec::new();
        }
        let k = k(leaves.len());
        let (left, right) = leaves.split_at(k);
        let (mut path, sibling) = if m < k { (path(m, left), mth(right)) } else { (path(m - k, right), mth(left)) };
        path.push(sibling);
        path
    }

    pub fn subproof(m: usize, leaves: &[Vec<u8>], complete: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if complete { Vec::new() } else { vec![mth(leaves)] };
        }
        let k = k(leaves.len());
        let (left, right) = leaves.split_at(k);
        let (mut proof, sibling) =
            if m <= k { (subproof(m, left, complete), mth(right)) } else { (subproof(m - k, right, false), mth(left)) };
        proof.push(sibling);
        proof
    }
}

fn leaves(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("leaf {n}").into_bytes()).collect()
}

/// The reference tree of the RFC 6962 implementations (certificate-transparency `merkle_tree_test`).
const REFERENCE: [(&str, &str); 8] = [
    ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
    ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
    ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
    ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
    ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
    ("606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
];

#[test]
fn roots_of_the_reference_tree_are_the_published_ones() {
    assert_eq!(hex::encode(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let leaves: Vec<_> = REFERENCE.iter().map(|(leaf, _)| hex::decode(leaf).expect("hex")).collect();
    let tree = Stored::of(&leaves);
    for (position, (_, expected)) in REFERENCE.iter().enumerate() {
        let root = root(position as u64 + 1, |l, i| tree.read(l, i)).expect("complete");
        assert_eq!(hex::encode(root), *expected, "size {}", position + 1);
    }
}

#[test]
fn every_root_and_proof_of_small_trees_equals_the_definition() {
    let all = leaves(33);
    let tree = Stored::of(&all);
    let read = |level, index| tree.read(level, index);
    for size in 0..=all.len() {
        let (now, size64) = (&all[..size], size as u64);
        let head = naive::mth(now);
        assert_eq!(root(size64, read), Ok(head));
        for (index, leaf) in now.iter().enumerate() {
            let proof = inclusion_proof(index as u64, size64, read).expect("a proof");
            assert_eq!(proof, naive::path(index, now), "inclusion of {index} in {size}");
            assert_eq!(verify_inclusion(index as u64, size64, &leaf_hash(leaf), &proof, &head), Ok(()));
        }
        for old in 1..=size {
            let proof = consistency_proof(old as u64, size64, read).expect("a proof");
            assert_eq!(proof, naive::subproof(old, now, true), "consistency of {old} with {size}");
            let old_head = naive::mth(&all[..old]);
            assert_eq!(verify_consistency(old as u64, size64, &old_head, &head, &proof), Ok(()));
        }
        assert_eq!(verify_consistency(0, size64, &empty_root(), &head, &[]), Ok(()));
    }
}

/// Every way to spoil a proof by one element.
fn spoiled(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut variants = Vec::new();
    for position in 0..proof.len() {
        let mut flipped = proof.to_vec();
        flipped[position][31] ^= 1;
        variants.push(flipped);
        let mut missing = proof.to_vec();
        missing.remove(position);
        variants.push(missing);
    }
    for extra in [[0; 32], empty_root()] {
        variants.push(proof.iter().copied().chain([extra]).collect());
        variants.push([extra].into_iter().chain(proof.iter().copied()).collect());
    }
    variants
}

#[test]
fn no_spoiled_inclusion_proof_verifies() {
    let all = leaves(17);
    let tree = Stored::of(&all);
    for size in 1..=17u64 {
        let head = root(size, |l, i| tree.read(l, i)).expect("complete");
        for index in 0..size {
            let proof = inclusion_proof(index, size, |l, i| tree.read(l, i)).expect("a proof");
            let leaf = leaf_hash(&all[index as usize]);
            for bad in spoiled(&proof) {
                assert!(verify_inclusion(index, size, &leaf, &bad, &head).is_err(), "{index}/{size}");
            }
            let mut other = leaf;
            other[0] ^= 1;
            assert_eq!(verify_inclusion(index, size, &other, &proof, &head), Err(ProofError::Mismatch));
            assert!(verify_inclusion(index, size, &leaf, &proof, &other).is_err());
            for elsewhere in (0..size + 2).filter(|at| *at != index) {
                assert!(verify_inclusion(elsewhere, size, &leaf, &proof, &head).is_err(), "{elsewhere}/{size}");
            }
        }
    }
    assert_eq!(verify_inclusion(0, 0, &[0; 32], &[], &empty_root()), Err(ProofError::Shape));
    assert_eq!(verify_inclusion(u64::MAX, u64::MAX, &[0; 32], &[], &[0; 32]), Err(ProofError::Shape));
}

#[test]
fn no_spoiled_consistency_proof_verifies() {
    let all = leaves(17);
    let tree = Stored::of(&all);
    let roots: Vec<_> = (0..=17).map(|size| root(size, |l, i| tree.read(l, i)).expect("complete")).collect();
    for new in 1..=17u64 {
        for old in 1..=new {
            let (old_head, new_head) = (roots[old as usize], roots[new as usize]);
            let proof = consistency_proof(old, new, |l, i| tree.read(l, i)).expect("a proof");
            for bad in spoiled(&proof) {
                assert!(verify_consistency(old, new, &old_head, &new_head, &bad).is_err(), "{old}..{new}");
            }
            let mut other = new_head;
            other[7] ^= 0x80;
            assert!(verify_consistency(old, new, &old_head, &other, &proof).is_err());
            assert!(verify_consistency(old, new, &other, &new_head, &proof).is_err());
            assert!(verify_consistency(new + 1, new, &old_head, &new_head, &proof).is_err());
        }
    }
    assert_eq!(verify_consistency(0, 3, &roots[1], &roots[3], &[]), Err(ProofError::Mismatch));
    assert_eq!(verify_consistency(0, 3, &roots[0], &roots[3], &[[0; 32]]), Err(ProofError::Shape));
}

#[test]
fn a_missing_node_is_said_and_never_hashed_around() {
    let mut tree = Stored::of(&leaves(6));
    tree.nodes.remove(&(2, 0));
    let missing = MerkleError::MissingNode { level: 2, index: 0 };
    assert_eq!(root(6, |l, i| tree.read(l, i)), Err(missing));
    assert_eq!(inclusion_proof(5, 6, |l, i| tree.read(l, i)), Err(missing));
    assert_eq!(inclusion_proof(6, 6, |l, i| tree.read(l, i)), Err(MerkleError::OutOfRange));
    assert_eq!(consistency_proof(7, 6, |l, i| tree.read(l, i)), Err(MerkleError::OutOfRange));
    assert_eq!(append(7, [1; 32], |_, _| None), vec![(0, 7, [1; 32])]);
}

#[test]
fn leaf_bytes_are_golden() {
    let record = AuditRecord {
        at: crate::kernel::Timestamp::from_millis(1_700_000_000_123),
        actor: "usr_1".into(),
        action: "session.create".into(),
        target: "ses_1".into(),
        outcome: "ok".into(),
        source: "ip_\"é\n".into(),
        request_id: "req_1".into(),
    };
    let text = "{\"index\":5,\"shard\":3,\"at\":\"2023-11-14T22:13:20.123Z\",\"actor\":\"usr_1\",\
                \"action\":\"session.create\",\"target\":\"ses_1\",\"outcome\":\"ok\",\"source\":\"ip_\\\"é\\n\",\
                \"request_id\":\"req_1\"}";
    assert_eq!(String::from_utf8(leaf_bytes(ShardId(3), 5, &record)).as_deref(), Ok(text));
}

/// One case of the conformance vectors of transparency-dev/merkle (Apache-2.0), which hold many bad proofs.
#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    #[serde(rename = "leafIdx", default)]
    leaf_index: u64,
    #[serde(rename = "treeSize", default)]
    tree_size: u64,
    #[serde(default)]
    root: String,
    #[serde(rename = "leafHash", default)]
    leaf_hash: String,
    #[serde(default)]
    size1: u64,
    #[serde(default)]
    size2: u64,
    #[serde(default)]
    root1: String,
    #[serde(default)]
    root2: String,
    proof: Option<Vec<String>>,
    #[serde(rename = "wantErr")]
    want_err: bool,
}

/// The hash that the text is, or, for bytes of another length, one that equals only itself.
fn hash(text: &str) -> Hash {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    bytes.as_slice().try_into().unwrap_or_else(|_| leaf_hash(&bytes))
}

fn verifies(case: &Vector) -> bool {
    let proof: Vec<Hash> = case.proof.iter().flatten().map(|text| hash(text)).collect();
    if case.name.starts_with("inclusion/") {
        if case.leaf_hash.is_empty() {
            return false;
        }
        let (leaf, root) = (hash(&case.leaf_hash), hash(&case.root));
        return verify_inclusion(case.leaf_index, case.tree_size, &leaf, &proof, &root).is_ok();
    }
    // Anything follows from the empty tree; the vectors reject it by a root that no 32-byte type can hold.
    if case.size1 == 0 && case.root2.len() != 44 {
        return false;
    }
    verify_consistency(case.size1, case.size2, &hash(&case.root1), &hash(&case.root2), &proof).is_ok()
}

#[test]
fn the_published_conformance_vectors_come_out_as_published() {
    let files = [
        include_str!("../../tests/data/merkle/inclusion.jsonl"),
        include_str!("../../tests/data/merkle/consistency.jsonl"),
    ];
    let mut seen = 0;
    for line in files.iter().flat_map(|file| file.lines()) {
        let case: Vector = serde_json::from_str(line).expect("a vector");
        assert_eq!(verifies(&case), !case.want_err, "{}", case.name);
        seen += 1;
    }
    assert_eq!(seen, 196);
}
