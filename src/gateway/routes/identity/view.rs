//! What the identity endpoints show, and how they check text that people give.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::actors::identity::authority::IssuedTokens;
use crate::actors::identity::session::SessionView;
use crate::actors::identity::user::UserView;
use crate::gateway::Call;
use crate::kernel::{Error, Principal, Timestamp};

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody {
    #[schema(example = "usr_01h455vb4pex5vsknk084sn02q")]
    pub id: String,
    pub email: String,
    pub display_name: Option<String>,
    /// BCP 47.
    pub locale: String,
    /// IANA time zone.
    pub time_zone: String,
    pub roles: Vec<String>,
    /// `unverified`, `active` or `suspended`.
    pub status: &'static str,
    pub mfa: MfaBody,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// The second factor of an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mfa)]
pub struct MfaBody {
    /// Whether an authenticator is set up.
    pub totp: bool,
    pub recovery_codes_left: usize,
}

impl From<UserView> for UserBody {
    fn from(user: UserView) -> Self {
        Self {
            id: user.id,
            email: user.email,
            display_name: user.display_name,
            locale: user.locale,
            time_zone: user.time_zone,
            roles: user.roles,
            status: user.status.as_str(),
            mfa: MfaBody { totp: user.totp_enabled, recovery_codes_left: user.recovery_codes_left },
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
}

/// An access token (RFC 6750) and the refresh token that gets the next one.
#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
pub struct TokensBody {
    pub access_token: String,
    /// Good for one exchange.
    pub refresh_token: String,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// Seconds the access token is good for.
    pub expires_in: i64,
}

impl From<IssuedTokens> for TokensBody {
    fn from(tokens: IssuedTokens) -> Self {
        Self {
            access_token: tokens.access_token.expose().clone(),
            refresh_token: tokens.refresh_token.expose().clone(),
            token_type: "Bearer",
            expires_in: tokens.expires_in,
        }
    }
}

/// A signed-in client.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody {
    #[schema(example = "ses_01h455vb4pex5vsknk084sn02q")]
    pub id: String,
    /// Whether it is the one that asks.
    pub current: bool,
    pub user_agent: String,
    /// How the person proved who they are: `pwd`, `otp`, `kba`, `email`.
    pub methods: Vec<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub authenticated_at: Timestamp,
    /// It ends then unless it is refreshed before.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

impl SessionBody {
    pub fn new(view: SessionView, current: Option<&str>) -> Self {
        Self {
            current: current == Some(view.id.as_str()),
            id: view.id,
            user_agent: view.client.user_agent,
            methods: view.methods.iter().map(|method| method.amr()).collect(),
            created_at: view.created_at,
            last_used_at: view.last_used_at,
            authenticated_at: view.authenticated_at,
            expires_at: view.expires_at,
        }
    }
}

/// The user who calls with a signed-in session. What guards the account itself is not open to API keys.
pub fn signed_in<B>(call: &Call<B>) -> Result<&str, Error> {
    match &call.principal {
        Principal::User { id, session: Some(_), .. } => Ok(id),
        _ => Err(Error::forbidden("This needs a signed-in session.")),
    }
}

/// Tells a member that is `null` from one that is not there.
pub fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A name to show: trimmed, 1 to 100 characters, no control characters.
pub fn display_name(text: &str) -> Result<String, Error> {
    let text = text.trim();
    let visible = !text.is_empty() && text.chars().count() <= 100 && !text.chars().any(char::is_control);
    if visible {
        return Ok(text.to_owned());
    }
    Err(Error::invalid("/display_name", "must have 1 to 100 characters and no control characters"))
}

/// A language tag of the shape of BCP 47, such as `de` or `pt-BR`.
pub fn locale(text: &str) -> Result<String, Error> {
    let mut subtags = text.split('-');
    let language = subtags.next().unwrap_or_default();
    let language_ok = (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_alphabetic());
    let rest_ok = subtags.all(|tag| (1..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric()));
    if language_ok && rest_ok && text.len() <= 35 {
        return Ok(text.to_owned());
    }
    Err(Error::invalid("/locale", "must be a language tag such as en or pt-BR"))
}

/// The name of an IANA time zone.
pub fn time_zone(text: &str) -> Result<String, Error> {
    if text.len() <= 64 && jiff::tz::TimeZone::get(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(Error::invalid("/time_zone", "must be an IANA time zone such as Europe/Berlin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_give_is_checked() {
        assert_eq!(display_name(" Ada ").as_deref(), Ok("Ada"));
        assert!(display_name(" ").is_err() && display_name("a\nb").is_err() && display_name(&"a".repeat(101)).is_err());
        for good in ["en", "pt-BR", "zh-Hant-TW", "ast"] {
            assert!(locale(good).is_ok(), "{good}");
        }
        for bad in ["", "e", "english", "en_US", "en-", "en-toolongtag"] {
            assert!(locale(bad).is_err(), "{bad}");
        }
        assert!(time_zone("UTC").is_ok());
        assert!(time_zone("Mars/Olympus").is_err() && time_zone("").is_err());
    }
}
