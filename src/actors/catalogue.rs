//! Every entity kind of the product, one line each.

use super::billing::census::Census;
use super::billing::invoice::Invoice;
use super::billing::numbering::Numbering;
use super::billing::plans::Catalogue as Plans;
use super::billing::subscription::Subscription;
use super::billing::wallet::Wallet;
use super::compliance::kek::Versions as KekVersions;
use super::compliance::keyring::fence::KeyFence;
use super::compliance::{Alerts, Consents, Erasure, Keyring, SigningKey as AuditKey};
use super::idempotency::Idempotency;
use super::identity::api_key::ApiKey;
use super::identity::api_key::places::ApiKeyPlaces;
use super::identity::email_claim::EmailClaim;
use super::identity::roles::Roles;
use super::identity::session::Session;
use super::identity::signing_keys::SigningKeys;
use super::identity::user::User;
use super::members::Members;
use super::members::level::Level;
use super::notifications::{Delivery, Devices, Inbox, Preferences, TemplateBook, Topic};
use super::restoration::Restoration;
use super::routes::Routes;
use super::runtime::clock::VirtualClock;
use super::runtime::kinds::Kind;

/// All kinds a node serves.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::of::<VirtualClock>(),
        Kind::of::<Members>(),
        Kind::of::<Level>(),
        Kind::of::<KekVersions>(),
        Kind::of::<Keyring>(),
        Kind::of::<KeyFence>(),
        Kind::of::<Alerts>(),
        Kind::of::<Consents>(),
        Kind::of::<Erasure>(),
        Kind::of::<AuditKey>(),
        Kind::of::<Census>(),
        Kind::of::<Invoice>(),
        Kind::of::<Numbering>(),
        Kind::of::<Plans>(),
        Kind::of::<Subscription>(),
        Kind::of::<Wallet>(),
        Kind::of::<Delivery>(),
        Kind::of::<Devices>(),
        Kind::of::<Idempotency>(),
        Kind::of::<Restoration>(),
        Kind::of::<Routes>(),
        Kind::of::<Inbox>(),
        Kind::of::<Preferences>(),
        Kind::of::<TemplateBook>(),
        Kind::of::<Topic>(),
        Kind::of::<ApiKey>(),
        Kind::of::<ApiKeyPlaces>(),
        Kind::of::<EmailClaim>(),
        Kind::of::<Roles>(),
        Kind::of::<Session>(),
        Kind::of::<SigningKeys>(),
        Kind::of::<User>(),
    ]
}
