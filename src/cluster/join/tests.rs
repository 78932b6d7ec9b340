//! A joiner and a member in one process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::*;
use crate::cluster::link::testing::{CLUSTER, Site, introduce, settings};
use crate::cluster::link::{Authority, Identity, Lane, Link};
use crate::kernel::fuzz_tests::{fuzz, keeps_its_form};
use crate::providers::keys::{FileKeys, KeyWrapper};

/// Consumes tokens as the membership does: once, for one node id and key.
#[derive(Default)]
struct Tokens {
    known: Mutex<HashMap<[u8; 32], Option<(u64, [u8; 32])>>>,
    unavailable: Mutex<usize>,
    heard: Mutex<Vec<Applicant>>,
}

#[async_trait]
impl Gate for Tokens {
    async fn admit(&self, applicant: &Applicant) -> Result<Grant, Refused> {
        self.heard.lock().unwrap().push(applicant.clone());
        let mut unavailable = self.unavailable.lock().unwrap();
        if *unavailable > 0 {
            *unavailable -= 1;
            return Err(Refused::Unavailable);
        }
        let mut known = self.known.lock().unwrap();
        let used = known.get_mut(&applicant.token_hash).ok_or(Refused::UnknownToken)?;
        if used.is_some_and(|used| used != (applicant.node, applicant.key)) {
            return Err(Refused::UsedToken);
        }
        *used = Some((applicant.node, applicant.key));
        let members = BTreeMap::from([(1, "127.0.0.1:1".to_owned()), (applicant.node, applicant.address.clone())]);
        Ok(Grant { shards: 8, members, secrets: Zeroizing::new(b"keys".to_vec()) })
    }
}

struct Member {
    site: Site,
    link: Link,
    tokens: Arc<Tokens>,
}

impl Member {
    async fn start() -> Self {
        let site = Site::new();
        let (link, tokens) = (site.link(1).await, Arc::new(Tokens::default()));
        introduce(&[&link]);
        let keys = FileKeys::open(site.dir.path()).unwrap();
        let authority = Authority::derive(&keys as &dyn KeyWrapper, CLUSTER).unwrap();
        tokio::spawn(serve(link.clone(), authority, Arc::clone(&tokens) as Arc<dyn Gate>));
        Self { site, link, tokens }
    }

    fn issue(&self) -> Token {
        let token = Token::new(self.link.authority(), CLUSTER);
        self.tokens.known.lock().unwrap().insert(token.hash(), None);
        token
    }

    async fn join(&self, dir: &Path, node: u64, token: &str, patience: Duration) -> Result<Joined, JoinError> {
        let listen = "127.0.0.1:0".parse().unwrap();
        let (members, address) = ([self.link.address().to_string()], format!("127.0.0.1:{node}"));
        let settings = JoinSettings { node, zone: "z", listen, address, members: &members, token, patience };
        join(dir, settings).await
    }
}

#[tokio::test]
async fn a_token_makes_one_node_a_member_and_a_repeat_of_it_resumes() {
    let member = Member::start().await;
    let token = member.issue().reveal();
    let dir = tempfile::tempdir().unwrap();
    let joined = member.join(dir.path(), 2, &token, Duration::ZERO).await.unwrap();
    assert_eq!((joined.formation.shards, joined.formation.cluster, joined.formation.founder), (8, CLUSTER, false));
    assert_eq!(&joined.secrets[..], b"keys");
    // As after a crash before the formation was written.
    let again = member.join(dir.path(), 2, &token, Duration::ZERO).await.unwrap();
    assert_eq!(again.formation, joined.formation);
    // The same token from another node (another key), or for another id.
    let other = tempfile::tempdir().unwrap();
    let refused = member.join(other.path(), 2, &token, Duration::ZERO).await.err().unwrap();
    assert!(matches!(refused, JoinError::Refused(Refused::UsedToken)), "{refused}");
    let refused = member.join(dir.path(), 3, &token, Duration::ZERO).await.err().unwrap();
    assert!(matches!(refused, JoinError::Refused(Refused::UsedToken)), "{refused}");
    let heard = member.tokens.heard.lock().unwrap().clone();
    assert!(heard.iter().all(|applicant| applicant.from == "127.0.0.1" && applicant.zone == "z"));

    // What it was given lets it in, and it knows the members from the start.
    let keys = FileKeys::open(member.site.dir.path()).unwrap();
    let identity = Identity::open(dir.path(), 2, CLUSTER, &keys).unwrap();
    let link = Link::bind(dir.path(), settings(), &identity).await.unwrap();
    assert_eq!(link.members().len(), 2);
    introduce(&[&member.link, &link]);
    crate::cluster::link::testing::echo(&member.link, Lane::Raft);
    link.open(1, Lane::Raft).await.unwrap();
}

#[tokio::test]
async fn unknown_foreign_and_damaged_tokens_are_refused() {
    let (member, elsewhere) = (Member::start().await, Member::start().await);
    let dir = tempfile::tempdir().unwrap();
    let unknown = Token::new(member.link.authority(), CLUSTER).reveal();
    let refused = member.join(dir.path(), 2, &unknown, Duration::ZERO).await.err().unwrap();
    assert!(matches!(refused, JoinError::Refused(Refused::UnknownToken)), "{refused}");
    // A token of another cluster: this one is not taken for it, and nothing is told it.
    let foreign = elsewhere.issue().reveal();
    let heard = member.tokens.heard.lock().unwrap().len();
    let refused = member.join(dir.path(), 2, &foreign, Duration::ZERO).await.err().unwrap();
    assert!(matches!(refused, JoinError::Unreachable { .. }), "{refused}");
    assert_eq!(member.tokens.heard.lock().unwrap().len(), heard, "the secret was not sent");
    for text in ["", "secret", &unknown[..unknown.len() - 4], &unknown.replace("join-1", "join-2")] {
        let refused = member.join(dir.path(), 2, text, Duration::ZERO).await.err().unwrap();
        assert!(matches!(refused, JoinError::Token(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_joiner_waits_for_a_cluster_that_cannot_decide_and_no_longer_than_its_patience() {
    let member = Member::start().await;
    let (token, dir) = (member.issue().reveal(), tempfile::tempdir().unwrap());
    *member.tokens.unavailable.lock().unwrap() = 2;
    member.join(dir.path(), 2, &token, Duration::from_secs(20)).await.unwrap();
    let odd = tempfile::tempdir().unwrap();
    let refused = member.join(odd.path(), 0, &token, Duration::from_secs(20)).await.err().unwrap();
    assert!(matches!(refused, JoinError::Refused(Refused::Invalid)), "{refused}");
    *member.tokens.unavailable.lock().unwrap() = usize::MAX;
    let refused = member.join(dir.path(), 2, &token, Duration::ZERO).await.err().unwrap();
    assert!(refused.to_string().contains("cannot decide now"), "{refused}");
}

#[test]
fn the_bytes_of_version_1_are_fixed() {
    let request =
        Request { secret: [1; 32], node: 2, address: "a".into(), zone: "z".into(), build: "b".into(), key: vec![3] };
    let golden =
        format!("670100{}0200000000000000{one}61{one}7a{one}62{one}03", "01".repeat(32), one = "0100000000000000");
    assert_eq!(hex::encode(request.encode().unwrap()), golden);
    assert_eq!(Request::decode(&request.encode().unwrap()).unwrap(), request);
    let granted = Reply::Granted {
        cluster: [4; 16],
        shards: 8,
        certificate: vec![5],
        authority: vec![6],
        members: BTreeMap::from([(1, "a".into())]),
        secrets: vec![7],
    };
    let golden = format!(
        "68010000000000{}0800{one}05{one}06{one}{one}{one}61{one}07",
        "04".repeat(16),
        one = "0100000000000000"
    );
    assert_eq!(hex::encode(granted.encode().unwrap()), golden);
    assert_eq!(Reply::decode(&granted.encode().unwrap()).unwrap(), granted);
    let refused = Reply::Refused(Refused::NodeId).encode().unwrap();
    assert_eq!(hex::encode(refused), "6801000100000002000000");
}

#[test]
fn any_bytes_as_a_join_token_request_or_reply() {
    let request = Request {
        secret: [1; 32],
        node: 2,
        address: "127.0.0.1:1".to_owned(),
        zone: "default".to_owned(),
        build: "0.1".to_owned(),
        key: vec![3; 32],
    };
    let granted = Reply::Granted {
        cluster: CLUSTER,
        shards: 8,
        certificate: vec![4; 40],
        authority: vec![5; 40],
        members: BTreeMap::from([(1, "127.0.0.1:1".to_owned())]),
        secrets: b"keys".to_vec(),
    };
    let token = Token::new([6; 32], CLUSTER).reveal();
    let seeds = [
        request.encode().expect("encodes"),
        granted.encode().expect("encodes"),
        Reply::Refused(Refused::UsedToken).encode().expect("encodes"),
        token.as_bytes().to_vec(),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    fuzz("join", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let token = text.parse::<Token>().map(|token| assert_eq!(token.reveal().as_str(), text.trim()));
        let ways = [
            keeps_its_form(bytes, Request::decode, |request| request.encode().expect("encodes")),
            keeps_its_form(bytes, Reply::decode, |reply| reply.encode().expect("encodes")),
        ];
        format!("{} {:?}", ways.join(" "), token.map_err(|error| error.to_string()))
    });
}
