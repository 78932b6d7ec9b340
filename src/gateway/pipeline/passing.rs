//! The way of a request that is not ours: to the upstream that it is configured for.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;

use super::{Gateway, Seen};
use crate::gateway::admission::Class;
use crate::gateway::auth::{Caller, bearer};
use crate::gateway::exchange::Exchange;
use crate::gateway::registry::Access;
use crate::gateway::reply::Reply;
use crate::gateway::request::{BodyStream, Head};
use crate::gateway::upstream::{self, Forwarding, Standing, asks_for_websocket};
use crate::kernel::{Error, Principal, Secret};
use crate::telemetry;

impl Gateway {
    /// Forwards what is not ours to the upstream it is configured for, after the same checks.
    pub(super) async fn pass_on(
        &self,
        head: &Arc<Head>,
        body: BodyStream,
        upgrade: Option<OnUpgrade>,
        exchange: &mut Exchange,
        seen: &mut Seen,
    ) -> Result<Reply, Error> {
        let (route, place) = self.upstreams.find(head)?;
        seen.upstream = Some(format!("upstream {}", route.name));
        telemetry::Scope::set_operation("upstream");
        tracing::Span::current().record("operation", "upstream");
        let _permit = self.admit(Class::Upstream)?;
        let caller = self.identify(head, route.access, exchange).await?;
        self.limit(route.limit(head), &caller, exchange)?;
        caller.check(route.access)?;
        let upgrade = match upgrade.filter(|_| route.websocket && asks_for_websocket(head)) {
            Some(connection) => Some((connection, self.standing(head, &route, &caller)?)),
            None => None,
        };
        let forwarding = Forwarding {
            head,
            place,
            body,
            upgrade,
            caller: &caller,
            exchange,
            client: self.proxies.client(head),
            max_body_bytes: self.max_body_bytes,
            draining: self.draining.clone(),
        };
        let reply = self.upstreams.forward(&route, forwarding).await?;
        exchange.foreign = true;
        Ok(reply)
    }

    /// What a connection through a route is held by once its request is answered.
    fn standing(&self, head: &Head, route: &upstream::Route, caller: &Caller) -> Result<Standing, Error> {
        let realtime = &self.services.realtime;
        let place = realtime.admit()?;
        let held = bearer(head).filter(|_| route.access != Access::Public);
        let holder = held.map(|token| (caller.principal.clone(), Secret::new(token.to_owned())));
        let session = match &caller.principal {
            Principal::User { session: Some(session), .. } if holder.is_some() => Some(realtime.watch(session)),
            _ => None,
        };
        let gateway = self.me.upgrade().ok_or_else(Error::internal)?;
        Ok(Standing { gateway, holder, session, access: route.access, place })
    }
}
