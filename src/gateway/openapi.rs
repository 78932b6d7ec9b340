//! The OpenAPI 3.1 document, generated from the declarations that dispatch, authorize and limit.
//!
//! What every endpoint has in common (refusals, headers, the idempotency key) is added here, so that a declaration
//! says only what is its own.

#[cfg(test)]
mod tests;
mod texts;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Map, Value, json};
use utoipa::PartialSchema;

use super::registry::{Access, BodyKind, Declaration, IdempotencyRule, LimitClass, ResponseSpec, SchemaOf};
use super::reply::{Problem, ProblemField};

/// The document; `servers` is set where it is served.
#[must_use]
pub fn document(declarations: &[Declaration]) -> Value {
    let mut schemas = Map::new();
    schemas.insert("Problem".to_owned(), value(&Problem::schema()));
    schemas.insert("ProblemField".to_owned(), value(&ProblemField::schema()));
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut tags = BTreeSet::new();
    let mut statuses = BTreeSet::new();
    for declaration in declarations.iter().filter(|declaration| !declaration.hidden) {
        let operation = operation(declaration, &mut schemas, &mut statuses);
        let method = declaration.method.as_str().to_lowercase();
        paths.entry(declaration.path).or_default().insert(method, operation);
        tags.insert(declaration.tag);
    }
    let tags: Vec<Value> =
        tags.iter().filter(|tag| !tag.is_empty()).map(|tag| json!({"name": tag, "description": about(tag)})).collect();
    let responses: Map<String, Value> =
        statuses.into_iter().map(|status| (format!("Problem{status}"), problem_response(status))).collect();
    texts::document(&mut schemas, &mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "The Construct",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Identity, subscriptions, notifications, compliance and a gateway in front of them.",
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "contact": {"name": "The operators of this installation", "url": "/docs"},
        },
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "parameters": parameters(&paths),
            "headers": headers(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token of `POST /v1/sessions`, or an API key.",
                },
            },
        },
    })
}

const INTRODUCTION: &str = "JSON over HTTP. Ids are TypeIDs such as `usr_01h455vb4pex5vsknk084sn02q`, times RFC 3339 \
in UTC, money whole minor units with an ISO 4217 currency; an integer is written without a fraction. Lists take `limit` and `cursor` and answer `items` and \
`next_cursor`. Refusals are problem documents (RFC 9457); their `type` is stable, their texts are not.\n\n\
Every POST and PATCH takes an `Idempotency-Key`: a repeat answers the first response, unless that \
said 5xx or `Retry-After`: such a request is sent again under the same key. Send `If-Match` with the `ETag` you read \
to change only what you saw. `RateLimit` fields tell how often you may still call.";

fn about(tag: &str) -> &'static str {
    match tag {
        "identity" => "Accounts, sessions, second factors, users and roles.",
        "billing" => "Plans, payment methods, subscriptions, invoices and usage.",
        "notifications" => "The inbox, preferences, devices, and sending.",
        "compliance" => "The audit log and its proofs, export, erasure and consents.",
        "operations" => "How the node is, and what an operator may do about it.",
        "pages" => "What people see who follow a link in a mail.",
        "gateway" => "Health and documentation.",
        "realtime" => "The Centrifuge protocol over WebSocket.",
        _ => "Further operations.",
    }
}

fn operation(declaration: &Declaration, schemas: &mut Map<String, Value>, statuses: &mut BTreeSet<u16>) -> Value {
    let mut operation = Map::new();
    let mut set = |name: &str, value: Value| operation.insert(name.to_owned(), value);
    set("operationId", json!(declaration.operation));
    let summary = if declaration.summary.is_empty() { declaration.operation } else { declaration.summary };
    set("summary", json!(summary));
    set("description", json!(description(declaration)));
    if !declaration.tag.is_empty() {
        set("tags", json!([declaration.tag]));
    }
    set("security", security(declaration.access));
    set("parameters", Value::Array(operation_parameters(declaration, schemas)));
    if let Some(body) = request_body(declaration, schemas) {
        set("requestBody", body);
    }
    let mut responses = Map::new();
    for response in &declaration.responses {
        responses.insert(response.status.to_string(), success(declaration, response, schemas));
    }
    for status in problems(declaration) {
        let reference = json!({"$ref": format!("#/components/responses/Problem{status}")});
        if !responses.contains_key(&status.to_string()) {
            responses.insert(status.to_string(), reference);
            statuses.insert(status);
        }
    }
    set("responses", Value::Object(responses));
    Value::Object(operation)
}

fn description(declaration: &Declaration) -> String {
    let mut text = if declaration.description.is_empty() {
        format!("{}.", declaration.summary.trim_end_matches('.'))
    } else {
        declaration.description.to_owned()
    };
    match declaration.access {
        Access::Permission(permission) => text.push_str(&format!("\n\nNeeds the permission `{permission}`.")),
        Access::Operator => text.push_str("\n\nFor administrators."),
        Access::Public | Access::User => {}
    }
    if let Some(permission) = declaration.others {
        text.push_str(&format!("\n\nWith the permission `{permission}` also for what is another person's."));
    }
    text
}

fn security(access: Access) -> Value {
    if access == Access::Public { json!([]) } else { json!([{"bearer": []}]) }
}

/// Refusals that an endpoint can answer because of what stands before its handler, and its own.
fn problems(declaration: &Declaration) -> BTreeSet<u16> {
    let mut statuses: BTreeSet<u16> = declaration.problems.iter().copied().collect();
    if declaration.limit == LimitClass::Unlimited && declaration.access == Access::Public {
        return statuses;
    }
    statuses.extend([400, 431, 500, 503, 504]);
    if declaration.limit != LimitClass::Unlimited {
        statuses.insert(429);
    }
    if declaration.access != Access::Public {
        statuses.extend([401, 403]);
    }
    if declaration.path.contains('{') {
        statuses.insert(404);
    }
    if declaration.path.contains('{') || declaration.body != BodyKind::None {
        // Whatever names a person may name one who was erased.
        statuses.insert(410);
    }
    if declaration.query.is_some() || !matches!(declaration.method, Method::GET | Method::DELETE) {
        statuses.insert(422);
    }
    if declaration.body != BodyKind::None || declaration.method == Method::POST {
        statuses.insert(413);
    }
    if declaration.body != BodyKind::None {
        statuses.extend([415, 422]);
    }
    if declaration.idempotency != IdempotencyRule::Unused {
        statuses.insert(409);
    }
    if matches!(declaration.method, Method::PUT | Method::PATCH) {
        statuses.extend([409, 412]);
    }
    statuses
}

fn operation_parameters(declaration: &Declaration, schemas: &mut Map<String, Value>) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in declaration.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        parameters.push(json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": format!("The `{name}` of what is meant."),
            "schema": {"type": "string", "minLength": 1},
        }));
    }
    if let Some(query) = &declaration.query {
        let schema = value(&(query.schema)());
        collect(query, schemas);
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let mut property = property.clone();
            let described = property.as_object_mut().and_then(|object| object.remove("description"));
            parameters.push(json!({
                "name": name,
                "in": "query",
                "required": required.iter().any(|one| one == name),
                "description": described.unwrap_or_else(|| json!(format!("The `{name}` to ask for."))),
                "schema": without_null(property),
            }));
        }
    }
    match declaration.idempotency {
        IdempotencyRule::Unused => {}
        IdempotencyRule::Optional => parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"})),
        IdempotencyRule::Required => parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKeyRequired"})),
    }
    if matches!(declaration.method, Method::PUT | Method::PATCH) {
        parameters.push(json!({"$ref": "#/components/parameters/IfMatch"}));
    }
    parameters
}

/// A query parameter that is not sent is left out; it is never null.
fn without_null(mut schema: Value) -> Value {
    if let Some(kinds) = schema["type"].as_array() {
        let kinds: Vec<Value> = kinds.iter().filter(|kind| **kind != "null").cloned().collect();
        schema["type"] = if kinds.len() == 1 { kinds[0].clone() } else { Value::Array(kinds) };
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let choices: Vec<Value> = choices.iter().filter(|choice| choice["type"] != "null").cloned().collect();
        if let [only] = choices.as_slice() {
            return only.clone();
        }
    }
    schema
}

fn request_body(declaration: &Declaration, schemas: &mut Map<String, Value>) -> Option<Value> {
    let schema = declaration.body_schema.as_ref().map(|schema| reference(schema, schemas));
    let (required, content) = match declaration.body {
        BodyKind::None => return None,
        BodyKind::Json { optional } => (!optional, json!({"application/json": {"schema": schema}})),
        BodyKind::Form => (true, json!({"application/x-www-form-urlencoded": {"schema": schema}})),
        BodyKind::Raw(media_types) => {
            let types = media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({})));
            (true, Value::Object(types.collect()))
        }
    };
    Some(json!({"required": required, "content": content}))
}

fn success(declaration: &Declaration, response: &ResponseSpec, schemas: &mut Map<String, Value>) -> Value {
    let mut headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
    if declaration.limit != LimitClass::Unlimited {
        headers["RateLimit"] = json!({"$ref": "#/components/headers/RateLimit"});
        headers["RateLimit-Policy"] = json!({"$ref": "#/components/headers/RateLimitPolicy"});
    }
    if declaration.idempotency != IdempotencyRule::Unused {
        headers["Idempotency-Replayed"] = json!({"$ref": "#/components/headers/IdempotencyReplayed"});
    }
    let mut described = json!({"description": response.description, "headers": headers});
    if !response.content_type.is_empty() {
        let schema = response.schema.as_ref().map(|schema| json!({"schema": reference(schema, schemas)}));
        described["content"] = json!({response.content_type: schema.unwrap_or_else(|| json!({}))});
    }
    described
}

fn problem_response(status: u16) -> Value {
    if status == 431 {
        // Answered before there is a request that could have an id.
        return json!({"description": reason(status)});
    }
    let mut headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
    if matches!(status, 429 | 503) {
        headers["Retry-After"] = json!({"$ref": "#/components/headers/RetryAfter"});
    }
    json!({
        "description": reason(status),
        "headers": headers,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    })
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "The request cannot be read.",
        401 => "Credentials are missing, wrong or over.",
        402 => "The payment was declined.",
        403 => "Known, but not allowed; or a recent proof of identity is needed.",
        404 => "There is no such thing, or it is not yours.",
        409 => "The state of the object does not allow it, or the same request is under way.",
        410 => "It was there and is gone for good.",
        412 => "The object has changed since the version in If-Match.",
        413 => "The body is too large.",
        415 => "The media type is not supported.",
        422 => {
            "Understood, but not valid: `errors` names the members. Or the idempotency key belongs to another request."
        }
        429 => "More often than allowed.",
        431 => "The request's head is too large.",
        503 => "Not now: overloaded, or no leader. Nothing was done unless said otherwise.",
        504 => "The deadline passed; whether it took effect is not known. Repeat it under the same Idempotency-Key.",
        _ => "The server failed; nothing was done.",
    }
}

/// The parameters that operations share; those that no operation of this document has are left out.
fn parameters(paths: &BTreeMap<&str, Map<String, Value>>) -> Value {
    let key = |required: bool, text: &str| {
        json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": required,
            "description": text,
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": 255,
                "pattern": "^[!-~]+$",
                "format": "idempotency-key",
            },
            "example": "3f0c1c5e-8e0d-4f57-9d5b-6f1f0b8d2a11",
        })
    };
    let if_match = json!({
        "name": "If-Match",
        "in": "header",
        "required": false,
        "description": "The ETag of the version to change; another version is refused with 412.",
        "schema": {"type": "string"},
        "example": "\"7\"",
    });
    let shared = [
        (
            "IdempotencyKey",
            key(false, "Made by the client, unique for this request; a repeat answers the first response."),
        ),
        (
            "IdempotencyKeyRequired",
            key(true, "Made by the client, unique for this request. Required: this moves money."),
        ),
        ("IfMatch", if_match),
    ];
    let used = |name: &str| {
        let reference = json!({"$ref": format!("#/components/parameters/{name}")});
        let mut operations = paths.values().flat_map(Map::values);
        operations.any(|operation| operation["parameters"].as_array().is_some_and(|all| all.contains(&reference)))
    };
    let shared = shared.into_iter().filter(|(name, _)| used(name));
    Value::Object(shared.map(|(name, parameter)| (name.to_owned(), parameter)).collect())
}

fn headers() -> Value {
    let header =
        |text: &str, example: Value| json!({"description": text, "schema": {"type": "string"}, "example": example});
    json!({
        "RequestId": header("The id of this request: as sent (1 to 128 letters, digits, - and _), or made.", json!("req-5f9d3c7a1b2e4f60")),
        "RateLimit": header("Calls left, and seconds until all are available again.", json!("\"read\";r=299;t=1")),
        "RateLimitPolicy": header("Calls allowed in a window of seconds.", json!("\"read\";q=300;w=15")),
        "IdempotencyReplayed": header("`true` when this is the remembered answer of an earlier request.", json!("true")),
        "RetryAfter": header("Seconds to wait.", json!("1")),
    })
}

/// How a schema is named where it is used; its definition goes to the components.
fn reference(of: &SchemaOf, schemas: &mut Map<String, Value>) -> Value {
    collect(of, schemas);
    if of.inline {
        return value(&(of.schema)());
    }
    let name = (of.name)().into_owned();
    schemas.entry(name.clone()).or_insert_with(|| value(&(of.schema)()));
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn collect(of: &SchemaOf, schemas: &mut Map<String, Value>) {
    let mut found = Vec::new();
    (of.collect)(&mut found);
    for (name, schema) in found {
        schemas.entry(name).or_insert_with(|| value(&schema));
    }
}

fn value<T: serde::Serialize>(schema: &T) -> Value {
    serde_json::to_value(schema).unwrap_or_default()
}
