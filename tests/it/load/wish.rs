//! One request that its client wants answered, however often that takes.

use reqwest::Method;
use serde_json::Value;

use super::Floor;
use crate::http::{Answer, Client, fresh_key};

#[derive(Debug, Clone)]
pub struct Wish {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
    key: String,
}

/// What came of one try.
pub enum Came {
    Answer(Answer),
    /// Not now, or still under way from before a crash: wanted as before.
    NotNow,
    /// No answer: the node is gone.
    Gone,
}

impl Wish {
    pub fn post(path: &str, body: Value) -> Self {
        Self { method: Method::POST, path: path.to_owned(), body: Some(body), key: fresh_key() }
    }

    pub fn patch(path: &str, body: Value) -> Self {
        Self { method: Method::PATCH, ..Self::post(path, body) }
    }

    pub fn delete(path: &str, body: Value) -> Self {
        Self { method: Method::DELETE, ..Self::post(path, body) }
    }

    pub fn bare_post(path: &str) -> Self {
        Self { body: None, ..Self::post(path, Value::Null) }
    }

    pub async fn send(&self, client: &Client, floor: &Floor) -> Came {
        let _asking = floor.asking(format!("{} {}", self.method, self.path));
        let answer = client.try_send(self.method.clone(), &self.path, Some(&self.key), self.body.as_ref()).await;
        let Some(answer) = answer.filter(|_| floor.believes()) else { return Came::Gone };
        if answer.status >= 500 || code(&answer) == "idempotency_in_progress" {
            return Came::NotNow;
        }
        Came::Answer(answer)
    }
}

/// The closed code of a refusal.
pub fn code(answer: &Answer) -> &str {
    answer.json["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or("")
}
