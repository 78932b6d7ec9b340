//! The compliance report: what is enforced now. Every line is measured when it is asked for, none is a claim.

use serde::Serialize;
use utoipa::ToSchema;

use super::audit_log::Query;
use super::erasure;
use super::keyring::BY_VERSION;
use super::service::Compliance;
use crate::actors::identity::user;
use crate::actors::runtime::{Page, Scope};
use crate::kernel::merkle::{leaf_hash, verify_inclusion};
use crate::kernel::pan::contains_card_number;
use crate::kernel::{Error, ShardId};

/// Entries of an index read at once, and accounts looked at in a sample.
const PAGE: usize = 512;

/// Whether a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    Enforced,
    /// Holds, with something an operator should look at.
    Attention,
    Violated,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Control {
    #[schema(example = "data_keys")]
    pub id: &'static str,
    pub finding: Finding,
    /// What was measured, in one sentence.
    pub evidence: String,
}

impl Control {
    #[must_use]
    pub fn new(id: &'static str, finding: Finding, evidence: String) -> Self {
        Self { id, finding, evidence }
    }

    fn holds(id: &'static str, holds: bool, evidence: String) -> Self {
        Self::new(id, if holds { Finding::Enforced } else { Finding::Violated }, evidence)
    }
}

impl Compliance {
    /// The lines this service can measure; the gateway adds those about itself.
    ///
    /// # Errors
    /// `unavailable` when a shard cannot be read.
    pub async fn report(&self) -> Result<Vec<Control>, Error> {
        let mut lines = vec![self.data_keys().await?, self.sealed_accounts().await?];
        lines.push(self.audit_log().await?);
        lines.push(self.erasures().await?);
        let refused = contains_card_number("pay with 4242 4242 4242 4242") && !contains_card_number("pay with 4242");
        lines.push(Control::holds("card_numbers", refused, "A test card number is recognized and refused.".into()));
        lines.push(self.parked().await);
        Ok(lines)
    }

    async fn data_keys(&self) -> Result<Control, Error> {
        let current = self.keys.current_version();
        let (mut living, mut old, mut after) = (0u64, 0u64, None);
        loop {
            let page = Page { after, limit: PAGE, reverse: false };
            let found = self.router.scan(Scope::All, BY_VERSION, b"", page).await?;
            living += found.len() as u64;
            old += found.iter().filter(|(key, _)| key.get(..4) != Some(&current.to_be_bytes())).count() as u64;
            if found.len() < PAGE {
                break;
            }
            after = found.into_iter().next_back().map(|(key, _)| key);
        }
        let versions = self.keys.versions().len();
        let evidence = format!(
            "{living} data keys are wrapped or were announced, {old} of them not under version {current} of the key-encryption key; \
             {versions} version(s) can unwrap."
        );
        let finding = if old == 0 && versions == 1 { Finding::Enforced } else { Finding::Attention };
        Ok(Control::new("data_keys", finding, evidence))
    }

    /// Looks at how accounts are really stored.
    async fn sealed_accounts(&self) -> Result<Control, Error> {
        let page = Page { after: None, limit: PAGE, reverse: true };
        let found = self.router.scan(Scope::All, user::INDEX, b"", page).await?;
        let (mut sealed, mut open) = (0, 0);
        for (key, _) in &found {
            let id = user::id(&String::from_utf8_lossy(key));
            match self.router.stored_subject(&id).await? {
                Some(Some(subject)) if subject == id.key() => sealed += 1,
                Some(_) => open += 1,
                None => {}
            }
        }
        let evidence =
            format!("Of the {} newest accounts {sealed} are stored sealed and {open} in clear.", sealed + open);
        Ok(Control::holds("personal_data_sealed", open == 0, evidence))
    }

    /// Proves the newest entry of every log.
    async fn audit_log(&self) -> Result<Control, Error> {
        let (mut entries, mut broken) = (0, Vec::new());
        for shard in self.audit.shards() {
            let (size, proved) = self.newest_is_proved(shard).await?;
            entries += size;
            if !proved {
                broken.push(shard.to_string());
            }
        }
        let logs = self.audit.shards().len();
        let evidence = match broken.len() {
            0 => format!("{entries} entries in {logs} logs; the newest entry of each was proved to be under its root."),
            _ => format!("The proof of the newest entry fails in the logs of shards {}.", broken.join(", ")),
        };
        Ok(Control::holds("audit_log", broken.is_empty(), evidence))
    }

    async fn newest_is_proved(&self, shard: ShardId) -> Result<(u64, bool), Error> {
        let (size, root) = self.audit.head(shard, None).await?;
        let Some(index) = size.checked_sub(1) else { return Ok((0, true)) };
        let leaves = self.audit.entries(shard, index, 1).await?;
        let proof = self.audit.proof(shard, &Query::Inclusion { index, size }).await?;
        let leaf = leaves.first().map(|leaf| leaf_hash(leaf));
        Ok((size, leaf.is_some_and(|leaf| verify_inclusion(index, size, &leaf, &proof, &root).is_ok())))
    }

    async fn erasures(&self) -> Result<Control, Error> {
        let page = Page { after: None, limit: PAGE, reverse: false };
        let open = self.router.scan(Scope::All, erasure::OPEN, b"", page).await?.len();
        let finding = if open == 0 { Finding::Enforced } else { Finding::Attention };
        let more = if open == PAGE { "At least " } else { "" };
        Ok(Control::new("erasures", finding, format!("{more}{open} erasures are under way.")))
    }

    async fn parked(&self) -> Control {
        let mut parked = 0;
        for shard in self.router.led() {
            parked += shard.crashes().await.iter().filter(|crash| crash.parked).count();
        }
        let finding = if parked == 0 { Finding::Enforced } else { Finding::Attention };
        Control::new("availability", finding, format!("{parked} objects are out of service on this node."))
    }
}
