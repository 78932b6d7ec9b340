//! Audit log, keyring, export and erasure.
