//! Security alerts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::compliance::alerts::{Alert, Alerts, Command, Detection, Reply as Answer, alerts_id};
use crate::gateway::{Access, Call, Endpoint, List, PageQuery, Reply};
use crate::kernel::{Error, Timestamp};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/security/alerts", "listSecurityAlerts")
            .summary("Detections: credential stuffing, guessing, reuse of refresh tokens, changed privileges")
            .tag("compliance")
            .access(Access::Permission("security:read"))
            .query::<AlertsQuery>()
            .response::<List<AlertView>>(200, "Alerts, newest first")
            .handle(list),
        Endpoint::post("/v1/security/alerts/{id}/acknowledge", "acknowledgeSecurityAlert")
            .summary("Somebody looks after it")
            .tag("compliance")
            .access(Access::Permission("security:write"))
            .response::<AlertView>(200, "The alert")
            .problem(404)
            .handle(acknowledge),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AlertsQuery {
    /// Only those acknowledged, or only those not.
    acknowledged: Option<bool>,
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u16>,
    #[schema(format = "cursor")]
    cursor: Option<String>,
}

/// Something an administrator should look at.
#[derive(Debug, Serialize, ToSchema)]
struct AlertView {
    id: String,
    kind: Detection,
    /// Whom it is about: the pseudonym of a source, a user, a session or a role.
    subject: String,
    #[schema(value_type = String, format = DateTime)]
    first_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_at: Timestamp,
    /// Acts that count towards it.
    acts: u64,
    /// The audit entry that raised it.
    shard: u16,
    index: u64,
    acknowledged_by: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    acknowledged_at: Option<Timestamp>,
}

impl From<Alert> for AlertView {
    fn from(alert: Alert) -> Self {
        let (acknowledged_by, acknowledged_at) = alert.acknowledged.unzip();
        Self {
            id: alert.id,
            kind: alert.detection,
            subject: alert.subject,
            first_at: alert.first_at,
            last_at: alert.last_at,
            acts: alert.acts,
            shard: alert.shard.0,
            index: alert.index,
            acknowledged_by,
            acknowledged_at,
        }
    }
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    let AlertsQuery { acknowledged, limit, cursor } = call.query()?;
    let page = PageQuery { limit, cursor };
    let (limit, after) = (page.limit()?, page.after(call.list())?);
    let Answer::Alerts(alerts) = call.services.router.ask::<Alerts>(&alerts_id(), Command::List, &call.origin).await?
    else {
        return Err(Error::internal());
    };
    let wanted = |alert: &Alert| acknowledged.is_none_or(|wanted| wanted == alert.acknowledged.is_some());
    // Alerts come newest first, so a page goes on after the id it ended with.
    let mut found: Vec<(Vec<u8>, AlertView)> = Vec::new();
    let mut skipping = after.is_some();
    for alert in alerts {
        let key = alert.id.clone().into_bytes();
        let last = after.as_ref() == Some(&key);
        if !skipping && wanted(&alert) && found.len() <= limit {
            found.push((key, AlertView::from(alert)));
        }
        skipping &= !last;
    }
    Ok(Reply::ok(&List::page(found, limit, call.list())))
}

async fn acknowledge(call: Call<()>) -> Result<Reply, Error> {
    let command = Command::Acknowledge { id: call.param("id").to_owned() };
    match call.services.router.ask::<Alerts>(&alerts_id(), command, &call.origin).await? {
        Answer::Alert(alert) => Ok(Reply::ok(&AlertView::from(alert))),
        _ => Err(Error::internal()),
    }
}
