//! The route table's state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::protocol::{Command, Event, Reply, RouteView, Spec};
use crate::kernel::{Context, Decision, Entity, Error, ErrorCode};

/// Routes there may be.
const MAX_ROUTES: usize = 256;

/// Routes by name, and the names that an operator deleted: seeds do not come back.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Routes {
    routes: BTreeMap<String, RouteView>,
    deleted: BTreeSet<String>,
}

impl Entity for Routes {
    const KIND: &'static str = "routes";
    const META: bool = true;

    type Command = Command;
    type Event = Event;
    type Reply = Reply;

    fn decide(&self, command: Command, context: &Context) -> Result<Decision<Self>, Error> {
        match command {
            Command::Seed { routes } => self.seed(routes, context),
            Command::PutRoute { route, version } => self.put(route, version, context),
            Command::DeleteRoute { name, version } => self.delete(&name, version, context),
            Command::GetRoute { name } => Ok(Decision::reply(Reply::Route(self.route(&name)?.clone()))),
            Command::ListRoutes => Ok(Decision::reply(Reply::Routes(self.routes.values().cloned().collect()))),
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::RoutePut { route, seeded } => {
                let version = self.routes.get(&route.name).map_or(1, |known| known.version + 1);
                self.deleted.remove(&route.name);
                let view = RouteView { route: route.clone(), seeded: *seeded, version };
                self.routes.insert(route.name.clone(), view);
            }
            Event::RouteDeleted { name } => {
                self.routes.remove(name);
                self.deleted.insert(name.clone());
                while self.deleted.len() > MAX_ROUTES {
                    self.deleted.pop_first();
                }
            }
        }
    }
}

impl Routes {
    fn route(&self, name: &str) -> Result<&RouteView, Error> {
        self.routes.get(name).ok_or_else(|| Error::not_found("route"))
    }

    fn seed(&self, routes: Vec<Spec>, context: &Context) -> Result<Decision<Self>, Error> {
        let fresh = |route: &Spec| match self.routes.get(&route.name) {
            Some(known) => known.seeded && known.route != *route,
            None => !self.deleted.contains(&route.name),
        };
        let routes: Vec<Spec> = routes.into_iter().filter(fresh).collect();
        if routes.is_empty() {
            return Ok(Decision::reply(Reply::Done));
        }
        self.room(routes.len())?;
        let decision = Decision::reply(Reply::Done).audit(context, "routes.seeded", "routes", "ok");
        Ok(routes.into_iter().fold(decision, |decision, route| decision.event(Event::RoutePut { route, seeded: true })))
    }

    fn put(&self, route: Spec, version: Option<u64>, context: &Context) -> Result<Decision<Self>, Error> {
        let known = self.routes.get(&route.name);
        check(version, known)?;
        let taken =
            self.routes.values().find(|other| other.route.name != route.name && other.route.takes_the_same(&route));
        if let Some(other) = taken {
            let detail = format!("The route {} takes these requests already.", other.route.name);
            return Err(Error::conflict(detail));
        }
        if let Some(same) = known.filter(|known| known.route == route && !known.seeded) {
            return Ok(Decision::reply(Reply::Route(same.clone())));
        }
        if known.is_none() {
            self.room(1)?;
        }
        let view =
            RouteView { route: route.clone(), seeded: false, version: known.map_or(1, |known| known.version + 1) };
        Ok(Decision::reply(Reply::Route(view))
            .audit(context, "route.put", &format!("route:{}", route.name), "ok")
            .event(Event::RoutePut { route, seeded: false }))
    }

    fn delete(&self, name: &str, version: Option<u64>, context: &Context) -> Result<Decision<Self>, Error> {
        let known = self.route(name)?;
        check(version, Some(known))?;
        Ok(Decision::reply(Reply::Done)
            .audit(context, "route.deleted", &format!("route:{name}"), "ok")
            .event(Event::RouteDeleted { name: name.to_owned() }))
    }

    fn room(&self, more: usize) -> Result<(), Error> {
        if self.routes.len() + more <= MAX_ROUTES {
            return Ok(());
        }
        Err(Error::conflict(format!("There may be at most {MAX_ROUTES} routes.")))
    }
}

fn check(version: Option<u64>, known: Option<&RouteView>) -> Result<(), Error> {
    if version.is_some_and(|expected| known.map_or(0, |known| known.version) != expected) {
        return Err(Error::new(ErrorCode::PreconditionFailed, "The route was changed in the meantime."));
    }
    Ok(())
}
