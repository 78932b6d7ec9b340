//! Security and compliance: data keys per person, the audit log, erasure, consents.

pub mod alerts;
pub mod audit_log;
pub mod consents;
pub mod erasure;
pub mod kek;
pub mod key_status;
pub mod keyring;
pub mod report;
pub mod rotation;
pub mod sealer;
pub mod service;
#[cfg(test)]
mod tests;
pub mod texts;

pub use alerts::Alerts;
pub use audit_log::AuditLog;
pub use audit_log::signing_key::SigningKey;
pub use consents::Consents;
pub use erasure::{Eraser, Erasure};
pub use kek::SharedKeys;
pub use keyring::Keyring;
pub use sealer::KeyringSealer;
pub use service::Compliance;
pub use texts::Texts;
