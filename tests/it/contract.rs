//! The refusal table, row by row, and the other paths.

use std::net::TcpStream;
use std::process::Stdio;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use openexec::execute::dispatch::InvalidPayload;
use openexec::registry::{Dispatch, Ended, Handler, Registry};
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::timestamp;
use serde_json::json;

use crate::support::{Approval, Client, PATIENCE, Process, Setup, approved, effect, free, request};

#[test]
fn what_the_built_ins_do() {
    let server = Setup::demo().start();
    let echo = server.execute(&request("echo", &json!({"msg": "hello"}), "1")).must_be_executed(false);
    assert_eq!((&echo["action"], &echo["result"]), (&json!("echo"), &json!({"echo": {"msg": "hello"}})));
    let add = server.execute(&request("add", &json!({"a": 2, "b": 3}), "2")).must_be_executed(false);
    assert_eq!((&add["action"], &add["result"]), (&json!("add"), &json!({"sum": 5})));
    server.execute(&request("add", &json!({"a": "1"}), "3")).must_be(400, "invalid_payload", "`a` must be a number");
    server.execute(&request("nope", &json!({}), "4")).must_be(400, "unknown_action", "Unknown action: nope");
}

#[test]
fn approvals_are_refused_with_their_reason() {
    let server = Setup::clawshield().start();
    let payload = json!({"msg": "hello"});
    let send = |approval: Approval<'_>| server.execute(&approved("echo", &payload, "n", &approval));
    let at = |seconds: i64| {
        let time = chrono::Utc::now() + chrono::TimeDelta::seconds(seconds);
        Approval { issued_at: openexec_protocol::timestamp::print(time), ..Approval::default() }
    };
    server.execute(&request("echo", &payload, "n")).must_be(
        403,
        "approval_missing",
        "ClawShield mode requires an approval artifact",
    );
    let other = approved("echo", &json!({"msg": "other"}), "n", &Approval::default()).replace("other", "hello");
    server.execute(&other).must_be(
        403,
        "approval_hash_mismatch",
        "Action hash mismatch: approval does not match this request",
    );
    send(Approval { secret: "wrong", ..Approval::default() }).must_be(
        403,
        "approval_signature_invalid",
        "Invalid signature: approval artifact is not authentic",
    );
    let tenant = send(Approval { tenant: "tenant-002", ..Approval::default() });
    tenant.must_be(403, "approval_tenant_mismatch", "Tenant mismatch");
    assert!(!tenant.text().contains("tenant-001"));
    let issuer = approved("echo", &payload, "n", &Approval::default()).replace(r#""clawshield""#, r#""mallory""#);
    server.execute(&issuer).must_be(403, "approval_issuer_unknown", "Unknown issuer: mallory");
    send(at(-301)).must_be(403, "approval_expired", "Approval artifact expired");
    send(at(60)).must_be(403, "approval_not_yet_valid", "issued in the future, beyond the allowed clock skew");
    // Nothing of all this was stored, and nothing burned the nonce or the approval.
    send(Approval::default()).must_be_executed(false);
    let again = approved("echo", &payload, "another", &Approval::default());
    server.execute(&again).must_be(403, "approval_already_used", "consumed by another execution");
    let reused = Approval { approval_id: "approval-2", ..Approval::default() };
    let reused = server.execute(&approved("echo", &json!({"msg": "x"}), "n", &reused));
    reused.must_be(422, "nonce_reused", "The nonce belongs to a different request");
    assert!(reused.json().get("execution_id").is_none());
}

#[test]
fn a_timestamp_that_is_none_is_refused() {
    // No mint would sign it, so it is signed by hand.
    let vectors = crate::support::vectors("approvals.json");
    let server = Setup::clawshield().with("CLAWSHIELD_SECRET_KEY", "test-secret-key").start();
    let case = vectors["cases"].as_array().unwrap().iter().find(|c| c["name"] == "issued_at is no time").unwrap();
    let mut body: serde_json::Value = serde_json::from_str(case["body"].as_str().unwrap()).unwrap();
    body["approval_artifact"] = case["approval_artifact"].clone();
    server.execute(&body.to_string()).must_be(403, "approval_timestamp_invalid", "Invalid issued_at timestamp");
}

#[test]
fn an_ed25519_artifact_has_nothing_to_be_checked_with() {
    let server = Setup::clawshield().start();
    let mut body: serde_json::Value =
        serde_json::from_str(&approved("echo", &json!({}), "n", &Approval::default())).unwrap();
    body["approval_artifact"].as_object_mut().unwrap().remove("issued_by");
    body["approval_artifact"]["expires_at"] = json!("2026-02-17T10:13:22");
    server.execute(&body.to_string()).must_be(403, "not_configured", "CLAWSHIELD_PUBLIC_KEY not configured");
    // Members of both forms are neither.
    body["approval_artifact"]["issued_by"] = json!("clawshield");
    server.execute(&body.to_string()).must_be(403, "approval_signature_invalid", "");
}

#[test]
fn clawshield_mode_without_its_key_or_tenant_refuses_everything() {
    for missing in ["CLAWSHIELD_SECRET_KEY", "CLAWSHIELD_TENANT_ID"] {
        let server = Setup::clawshield().without(missing).start();
        let body = approved("echo", &json!({}), "n", &Approval::default());
        server.execute(&body).must_be(403, "not_configured", &format!("{missing} not configured"));
        let ready = server.client().get("/ready");
        assert_eq!((ready.status, ready.json()), (503, json!({"ready": false, "reasons": ["not_configured"]})));
    }
}

/// In words where they are asked for.
#[test]
fn the_log_says_what_is_not_configured() {
    let setup = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY").with("OPENEXEC_LOG_FORMAT", "text");
    let (address, admin) = (free(), free());
    let mut command = setup.command(&[]);
    command.env("OPENEXEC_LISTEN", &address).env("OPENEXEC_ADMIN_LISTEN", &admin);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let process = Process { child, address: address.parse().unwrap(), admin: admin.parse().unwrap() };
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(process.address).is_err() {
        assert!(Instant::now() < deadline, "not listening in time");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(Client::connect(process.admin).get("/readyz").text(), "not_configured\n");
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("ClawShield mode without CLAWSHIELD_SECRET_KEY: every request is refused"), "{log}");
    assert!(log.contains("ERROR") && !log.contains('{'), "{log}");
}

#[test]
fn demo_mode_ignores_an_approval() {
    let server = Setup::demo().start();
    let forged = Approval { secret: "another", issued_at: "2001-01-01T00:00:00Z".to_owned(), ..Approval::default() };
    let body = approved("echo", &json!({"a": 1}), "n", &forged);
    server.execute(&body).must_be_executed(false);
    // Nor is it used up, and its hash may be another's.
    let of_another = approved("echo", &json!({"a": 2}), "m", &forged).replace(r#"{"a":2}"#, r#"{"a":3}"#);
    assert_eq!(server.execute(&of_another).must_be_executed(false)["result"], json!({"echo": {"a": 3}}));
}

/// The first reason is the one that is said: time, fence, allow-list.
#[test]
fn time_comes_before_the_fence_and_the_fence_before_the_allow_list() {
    // In memory everything from before this start is behind a fence.
    let setup = Setup::clawshield().with("OPENEXEC_DB_URL", "memory:").with("OPENEXEC_ALLOWED_ACTIONS", "add");
    let server = setup.start();
    let must_be = |action: &str, issued_at: String, code: &str| {
        let approval = Approval { approval_id: &format!("{action}-{code}"), issued_at, ..Approval::default() };
        server.execute(&approved(action, &json!({}), code, &approval)).must_be(403, code, "");
    };
    let ago = |seconds| timestamp::print(Utc::now() - TimeDelta::seconds(seconds));
    must_be("echo", "2001-01-01T00:00:00Z".to_owned(), "approval_expired");
    must_be("echo", ago(60), "approval_predates_ledger");
    must_be("add", ago(60), "approval_predates_ledger");
    // The fence is as far ahead of the start as clocks may be apart.
    std::thread::sleep(Duration::from_secs(2));
    must_be("echo", ago(-29), "action_not_allowed");
}

#[test]
fn the_allow_list_names_what_may_be_executed() {
    let body = |action: &str, nonce: &str| request(action, &json!({}), nonce);
    let server = Setup::demo().with("OPENEXEC_ALLOWED_ACTIONS", "add, nope").start();
    server.execute(&body("add", "1")).must_be_executed(false);
    let refused = server.execute(&body("echo", "2"));
    refused.must_be(403, "action_not_allowed", "Action 'echo' is not in the execution allow-list");
    // Set and empty: none.
    let server = Setup::demo().with("OPENEXEC_ALLOWED_ACTIONS", "").start();
    server.execute(&body("add", "1")).must_be(403, "action_not_allowed", "'add'");
}

#[test]
fn a_body_that_is_no_request_is_explained() {
    let server = Setup::demo().start();
    for (body, detail) in [
        ("{", "not acceptable JSON"),
        (r#"{"action":"echo"}"#, "`nonce` must be a string"),
        (r#"{"action":"echo","nonce":"n","payload":[]}"#, "`payload` must be an object"),
        (
            r#"{"action":"echo","nonce":"n","approval_artifact":{"approval_id":"a"}}"#,
            "`approval_artifact.action_hash` is missing",
        ),
    ] {
        server.execute(body).must_be(422, "invalid_request", detail);
    }
}

/// An action that sleeps, one whose outcome nobody learns, one that was certainly not executed, one that panics.
async fn script(dispatch: Dispatch) -> Ended {
    match dispatch.payload.member("do") {
        Some(r#""sleep""#) => {
            tokio::time::sleep(Duration::from_millis(700)).await;
            Ended::Unknown
        }
        Some(r#""refuse""#) => Ended::NotExecuted { status: 503 },
        Some(r#""panic""#) => panic!("scripted"),
        _ => Ended::Unknown,
    }
}

fn scripted() -> Registry {
    let panics: openexec::registry::Pure =
        |_: &CanonicalText| -> Result<CanonicalText, InvalidPayload> { panic!("scripted") };
    Registry::builtin().with("scripted", effect(script)).with("panics", Handler::Pure(panics))
}

#[test]
fn an_execution_that_runs_is_in_flight() {
    let server = Setup::demo().registry(scripted()).file("replay: {wait: 50ms, waiters: 1}").start();
    let body = request("scripted", &json!({"do": "sleep"}), "n");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.execute(&body));
        std::thread::sleep(Duration::from_millis(200));
        // One waits as long as it may, and the others are not even let wait.
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| server.execute(&body))).collect();
        for waiting in waiting {
            let response = waiting.join().unwrap();
            response.must_be(409, "execution_in_flight", "still running");
            assert_eq!(response.header("retry-after"), Some("1"));
        }
        first.join().unwrap().must_be(504, "outcome_unknown", "cannot be known");
    });
    server.must_be_well();
}

#[test]
fn what_became_of_a_dispatch_is_said_the_same_way_ever_after() {
    let setup = Setup::demo().registry(scripted());
    let server = setup.start();
    let mut ids = Vec::new();
    for (what, first, later, code) in [
        ("unknown", 504, 409, "outcome_unknown"),
        ("refuse", 503, 503, "not_executed"),
        ("panic", 504, 409, "outcome_unknown"),
    ] {
        let body = request("scripted", &json!({"do": what}), what);
        let response = server.execute(&body);
        response.must_be(first, code, "");
        let again = server.execute(&body);
        again.must_be(later, code, "");
        assert_eq!(response.json()["execution_id"], again.json()["execution_id"]);
        assert!(response.json()["execution_id"].is_string());
        ids.push((body, later, code, again.json()));
    }
    server.stop();
    let server = setup.start();
    for (body, status, code, answer) in ids {
        let response = server.execute(&body);
        response.must_be(status, code, "");
        assert_eq!(response.json(), answer);
    }
}

/// The errors that servers of this process have logged, from the first call on.
fn errors_logged() -> String {
    static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static STARTED: Once = Once::new();
    struct Lines;
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LINES.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    STARTED.call_once(|| {
        tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_ansi(false).with_writer(|| Lines).init()
    });
    String::from_utf8(LINES.lock().unwrap().clone()).unwrap()
}

#[test]
fn a_defect_is_a_500_with_an_id_and_no_end() {
    errors_logged();
    let server = Setup::demo().registry(scripted()).start();
    let body = request("panics", &json!({}), "n");
    let defect = server.execute(&body);
    defect.must_be(500, "internal_error", "its log has more about");
    let id = defect.json()["detail"].as_str().unwrap().rsplit_once(' ').unwrap().1.to_owned();
    let log = errors_logged();
    assert!(log.lines().any(|line| line.contains(&id) && line.contains("panic")), "{id} is not in {log}");
    // The nonce is not stuck.
    server.execute(&body).must_be(500, "internal_error", "its log has more about");
    server.must_be_well();
    assert_eq!(server.metric(r#"openexec_verdicts_total{reason="internal_error",verdict="refused"}"#), 2.0);
}

#[test]
fn too_many_executions_are_refused_at_once() {
    let server = Setup::demo().registry(scripted()).file("limits: {in_flight: 1}").start();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.execute(&request("scripted", &json!({"do": "sleep"}), "1")));
        std::thread::sleep(Duration::from_millis(200));
        server.execute(&request("echo", &json!({}), "2")).must_be(503, "overloaded", "Too many executions");
        first.join().unwrap();
    });
    server.execute(&request("echo", &json!({}), "2")).must_be_executed(false);
}

#[test]
fn a_full_ledger_is_a_503_that_says_nothing_was_executed() {
    let server = Setup::demo().with("OPENEXEC_DB_URL", "memory:").file("ledger: {memory_bytes: 600}").start();
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    server.execute(&request("echo", &json!({}), "2")).must_be_executed(false);
    let full = server.execute(&request("echo", &json!({}), "3"));
    full.must_be(503, "ledger_unavailable", "nothing was executed");
    assert_eq!(full.header("retry-after"), Some("1"));
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(true);
}

#[test]
fn the_other_paths_of_the_0_2_0_service() {
    let server = Setup::demo().start();
    let mut client = server.client();
    let root = client.get("/").json();
    assert_eq!((&root["service"], &root["status"]), (&json!("OpenExec"), &json!("running")));
    assert_eq!(root["version"], json!(env!("CARGO_PKG_VERSION")));
    let health = client.get("/health").json();
    assert_eq!((&health["status"], &health["mode"]), (&json!("healthy"), &json!("demo")));
    let ready = client.get("/ready");
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true})));
    let version = client.get("/version").json();
    assert_eq!(version["version"], json!(env!("CARGO_PKG_VERSION")));
    let clawshield = Setup::clawshield().start();
    assert_eq!(clawshield.client().get("/health").json()["mode"], json!("clawshield"));
    assert!(openexec_protocol::timestamp::parse(version["timestamp"].as_str().unwrap()).is_some());
    client.get("/nope").must_be(404, "not_found", "");
    client.get("/%65xecute").must_be(404, "not_found", "");
    for (method, path, allow) in
        [("GET", "/execute", "POST"), ("PUT", "/receipts/verify", "POST"), ("POST", "/health", "GET, HEAD")]
    {
        let response =
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).unwrap();
        response.must_be(405, "method_not_allowed", "");
        assert_eq!(response.header("allow"), Some(allow));
    }
    let head = {
        std::io::Write::write_all(&mut client.stream, b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client.read_head().unwrap()
    };
    assert_eq!(head.status, 200);
    assert_eq!(client.get("/health").status, 200, "HEAD had no body");
    for body in [r#"{"exec_id":1}"#, r#"["id","{}","receipt"]"#, ""] {
        client.post("/receipts/verify", body).unwrap().must_be(422, "invalid_request", "`exec_id`");
    }
    let claim = r#" {"exec_id": "id", "result": "{}", "receipt": "none"}"#;
    assert_eq!(client.post("/receipts/verify", claim).unwrap().json(), json!({"valid": false}));
}

#[test]
fn demo_mode_by_default_answers_to_loopback_names_only() {
    let server = Setup::demo().without("OPENEXEC_MODE").start();
    let get = |host: &str| server.client().send(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
    get("rebound.example").must_be(421, "misdirected_host", "not a loopback name");
    assert_eq!(get("localhost:5000").status, 200);
    // Asked for by name, it answers to any.
    let server = Setup::demo().start();
    assert_eq!(server.client().send("GET /health HTTP/1.1\r\nHost: gate.example\r\n\r\n").unwrap().status, 200);
}
