//! The document against the endpoints that exist.

use std::collections::BTreeMap;

use super::*;
use crate::gateway::registry::SchemaOf;
use crate::gateway::routes;

fn declarations() -> Vec<Declaration> {
    let endpoints = routes::endpoints().into_iter().chain(routes::admin_endpoints());
    endpoints.map(|endpoint| endpoint.declaration).collect()
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.push(reference.clone());
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_endpoint_is_described_and_every_reference_leads_somewhere() {
    let declarations = declarations();
    let document = document(&declarations);
    for declaration in declarations.iter().filter(|declaration| !declaration.hidden) {
        let method = declaration.method.as_str().to_lowercase();
        let operation = &document["paths"][declaration.path][&method];
        let name = declaration.operation;
        assert_eq!(operation["operationId"], name);
        assert!(!declaration.responses.is_empty(), "{name} declares no answer");
        assert!(!declaration.summary.is_empty() && !declaration.tag.is_empty(), "{name} has no summary or tag");
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let target = document.pointer(reference.trim_start_matches('#'));
        assert!(target.is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn a_schema_name_means_one_schema() {
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for declaration in declarations() {
        let responses = declaration.responses.iter().filter_map(|response| response.schema);
        let all: Vec<SchemaOf> = responses.chain(declaration.body_schema).chain(declaration.query).collect();
        for schema in all {
            let mut found = Vec::new();
            (schema.collect)(&mut found);
            if !schema.inline {
                found.push(((schema.name)().into_owned(), (schema.schema)()));
            }
            for (name, schema) in found {
                let schema = value(&schema);
                let first = known.entry(name.clone()).or_insert_with(|| schema.clone());
                assert_eq!(*first, schema, "two types are called {name}; {} uses one", declaration.operation);
            }
        }
    }
}
