//! A gateway over a runtime in memory, for tests of the pipeline and of routes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio_util::sync::CancellationToken;

use super::auth::{Authenticator, Caller, OperatorToken};
use super::call::Permissions;
use super::idempotency::Requests;
use super::pipeline::{Gateway, Parts};
use super::registry::Endpoint;
use super::reply::{Body, Reply};
use super::request::{Head, Request};
use super::server::App;
use super::services::Services;
use super::websocket::{Bounds, Realtime};
use crate::actors::billing::census;
use crate::actors::catalogue;
use crate::actors::compliance::{Compliance, KeyringSealer};
use crate::actors::identity::Authority;
use crate::actors::identity::opaque::TokenHash;
use crate::actors::identity::session::Client;
use crate::actors::identity::user::{self, User};
use crate::actors::runtime::clock::NodeClock;
use crate::actors::runtime::feed::FeedConsumer;
use crate::actors::runtime::kinds::Kinds;
use crate::actors::runtime::log::ShardLog;
use crate::actors::runtime::sealer::Sealer;
use crate::actors::runtime::testing::MemoryLog;
use crate::actors::runtime::{Runtime, RuntimeOptions, RuntimeParts};
use crate::cluster::backup::Backups;
use crate::cluster::coordinator::Coordinator;
use crate::kernel::{Error, Origin, Principal, Secret, ShardId};
use crate::providers::Provider;
use crate::providers::keys::{FileKeys, KeyWrapper};
use crate::providers::payment::sandbox::Sandbox;
use crate::providers::push::VapidKey;
use crate::settings::{ClockMode, Settings};

/// The administrator token of every test gateway.
pub const OPERATOR: &str = "operator-operator-operator-operator";

/// Believes tokens of the form `<user id>:<role or permission>,…`.
struct Trusting;

#[async_trait]
impl Authenticator for Trusting {
    async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        let known = bearer.split_once(':').filter(|(id, _)| id.starts_with("usr_"));
        let (id, grants) = known.ok_or_else(|| Error::unauthenticated("The token is not known."))?;
        let grants: Vec<String> = grants.split(',').map(str::to_owned).collect();
        let roles = grants.iter().filter(|grant| !grant.contains('.')).cloned().collect();
        let principal = Principal::User { id: id.to_owned(), session: Some("ses_test".to_owned()), roles };
        let permissions: Vec<String> = grants.iter().map(|grant| grant.replace('.', ":")).collect();
        Ok(Caller { principal, permissions: Permissions::new(permissions) })
    }

    async fn still(&self, _: &Principal, bearer: &str) -> Result<Caller, Error> {
        self.authenticate(bearer).await
    }
}

/// Every service over shards in memory, with timers and outboxes running. A virtual clock starts on 2026-01-31.
pub async fn services(settings: Settings) -> Arc<Services> {
    let logs = (0..3).map(|shard| MemoryLog::start(ShardId(shard)) as Arc<dyn ShardLog>).collect();
    let clock = Arc::new(match settings.clock {
        ClockMode::System => NodeClock::system(),
        ClockMode::Virtual => NodeClock::virtual_at("2026-01-31T10:00:00Z".parse().expect("a time")),
    });
    let directory = tempfile::tempdir().expect("a directory");
    let sandbox: Arc<dyn Provider> = Arc::new(Sandbox::open(&directory.path().join("payments")).expect("a sandbox"));
    let kinds = Kinds::new(&catalogue::kinds(), 2);
    let parts = RuntimeParts {
        logs,
        kinds,
        clock: Arc::clone(&clock),
        providers: vec![sandbox],
        options: RuntimeOptions::default(),
    };
    let runtime = Runtime::start(parts).await.expect("a runtime");
    let (router, settings) = (runtime.router.clone(), Arc::new(settings));
    let keys: Arc<dyn KeyWrapper> = Arc::new(FileKeys::open(directory.path()).expect("keys"));
    // A rotation of keys writes there, as long as the gateway lives.
    let _ = directory.keep();
    let sealer = Arc::new(KeyringSealer::new(Arc::clone(&keys), 100));
    sealer.connect(Arc::new(router.clone()));
    runtime.set_sealer(Arc::clone(&sealer) as Arc<dyn Sealer>);
    let census = Arc::new(census::Taker::new(router.clone()));
    runtime.follow(Arc::clone(&census) as Arc<dyn FeedConsumer>);
    runtime.go();
    let identity = Arc::new(Authority::new(router.clone(), clock.clone(), Arc::clone(&keys), &settings));
    let compliance =
        Compliance::open(router.clone(), Arc::clone(&keys), sealer, "example.org").await.expect("compliance");
    let compliance = Arc::new(compliance);
    tokio::spawn(Arc::clone(&compliance).run(runtime.stopping()));
    let bounds = Bounds::of(&settings.gateway.websocket);
    let realtime = Arc::new(Realtime::new(router.clone(), clock.clone(), bounds));
    realtime.follow();
    let vapid = Arc::new(VapidKey::ephemeral().expect("a key"));
    let runtime = Arc::new(runtime);
    let (cluster, link) = (Arc::new(Coordinator::new(router.clone())), None);
    let backups = Arc::new(Backups::new(
        router.clone(),
        settings.node.data_dir.clone(),
        ([0; 16], 2),
        u64::MAX,
        Arc::clone(&keys),
    ));
    Arc::new(Services {
        settings,
        clock,
        router,
        runtime,
        identity,
        compliance,
        census,
        realtime,
        cluster,
        backups,
        link,
        vapid,
    })
}

/// A gateway of these endpoints.
pub async fn gateway(settings: Settings, endpoints: Vec<Endpoint>) -> Arc<Gateway> {
    gateway_of(services(settings).await, endpoints)
}

/// A gateway of these endpoints over these services.
pub fn gateway_of(services: Arc<Services>, endpoints: Vec<Endpoint>) -> Arc<Gateway> {
    let store = Arc::new(services.router.clone());
    let parts = Parts {
        endpoints,
        authenticator: Arc::new(Trusting),
        operator: Arc::new(OperatorToken::new(Secret::new(OPERATOR.to_owned()))),
        source_key: b"source".to_vec(),
        requests: Arc::new(Requests::new(store, Arc::new(NodeClock::system()), 1)),
        routes: services.settings.gateway.routes.clone(),
        draining: CancellationToken::new(),
        services,
    };
    Gateway::new(parts).expect("a gateway")
}

/// An answer, read to its end.
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answered {
    pub async fn of(reply: Reply) -> Self {
        let bytes = match reply.body {
            Body::Full(bytes) => bytes,
            Body::Stream(chunks) => {
                let chunks: Vec<_> = chunks.collect().await;
                chunks.into_iter().flat_map(|chunk| chunk.expect("a chunk")).collect()
            }
        };
        Self { status: reply.status.as_u16(), headers: reply.headers, bytes }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes).expect("JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

/// Sends a request; headers are `name: value`.
pub async fn send(gateway: &Gateway, method: Method, path: &str, headers: &[&str], body: &str) -> Answered {
    let mut head = Head::new(method, path);
    for header in headers {
        let (name, value) = header.split_once(": ").expect("name: value");
        let name: HeaderName = name.parse().expect("a name");
        head.headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    head.has_body = !body.is_empty();
    let body = Bytes::from(body.to_owned());
    let body = futures::stream::once(async move { Ok(body) }).boxed();
    Answered::of(gateway.serve(Request { head: Arc::new(head), body, upgrade: None }).await).await
}

/// An account with this id, whose person proved the address `ada@example.org`.
pub async fn account(services: &Services, id: &str) {
    let sign_up = user::SignUp {
        email: "ada@example.org".to_owned(),
        claim: "claim".to_owned(),
        password: Secret::new("$argon2id$".to_owned()),
        role: "consumer".to_owned(),
        display_name: Some("Ada".to_owned()),
        locale: "en".to_owned(),
        time_zone: "UTC".to_owned(),
        token: Secret::new("link".to_owned()),
        token_seconds: 3600,
    };
    let verify = user::Command::Verify { token: TokenHash::of("link"), client: Client::default() };
    for command in [user::Command::SignUp(Box::new(sign_up)), verify] {
        services.router.ask::<User>(&user::id(id), command, &Origin::system("test")).await.expect("accepted");
    }
}
