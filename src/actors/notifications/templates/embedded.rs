//! The templates in the binary.

/// `(name, locale, text)`.
pub(super) const TEMPLATES: &[(&str, &str, &str)] = &[
    ("verify_email", "en", include_str!("verify_email.en.txt")),
    ("verify_email", "de", include_str!("verify_email.de.txt")),
    ("known_address", "en", include_str!("known_address.en.txt")),
    ("known_address", "de", include_str!("known_address.de.txt")),
    ("password_reset", "en", include_str!("password_reset.en.txt")),
    ("password_reset", "de", include_str!("password_reset.de.txt")),
    ("password_changed", "en", include_str!("password_changed.en.txt")),
    ("password_changed", "de", include_str!("password_changed.de.txt")),
    ("new_sign_in", "en", include_str!("new_sign_in.en.txt")),
    ("new_sign_in", "de", include_str!("new_sign_in.de.txt")),
    ("mfa_enabled", "en", include_str!("mfa_enabled.en.txt")),
    ("mfa_enabled", "de", include_str!("mfa_enabled.de.txt")),
    ("receipt", "en", include_str!("receipt.en.txt")),
    ("receipt", "de", include_str!("receipt.de.txt")),
    ("payment_failed", "en", include_str!("payment_failed.en.txt")),
    ("payment_failed", "de", include_str!("payment_failed.de.txt")),
    ("trial_ending", "en", include_str!("trial_ending.en.txt")),
    ("trial_ending", "de", include_str!("trial_ending.de.txt")),
    ("subscription_canceled", "en", include_str!("subscription_canceled.en.txt")),
    ("subscription_canceled", "de", include_str!("subscription_canceled.de.txt")),
    ("erasure_done", "en", include_str!("erasure_done.en.txt")),
    ("erasure_done", "de", include_str!("erasure_done.de.txt")),
];
