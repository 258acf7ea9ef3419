//! The main listener's document.

use openexec_protocol::approval::{self, HmacKey, Terms};
use openexec_protocol::canonical::Limits;
use openexec_protocol::receipt;
use openexec_protocol::request::{MAX_ACTION_BYTES, MAX_NONCE_BYTES, Request};
use serde_json::{Map, Value, json};

use super::refusals::{self, Kind};
use super::{JSON, PROBLEM, hex_digest, object, reference, response, with_refusals};

const ABOUT: &str = "\
Executes an approved action at most once, remembers the result, and answers a retry with the first answer.

A retry is safe whenever it is the same request: same action, payload and nonce. Every refusal is \
`application/problem+json` (RFC 9457) with a `code` of a closed set; a program decides by `code`, not by the status. \
Where `Retry-After` is sent, nothing was executed or it still runs, and the same request may be sent again.

What has GET has HEAD too, answered alike but for the body. A path that is not described here is a 404 `not_found`, unless the configuration lets it through to a service.";

/// An execution for the examples; its receipt is a true one.
const ID: &str = "01a2b3c4-d5e6-7f80-9a1b-2c3d4e5f6071";
const RESULT: &str = r#"{"echo": {"msg": "hello"}}"#;

pub(super) fn document() -> Value {
    let paths = json!({
        "/execute": {"post": execute()},
        "/receipts/verify": {"post": verify()},
        "/": {"get": get("getIdentity", "Say what answers here", identity())},
        "/health": {"get": get("getHealth", "Say that the process lives, and its mode", health())},
        "/ready": {"get": ready()},
        "/version": {"get": get("getVersion", "Say the version, and what time the server has", version())},
        "/openapi.json": {"get": get("getOpenapi", "Give this document", openapi())},
    });
    let schemas = json!({
        "Request": request(),
        "Approval": artifact(),
        "Answer": answer(),
        "Problem": refusals::problem(),
    });
    super::document("OpenExec", ABOUT, paths, json!({"schemas": schemas}))
}

fn execute() -> Value {
    let example = json!({"action": "echo", "payload": {"msg": "hello"}, "nonce": "order-1"});
    let executed = response(
        "It was executed: now, or before (`OpenExec-Replayed`). A service's 204, 205 and 3xx are a 200 too.",
        JSON,
        reference("Answer"),
        json!({"id": ID, "action": "echo", "result": {"echo": {"msg": "hello"}}, "approved": true, "receipt": receipt()}),
    );
    let operation = json!({
        "operationId": "execute",
        "tags": ["executions"],
        "summary": "Execute an approved action, at most once",
        "description": "The first request with a nonce executes; the same request again gets the stored answer. An \
            action that a service does is answered with the service's own status, its errors included.",
        "requestBody": {
            "required": true,
            "content": {JSON: {"schema": reference("Request"), "examples": {
                "demo": {"summary": "Demo mode asks for no approval", "value": example.clone()},
                "approved": {"summary": "ClawShield mode does", "value": approved(example)},
            }}},
        },
        "responses": {"200": executed},
    });
    let mut operation = with_refusals(operation, refusals::of(Kind::Execute));
    // Any of these can be a service's own status, with its answer. Some generators know one kind of body for a status
    // and take the first, so that one allows for the refusal too.
    let either = json!({"anyOf": [reference("Problem"), reference("Answer")]});
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let is_certain = status == "200";
        if !is_certain {
            response["content"][JSON]["schema"] = either.clone();
        }
        for (name, header) in answer_headers(is_certain) {
            response["headers"][&name] = header;
        }
        if let Some(retry_after) = response["headers"].get_mut("Retry-After") {
            retry_after["required"] = false.into();
        }
    }
    operation["responses"]["default"] = json!({
        "description": "A service's answer, with its status; or `not_executed`, with a status of the action's \
            `not_executed_on`. Neither comes from a built-in action.",
        "headers": answer_headers(false),
        "content": {JSON: {"schema": either}, PROBLEM: {"schema": reference("Problem")}},
    });
    operation
}

/// What comes with a result; with a refusal, the execution's id may.
fn answer_headers(is_certain: bool) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut add = |name: &str, required: bool, schema: Value, description: &str| {
        let header = json!({"description": description, "required": required, "schema": schema});
        headers.insert(name.to_owned(), header);
    };
    add("OpenExec-Execution-Id", is_certain, json!({"type": "string"}), "The execution, as `id` in the answer");
    let digest = json!({"type": "string", "pattern": "^[0-9a-f]{64}$"});
    add("OpenExec-Receipt", is_certain, digest, "As `receipt` in the answer");
    let replayed = json!({"type": "string", "enum": ["true", "false"]});
    add("OpenExec-Replayed", is_certain, replayed, "Whether it was executed by an earlier request");
    let status = json!({"type": "integer", "minimum": 200, "maximum": 599});
    add("OpenExec-Upstream-Status", false, status, "The status that the service answered with");
    headers
}

fn verify() -> Value {
    let operation = json!({
        "operationId": "verifyReceipt",
        "tags": ["receipts"],
        "summary": "Say whether a receipt belongs to a result",
        "description": "Needs nothing that only the server knows: anyone can compute a receipt, the lower-case hex \
            SHA-256 of `<id>:<result text>`.",
        "requestBody": {
            "required": true,
            "content": {JSON: {
                "schema": {
                    "type": "object",
                    "required": ["exec_id", "result", "receipt"],
                    "properties": {
                        "exec_id": {"type": "string", "description": "`id` of the answer"},
                        "result": {"type": "string", "description": "`result` of the answer, as the very text"},
                        "receipt": {"type": "string", "description": "`receipt` of the answer"},
                    },
                },
                "example": {"exec_id": ID, "result": RESULT, "receipt": receipt()},
            }},
        },
        "responses": {"200": response("Whether it does", JSON, object(json!({"valid": {"type": "boolean"}})), json!({"valid": true}))},
    });
    with_refusals(operation, refusals::of(Kind::Body))
}

fn ready() -> Value {
    let mut operation = get(
        "getReadiness",
        "Say whether requests can be executed now",
        response("They can", JSON, object(json!({"ready": {"const": true}})), json!({"ready": true})),
    );
    let reasons = json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "description":
        "`shutting_down`, `not_configured`, `ledger_waiting`, `ledger_checking`, `ledger_full`, `ledger_disk_low`, \
         `ledger_unavailable`, `ledger_failover`, `ledger_not_synchronous`"});
    let schema = object(json!({"ready": {"const": false}, "reasons": reasons}));
    operation["responses"]["503"]["content"][JSON] =
        json!({"schema": schema, "example": {"ready": false, "reasons": ["ledger_checking"]}});
    operation["responses"]["503"]["description"] =
        "They cannot; or, as `application/problem+json`, `overloaded`: there are too many connections".into();
    // Only the refusal has it.
    operation["responses"]["503"]["headers"]["Retry-After"]["required"] = false.into();
    operation
}

fn get(id: &str, summary: &str, ok: Value) -> Value {
    let operation = json!({"operationId": id, "tags": ["service"], "summary": summary, "responses": {"200": ok}});
    with_refusals(operation, refusals::of(Kind::Any))
}

fn identity() -> Value {
    let schema = object(json!({
        "service": {"const": "OpenExec"}, "status": {"const": "running"}, "version": {"type": "string"},
    }));
    response("OpenExec", JSON, schema, json!({"service": "OpenExec", "status": "running", "version": crate::VERSION}))
}

fn health() -> Value {
    let schema =
        object(json!({"status": {"const": "healthy"}, "mode": {"type": "string", "enum": ["demo", "clawshield"]}}));
    response("It lives", JSON, schema, json!({"status": "healthy", "mode": "clawshield"}))
}

fn version() -> Value {
    let schema = object(json!({"version": {"type": "string"}, "timestamp": {"type": "string", "format": "date-time"}}));
    let example = json!({"version": crate::VERSION, "timestamp": "2026-02-17T10:00:00Z"});
    response("The version", JSON, schema, example)
}

fn openapi() -> Value {
    let schema = json!({"type": "object", "required": ["openapi", "info", "paths"]});
    json!({"description": "An OpenAPI 3.1 document", "content": {JSON: {"schema": schema}}})
}

fn request() -> Value {
    json!({
        "type": "object",
        "description": "JSON with one reading: repeated keys, NaN and lone surrogates are refused. Other members are \
            ignored, and covered by nothing.",
        "required": ["action", "nonce"],
        "properties": {
            "action": {
                "type": "string", "minLength": 1, "maxLength": MAX_ACTION_BYTES,
                "description": format!("The action's name; at most {MAX_ACTION_BYTES} bytes of UTF-8"),
            },
            "payload": {
                "type": ["object", "null"],
                "description": "What it is to be done with, `{}` by default. It is covered by the approval.",
            },
            "nonce": {
                "type": "string", "minLength": 1, "maxLength": MAX_NONCE_BYTES, "pattern": "^[^\\u0000]*$",
                "description": format!("Yours, new for each execution, and the same for each retry; at most \
                    {MAX_NONCE_BYTES} bytes of UTF-8"),
            },
            "approval_artifact": {
                "oneOf": [reference("Approval"), {"type": "null"}],
                "description": "Needed in ClawShield mode, ignored in demo mode",
            },
        },
    })
}

fn artifact() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let optional = |description: &str| json!({"type": ["string", "null"], "description": description});
    json!({
        "type": "object",
        "description": "A signed approval. Without `expires_at` it is the HMAC form, with it the Ed25519 form; \
            `issued_by` and `expires_at` do not go together. What does not match its grammar is \
            `approval_signature_invalid`.",
        "required": ["approval_id", "action_hash", "signature", "issued_at", "tenant_id"],
        "properties": {
            "approval_id": text("`[A-Za-z0-9._~-]{1,128}`; a UUID in the Ed25519 form. Used by its first execution."),
            "action_hash": text("64 lower-case hex digits: the SHA-256 of the canonical text of \
                `{\"action\": ..., \"payload\": ...}`"),
            "signature": text("HMAC-SHA256 over `approval_id:action_hash:tenant_id:issued_at` as 64 lower-case hex \
                digits; in the other form an Ed25519 signature in base64"),
            "issued_at": text("ISO 8601, as it was signed; UTC without an offset"),
            "tenant_id": text("For whom: `[A-Za-z0-9._~-]{1,128}`"),
            "issued_by": optional("`clawshield`, which is the default; the HMAC form only"),
            "expires_at": optional("ISO 8601; the Ed25519 form only"),
            "kid": optional("Which key"),
        },
    })
}

fn answer() -> Value {
    json!({
        "type": "object",
        "required": ["id", "action", "result", "approved", "receipt"],
        "properties": {
            "id": {"type": "string", "format": "uuid", "description": "The execution"},
            "action": {"type": "string"},
            "result": {"description": "What the action returned: any JSON. Of a service's answer that is no JSON the \
                text as `body` or the bytes as `body_base64`, with the `content_type`; of one too large to be kept \
                `truncated`, `bytes` and `sha256`."},
            "approved": {"const": true},
            "receipt": hex_digest("SHA-256 of `<id>:<result text>`, of the very bytes of `result`"),
        },
    })
}

fn receipt() -> String {
    receipt::receipt(ID, RESULT)
}

/// The request with an approval, signed with a key that nobody uses.
fn approved(mut request: Value) -> Value {
    let parsed = Request::parse(request.to_string().as_bytes(), Limits::default()).expect("the example is a request");
    let terms = Terms {
        approval_id: "2f1c9a4e-0b7d-4c52-8e61-5d9c3a7b1f20",
        tenant_id: "tenant-001",
        issued_at: "2026-02-17T10:00:00Z",
        kid: None,
    };
    let artifact = approval::mint(&HmacKey::new(b"example"), parsed.action_hash(), &terms);
    let artifact = artifact.expect("the example's terms have their grammar").to_json();
    request["approval_artifact"] = serde_json::from_str(&artifact).expect("an artifact is JSON");
    request
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openexec_protocol::canonical::CanonicalText;

    use super::*;
    use crate::execute::front;

    #[test]
    fn every_path_of_the_listener_is_in_the_document() {
        let document = document();
        let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, BTreeSet::from(front::PATHS));
    }

    #[test]
    fn a_generator_that_takes_the_first_kind_of_body_reads_refusals_and_answers() {
        let document = document();
        let responses = &document["paths"]["/execute"]["post"]["responses"];
        let answer = &responses["200"]["content"][JSON]["example"];
        for (status, response) in responses.as_object().unwrap().iter().filter(|(status, _)| *status != "200") {
            let mut schema = response["content"].as_object().unwrap().values().next().unwrap()["schema"].clone();
            schema["components"] = document["components"].clone();
            let schema = jsonschema::validator_for(&schema).unwrap();
            assert!(schema.is_valid(answer) && !schema.is_valid(&json!({"code": 1})), "{status}");
            let refusal = &response["content"][PROBLEM]["example"];
            assert!(schema.is_valid(refusal) || status == "default", "{status}");
        }
    }

    #[test]
    fn the_examples_are_true() {
        let document = document();
        let example = &document["paths"]["/receipts/verify"]["post"]["requestBody"]["content"][JSON]["example"];
        let text = |name: &str| example[name].as_str().unwrap();
        assert!(receipt::verify(text("exec_id"), text("result"), text("receipt")));
        let answer = &document["paths"]["/execute"]["post"]["responses"]["200"]["content"][JSON]["example"];
        assert_eq!((&answer["id"], &answer["receipt"]), (&example["exec_id"], &example["receipt"]));
        assert_eq!(
            CanonicalText::parse(RESULT.as_bytes(), Limits::default()).unwrap().as_str(),
            answer["result"].to_string()
        );
    }
}
