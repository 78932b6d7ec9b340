//! Security and compliance: data keys per person, the audit log, erasure, consents.

pub mod audit_log;
pub mod keyring;
pub mod sealer;
