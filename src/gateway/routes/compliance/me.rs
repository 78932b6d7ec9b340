//! What a person may do about their own data: consents, export, erasure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::export::{ENTRIES, Export, export, my_audit_entries};
use crate::actors::compliance::audit_log::search::AuditEntry;
use crate::actors::compliance::consents::{self, Choice, Consents, Given, Purpose, consents_id};
use crate::actors::compliance::erasure;
use crate::actors::identity::authority::Proof;
use crate::gateway::{Call, Class, Endpoint, List, PageQuery, Reply};
use crate::kernel::{Error, Secret, Timestamp};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/me/consents", "getConsents")
            .summary("What I agreed to")
            .tag("compliance")
            .response::<ConsentsView>(200, "Every purpose; what was never decided is not granted")
            .handle(get_consents),
        Endpoint::put("/v1/me/consents", "setConsents")
            .summary("Agree or withdraw")
            .description("Purposes that are left out stay as they are.")
            .tag("compliance")
            .body::<SetConsents>()
            .response::<ConsentsView>(200, "Every purpose, after the change")
            .problem(412)
            .handle(set_consents),
        Endpoint::get("/v1/me/export", "exportMe")
            .class(Class::Bulk)
            .summary("Everything held about me (GDPR Art. 15 and 20)")
            .tag("compliance")
            .response::<Export>(200, "My data")
            .handle(export),
        Endpoint::get(ENTRIES, "listMyAuditEntries")
            .class(Class::Bulk)
            .summary("Entries of the audit log by me or about me, newest first")
            .description(
                "Goes on where an export stopped, with its `audit_next_cursor`. A page may be short, or empty, and still \
                 have a next one: each looks at a bounded number of entries.",
            )
            .tag("compliance")
            .query::<PageQuery>()
            .response::<List<AuditEntry>>(200, "Entries")
            .handle(my_audit_entries),
        Endpoint::delete("/v1/me", "eraseMe")
            .summary("Erase me (GDPR Art. 17)")
            .description(
                "Signs out everywhere, ends subscriptions, frees the address, sends a last mail and destroys the key to \
                 my data. Cannot be undone. Needs the password, or a recent proof of identity.",
            )
            .tag("compliance")
            .optional_body::<EraseMe>()
            .response::<ErasureView>(202, "The erasure has begun")
            .problem(403)
            .handle(erase_me),
    ]
}

/// One purpose.
#[derive(Debug, Serialize, ToSchema)]
struct ConsentView {
    purpose: Purpose,
    granted: bool,
    /// When it was decided; null when it never was.
    #[schema(value_type = Option<String>, format = DateTime)]
    decided_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ConsentsView {
    consents: Vec<ConsentView>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetConsent {
    purpose: Purpose,
    granted: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetConsents {
    #[schema(min_items = 1, max_items = 16)]
    consents: Vec<SetConsent>,
}

fn view(reply: consents::Reply) -> Result<Reply, Error> {
    let consents::Reply::Consents { given, version } = reply else { return Err(Error::internal()) };
    Ok(Reply::ok(&ConsentsView { consents: all(&given) }).etag(version))
}

fn all(given: &BTreeMap<Purpose, Given>) -> Vec<ConsentView> {
    let purpose = |purpose: Purpose| {
        let decided = given.get(&purpose);
        let granted = decided.is_some_and(|given| given.granted);
        ConsentView { purpose, granted, decided_at: decided.map(|given| given.at) }
    };
    Purpose::ALL.into_iter().map(purpose).collect()
}

async fn get_consents(call: Call<()>) -> Result<Reply, Error> {
    let id = consents_id(call.user_id()?);
    view(call.services.router.ask::<Consents>(&id, consents::Command::Get, &call.origin).await?)
}

async fn set_consents(call: Call<SetConsents>) -> Result<Reply, Error> {
    let wanted = &call.body.consents;
    if wanted.is_empty() || wanted.len() > 16 {
        return Err(Error::invalid("/consents", "must hold 1 to 16 choices"));
    }
    let choices: BTreeMap<Purpose, bool> = wanted.iter().map(|choice| (choice.purpose, choice.granted)).collect();
    if choices.len() != wanted.len() {
        return Err(Error::invalid("/consents", "must not name a purpose twice"));
    }
    let choices = choices.into_iter().map(|(purpose, granted)| Choice { purpose, granted }).collect();
    let put = consents::Command::Put { choices, expected: call.expected_version()? };
    let id = consents_id(call.user_id()?);
    view(call.services.router.ask::<Consents>(&id, put, &call.origin).await?)
}

/// How I prove that it is me.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EraseMe {
    /// Not needed within a few minutes of another proof.
    #[schema(value_type = Option<String>, max_length = 1024)]
    password: Option<Secret<String>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErasureView {
    /// `in_progress` or `completed`.
    #[schema(example = "in_progress")]
    state: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    begun_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
}

async fn erase_me(call: Call<EraseMe>) -> Result<Reply, Error> {
    let user_id = call.user_id()?.to_owned();
    let identity = &call.services.identity;
    match call.body.password.clone() {
        Some(password) => identity.prove(&call.principal, Proof::Password(password), &call.origin).await?,
        None => identity.require_recent_proof(&call.principal).await?,
    }
    let erasure::Reply::Progress { phase, begun_at, completed_at } =
        call.services.compliance.eraser.begin(&user_id, &call.origin).await?;
    Ok(Reply::accepted(&ErasureView { state: phase.as_str(), begun_at, completed_at }))
}
