//! What holds for every text that a request may carry, said at each of them: no control characters but tab and line
//! ends (see `validate`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// ECMA 262, as JSON Schema has it.
const NO_CONTROLS: &str = "^[^\\u0000-\\u0008\\u000B\\u000C\\u000E-\\u001F\\u007F]*$";
const COMPONENTS: &str = "#/components/schemas/";

/// Adds the pattern to the texts of every request body and query, and of the schemas they refer to.
pub(super) fn document(schemas: &mut Map<String, Value>, paths: &mut BTreeMap<&str, Map<String, Value>>) {
    let mut named = Vec::new();
    for operation in paths.values_mut().flat_map(Map::values_mut) {
        for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
            if parameter["in"] == "query" {
                add(&mut parameter["schema"], &mut named);
            }
        }
        let content = operation.get_mut("requestBody").and_then(|body| body["content"].as_object_mut());
        for media in content.into_iter().flat_map(Map::values_mut).filter_map(|media| media.get_mut("schema")) {
            add(media, &mut named);
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = named.pop() {
        if seen.insert(name.clone())
            && let Some(schema) = schemas.get_mut(&name)
        {
            add(schema, &mut named);
        }
    }
}

fn add(schema: &mut Value, named: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(name) = members.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(COMPONENTS)) {
                named.push(name.to_owned());
            }
            let kind = members.get("type");
            let text = kind.is_some_and(|kind| {
                kind == "string" || kind.as_array().is_some_and(|all| all.contains(&json!("string")))
            });
            let said = ["pattern", "enum", "format"].iter().any(|name| members.contains_key(*name));
            if text && !said {
                members.insert("pattern".to_owned(), json!(NO_CONTROLS));
            }
            members.values_mut().for_each(|member| add(member, named));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| add(item, named)),
        _ => {}
    }
}
