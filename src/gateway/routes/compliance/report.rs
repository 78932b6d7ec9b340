//! The compliance report, and the rotation of keys.

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::compliance::report::{Control, Finding};
use crate::actors::compliance::rotation::Rotated;
use crate::gateway::{Access, Call, Class, Endpoint, LimitClass, Reply};
use crate::kernel::{Error, Timestamp};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/compliance/report", "getComplianceReport")
            .class(Class::Bulk)
            .summary("What is enforced now, each line measured when asked for")
            .tag("compliance")
            .access(Access::Permission("compliance:read"))
            .response::<ReportView>(200, "The report")
            .handle(get_report),
    ]
}

pub(super) fn admin_endpoints() -> Vec<Endpoint> {
    vec![
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

#[derive(Debug, Serialize, ToSchema)]
struct ReportView {
    #[schema(value_type = String, format = DateTime)]
    generated_at: Timestamp,
    controls: Vec<Control>,
}

async fn get_report(call: Call<()>) -> Result<Reply, Error> {
    let services = &call.services;
    let mut controls = services.compliance.report().await?;
    let settings = &services.settings;
    let exposed = !settings.gateway.listen.ip().is_loopback() && settings.gateway.tls.cert_file.is_empty();
    let evidence = match (settings.gateway.tls.cert_file.is_empty(), settings.gateway.listen) {
        (false, listen) => format!("The gateway at {listen} speaks TLS."),
        (true, listen) => format!("The gateway at {listen} speaks plain HTTP."),
    };
    let finding = if exposed { Finding::Attention } else { Finding::Enforced };
    controls.push(Control::new("transport", finding, evidence));
    let identity = &settings.identity;
    let evidence = format!(
        "Access tokens live {} s, sessions end after {} s without use, a proof of identity counts for {} s, passwords \
         have at least {} characters and strength {} of 4.",
        identity.access_token_seconds,
        identity.refresh_token_seconds,
        identity.step_up_seconds,
        identity.password_min_length,
        identity.password_min_score,
    );
    controls.push(Control::new("authentication", Finding::Enforced, evidence));
    let table = services.identity.role_table().await?;
    let who = |permission: &str| {
        let granted = table.iter().filter(|role| role.permissions.iter().any(|held| held == permission));
        granted.map(|role| role.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let evidence = format!(
        "{} roles; users can be changed by: {}; the audit log can be read by: {}.",
        table.len(),
        who("users:write"),
        who("audit:read"),
    );
    controls.push(Control::new("least_privilege", Finding::Enforced, evidence));
    Ok(Reply::ok(&ReportView { generated_at: services.clock.now(), controls }))
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
