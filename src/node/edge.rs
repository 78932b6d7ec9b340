//! The listeners: the gateway for everyone, the admin endpoint for operators, and where it is configured one for scrapers
//! and probes.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::services::Composed;
use super::{Addresses, NodeError, failed};
use crate::actors::runtime::clock::NodeClock;
use crate::gateway::auth::OperatorToken;
use crate::gateway::idempotency::Requests;
use crate::gateway::pipeline::{Gateway, Parts};
use crate::gateway::routes;
use crate::gateway::server::{Bounds, Server, TlsFiles};
use crate::gateway::websocket::Realtime;
use crate::settings::Settings;

/// The administrator token, in the data directory.
const TOKEN_FILE: &str = "admin-token";

/// The listeners, bound and not yet accepting.
pub(super) struct Edge {
    public: Server,
    admin: Server,
    telemetry: Option<Server>,
    realtime: Arc<Realtime>,
}

impl Edge {
    pub async fn bind(
        settings: &Arc<Settings>,
        composed: Composed,
        draining: &CancellationToken,
    ) -> Result<Self, NodeError> {
        let operator = OperatorToken::load_or_create(&settings.node.data_dir.join(TOKEN_FILE));
        let operator = Arc::new(operator.map_err(failed("the administrator token"))?);
        let services = composed.services;
        let store = Arc::new(services.router.clone());
        let requests = Arc::new(Requests::new(store, Arc::new(NodeClock::system()), settings.node.id));
        let gateway = |endpoints| {
            let parts = Parts {
                endpoints,
                authenticator: Arc::clone(&services.identity) as Arc<_>,
                operator: Arc::clone(&operator),
                source_key: composed.source_key.clone(),
                requests: Arc::clone(&requests),
                routes: Vec::new(),
                draining: draining.clone(),
                services: Arc::clone(&services),
            };
            Gateway::new(parts).map_err(failed("the endpoints"))
        };
        let public = gateway(routes::endpoints())?;
        let admin = gateway(routes::admin_endpoints())?;
        crate::gateway::upstream::follow::load(&public, &services.router).await.map_err(failed("gateway.routes"))?;
        tokio::spawn(crate::gateway::upstream::follow::follow(
            Arc::clone(&public),
            services.router.clone(),
            draining.clone(),
        ));
        let bounds = Bounds::of(&settings.gateway);
        let tls = TlsFiles::of(&settings.gateway.tls);
        let public = Server::bind(settings.gateway.listen, bounds.clone(), tls, public).await;
        let public = public.map_err(failed("gateway.listen"))?;
        let tls = TlsFiles::of_admin(&settings.admin.tls);
        let admin = Server::bind(settings.admin.listen, bounds.clone(), tls, admin).await;
        let admin = admin.map_err(failed("admin.listen"))?;
        let telemetry = match settings.telemetry.listen {
            Some(address) => {
                let app = gateway(routes::telemetry_endpoints())?;
                let server = Server::bind(address, bounds, None, app).await;
                Some(server.map_err(failed("telemetry.listen"))?)
            }
            None => None,
        };
        let realtime = Arc::clone(&services.realtime);
        Ok(Self { public, admin, telemetry, realtime })
    }

    pub fn addresses(&self) -> Addresses {
        Addresses { gateway: self.public.address(), admin: self.admin.address() }
    }

    /// Serves until `draining` is cancelled and the last request has ended.
    pub async fn run(self, draining: CancellationToken) {
        let realtime = async {
            draining.cancelled().await;
            self.realtime.drain().await;
        };
        let telemetry = async {
            if let Some(server) = self.telemetry {
                server.run(draining.clone()).await;
            }
        };
        tokio::join!(self.public.run(draining.clone()), self.admin.run(draining.clone()), telemetry, realtime);
    }
}
