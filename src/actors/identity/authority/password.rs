//! Changing, forgetting and resetting passwords.

use super::{Authority, pace};
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::opaque::Purpose;
use crate::actors::identity::session::Ended;
use crate::actors::identity::user::{self, PasswordResetRequest, User};
use crate::kernel::{Error, Origin, Principal, Secret};

impl Authority {
    /// Sets a new password, proven by the current one or by a recent sign-in; ends every other session.
    ///
    /// # Errors
    /// `step_up_required`; `invalid` for a wrong current or a weak new password.
    pub async fn change_password(
        &self,
        principal: &Principal,
        current: Option<Secret<String>>,
        new: Secret<String>,
        origin: &Origin,
    ) -> Result<(), Error> {
        let Principal::User { id: user_id, session: Some(session), .. } = principal else {
            return Err(Error::forbidden("This needs a signed-in session."));
        };
        match current {
            Some(current) => self.check_password(user_id, current, "/current_password", origin).await?,
            None => self.require_recent_proof(principal).await?,
        }
        let inputs = self.password_inputs(user_id, origin).await?;
        let password = self.passwords.hash_new(new, inputs, "/new_password").await?;
        let command = user::Command::ChangePassword { password, keep: Some(session.clone()) };
        let reply = self.router.ask::<User>(&user::id(user_id), command, origin).await?;
        let user::Reply::Sessions(ended) = reply else { return Err(Error::internal()) };
        self.end_now(user_id, &ended, Ended::PasswordChanged, origin).await
    }

    /// Mails a reset link to the owner of the address, if it has one. Tells the caller nothing.
    ///
    /// # Errors
    /// `overloaded`, `unavailable`.
    pub async fn forgot_password(&self, email: &EmailAddress, origin: &Origin) -> Result<(), Error> {
        let started = tokio::time::Instant::now();
        let claim = email.claim_key(&self.index_key);
        match self.owner_of(&claim, origin).await? {
            Some(user_id) => {
                let token = self.mint.issue(&user_id, Purpose::PasswordReset, origin);
                let request = PasswordResetRequest { token, token_seconds: self.options.reset_seconds };
                let command = user::Command::RequestPasswordReset(request);
                self.router.ask::<User>(&user::id(&user_id), command, origin).await?;
            }
            None => self.audit_unknown(&claim, "user.password_reset_requested", origin).await?,
        }
        pace(started).await;
        Ok(())
    }

    /// Sets a new password with the token from the mail. Ends every session; the second factor stays.
    ///
    /// # Errors
    /// `invalid` for a bad token or a weak password.
    pub async fn reset_password(&self, token: &str, new: Secret<String>, origin: &Origin) -> Result<(), Error> {
        let Some(token) = self.mint.recognize(token, "usr", Purpose::PasswordReset) else {
            return Err(Error::invalid("/token", "is not a password reset token, or was used, or has expired"));
        };
        let inputs = self.password_inputs(&token.owner, origin).await?;
        let password = self.passwords.hash_new(new, inputs, "/new_password").await?;
        let command = user::Command::ResetPassword { token: token.hash, password };
        let reply = self.router.ask::<User>(&user::id(&token.owner), command, origin).await?;
        let user::Reply::Sessions(ended) = reply else { return Err(Error::internal()) };
        self.end_now(&token.owner, &ended, Ended::PasswordReset, origin).await
    }

    /// Checks a signed-in person's password; a wrong one counts towards the lock.
    pub(super) async fn check_password(
        &self,
        user_id: &str,
        password: Secret<String>,
        pointer: &str,
        origin: &Origin,
    ) -> Result<(), Error> {
        let id = user::id(user_id);
        let reply = self.router.ask::<User>(&id, user::Command::GetCredential, origin).await?;
        let user::Reply::Credential { password: phc, .. } = reply else { return Err(Error::internal()) };
        if self.passwords.verify(password, phc).await? {
            return Ok(());
        }
        self.router.ask::<User>(&id, user::Command::NoteFailedProof, origin).await?;
        Err(Error::invalid(pointer, "is wrong"))
    }

    /// Words a person's password must not be made of.
    async fn password_inputs(&self, user_id: &str, origin: &Origin) -> Result<Vec<String>, Error> {
        match self.router.ask::<User>(&user::id(user_id), user::Command::GetUser, origin).await {
            Ok(user::Reply::User(user)) => {
                let parts = user.email.split(['@', '.', '+', '-', '_']).map(str::to_owned);
                Ok(parts.chain([user.email.clone()]).chain(user.display_name.clone()).collect())
            }
            Ok(_) => Err(Error::internal()),
            Err(error) if error.code == crate::kernel::ErrorCode::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
