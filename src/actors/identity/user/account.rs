//! Profile, roles, status and erasure.

use std::collections::BTreeSet;

use super::effects::{set_roles, tell_claim, with_effects};
use super::protocol::{Event, ProfilePatch, Reply, Status};
use super::state::User;
use crate::actors::identity::email_claim;
use crate::actors::identity::session::Ended;
use crate::kernel::{Context, Decision, Error, ErrorCode};

/// Roles one user may have.
const MAX_ROLES: usize = 8;

impl User {
    pub(super) fn contact(&self) -> Result<Decision<Self>, Error> {
        let user = self.existing()?;
        Ok(Decision::reply(Reply::Contact {
            email: (user.status != Status::Unverified).then(|| user.email.clone()),
            display_name: user.display_name.clone(),
            locale: user.locale.clone(),
            time_zone: user.time_zone.clone(),
        }))
    }

    fn check_version(&self, version: Option<u64>) -> Result<(), Error> {
        if version.is_some_and(|version| version != self.version) {
            return Err(Error::new(ErrorCode::PreconditionFailed, "The user was changed in the meantime."));
        }
        Ok(())
    }

    /// The decision that ends with the user as they are after `event`.
    fn changed(&self, context: &Context, event: Event) -> Decision<Self> {
        let events = [event];
        let reply = Reply::User(self.view_after(context, &events));
        let [event] = events;
        Decision::reply(reply).event(event)
    }

    pub(super) fn update_profile(
        &self,
        context: &Context,
        patch: ProfilePatch,
        version: Option<u64>,
    ) -> Result<Decision<Self>, Error> {
        self.active()?.check_version(version)?;
        let same = patch.display_name.as_ref().is_none_or(|name| *name == self.display_name)
            && patch.locale.as_ref().is_none_or(|locale| *locale == self.locale)
            && patch.time_zone.as_ref().is_none_or(|zone| *zone == self.time_zone);
        if same {
            return Ok(Decision::reply(Reply::User(self.view(context))));
        }
        let decision = self.changed(context, Event::ProfileUpdated { patch, at: context.now });
        Ok(decision.audit(context, "user.profile_updated", context.id.key(), "ok"))
    }

    pub(super) fn set_roles(
        &self,
        context: &Context,
        roles: Vec<String>,
        version: Option<u64>,
    ) -> Result<Decision<Self>, Error> {
        self.existing()?.check_version(version)?;
        let roles: Vec<String> = roles.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        if roles.is_empty() || roles.len() > MAX_ROLES {
            return Err(Error::invalid("/roles", format!("must name 1 to {MAX_ROLES} roles")));
        }
        if self.status == Status::Unverified {
            return Err(Error::conflict("The user has not proven their address yet."));
        }
        if roles == self.roles {
            return Ok(Decision::reply(Reply::User(self.view(context))));
        }
        let effects = self.sessions.iter().map(|session| set_roles(session, &roles)).collect();
        let decision = self.changed(context, Event::RolesSet { roles, at: context.now });
        Ok(with_effects(decision, effects).audit(context, "user.roles_changed", context.id.key(), "ok"))
    }

    pub(super) fn set_status(
        &self,
        context: &Context,
        status: Status,
        version: Option<u64>,
    ) -> Result<Decision<Self>, Error> {
        self.existing()?.check_version(version)?;
        if self.status == Status::Unverified || !matches!(status, Status::Active | Status::Suspended) {
            return Err(Error::conflict("Only a verified user can be suspended or made active."));
        }
        if status == self.status {
            return Ok(Decision::reply(Reply::User(self.view(context))));
        }
        let decision = self.changed(context, Event::StatusSet { status, at: context.now });
        if status == Status::Active {
            return Ok(decision.audit(context, "user.reactivated", context.id.key(), "ok"));
        }
        let (_, effects) = self.end_sessions(context, None, Ended::AccountSuspended);
        let decision = decision.event(Event::SignedOutEverywhere { keep: None });
        Ok(with_effects(decision, effects).audit(context, "user.suspended", context.id.key(), "ok"))
    }

    pub(super) fn erase(&self, context: &Context) -> Decision<Self> {
        if matches!(self.status, Status::Absent | Status::Erased) {
            return Decision::reply(Reply::Done);
        }
        let id = context.id.key();
        let (_, effects) = self.end_sessions(context, None, Ended::AccountErased);
        let release = email_claim::Command::Release { user_id: id.to_owned() };
        let decision = Decision::reply(Reply::Done)
            .event(Event::Erased)
            .effect(tell_claim(&self.claim, &release, ""))
            .unindex(super::INDEX, id.as_bytes())
            .clear_timer(super::sign_up::LAPSE_TIMER)
            .audit(context, "user.erased", id, "ok")
            .purge();
        with_effects(decision, effects)
    }
}
