//! Security and compliance: data keys per person, the audit log, erasure, consents.

pub mod audit_log;
pub mod keyring;
pub mod sealer;

pub use audit_log::AuditLog;
pub use audit_log::signing_key::SigningKey;
pub use keyring::Keyring;
pub use sealer::KeyringSealer;
