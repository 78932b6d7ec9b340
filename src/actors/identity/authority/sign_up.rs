//! Signing up and proving the address. Whether an address is known shows neither in the answer nor in its time.

use ring::rand::{SecureRandom, SystemRandom};

use super::{Authority, IssuedTokens, pace};
use crate::actors::identity::address::EmailAddress;
use crate::actors::identity::email_claim::{self, EmailClaim};
use crate::actors::identity::opaque::Purpose;
use crate::actors::identity::session::Client;
use crate::actors::identity::user::{self, SignUp, User};
use crate::kernel::{Error, Origin, Secret, Slot, id};

/// A checked request to sign up.
pub struct SignUpRequest {
    pub email: EmailAddress,
    pub password: Secret<String>,
    /// One that may be asked for.
    pub role: String,
    pub display_name: Option<String>,
    pub locale: String,
    pub time_zone: String,
}

impl Authority {
    /// Starts an account, or tells the owner of a known address that somebody tried.
    ///
    /// # Errors
    /// `invalid` for a weak password; `overloaded`, `unavailable`. Never tells whether the address is known.
    pub async fn sign_up(&self, request: SignUpRequest, origin: &Origin) -> Result<(), Error> {
        let started = tokio::time::Instant::now();
        let mut inputs = vec![request.email.mailbox().to_owned()];
        inputs.extend(request.email.mailbox().split(['@', '.', '+', '-', '_']).map(str::to_owned));
        inputs.extend(request.display_name.clone());
        let password = self.passwords.hash_new(request.password, inputs, "/password").await?;

        let claim = request.email.claim_key(&self.index_key);
        let command = email_claim::Command::Claim { user_id: self.new_user_id() };
        let reply = self.router.ask::<EmailClaim>(&email_claim::id(&claim), command, origin).await?;
        let email_claim::Reply::Owner(Some(owner)) = reply else { return Err(Error::internal()) };

        let sign_up = SignUp {
            email: request.email.mailbox().to_owned(),
            claim,
            password,
            role: request.role,
            display_name: request.display_name,
            locale: request.locale,
            time_zone: request.time_zone,
            token: self.mint.issue(&owner.user_id, Purpose::Verification, origin),
            token_seconds: self.options.verification_seconds,
        };
        let id = user::id(&owner.user_id);
        self.router.ask::<User>(&id, user::Command::SignUp(Box::new(sign_up)), origin).await?;
        pace(started).await;
        Ok(())
    }

    /// Proves an address with the token from the mail, and signs in.
    ///
    /// # Errors
    /// `invalid` when the token is none of ours, was used or has expired.
    pub async fn verify_address(&self, token: &str, client: Client, origin: &Origin) -> Result<IssuedTokens, Error> {
        let Some(token) = self.mint.recognize(token, "usr", Purpose::Verification) else {
            return Err(Error::invalid("/token", "is not a verification token, or was used, or has expired"));
        };
        let id = user::id(&token.owner);
        let command = user::Command::Verify { token: token.hash, client: client.clone() };
        match self.router.ask::<User>(&id, command, origin).await? {
            user::Reply::SignedIn(signed_in) => self.start_session(*signed_in, client, origin).await,
            _ => Err(Error::internal()),
        }
    }

    /// A user id on a slot of its own.
    fn new_user_id(&self) -> String {
        let (mut slot, mut random) = ([0; 2], [0; 8]);
        let generator = SystemRandom::new();
        generator.fill(&mut slot).expect("the operating system's generator works");
        generator.fill(&mut random).expect("the operating system's generator works");
        id::type_id("usr", self.clock.now(), Slot(u16::from_be_bytes(slot)), random)
    }
}
