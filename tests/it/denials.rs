//! Authentic requests that were refused leave a trace, within bounds.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use openexec_protocol::timestamp;
use serde_json::{Value, json};

use crate::callers::hash;
use crate::cli::{run, text};
use crate::keys::{keyless, private, public_file};
use crate::recovery::{READ_TOKEN, TOKEN, admin, with_tokens};
use crate::support::{Approval, PATIENCE, Server, Setup, TENANT, approved, request};

fn denials(server: &Server, query: &str) -> Value {
    let answer = admin(server.admin, "GET", &format!("/denials{query}"), READ_TOKEN, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Nobody waits for a denial to be stored.
fn until(server: &Server, query: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = denials(server, query)["denials"].as_array().unwrap().clone();
        if found.len() == count {
            return found;
        }
        assert!(Instant::now() < deadline, "{count} denials are awaited: {found:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_tried_with_a_good_approval_is_there_for_an_auditor() {
    for url in [None, Some("memory:")] {
        let setup = with_tokens(Setup::clawshield()).file("allowed_actions: [echo]");
        let setup = match url {
            Some(url) => setup.with("OPENEXEC_DB_URL", url),
            None => setup,
        };
        let server = setup.start();
        // In memory everything from before this start is behind a fence.
        let soon = timestamp::print(Utc::now() + TimeDelta::seconds(31));
        let with =
            |id, issued_at: &str| Approval { approval_id: id, issued_at: issued_at.to_owned(), ..Approval::default() };
        let now = if url.is_some() { "2999-01-01T00:00:00Z" } else { &soon };
        let expired = approved("echo", &json!({"card": "4000"}), "late", &with("a-1", "2026-01-01T00:00:00Z"));
        server.execute(&expired).must_be(403, "approval_expired", "");
        let early = approved("echo", &json!({}), "early", &with("a-2", now));
        server.execute(&early).must_be(403, "approval_not_yet_valid", "");
        // What nobody signed leaves no trace.
        server.execute(&request("echo", &json!({}), "n")).must_be(403, "approval_missing", "");
        let forged = Approval { secret: "another", ..Approval::default() };
        server.execute(&approved("echo", &json!({}), "n", &forged)).must_be(403, "approval_signature_invalid", "");
        let found = until(&server, "", 2);
        let hash: Value = serde_json::from_str(&expired).unwrap();
        assert_eq!(
            (&found[1]["reason"], &found[1]["approval_id"], &found[1]["action"], &found[1]["action_hash"]),
            (&json!("approval_expired"), &json!("a-1"), &json!("echo"), &hash["approval_artifact"]["action_hash"])
        );
        assert_eq!(
            (&found[1]["nonce"], &found[1]["tenant"], &found[1]["caller"]),
            (&json!("late"), &json!(TENANT), &Value::Null)
        );
        assert_eq!(found[0]["reason"], json!("approval_not_yet_valid"));
        assert!(!denials(&server, "").to_string().contains("4000"), "no payload");
    }
}

#[test]
fn every_reason_that_is_about_the_request_is_remembered_with_key_and_caller() {
    let setup = with_tokens(keyless());
    let hash = hash("token-of-a-test");
    let file = format!(
        "allowed_actions: [echo]
tenants: {{a: {{keys: [{{id: desk, form: ed25519, file: {}}}]}}}}
callers: {{planner: {{token_sha256: [{hash}], tenant: a}}}}
",
        public_file(&setup, 1)
    );
    let setup = setup.file(&file);
    let server = setup.start();
    let key = private(1);
    let ask = |action: &str, nonce: &str, id: u8, payload: Value| {
        let approval_id = format!("00000000-0000-4000-8000-0000000000{id:02}");
        let approval =
            Approval { private_key: Some(&key), tenant: "a", approval_id: &approval_id, ..Approval::default() };
        let body = approved(action, &payload, nonce, &approval);
        let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let head = format!("{head}Authorization: Bearer token-of-a-test\r\nContent-Length: {}\r\n\r\n", body.len());
        server.client().send(head + &body).unwrap()
    };
    ask("echo", "1", 1, json!({})).must_be_executed(false);
    ask("echo", "2", 1, json!({})).must_be(403, "approval_already_used", "");
    ask("echo", "1", 2, json!({"other": 1})).must_be(422, "nonce_reused", "");
    ask("add", "3", 3, json!({})).must_be(403, "action_not_allowed", "");
    ask("never heard of", "4", 4, json!({})).must_be(400, "unknown_action", "");
    let found = until(&server, "", 4);
    let reasons: Vec<_> = found.iter().map(|denied| denied["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["unknown_action", "action_not_allowed", "nonce_reused", "approval_already_used"]);
    for denied in &found {
        assert_eq!((&denied["key_id"], &denied["caller"]), (&json!("desk"), &json!("planner")));
    }
    // Page by page.
    let page = denials(&server, "?limit=3");
    assert_eq!(page["denials"].as_array().unwrap().len(), 3);
    let rest = denials(&server, &format!("?limit=3&before={}", page["next"]));
    assert_eq!((&rest["denials"][0], &rest["next"]), (&found[3], &Value::Null));
    assert_eq!(denials(&server, "?tenant=b")["denials"], json!([]));
    for wrong in ["?before=0", "?before=x", "?limit=0", "?limit=501", "?nonce=1"] {
        admin(server.admin, "GET", &format!("/denials{wrong}"), TOKEN, "").must_be(422, "invalid_request", "");
    }
    admin(server.admin, "GET", "/denials", "guess-of-a-stranger", "").must_be(401, "caller_unauthenticated", "");
    admin(server.admin, "POST", "/denials", TOKEN, "{}").must_be(405, "method_not_allowed", "");
    // They outlive the process.
    server.stop();
    let server = setup.start();
    assert_eq!(denials(&server, "")["denials"], json!(found));
    let mut command = setup.command(&["denials", "--tenant", "a", "--limit", "2"]);
    let listed = run(command.env("OPENEXEC_ADMIN_LISTEN", server.admin.to_string()), "");
    let said = text(&listed.stdout);
    assert_eq!(listed.status.code(), Some(0), "{}", text(&listed.stderr));
    for word in ["DENIED", "unknown_action", "never heard of", "desk", "planner", "more: --before"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(!said.contains("nonce_reused"), "{said}");
}

#[test]
fn a_caller_of_another_tenant_does_not_fill_a_tenants_record() {
    let setup = with_tokens(keyless());
    let hash = hash("token-of-a-test");
    let (one, two) = (public_file(&setup, 1), public_file(&setup, 2));
    let file = format!(
        "retention: {{denials: 3}}
tenants:
  a: {{keys: [{{id: desk, form: ed25519, file: {one}}}]}}
  b: {{keys: [{{id: desk, form: ed25519, file: {two}}}]}}
callers: {{mailer: {{token_sha256: [{hash}], tenant: b}}}}
"
    );
    let server = setup.file(&file).start();
    let key = private(1);
    for nonce in ["1", "2"] {
        let approval_id = "00000000-0000-4000-8000-000000000001";
        let approval = Approval { private_key: Some(&key), tenant: "a", approval_id, ..Approval::default() };
        let body = approved("echo", &json!({}), nonce, &approval);
        let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let head = format!("{head}Authorization: Bearer token-of-a-test\r\nContent-Length: {}\r\n\r\n", body.len());
        server.client().send(head + &body).unwrap().must_be(403, "caller_not_allowed", "");
    }
    let found = until(&server, "?tenant=b", 2);
    assert_eq!((&found[0]["caller"], &found[0]["reason"]), (&json!("mailer"), &json!("caller_not_allowed")));
    until(&server, "?tenant=a", 0);
}

#[test]
fn denials_are_bounded_in_rate_and_in_space() {
    let setup = with_tokens(keyless());
    let (one, two) = (public_file(&setup, 1), public_file(&setup, 2));
    let file = format!(
        "allowed_actions: [add]
retention: {{denials: 5}}
tenants:
  a: {{keys: [{{id: desk, form: ed25519, file: {one}}}]}}
  b: {{keys: [{{id: desk, form: ed25519, file: {two}}}]}}
"
    );
    let server = setup.file(&file).start();
    let signed = |seed: u8, tenant: &str, nonce: &str| {
        let key = private(seed);
        let approval_id = "00000000-0000-4000-8000-000000000001";
        let approval = Approval { private_key: Some(&key), tenant, approval_id, ..Approval::default() };
        approved("echo", &json!({}), nonce, &approval)
    };
    let ask = |body: &str| server.execute(body).must_be(403, "action_not_allowed", "");
    ask(&signed(2, "b", "quiet"));
    // Signed beforehand, which takes longer than asking.
    let bodies: Vec<_> = (0..400).map(|at| signed(1, "a", &at.to_string())).collect();
    for body in &bodies {
        ask(body);
    }
    // The newest of one tenant, and the other's is still there.
    until(&server, "?tenant=a", 5);
    assert_eq!(until(&server, "?tenant=b", 1)[0]["nonce"], json!("quiet"));
    let dropped = server.metric("openexec_denials_dropped_total");
    assert!((1.0..=300.0).contains(&dropped), "100 at once, and 10 a second: {dropped}");
    server.execute(&approved_add()).must_be(403, "approval_signature_invalid", "");
    server.must_be_well();
}

fn approved_add() -> String {
    approved("add", &json!({}), "n", &Approval::default())
}

#[test]
fn nobody_is_remembered_where_that_is_not_wanted() {
    let refused = |server: &Server, body: &str, innocent: &str| {
        server.execute(body).must_be(403, "action_not_allowed", "");
        // Stored behind a denial, if there was one.
        server.execute(innocent).must_be_executed(false);
        assert_eq!(denials(server, "")["denials"], json!([]));
    };
    let server = with_tokens(Setup::clawshield()).file("allowed_actions: [add]\nretention: {denials: 0}").start();
    let other = Approval { approval_id: "another", ..Approval::default() };
    refused(
        &server,
        &approved("echo", &json!({}), "n", &Approval::default()),
        &approved("add", &json!({}), "m", &other),
    );
    // In demo mode nothing is authentic.
    let server = with_tokens(Setup::demo()).file("allowed_actions: [add]").start();
    refused(&server, &request("echo", &json!({}), "n"), &request("add", &json!({}), "m"));
}
