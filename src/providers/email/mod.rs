//! Mail: the request and receipt every vendor speaks.

use serde::{Deserialize, Serialize};

/// One mail to one person. Texts may contain [`super::PUBLIC_URL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailRequest {
    pub to: String,
    pub to_name: Option<String>,
    /// One line.
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
    /// Path below the public URL for RFC 8058 one-click unsubscribe; sets `List-Unsubscribe`.
    pub unsubscribe: Option<String>,
}

/// The mail was handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailReceipt {
    pub message_id: String,
}
