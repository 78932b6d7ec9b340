//! What a node asks another one itself, whatever that leads: its actors, and versions of the key-encryption key, which all
//! members have.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::question::{Answer, Question};
use super::router::Router;
use crate::kernel::Error;
use crate::providers::keys::{KeyError, KeyWrapper};

/// How long a member has to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

impl Router {
    /// The keys that other members may have from this one, or give to it. Later calls change nothing.
    pub fn hold_keys(&self, keys: Arc<dyn KeyWrapper>) {
        let _ = self.way().keys.set(keys);
    }

    /// This node, where it is connected to others.
    #[must_use]
    pub fn node(&self) -> Option<u64> {
        self.way().node()
    }

    /// The other members, as this node knows them.
    #[must_use]
    pub fn others(&self) -> Vec<u64> {
        self.way().others()
    }

    /// A version of the key-encryption key from a member, encrypted under the root key.
    ///
    /// # Errors
    /// `not_found` where it is not there; `unavailable`.
    pub async fn hand_out_key(&self, node: u64, version: u32) -> Result<Vec<u8>, Error> {
        match self.ask_member(node, &Question::HandOutKey { version }).await? {
            Answer::Piece(sealed) => Ok(sealed),
            _ => Err(Error::internal()),
        }
    }

    /// Has a member keep a version of the key-encryption key; it is on its disk then.
    ///
    /// # Errors
    /// `conflict` where it does not fit the member's own; `unavailable`.
    pub async fn take_in_key(&self, node: u64, version: u32, sealed: Vec<u8>) -> Result<(), Error> {
        self.ask_member(node, &Question::TakeInKey { version, sealed }).await.map(|_| ())
    }

    /// The versions of the key-encryption key that a member has, oldest first.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn key_versions(&self, node: u64) -> Result<Vec<u32>, Error> {
        match self.ask_member(node, &Question::KeyVersions).await? {
            Answer::KeyVersions(versions) => Ok(versions),
            _ => Err(Error::internal()),
        }
    }

    async fn ask_member(&self, node: u64, question: &Question) -> Result<Answer, Error> {
        self.way().ask_node(node, question, Instant::now() + ANSWERED_WITHIN).await
    }

    /// The answer to what is asked of this node itself; `None` for a question about a shard.
    pub(super) async fn answer_itself(&self, question: &Question) -> Option<Result<Answer, Error>> {
        if let Question::Inventory = question {
            return Some(Ok(Answer::Inventory(self.inventory().await)));
        }
        let keys = || self.way().keys.get().ok_or_else(|| Error::unavailable("The node is still starting."));
        let answer = match (question, keys()) {
            (Question::HandOutKey { version }, Ok(keys)) => keys.hand_out(*version).await.map(Answer::Piece),
            (Question::TakeInKey { version, sealed }, Ok(keys)) => {
                keys.take_in(*version, sealed).await.map(|()| Answer::Done)
            }
            (Question::KeyVersions, Ok(keys)) => Ok(Answer::KeyVersions(keys.versions())),
            (Question::HandOutKey { .. } | Question::TakeInKey { .. } | Question::KeyVersions, Err(error)) => {
                return Some(Err(error));
            }
            _ => return None,
        };
        Some(answer.map_err(|error| match error {
            KeyError::NoSuchVersion { .. } => Error::not_found("version"),
            KeyError::DoesNotOpen => Error::conflict("The key does not fit the keys of this node."),
            error => {
                tracing::error!(%error, "the key service failed for another member");
                error.refusal()
            }
        }))
    }
}
