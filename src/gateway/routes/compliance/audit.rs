//! The audit log over HTTP: entries, checkpoints, proofs, and the export that proves itself.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::compliance::audit_log::search::{AuditEntry, Filter, search};
use crate::actors::compliance::audit_log::{Query, export};
use crate::gateway::page::cursor;
use crate::gateway::{Access, Call, Class, Endpoint, LimitClass, List, PageQuery, Reply};
use crate::kernel::merkle::Hash;
use crate::kernel::{Error, ShardId, Timestamp};

const READ: Access = Access::Permission("audit:read");

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/audit/entries", "listAuditEntries")
            .class(Class::Bulk)
            .summary("Security-relevant acts, newest first")
            .description(
                "A page may be short, or empty, and still have a next one: each looks at a bounded number of entries.",
            )
            .tag("compliance")
            .access(READ)
            .query::<EntriesQuery>()
            .response::<List<AuditEntry>>(200, "Entries")
            .problem(404)
            .handle(list_entries),
        Endpoint::get("/v1/audit/checkpoint", "getAuditCheckpoint")
            .summary("The signed size and root of each log")
            .description("C2SP tlog-checkpoints; `verifier` checks the signature of `note`.")
            .tag("compliance")
            .access(READ)
            .query::<CheckpointQuery>()
            .response::<Checkpoints>(200, "One checkpoint for each shard's log")
            .problem(404)
            .handle(get_checkpoint),
        Endpoint::get("/v1/audit/proofs/inclusion", "proveAuditInclusion")
            .class(Class::Bulk)
            .summary("Proof that an entry is in the log")
            .description("RFC 9162 §2.1.3: the hashes lead from the entry's leaf to the root over `size` entries.")
            .tag("compliance")
            .access(READ)
            .query::<InclusionQuery>()
            .response::<InclusionProof>(200, "The proof")
            .problem(404)
            .handle(prove_inclusion),
        Endpoint::get("/v1/audit/proofs/consistency", "proveAuditConsistency")
            .class(Class::Bulk)
            .summary("Proof that the log only grew")
            .description("RFC 9162 §2.1.4: the first `from` entries are a prefix of the first `to`.")
            .tag("compliance")
            .access(READ)
            .query::<ConsistencyQuery>()
            .response::<ConsistencyProof>(200, "The proof")
            .problem(404)
            .handle(prove_consistency),
    ]
}

pub(super) fn admin_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/audit/export", "exportAuditLog")
            .summary("Every entry with signed checkpoints, as JSON lines that `construct audit verify` checks offline")
            .tag("compliance")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(std::time::Duration::from_secs(3600))
            .content(200, "The export", "application/jsonl")
            .handle(export_log),
    ]
}

/// Which entries are wanted; all that is given must match.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EntriesQuery {
    /// The id of who did it, or `anonymous`, `operator`, `system`.
    actor: Option<String>,
    #[schema(example = "user.sign_in")]
    action: Option<String>,
    /// The id of what it was done to.
    target: Option<String>,
    /// An id that is actor or target.
    about: Option<String>,
    #[schema(maximum = 65535)]
    shard: Option<u16>,
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u16>,
    #[schema(format = "cursor")]
    cursor: Option<String>,
}

async fn list_entries(call: Call<()>) -> Result<Reply, Error> {
    let query: EntriesQuery = call.query()?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let (limit, after) = (page.limit()?, page.after(call.list())?);
    let shard = query.shard.map(ShardId);
    let EntriesQuery { actor, action, target, about, since, until, .. } = query;
    let filter = Filter { actor, action, target, about, shard, since, until };
    let found = search(&call.services.compliance.audit, &filter, after.as_deref(), limit).await?;
    let next_cursor = found.cursor.map(|key| cursor(call.list(), &key));
    Ok(Reply::ok(&List { items: found.entries, next_cursor }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckpointQuery {
    /// Only this shard's log.
    #[schema(maximum = 65535)]
    shard: Option<u16>,
}

/// The signed state of one shard's log.
#[derive(Debug, Serialize, ToSchema)]
struct CheckpointView {
    #[schema(maximum = 65535)]
    shard: u16,
    origin: String,
    size: u64,
    /// In base64.
    root: String,
    /// The whole signed note.
    note: String,
    /// C2SP verifier key.
    verifier: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct Checkpoints {
    items: Vec<CheckpointView>,
}

async fn get_checkpoint(call: Call<()>) -> Result<Reply, Error> {
    let query: CheckpointQuery = call.query()?;
    let audit = &call.services.compliance.audit;
    let shards = query.shard.map_or_else(|| audit.shards(), |shard| vec![ShardId(shard)]);
    let mut items = Vec::with_capacity(shards.len());
    for shard in shards {
        let signed = audit.checkpoint(shard, None).await?;
        items.push(CheckpointView {
            shard: shard.0,
            size: signed.checkpoint.size,
            root: BASE64.encode(signed.checkpoint.root),
            origin: signed.checkpoint.origin,
            note: signed.note,
            verifier: audit.verifier(shard).to_text(),
        });
    }
    Ok(Reply::ok(&Checkpoints { items }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InclusionQuery {
    #[schema(maximum = 65535)]
    shard: u16,
    index: u64,
    /// Entries of the tree; all there are when it is not given.
    size: Option<u64>,
}

/// Hashes in base64, bottom up.
#[derive(Debug, Serialize, ToSchema)]
struct InclusionProof {
    #[schema(maximum = 65535)]
    shard: u16,
    index: u64,
    size: u64,
    leaf_hash: String,
    root: String,
    hashes: Vec<String>,
}

async fn prove_inclusion(call: Call<()>) -> Result<Reply, Error> {
    let InclusionQuery { shard, index, size } = call.query()?;
    let (audit, id) = (&call.services.compliance.audit, ShardId(shard));
    let (size, root) = audit.head(id, size).await?;
    if index >= size {
        return Err(Error::invalid("/index", format!("must be below the size of the tree, {size}")));
    }
    let hashes = audit.proof(id, &Query::Inclusion { index, size }).await?;
    let leaves = audit.entries(id, index, 1).await?;
    let leaf = leaves.first().ok_or_else(Error::internal)?;
    let leaf_hash = BASE64.encode(crate::kernel::merkle::leaf_hash(leaf));
    Ok(Reply::ok(&InclusionProof { shard, index, size, leaf_hash, root: BASE64.encode(root), hashes: encode(&hashes) }))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConsistencyQuery {
    #[schema(maximum = 65535)]
    shard: u16,
    /// Entries of the older tree.
    from: u64,
    /// Entries of the newer tree; all there are when it is not given.
    to: Option<u64>,
}

/// Hashes in base64.
#[derive(Debug, Serialize, ToSchema)]
struct ConsistencyProof {
    #[schema(maximum = 65535)]
    shard: u16,
    from: u64,
    to: u64,
    from_root: String,
    to_root: String,
    hashes: Vec<String>,
}

async fn prove_consistency(call: Call<()>) -> Result<Reply, Error> {
    let ConsistencyQuery { shard, from, to } = call.query()?;
    let (audit, id) = (&call.services.compliance.audit, ShardId(shard));
    let (to, to_root) = audit.head(id, to).await?;
    if from > to {
        return Err(Error::invalid("/from", format!("must not be above the size of the newer tree, {to}")));
    }
    let (_, from_root) = audit.head(id, Some(from)).await?;
    let hashes = encode(&audit.proof(id, &Query::Consistency { old: from, new: to }).await?);
    let (from_root, to_root) = (BASE64.encode(from_root), BASE64.encode(to_root));
    Ok(Reply::ok(&ConsistencyProof { shard, from, to, from_root, to_root, hashes }))
}

fn encode(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| BASE64.encode(hash)).collect()
}

async fn export_log(call: Call<()>) -> Result<Reply, Error> {
    let lines = export::lines(Arc::clone(&call.services.compliance.audit), call.services.clock.now());
    let chunks = lines.map(|piece| piece.map(Bytes::from).map_err(std::io::Error::other));
    Ok(Reply::stream(200, "application/jsonl", chunks.boxed()))
}
