//! What the listeners can be asked and what they answer, as OpenAPI 3.1 documents. They are made of the table of
//! refusals that the answers are made of, so a code or a status cannot be missing. A committed file was rejected: it
//! would be a second truth.

mod admin;
mod clients;
mod refusals;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

/// The main listener's document, as it is served.
pub static CLIENTS: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", clients::document()));

/// The admin listener's document, as it is served.
pub static ADMIN: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", admin::document()));

const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

fn document(title: &str, description: &str, paths: Value, components: Value) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": crate::VERSION,
            "description": description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server that this document came from"}],
        "paths": paths,
        "components": components,
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// A response with one kind of body.
fn response(description: &str, content_type: &str, schema: Value, example: Value) -> Value {
    json!({"description": description, "content": {content_type: {"schema": schema, "example": example}}})
}

/// Adds what can be refused.
fn with_refusals(mut operation: Value, refusals: Map<String, Value>) -> Value {
    for (status, refusal) in refusals {
        operation["responses"][status] = refusal;
    }
    operation
}

/// An object with all of these members.
fn object(properties: Value) -> Value {
    let required: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    json!({"type": "object", "required": required, "properties": properties})
}

/// A member of a schema: 64 lower-case hex digits.
fn hex_digest(description: &str) -> Value {
    json!({"type": "string", "pattern": "^[0-9a-f]{64}$", "description": description})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a document.
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
    fn what_is_referred_to_is_there() {
        for document in [clients::document(), admin::document()] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
        }
    }
}
