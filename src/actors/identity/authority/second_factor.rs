//! Setting up, confirming and removing the authenticator.

use qrcode::QrCode;
use qrcode::render::svg;

use super::Authority;
use crate::actors::identity::user::{self, User};
use crate::kernel::{Error, Origin, Principal, Secret};

/// What an authenticator app needs, once.
#[derive(Debug, Clone)]
pub struct TotpSetUp {
    /// RFC 4648 base32.
    pub secret: String,
    pub otpauth_uri: String,
    pub qr_svg: String,
}

impl Authority {
    /// A new secret for the person's authenticator app, who proves themselves with the password or did so recently: an
    /// access token alone, which may be stolen, ties no authenticator to the account. Confirming needs no second proof,
    /// because only who was given the secret can.
    ///
    /// # Errors
    /// `step_up_required`; `conflict` when one is set up already; `invalid` for a wrong password.
    pub async fn begin_totp(
        &self,
        principal: &Principal,
        password: Option<Secret<String>>,
        origin: &Origin,
    ) -> Result<TotpSetUp, Error> {
        let user_id = match (password, principal) {
            (Some(password), Principal::User { id, session: Some(_), .. }) => {
                self.check_password(id, password, "/password", origin).await?;
                id
            }
            _ => self.recently_proven(principal).await?,
        };
        let id = user::id(user_id);
        let user::Reply::User(user) = self.router.ask::<User>(&id, user::Command::GetUser, origin).await? else {
            return Err(Error::internal());
        };
        let reply = self.router.ask::<User>(&id, user::Command::BeginTotp, origin).await?;
        let user::Reply::TotpSecret(secret) = reply else { return Err(Error::internal()) };
        let otpauth_uri = secret.otpauth_uri(&self.options.totp_issuer, &user.email);
        let code = QrCode::new(otpauth_uri.as_bytes()).map_err(|error| {
            tracing::error!(%error, "an otpauth URI does not fit a QR code");
            Error::internal()
        })?;
        let qr_svg = code.render::<svg::Color<'_>>().min_dimensions(256, 256).build();
        Ok(TotpSetUp { secret: secret.to_base32(), otpauth_uri, qr_svg })
    }

    /// Turns the second factor on with a first code; the recovery codes, shown once.
    ///
    /// # Errors
    /// `invalid` for a wrong code; `conflict` when nothing is being set up.
    pub async fn confirm_totp(&self, user_id: &str, code: String, origin: &Origin) -> Result<Vec<String>, Error> {
        let command = user::Command::ConfirmTotp { code };
        match self.router.ask::<User>(&user::id(user_id), command, origin).await? {
            user::Reply::RecoveryCodes(codes) => Ok(codes),
            _ => Err(Error::invalid("/code", "is wrong; check the clock of the device")),
        }
    }

    /// Turns the second factor off.
    ///
    /// # Errors
    /// `step_up_required`; `not_found` when it is not on.
    pub async fn remove_totp(&self, principal: &Principal, origin: &Origin) -> Result<(), Error> {
        let user_id = self.recently_proven(principal).await?;
        self.router.ask::<User>(&user::id(user_id), user::Command::RemoveTotp, origin).await.map(|_| ())
    }

    /// New recovery codes instead of the old ones, shown once.
    ///
    /// # Errors
    /// `step_up_required`; `conflict` without an authenticator.
    pub async fn replace_recovery_codes(&self, principal: &Principal, origin: &Origin) -> Result<Vec<String>, Error> {
        let user_id = self.recently_proven(principal).await?;
        let command = user::Command::ReplaceRecoveryCodes;
        match self.router.ask::<User>(&user::id(user_id), command, origin).await? {
            user::Reply::RecoveryCodes(codes) => Ok(codes),
            _ => Err(Error::internal()),
        }
    }

    async fn recently_proven<'a>(&self, principal: &'a Principal) -> Result<&'a str, Error> {
        self.require_recent_proof(principal).await?;
        principal.user_id().ok_or_else(|| Error::forbidden("This needs a user's access token."))
    }
}
