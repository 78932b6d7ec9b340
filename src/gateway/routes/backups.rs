//! Backups on the admin listener: the whole cluster as one sealed stream.

use std::time::Duration;

use futures::StreamExt;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::cluster::backup::Base;
use crate::gateway::{Access, Call, Class, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, Secret};

/// Endpoints of the admin listener.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/admin/v1/backups", "takeBackup")
            .class(Class::Bulk)
            .summary("The whole cluster as of one instant, taken while it serves, sealed under your key")
            .description(
                "`construct cluster backup` asks for it, reads it back and keeps it; `construct cluster restore` makes a cluster of it. One that was cut off does not open. \
                 It holds the cluster's keys: who has the file and the key has everything.",
            )
            .tag("operations")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(Duration::from_secs(120))
            .body::<NewBackup>()
            .content(200, "The backup", "application/octet-stream")
            .problem(409)
            .handle(take),
        Endpoint::get("/admin/v1/erasures", "listErasures")
            .class(Class::Bulk)
            .summary("The ids of everybody whose erasure has begun, a line each: who restores an older backup erases them anew")
            .tag("operations")
            .access(Access::Operator)
            .limit(LimitClass::Unlimited)
            .deadline(Duration::from_secs(120))
            .content(200, "The ids", "text/plain")
            .handle(erasures),
    ]
}

/// What a backup is asked to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBackup {
    /// What the file is sealed under: a passphrase or the text of a key file. It is kept nowhere.
    #[schema(value_type = String, min_length = 16, max_length = 4096, pattern = "^[!-~]([ -~]*[!-~])?$")]
    key: Secret<String>,
    /// An earlier backup: shards that have not changed since are not taken again.
    base: Option<Base>,
}

async fn erasures(call: Call<()>) -> Result<Reply, Error> {
    Ok(Reply::bytes(200, "text/plain", call.services.backups.erased().await?))
}

async fn take(call: Call<NewBackup>) -> Result<Reply, Error> {
    let NewBackup { key, base } = call.body;
    let chunks = call.services.backups.take(key, base, &call.origin).await?;
    let chunks = futures::stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) });
    Ok(Reply::stream(200, "application/octet-stream", chunks.boxed()).header("cache-control", "no-store"))
}
