//! The admin listener's document.

use openexec_protocol::refusal::Code;
use serde_json::{Map, Value, json};

use super::refusals::{self, Kind};
use super::{JSON, hex_digest, object, reference, response, with_refusals};
use crate::ledger::State;

const ABOUT: &str = "\
What probes, Prometheus and operators ask. Without a token in the configuration there are `/metrics`, `/livez`, \
`/readyz`, `/drained`, the service's probes and the status page's files, and nothing else.

`OPENEXEC_ADMIN_READ_TOKEN` reads executions, `OPENEXEC_ADMIN_TOKEN` resolves them too. What everybody may GET has HEAD too, answered alike but for the body.";

const TEXT: &str = "text/plain";
const ID: &str = "01a2b3c4-d5e6-7f80-9a1b-2c3d4e5f6071";

pub(super) fn document() -> Value {
    let text = |id: &str, summary: &str, example: &str| {
        let ok = response("As text", TEXT, json!({"type": "string"}), example.into());
        open(json!({"operationId": id, "tags": ["probes"], "summary": summary, "responses": {"200": ok}}))
    };
    // Not now, in a word a line, beside what any request can be refused with.
    let or_not = |mut operation: Value, why: &str, example: &str| {
        let not_now = &mut operation["responses"]["503"];
        not_now["content"][TEXT] = json!({"schema": {"type": "string"}, "example": example});
        not_now["description"] = format!("{why}; or, as `application/problem+json`, `overloaded`").into();
        not_now["headers"]["Retry-After"]["required"] = false.into();
        operation
    };
    let also = |operation: Value, code: Code| with_refusals(operation, refusals::responses([own(code)]));
    let readiness = text("getReadiness", "Say whether requests can be executed now", "ok\n");
    let drained =
        text("getDrained", "Wait until no execution runs, for a service that must outlive what was begun", "ok\n");
    let mut drained = or_not(drained, "Some still run", "executions are still running\n");
    let seconds = |default: u32| json!({"type": "integer", "minimum": 0, "maximum": 3600, "default": default});
    drained["parameters"] = json!([
        parameter("settle", seconds(5), "Seconds before the first look, until nobody sends requests any more"),
        parameter("wait", seconds(40), "Seconds at most"),
    ]);
    let probe =
        text("askProbe", "Ask the service one of its probes, and hear only whether the answer was good", "ok\n");
    let mut probe = or_not(probe, "It was not", "the service cannot be reached\n");
    let part = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}});
    probe["parameters"] = json!([part("container"), part("probe")]);
    let paths = json!({
        "/metrics": {"get": text("getMetrics", "Give the metrics, in Prometheus's text format",
            "# TYPE openexec_connections gauge\nopenexec_connections 1\n")},
        "/livez": {"get": text("getLiveness", "Say that the process lives", "ok\n")},
        "/readyz": {"get": or_not(readiness, "They cannot, and why, a word a line", "ledger_checking\n")},
        "/drained": {"get": also(drained, Code::InvalidRequest)},
        "/probes/{container}/{probe}": {"get": also(probe, Code::NotFound)},
        "/openapi.json": {"get": openapi()},
        "/executions": {"get": list()},
        "/executions/{id}": {"get": show()},
        "/executions/{id}/resolve": {"post": resolve()},
        "/denials": {"get": denials()},
        "/": {"get": page("getPage", "Give the status page", "text/html")},
        "/assets/{name}": {"get": asset()},
        "/status": {"get": status()},
        "/session": {"get": session(), "post": log_in(), "delete": log_out()},
    });
    let components = json!({
        "schemas": {
            "Summary": object(summary()),
            "Execution": execution(),
            "Denial": object(denial()),
            "Resolution": resolution(),
            "Problem": refusals::problem(),
        },
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer", "description": "An admin token"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "openexec-session-5001",
                "description": "Of the status page's log-in; the name ends with the port that `Host` has, or `default`"},
            "proof": {"type": "apiKey", "in": "header", "name": "OpenExec-Session",
                "description": "The log-in's `proof`: the cookie is nothing without it"},
        },
    });
    super::document("OpenExec, admin listener", ABOUT, paths, components)
}

/// What any request can be refused with here: this listener does not look at `Host`.
fn any() -> Map<String, Value> {
    let mut refusals = refusals::of(Kind::Any);
    refusals.remove(&Code::MisdirectedHost.status().to_string());
    refusals
}

/// For everybody.
fn open(operation: Value) -> Value {
    with_refusals(operation, any())
}

/// Of whatever wants a token.
const EVERYBODYS: [Code; 7] = [
    Code::BadHttp,
    Code::MethodNotAllowed,
    Code::RequestTimeout,
    Code::HeadersTooLarge,
    Code::Overloaded,
    Code::CallerUnauthenticated,
    Code::NotFound,
];

/// For whoever has a token, and with these refusals beside everybody's.
fn guarded(mut operation: Value, more: &[(Code, u16)]) -> Value {
    operation["security"] = json!([{"token": []}, {"cookie": [], "proof": []}]);
    with_refusals(operation, refusals::responses(EVERYBODYS.map(own).into_iter().chain(more.iter().copied())))
}

fn openapi() -> Value {
    let schema = json!({"type": "object", "required": ["openapi", "info", "paths"]});
    let ok = json!({"description": "An OpenAPI 3.1 document", "content": {JSON: {"schema": schema}}});
    let summary = "Give this document";
    guarded(json!({"operationId": "getOpenapi", "tags": ["probes"], "summary": summary, "responses": {"200": ok}}), &[])
}

fn parameter(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "query", "schema": schema, "description": description})
}

fn list() -> Value {
    let page = object(json!({
        "executions": {"type": "array", "items": reference("Summary")},
        "next": {"type": ["string", "null"], "description": "`before` of the next page"},
    }));
    let example = json!({"executions": [example()], "next": null});
    let operation = json!({
        "operationId": "listExecutions",
        "tags": ["executions"],
        "summary": "List executions, the newest first",
        "description": "Without payloads and results. With `action`, `tenant` or `search`, 10 000 executions are looked through at \
            most: a page may then have fewer than `limit`, even none, and a `next` all the same.",
        "parameters": [
            parameter("state", json!({"type": "string", "enum": State::WORDS}), "Only those in this state; case does not matter"),
            parameter("action", json!({"type": "string"}), "Only those of this action"),
            parameter("tenant", json!({"type": "string"}), "Only this tenant's"),
            parameter("search", json!({"type": "string"}), "Only those with this in their id, nonce, approval id, action hash or caller"),
            parameter("before", json!({"type": "string"}), "Only those older than the one with this id"),
            parameter("limit", json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 50}), "How many"),
        ],
        "responses": {"200": response("A page", JSON, page, example)},
    });
    guarded(operation, &[own(Code::InvalidRequest), own(Code::LedgerUnavailable)])
}

fn denials() -> Value {
    let page = object(json!({
        "denials": {"type": "array", "items": reference("Denial")},
        "next": {"type": ["integer", "null"], "description": "`before` of the next page"},
    }));
    let example = json!({
        "seq": 1,
        "denied_at": "2026-02-17T10:06:00Z",
        "tenant": "tenant-001",
        "reason": "approval_expired",
        "action": "mail.send",
        "action_hash": "6f1a3c5e7092b4d6f8013254769ab8dcfe1032547698badc0fe1d2c3b4a59687",
        "nonce": "mail-1",
        "approval_id": "2f1c9a4e-0b7d-4c52-8e61-5d9c3a7b1f20",
        "key_id": "desk-2026",
        "caller": null,
    });
    let example = json!({"denials": [example], "next": null});
    let operation = json!({
        "operationId": "listDenials",
        "tags": ["executions"],
        "summary": "List authentic requests that were refused, the newest first",
        "description": "As many of each tenant as `retention.denials` says; of many at once not all are remembered.",
        "parameters": [
            parameter("tenant", json!({"type": "string"}), "Only this tenant's"),
            parameter("before", json!({"type": "integer", "minimum": 1, "format": "int64"}), "Only those older than the one with this `seq`"),
            parameter("limit", json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 50}), "How many"),
        ],
        "responses": {"200": response("A page", JSON, page, example)},
    });
    guarded(operation, &[own(Code::InvalidRequest), own(Code::LedgerUnavailable)])
}

fn denial() -> Value {
    let optional = |description: &str| json!({"type": ["string", "null"], "description": description});
    json!({
        "seq": {"type": "integer", "minimum": 1},
        "denied_at": {"type": "string", "format": "date-time"},
        "tenant": {"type": "string", "description": "Empty for demo mode"},
        "reason": {"type": "string", "description": "The refusal's code"},
        "action": {"type": "string", "description": "As the client called it"},
        "action_hash": hex_digest("Of the action and its payload"),
        "nonce": {"type": "string"},
        "approval_id": optional("The approval that it carried"),
        "key_id": optional("The name of the key that verified it, if it has one"),
        "caller": optional("Who sent it, where callers are configured"),
    })
}

fn page(id: &str, summary: &str, content_type: &str) -> Value {
    let mut ok = response("A file of the page", content_type, json!({"type": "string"}), "".into());
    for header in ["Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"] {
        ok["headers"][header] = json!({"description": "For browsers", "required": true, "schema": {"type": "string"}});
    }
    open(json!({"operationId": id, "tags": ["status page"], "summary": summary, "responses": {"200": ok}}))
}

fn asset() -> Value {
    let mut operation = page("getAsset", "Give a file that the status page needs", "text/javascript");
    let schema = json!({"type": "string", "minLength": 1});
    operation["parameters"] =
        json!([{"name": "name", "in": "path", "required": true, "schema": schema, "example": "app.js"}]);
    operation["responses"]["200"]["content"]["text/css"] = json!({"schema": {"type": "string"}});
    with_refusals(operation, refusals::responses([own(Code::NotFound)]))
}

fn status() -> Value {
    let optional = |kind: &str| json!({"type": [kind, "null"]});
    let text = || json!({"type": "string"});
    let moment = || json!({"type": "string", "format": "date-time"});
    let list = |items: Value| json!({"type": "array", "items": items});
    let schema = object(json!({
        "version": text(),
        "mode": {"type": "string", "enum": ["demo", "clawshield"]},
        "started_at": moment(),
        "configured_at": {"type": "string", "format": "date-time", "description": "When the configuration in use was read"},
        "reload_ok": {"type": "boolean", "description": "Whether the one that was read last is the one in use"},
        "not_ready": {"type": "array", "items": text(), "description": "As in /readyz"},
        "ledger": object(json!({
            "kind": {"type": "string", "enum": ["memory", "sqlite", "postgresql"]},
            "local": {"type": "boolean", "description": "Whether it is gone with this process or its pod"},
        })),
        "listen": list(text()),
        "admin_listen": text(),
        "actions": list(object(json!({
            "name": text(),
            "kind": {"type": "string", "enum": ["builtin", "upstream"]},
            "upstream": optional("string"),
            "recovery": optional("string"),
        }))),
        "upstreams": list(object(json!({"name": text(), "addresses": list(text())}))),
        "keys": list(object(json!({
            "tenant": text(),
            "key": {"type": ["string", "null"], "description": "Its name, if it has one"},
            "form": {"type": "string", "enum": ["hmac", "ed25519"]},
            "fingerprint": {"type": ["string", "null"], "description": "Of a public key"},
            "state": {"type": "string", "enum": ["active", "retired", "not begun"]},
            "not_before": {"type": ["string", "null"], "format": "date-time"},
            "not_after": {"type": ["string", "null"], "format": "date-time"},
        }))),
        "certificates": list(object(json!({
            "of": {"type": "string", "enum": ["listener", "upstream", "ledger"]},
            "name": text(),
            "not_after": moment(),
        }))),
        "limits": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
    }));
    let example = json!({
        "version": "0.3.0",
        "mode": "demo",
        "started_at": "2026-02-17T10:00:00Z",
        "configured_at": "2026-02-17T10:00:00Z",
        "reload_ok": true,
        "not_ready": [],
        "ledger": {"kind": "sqlite", "local": false},
        "listen": ["127.0.0.1:5000"],
        "admin_listen": "127.0.0.1:5001",
        "actions": [{"name": "echo", "kind": "builtin", "upstream": null, "recovery": null}],
        "upstreams": [],
        "keys": [],
        "certificates": [],
        "limits": {"in_flight": 1024},
    });
    guarded(
        json!({
            "operationId": "getStatus",
            "tags": ["status page"],
            "summary": "Say what is configured, and how old it is",
            "responses": {"200": response("Without secrets", JSON, schema, example)},
        }),
        &[],
    )
}

/// Of `GET` and `POST /session`.
fn opened(more: Value) -> Value {
    let mut members = json!({
        "role": {"type": "string", "enum": ["reader", "operator"]},
        "expires_at": {"type": ["string", "null"], "format": "date-time", "description": "`null` for a token, which has no end"},
    });
    members
        .as_object_mut()
        .into_iter()
        .for_each(|members| members.extend(more.as_object().cloned().unwrap_or_default()));
    object(members)
}

fn session() -> Value {
    let example = json!({"role": "reader", "expires_at": "2026-02-17T22:00:00Z"});
    guarded(
        json!({
            "operationId": "getSession",
            "tags": ["status page"],
            "summary": "Say what the caller may do, and for how long",
            "responses": {"200": response("Logged in", JSON, opened(json!({})), example)},
        }),
        &[],
    )
}

fn log_in() -> Value {
    let proof = hex_digest("For the header OpenExec-Session of all that is asked with the cookie");
    let example = json!({"role": "reader", "expires_at": "2026-02-17T22:00:00Z", "proof": "7c".repeat(32)});
    let mut ok = response("Logged in", JSON, opened(json!({"proof": proof})), example);
    ok["headers"]["Set-Cookie"] =
        json!({"description": "The other half of the session", "required": true, "schema": {"type": "string"}});
    let more = [Code::CallerNotAllowed, Code::BodyTooLarge, Code::UnsupportedMediaType, Code::InvalidRequest];
    let operation = json!({
        "operationId": "logIn",
        "tags": ["status page"],
        "summary": "Open a session with an admin token",
        "description": "For 12 hours, or one without a request. It ends with the process, and with the token.",
        "requestBody": {"required": true, "content": {JSON: {
            "schema": object(json!({"token": {"type": "string"}})),
            "example": {"token": "an admin token"},
        }}},
        "responses": {"200": ok},
    });
    with_refusals(operation, refusals::responses(EVERYBODYS.map(own).into_iter().chain(more.map(own))))
}

fn log_out() -> Value {
    let operation = json!({
        "operationId": "logOut",
        "tags": ["status page"],
        "summary": "End the session",
        "responses": {"200": response("It is over", JSON, json!({"type": "object"}), json!({}))},
    });
    guarded(operation, &[own(Code::CallerNotAllowed)])
}

fn own(code: Code) -> (Code, u16) {
    (code, code.status())
}

fn id() -> Value {
    json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}, "example": ID,
        "description": "The execution"})
}

fn show() -> Value {
    let operation = json!({
        "operationId": "showExecution",
        "tags": ["executions"],
        "summary": "Show one execution with everything that is known of it",
        "parameters": [id()],
        "responses": {"200": response("The execution", JSON, reference("Execution"), example())},
    });
    guarded(operation, &[own(Code::LedgerUnavailable)])
}

fn resolve() -> Value {
    let operation = json!({
        "operationId": "resolveExecution",
        "tags": ["executions"],
        "summary": "Settle an execution whose outcome is unknown",
        "description": "Look first where the action has its effects. Retries of the client get what is said here.",
        "parameters": [id()],
        "requestBody": {"required": true, "content": {JSON: {
            "schema": reference("Resolution"),
            "examples": {
                "done": {"value": {"outcome": "done", "result": {"message_id": "9df6"}, "by": "ada"}},
                "not executed": {"value": {"outcome": "not_executed", "by": "ada"}},
            },
        }}},
        "responses": {"200": response("It is settled", JSON, reference("Execution"), example())},
    });
    let more = [
        own(Code::CallerNotAllowed),
        own(Code::ExecutionInFlight),
        (Code::InvalidRequest, 409),
        own(Code::BodyTooLarge),
        own(Code::UnsupportedMediaType),
        own(Code::InvalidRequest),
        own(Code::LedgerUnavailable),
    ];
    let mut operation = guarded(operation, &more);
    operation["responses"]["409"]["headers"]["OpenExec-Execution-Id"] =
        json!({"description": "The execution", "required": true, "schema": {"type": "string"}});
    operation
}

fn summary() -> Value {
    let optional = |description: &str| json!({"type": ["string", "null"], "description": description});
    let mut properties = json!({
        "id": {"type": "string", "format": "uuid"},
        "state": {"type": "string", "enum": State::WORDS},
        "action": {"type": "string"},
        "action_hash": hex_digest("Of the action and its payload"),
        "tenant": {"type": "string", "description": "Empty for demo mode"},
        "nonce": {"type": "string"},
        "approval_id": optional("The approval that it used"),
        "key_id": optional("The name of the key that verified the approval, if it has one"),
        "caller": optional("Who asked for it, where callers are configured"),
        "claimed_at": {"type": "string", "format": "date-time"},
    });
    let more = json!({
        "settled_at": {"type": ["string", "null"], "format": "date-time"},
        "settled_by": optional("Who found out; `null`: the execution itself"),
        "route": optional("Where it was sent"),
        "recovery": optional("`operator`, `idempotent` or `probe`"),
        "status": {"type": ["integer", "null"], "description": "The service's, or the refusal's"},
        "receipt": optional("Of the result"),
    });
    if let (Some(properties), Value::Object(more)) = (properties.as_object_mut(), more) {
        properties.extend(more);
    }
    properties
}

fn execution() -> Value {
    let text = |description: &str| json!({"type": ["string", "null"], "description": description});
    json!({"allOf": [reference("Summary")], "properties": {
        "payload": text("As long as the outcome is not known: the text that was approved"),
        "result": {"type": "string", "description": "Then: the text that the receipt covers"},
    }})
}

fn resolution() -> Value {
    let by = json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        "description": "Who resolves it, for the record; at most 128 bytes"});
    json!({"oneOf": [
        {
            "type": "object",
            "required": ["outcome", "result", "by"],
            "properties": {"outcome": {"const": "done"}, "result": {"description": "What retries get: any JSON"}, "by": by},
        },
        {
            "type": "object",
            "required": ["outcome", "by"],
            "properties": {"outcome": {"const": "not_executed"}, "by": by},
            "not": {"required": ["result"]},
        },
    ]})
}

fn example() -> Value {
    let mut example = json!({
        "id": ID,
        "state": "UNKNOWN",
        "action": "mail.send",
        "action_hash": "6f1a3c5e7092b4d6f8013254769ab8dcfe1032547698badc0fe1d2c3b4a59687",
        "tenant": "tenant-001",
        "nonce": "mail-1",
        "approval_id": "2f1c9a4e-0b7d-4c52-8e61-5d9c3a7b1f20",
        "claimed_at": "2026-02-17T10:00:00Z",
    });
    for absent in ["key_id", "caller", "settled_at", "settled_by", "status", "receipt"] {
        example[absent] = Value::Null;
    }
    example["route"] = "POST /mail/send (payload) to mail: http://127.0.0.1:8700".into();
    example["recovery"] = "operator".into();
    example
}
