//! Sending, and what became of it.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::notifications::delivery::{
    self, Attempt, AttemptState, Category, Channel, Content, Delivery, Report, SendRequest, Status,
};
use crate::actors::runtime::entropy;
use crate::gateway::{Access, Call, Class, Endpoint, Reply};
use crate::kernel::id::{is_type_id, type_id};
use crate::kernel::{Entity as _, EntityId, Error, Slot, Timestamp};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/notifications", "sendNotification")
            .class(Class::Bulk)
            .summary("Send a notification to a person")
            .tag("notifications")
            .access(Access::Permission("notifications:send"))
            .body::<NotificationInput>()
            .response::<Accepted>(202, "Accepted; its channels are decided by the person's preferences")
            .problem(422)
            .handle(send),
        Endpoint::get("/v1/notifications/{id}", "getNotification")
            .summary("Every attempt on every channel")
            .description("For its receiver, and for holders of `notifications:send`.")
            .tag("notifications")
            .others("notifications:read")
            .response::<NotificationView>(200, "The journal of the notification")
            .problem(404)
            .handle(get),
    ]
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Receiver {
    #[schema(max_length = 64)]
    user_id: String,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ContentInput {
    #[schema(min_length = 1, max_length = 200)]
    title: String,
    #[schema(min_length = 1, max_length = 4000)]
    body: String,
    /// An https URL, or a path below the public URL.
    #[schema(max_length = 2048)]
    url: Option<String>,
}

/// `content`, or `template` with `data`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NotificationInput {
    to: Receiver,
    category: Category,
    content: Option<ContentInput>,
    #[schema(max_length = 64)]
    template: Option<String>,
    /// What the template shows.
    #[serde(default)]
    data: BTreeMap<String, String>,
    /// Only these; what the person muted stays muted.
    channels: Option<Vec<Channel>>,
    #[schema(max_length = 64)]
    collapse_key: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    send_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Accepted {
    id: String,
    state: Status,
}

/// Under an idempotency key a repeat names the same notification, so that it cannot be sent twice even when the first
/// answer was lost before it could be remembered.
fn new_id(call: &Call<NotificationInput>) -> String {
    let (at, random) = match call.origin.idempotency {
        Some(scope) => (Timestamp::ZERO, digest(&SHA256, &scope).as_ref().first_chunk().copied()),
        None => (call.services.clock.now(), entropy().first_chunk().copied()),
    };
    type_id("ntf", at, Slot::of(&call.body.to.user_id), random.unwrap_or_default())
}

async fn send(call: Call<NotificationInput>) -> Result<Reply, Error> {
    let body = &call.body;
    if !is_type_id("usr", &body.to.user_id) {
        return Err(Error::invalid("/to/user_id", "is not the id of a user"));
    }
    if body.content.is_some() == body.template.is_some() {
        return Err(Error::invalid("/content", "Give either content or template."));
    }
    let content = body.content.clone();
    let request = SendRequest {
        user_id: body.to.user_id.clone(),
        address: None,
        category: body.category,
        template: body.template.clone().unwrap_or_default(),
        data: body.data.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        content: content.map(|ContentInput { title, body, url }| Content { title, body, url }),
        channels: body.channels.clone(),
        collapse_key: body.collapse_key.clone(),
        not_before: body.send_at,
    };
    let id = new_id(&call);
    let entity = EntityId::new(Delivery::KIND, &id);
    match call.services.router.ask::<Delivery>(&entity, delivery::Command::Send(request), &call.origin).await? {
        delivery::Reply::Accepted { status } => Ok(Reply::accepted(&Accepted { id, state: status })),
        _ => Err(Error::internal()),
    }
}

/// One channel of a notification.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryAttemptView)]
struct AttemptView {
    channel: Channel,
    state: AttemptState,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The device, where a channel may have many.
    #[serde(skip_serializing_if = "String::is_empty")]
    device_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// What the other side calls it: a Message-ID, a message SID, an inbox offset.
    #[serde(skip_serializing_if = "String::is_empty")]
    reference: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct NotificationView {
    id: String,
    state: Status,
    user_id: String,
    category: Category,
    #[serde(skip_serializing_if = "String::is_empty")]
    template: String,
    #[schema(value_type = String, format = DateTime)]
    accepted_at: Timestamp,
    attempts: Vec<AttemptView>,
}

fn view(report: Report) -> NotificationView {
    let Report { id, user_id, category, template, status, accepted_at, attempts } = report;
    let attempt = |attempt: Attempt| {
        let Attempt { channel, target, state, at, detail, reference } = attempt;
        AttemptView { channel, state, at, device_id: target, detail, reference }
    };
    let attempts = attempts.into_iter().map(attempt).collect();
    NotificationView { id, state: status, user_id, category, template, accepted_at, attempts }
}

async fn get(call: Call<()>) -> Result<Reply, Error> {
    let unknown = || Error::not_found("notification");
    let id = call.param("id");
    if !is_type_id("ntf", id) {
        return Err(unknown());
    }
    let entity = EntityId::new(Delivery::KIND, id);
    let asked = call.services.router.ask::<Delivery>(&entity, delivery::Command::GetReport, &call.origin).await?;
    let delivery::Reply::Report(report) = asked else { return Err(Error::internal()) };
    if call.origin.reaches(&report.user_id) || call.may("notifications:send") {
        Ok(Reply::ok(&view(report)))
    } else {
        Err(unknown())
    }
}
