//! The effective configuration as TOML, without its secrets.

use super::layers::Merged;

/// Keys whose values are `Secret`. A test finds any that is missing here.
pub(super) const SECRETS: [&str; 5] = [
    "cluster.token",
    "mail.smtp_url",
    "payments.stripe.secret_key",
    "payments.stripe.webhook_secret",
    "sms.twilio.auth_token",
];

pub(super) fn redacted(merged: &Merged) -> String {
    let mut tree = merged.json();
    for path in SECRETS {
        let pointer = format!("/{}", path.replace('.', "/"));
        if let Some(value) = tree.pointer_mut(&pointer)
            && value.as_str().is_none_or(|text| !text.is_empty())
        {
            *value = serde_json::Value::String("[redacted]".to_owned());
        }
    }
    toml::to_string_pretty(&tree).expect("a tree read from TOML can be written as TOML")
}
