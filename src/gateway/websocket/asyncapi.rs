//! The AsyncAPI 3.0 document of the WebSocket: its frames from the types that are parsed and written, its channels from
//! the table that access is decided by, its calls from the endpoints that are declared.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::channel::{ChannelKind, INBOX, TOPIC};
use super::disconnect::Disconnect;
use super::protocol::{Command, Publication, Reply};
use crate::gateway::registry::Declaration;
use crate::gateway::routes::notifications::InboxItem;
use crate::gateway::rpc::is_callable;

/// The document; `servers` is set where it is served.
#[must_use]
pub fn document(declarations: &[Declaration]) -> Value {
    let mut schemas = Map::new();
    for (name, schema) in [named::<Command>(), named::<Reply>(), named::<InboxItem>()].into_iter().flatten() {
        schemas.entry(name).or_insert(schema);
    }
    let mut methods: Vec<&str> = Vec::new();
    methods.extend(declarations.iter().filter(|one| is_callable(one) && !one.hidden).map(|one| one.operation));
    methods.sort_unstable();
    schemas["RpcRequest"]["properties"]["method"]["enum"] = json!(methods);
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "The Construct: real time",
            "version": env!("CARGO_PKG_VERSION"),
            "description": introduction(),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "connection": {
                "address": "/connection/websocket",
                "description": "One WebSocket; a frame holds one or more JSON objects, one a line.",
                "messages": {
                    "command": {"$ref": "#/components/messages/command"},
                    "reply": {"$ref": "#/components/messages/reply"},
                },
            },
            INBOX.prefix: channel(&INBOX, "notification"),
            TOPIC.prefix: channel(&TOPIC, "message"),
        },
        "operations": operations(),
        "components": {
            "messages": {
                "command": message("A command of a client", json!({"$ref": "#/components/schemas/Command"})),
                "reply": message("An answer, or a push", json!({"$ref": "#/components/schemas/Reply"})),
                "notification": message("A publication of an inbox", published("InboxItem")),
                "message": message("A publication of a topic", published("")),
            },
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "userPassword",
                    "description": "An access token as `token` of the first command, `connect`.",
                },
            },
        },
    })
}

fn introduction() -> String {
    let mut text = "The Centrifuge client protocol, version 2, in JSON: any of its clients connects to \
                    `/connection/websocket`. Channels have offset and epoch; a client that comes back gets what it \
                    missed, in order, or hears `recovered: false`. An `rpc` calls an operation of the OpenAPI \
                    document.\n\nThe server closes with these codes; after those below 3500 a client comes back:\n"
        .to_owned();
    for Disconnect { code, reason } in Disconnect::ALL {
        text.push_str(&format!("\n- {code} {reason}"));
    }
    text
}

fn channel(kind: &ChannelKind, message: &str) -> Value {
    let mut description = kind.description.to_owned();
    let mut needs = |what: &str, permission: Option<&str>| {
        if let Some(permission) = permission {
            description.push_str(&format!(" {what} needs the permission `{permission}`."));
        }
    };
    needs("Following it", kind.subscribe);
    needs("Publishing to it", kind.publish);
    json!({
        "address": format!("{}:{{{}}}", kind.prefix, kind.parameter),
        "description": description,
        "parameters": {kind.parameter: {"description": format!("The `{}` of what is meant.", kind.parameter)}},
        "messages": {message: {"$ref": format!("#/components/messages/{message}")}},
    })
}

/// Seen from the server: it sends publications, and receives commands and what clients publish.
fn operations() -> Value {
    let mut operations = json!({
        "command": {
            "action": "receive",
            "channel": {"$ref": "#/channels/connection"},
            "summary": "What a client asks",
            "messages": [{"$ref": "#/channels/connection/messages/command"}],
            "reply": {
                "channel": {"$ref": "#/channels/connection"},
                "messages": [{"$ref": "#/channels/connection/messages/reply"}],
            },
        },
    });
    for (kind, message) in [(&INBOX, "notification"), (&TOPIC, "message")] {
        let prefix = kind.prefix;
        let operation = |action: &str, summary: &str| {
            json!({
                "action": action,
                "channel": {"$ref": format!("#/channels/{prefix}")},
                "summary": summary,
                "messages": [{"$ref": format!("#/channels/{prefix}/messages/{message}")}],
            })
        };
        operations[format!("{prefix}_publication")] = operation("send", "What followers get");
        if kind.publish.is_some() {
            operations[format!("{prefix}_publish")] = operation("receive", "What clients publish");
        }
    }
    operations
}

fn message(title: &str, payload: Value) -> Value {
    json!({"title": title, "payload": payload})
}

/// A publication whose data is of that schema; any JSON where it is empty.
fn published(data: &str) -> Value {
    let mut schema = serde_json::to_value(Publication::schema()).unwrap_or_default();
    let any = json!({"description": "Any JSON of at most 16 KiB."});
    schema["properties"]["data"] =
        if data.is_empty() { any } else { json!({"$ref": format!("#/components/schemas/{data}")}) };
    schema
}

/// A type and all that it is made of, by name.
fn named<T: ToSchema>() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    T::schemas(&mut found);
    found.push((T::name().into_owned(), T::schema()));
    found.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::routes;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_whole_and_says_what_is_enforced() {
        let declarations: Vec<_> = routes::endpoints().into_iter().map(|endpoint| endpoint.declaration).collect();
        let document = document(&declarations);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        let methods = document.pointer("/components/schemas/RpcRequest/properties/method/enum").expect("methods");
        let methods: Vec<&str> = methods.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert!(methods.contains(&"getMe") && methods.contains(&"createSubscription"));
        assert!(!methods.contains(&"connectRealtime") && !methods.contains(&"receiveStripeWebhook"), "not callable");
        let text = document.to_string();
        for shown in ["topics:subscribe", "topics:publish", "3503 session ended", "inbox:{user_id}", "topic:{name}"] {
            assert!(text.contains(shown), "{shown}");
        }
        let commands = document.pointer("/components/schemas/Command/properties").expect("members");
        assert_eq!(commands.as_object().map(Map::len), Some(13), "every member that is parsed");
    }
}
