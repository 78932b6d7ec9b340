//! Devices of the caller: where pushes and text messages go.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::notifications::devices::{self, Address, Device, Devices};
use crate::gateway::{Access, Call, Endpoint, LimitClass, List, PageQuery, Reply};
use crate::kernel::{Entity as _, EntityId, Error, Timestamp};
use crate::providers::push::Subscription;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/devices", "registerDevice")
            .summary("Register a push subscription, or a number that is then proven with a code")
            .tag("notifications")
            .limit(LimitClass::Auth)
            .body::<RegisterDevice>()
            .response::<DeviceView>(201, "The device")
            .problem(409)
            .problem(422)
            .problem(429)
            .handle(register),
        Endpoint::get("/v1/devices", "listDevices")
            .summary("My devices")
            .tag("notifications")
            .query::<PageQuery>()
            .response::<List<DeviceView>>(200, "All of them")
            .handle(list),
        Endpoint::delete("/v1/devices/{id}", "removeDevice")
            .summary("Remove a device")
            .tag("notifications")
            .no_content(204, "Removed")
            .problem(404)
            .handle(remove),
        Endpoint::post("/v1/devices/{id}/verify", "verifyDevice")
            .summary("Prove a number with the code that was sent to it")
            .tag("notifications")
            .limit(LimitClass::Auth)
            .body::<VerifyDevice>()
            .response::<DeviceView>(200, "The device, verified")
            .problem(404)
            .problem(410)
            .problem(422)
            .handle(verify),
        Endpoint::get("/v1/devices/web-push-key", "getWebPushKey")
            .summary("The key a browser needs to subscribe (applicationServerKey)")
            .tag("notifications")
            .access(Access::Public)
            .limit(LimitClass::Public)
            .response::<WebPushKey>(200, "The key")
            .handle(web_push_key),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DeviceKind {
    WebPush,
    Sms,
}

/// The keys of a `PushSubscription`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SubscriptionKeys {
    #[schema(max_length = 128)]
    p256dh: String,
    #[schema(max_length = 64)]
    auth: String,
}

/// `web_push` takes the members of the browser's `PushSubscription`; `sms` takes a number.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegisterDevice {
    kind: DeviceKind,
    #[schema(max_length = 100)]
    name: Option<String>,
    #[schema(max_length = 2048)]
    endpoint: Option<String>,
    keys: Option<SubscriptionKeys>,
    /// Of a `PushSubscription`; not used.
    #[serde(rename = "expirationTime")]
    #[expect(dead_code, reason = "browsers send it with the rest of the subscription")]
    expiration_time: Option<f64>,
    /// E.164, such as +14155550100.
    #[schema(max_length = 16)]
    number: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeviceView {
    id: String,
    kind: DeviceKind,
    name: String,
    /// Whether messages are sent to it.
    verified: bool,
    /// The host of the push service, or the number's last digits.
    address: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl DeviceView {
    fn new(device: Device) -> Self {
        let (kind, address) = match &device.address {
            Address::WebPush(subscription) => {
                let host = subscription.endpoint.split('/').nth(2).unwrap_or_default();
                (DeviceKind::WebPush, host.to_owned())
            }
            Address::Sms { number } => {
                let hidden = number.len().saturating_sub(4);
                (DeviceKind::Sms, format!("…{}", &number[hidden..]))
            }
        };
        let Device { id, name, verified, created_at, .. } = device;
        Self { id, kind, name, verified, address, created_at }
    }
}

async fn ask<B>(call: &Call<B>, command: devices::Command) -> Result<devices::Reply, Error> {
    let id = EntityId::new(Devices::KIND, call.user_id()?);
    call.services.router.ask::<Devices>(&id, command, &call.origin).await
}

async fn register(call: Call<RegisterDevice>) -> Result<Reply, Error> {
    let body = &call.body;
    let missing = |pointer| Error::invalid(pointer, "is required for this kind of device");
    let address = match body.kind {
        DeviceKind::WebPush => {
            let keys = body.keys.as_ref().ok_or_else(|| missing("/keys"))?;
            let endpoint = body.endpoint.clone().ok_or_else(|| missing("/endpoint"))?;
            let url = reqwest::Url::parse(&endpoint).map_err(|_| Error::invalid("/endpoint", "is not a URL"))?;
            let refusal = crate::providers::push::target::refusal(&url);
            if let Some(why) = refusal.filter(|_| !call.services.settings.push.allow_private_endpoints) {
                return Err(Error::invalid("/endpoint", why));
            }
            Address::WebPush(Subscription { endpoint, p256dh: keys.p256dh.clone(), auth: keys.auth.clone() })
        }
        DeviceKind::Sms => Address::Sms { number: body.number.clone().ok_or_else(|| missing("/number"))? },
    };
    let name = body.name.clone().unwrap_or_default();
    match ask(&call, devices::Command::Register { name, address }).await? {
        devices::Reply::Device(device) => Ok(Reply::created(&DeviceView::new(device))),
        _ => Err(Error::internal()),
    }
}

async fn list(call: Call<()>) -> Result<Reply, Error> {
    match ask(&call, devices::Command::List).await? {
        devices::Reply::Devices(devices) => {
            let devices = devices.into_iter().map(DeviceView::new).collect();
            Ok(Reply::ok(&List::part(devices, &call.query()?, call.list())?))
        }
        _ => Err(Error::internal()),
    }
}

async fn remove(call: Call<()>) -> Result<Reply, Error> {
    ask(&call, devices::Command::Remove { id: call.param("id").to_owned() }).await?;
    Ok(Reply::empty(204))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VerifyDevice {
    #[schema(max_length = 6)]
    code: String,
}

async fn verify(call: Call<VerifyDevice>) -> Result<Reply, Error> {
    let command = devices::Command::Verify { id: call.param("id").to_owned(), code: call.body.code.clone() };
    match ask(&call, command).await? {
        devices::Reply::Device(device) => Ok(Reply::ok(&DeviceView::new(device))),
        devices::Reply::WrongCode => Err(Error::invalid("/code", "is not the code that was sent")),
        _ => Err(Error::internal()),
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct WebPushKey {
    /// An uncompressed P-256 point, base64url.
    public_key: String,
}

async fn web_push_key(call: Call<()>) -> Result<Reply, Error> {
    Ok(Reply::ok(&WebPushKey { public_key: call.services.vapid.public_key() }))
}
