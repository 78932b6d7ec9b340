//! How a node becomes a member: against a one-time token, over a stream that the token lets it trust.
//!
//! The token names the cluster and the fingerprint of its authority, so that the joiner knows the cluster before it has
//! a certificate ([`token`]). [`client`] asks any member; [`server`] has the membership consume the token (its digest is
//! kept in the meta shard, and it is consumed once through Raft, for one node id and one key) and answers with the
//! node's certificate, the members and the cluster's keys. Every step may be repeated: the joiner keeps its key from
//! before it asks, and the same token with the same id and key is granted again; with another it was used.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::link::ClusterId;
use crate::kernel::codec::{self, CodecError};

pub use client::{JoinError, JoinSettings, Joined, existing, join};
pub use server::{Applicant, Gate, Grant, Refused, serve};
pub use token::{Token, TokenError};

const REQUEST: u8 = 0x67;
const REPLY: u8 = 0x68;
const VERSION: u16 = 1;
/// The largest request and the largest reply.
const REQUEST_BYTES: usize = 8 << 10;
const REPLY_BYTES: usize = 1 << 20;

/// What a joiner asks.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    secret: [u8; 32],
    node: u64,
    address: String,
    zone: String,
    build: String,
    /// Its raw Ed25519 public key.
    key: Vec<u8>,
}

/// What it is answered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    Granted {
        cluster: ClusterId,
        shards: u16,
        certificate: Vec<u8>,
        authority: Vec<u8>,
        members: BTreeMap<u64, String>,
        /// The cluster's keys, as the node packs them.
        secrets: Vec<u8>,
    },
    Refused(Refused),
}

impl Drop for Request {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Request {
    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(REQUEST, VERSION, self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(REQUEST, bytes)
    }
}

impl Reply {
    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_record(REPLY, VERSION, self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_record(REPLY, bytes)
    }
}
