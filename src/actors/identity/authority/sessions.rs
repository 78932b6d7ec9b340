//! Listing and ending sessions, and proving oneself again.

use std::sync::Arc;

use futures::future::join_all;

use super::Authority;
use crate::actors::identity::session::{self, Ended, Method, Session, SessionView};
use crate::actors::identity::user::{self, SecondFactor, User};
use crate::kernel::{Error, ErrorCode, Origin, Principal, Secret};

/// What proves again who somebody is.
pub enum Proof {
    Password(Secret<String>),
    Code(SecondFactor, String),
}

impl Authority {
    /// The open sessions of a user, oldest first.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn sessions(&self, user_id: &str, origin: &Origin) -> Result<Vec<SessionView>, Error> {
        let ids = self.session_ids(user_id, origin).await?;
        let mut open = Vec::with_capacity(ids.len());
        for view in join_all(ids.iter().map(|id| self.ask_session(id))).await {
            open.extend(view?.filter(|view| view.ended.is_none()).map(Arc::unwrap_or_clone));
        }
        Ok(open)
    }

    pub(super) async fn session_ids(&self, user_id: &str, origin: &Origin) -> Result<Vec<String>, Error> {
        match self.router.ask::<User>(&user::id(user_id), user::Command::GetSessions, origin).await? {
            user::Reply::Sessions(ids) => Ok(ids),
            _ => Err(Error::internal()),
        }
    }

    /// Ends one session of a user.
    ///
    /// # Errors
    /// `not_found` when there is none such of this user.
    pub async fn sign_out(&self, user_id: &str, session_id: &str, origin: &Origin) -> Result<(), Error> {
        let view = self.ask_session(session_id).await?;
        if !view.is_some_and(|view| view.user_id == user_id && view.ended.is_none()) {
            return Err(Error::not_found("session"));
        }
        self.end_session(user_id, session_id, Ended::SignedOut, origin).await
    }

    /// Ends every session of a user; when this returns they are over.
    ///
    /// # Errors
    /// `unavailable`; what was accepted still ends them.
    pub async fn sign_out_everywhere(&self, user_id: &str, origin: &Origin) -> Result<(), Error> {
        let reply = self.router.ask::<User>(&user::id(user_id), user::Command::SignOutEverywhere, origin).await?;
        let user::Reply::Sessions(ended) = reply else { return Err(Error::internal()) };
        self.end_now(user_id, &ended, Ended::SignedOutEverywhere, origin).await
    }

    /// Ends sessions that their user entity has already told to end, without waiting for the telling.
    pub(super) async fn end_now(
        &self,
        user_id: &str,
        ended: &[String],
        reason: Ended,
        origin: &Origin,
    ) -> Result<(), Error> {
        let endings = ended.iter().map(|session_id| self.end_session(user_id, session_id, reason, origin));
        join_all(endings).await.into_iter().collect()
    }

    async fn end_session(&self, user_id: &str, session_id: &str, reason: Ended, origin: &Origin) -> Result<(), Error> {
        let command = session::Command::Revoke { user_id: user_id.to_owned(), reason };
        let done = self.router.ask::<Session>(&session::id(session_id), command, origin).await.map(|_| ());
        self.forget_session(session_id);
        done
    }

    /// Refuses unless the caller proved who they are a short while ago.
    ///
    /// # Errors
    /// `step_up_required`; `forbidden` for a caller without a session.
    pub async fn require_recent_proof(&self, principal: &Principal) -> Result<(), Error> {
        let Principal::User { session: Some(session_id), .. } = principal else {
            return Err(Error::forbidden("This needs a signed-in session."));
        };
        let oldest = self.clock.now().plus_seconds(-self.options.step_up_seconds);
        let recent = self.live_session(session_id).await?.is_some_and(|view| view.authenticated_at >= oldest);
        if recent {
            return Ok(());
        }
        let detail = "Prove again who you are: POST /v1/sessions/current/proof.";
        Err(Error::new(ErrorCode::StepUpRequired, detail))
    }

    /// Proves again who the holder of a session is, with the password or, where it is set up, a code.
    ///
    /// # Errors
    /// `invalid` when it is wrong; `rate_limited` after too many wrong ones; `unauthenticated` when the session ended or
    /// the account was erased since the request was let in.
    pub async fn prove(&self, principal: &Principal, proof: Proof, origin: &Origin) -> Result<(), Error> {
        self.check_proof(principal, proof, origin).await.map_err(|error| match error.code {
            ErrorCode::NotFound | ErrorCode::Gone => Error::unauthenticated("The session is over; sign in again."),
            _ => error,
        })
    }

    async fn check_proof(&self, principal: &Principal, proof: Proof, origin: &Origin) -> Result<(), Error> {
        let Principal::User { id: user_id, session: Some(session_id), .. } = principal else {
            return Err(Error::forbidden("This needs a signed-in session."));
        };
        let method = match proof {
            Proof::Password(password) => {
                self.check_password(user_id, password, "/password", origin).await?;
                Method::Password
            }
            Proof::Code(factor, code) => {
                let command = user::Command::ProveSecondFactor { factor, code };
                match self.router.ask::<User>(&user::id(user_id), command, origin).await? {
                    user::Reply::Done => {}
                    _ => return Err(Error::invalid("/code", "is wrong or was used")),
                }
                if factor == SecondFactor::Totp { Method::Totp } else { Method::RecoveryCode }
            }
        };
        let command = session::Command::Reauthenticate { methods: vec![method] };
        self.router.ask::<Session>(&session::id(session_id), command, origin).await?;
        self.forget_session(session_id);
        Ok(())
    }
}
