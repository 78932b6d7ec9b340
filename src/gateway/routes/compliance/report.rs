//! The compliance report.

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::compliance::report::{Control, Finding};
use crate::gateway::{Access, Call, Class, Endpoint, Reply};
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
