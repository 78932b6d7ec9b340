//! The key-encryption key: how it stands on every member, and its rotation.

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::compliance::key_status::KeyStatus;
use crate::actors::compliance::rotation::Rotated;
use crate::gateway::{Access, Call, Endpoint, LimitClass, Reply};
use crate::kernel::Error;

pub(super) fn admin_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/admin/v1/keys", "getKeys")
            .summary("Which version of the key-encryption key is in use, and which versions each member has")
            .tag("compliance")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .response::<KeysView>(200, "The versions; who did not answer says why")
            .handle(get_keys),
        Endpoint::post("/admin/v1/keys/rotate", "rotateKeys")
            .summary("Rotate the key-encryption key, wrap every key anew and destroy the older versions")
            .description(
                "After it, what was erased cannot be opened from old disks and backups even with the root key of then. \
                 With more than one member each gets the new version before it is in use; one that is down, when it is \
                 back. Answers when done. After a failure ask again, any member: it begins anew and finishes what is left.",
            )
            .tag("compliance")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(std::time::Duration::from_secs(3600))
            .response::<RotatedView>(200, "What was done")
            .problem(409)
            .handle(rotate_keys),
    ]
}

/// How the key-encryption key stands.
#[derive(Debug, Serialize, ToSchema)]
struct KeysView {
    /// The version that wraps.
    active: u32,
    /// Versions below are needed by nothing, and destroyed on every member that has heard so; 0 before the first rotation.
    retired_below: u32,
    /// A rotation is under way on some member, or ended before it was done: then ask for it again.
    unfinished: bool,
    members: Vec<MemberKeysView>,
}

/// The versions that a member has.
#[derive(Debug, Serialize, ToSchema)]
struct MemberKeysView {
    node: u64,
    /// Oldest first; none when it did not answer.
    versions: Vec<u32>,
    /// Why it did not answer.
    unanswered: Option<String>,
}

async fn get_keys(call: Call<()>) -> Result<Reply, Error> {
    let services = &call.services;
    let status = services.compliance.key_status(services.settings.node.id, &call.origin).await?;
    let KeyStatus { active, retired_below, unfinished, members } = status;
    let members = members.into_iter().map(|(node, told)| match told {
        Ok(versions) => MemberKeysView { node, versions, unanswered: None },
        Err(error) => MemberKeysView { node, versions: Vec::new(), unanswered: Some(error.detail) },
    });
    Ok(Reply::ok(&KeysView { active, retired_below, unfinished, members: members.collect() }))
}

#[derive(Debug, Serialize, ToSchema)]
struct RotatedView {
    /// The version that wraps now; older ones are destroyed.
    version: u32,
    /// Data keys that were wrapped anew.
    rewrapped: u64,
    /// Members that were not heard to have destroyed the older versions too: away, or slow. They do it when they are back.
    waiting: Vec<u64>,
}

async fn rotate_keys(call: Call<()>) -> Result<Reply, Error> {
    let rotated = call.services.compliance.rotate_keys(&call.services.identity, &call.origin).await?;
    let Rotated { version, rewrapped, waiting } = rotated;
    Ok(Reply::ok(&RotatedView { version, rewrapped, waiting }))
}
