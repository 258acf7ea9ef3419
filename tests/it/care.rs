//! `openexec ledger`: what a person does with the ledger's file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use openexec_protocol::receipt;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::forward::config;
use crate::service::{After, Service, answer, json as json_answer};
use crate::support::{Approval, Response, Setup, approved, request};

pub fn ledger(setup: &Setup, arguments: &[&str]) -> Output {
    setup.command(&[&["ledger"], arguments].concat()).output().unwrap()
}

/// Its exit code, and what it must have printed.
#[track_caller]
pub fn must(output: &Output, code: i32, printed: &[&str]) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in printed {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    text
}

fn path(setup: &Setup, name: &str) -> PathBuf {
    setup.directory.path().join(name)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The same files, with another ledger.
fn elsewhere(setup: Setup, name: &str) -> Setup {
    let url = format!("sqlite:///{}", path(&setup, name).display());
    setup.with("OPENEXEC_DB_URL", &url)
}

#[test]
fn a_copy_is_made_while_it_serves_and_restored_behind_a_fence() {
    let setup = Setup::clawshield();
    let server = setup.spawn();
    let execute = |address, body: &str| crate::support::Client::connect(address).execute(body);
    let before = approved("add", &json!({"a": 1}), "before", &Approval::default());
    let first = execute(server.address, &before);
    first.must_be_executed(false);
    let copy = path(&setup, "copy.db");
    must(&ledger(&setup, &["backup", text(&copy)]), 0, &["copied"]);
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    must(&ledger(&setup, &["backup", text(&copy)]), 74, &["copy.db", "exists"]);
    // Used after the copy was made, so unused in it.
    let used = Approval { approval_id: "approval-2", ..Approval::default() };
    execute(server.address, &approved("add", &json!({"a": 2}), "after", &used)).must_be_executed(false);
    must(
        &ledger(&setup, &["check"]),
        0,
        &["2 DONE", "receipts    2 checked", "fence       none", "The ledger is good"],
    );
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
    // The whole volume is restored: the anchor with it, which so has nothing to say.
    std::fs::copy(&copy, setup.ledger()).unwrap();
    let anchor = path(&setup, "openexec.db.anchor");
    let stored: Value = serde_json::from_slice(&std::fs::read(&anchor).unwrap()).unwrap();
    std::fs::write(
        &anchor,
        json!({"ledger_id": stored["ledger_id"], "last_seq": 1, "time": stored["time"]}).to_string(),
    )
    .unwrap();
    must(&ledger(&setup, &["check"]), 0, &["1 DONE", "openexec.db.anchor fits"]);
    must(&ledger(&setup, &["fence"]), 0, &["approvals issued before"]);
    let server = setup.spawn();
    let again = approved("add", &json!({"a": 2}), "another", &used);
    execute(server.address, &again).must_be(403, "approval_predates_ledger", "");
    let replayed = execute(server.address, &before);
    assert_eq!(replayed.body, first.body);
    replayed.must_be_executed(true);
}

#[test]
fn an_export_moves_everything_to_another_ledger() {
    let service = Service::start(|seen, stream| match seen.asked().as_str() {
        "lost" => After::Reset,
        "busy" => json_answer(stream, "503 Busy", "{}"),
        _ => {
            answer(stream, "202 Accepted", "Content-Type: application/json\r\nX-Request-Id: a1\r\n", r#"{"sent":true}"#)
        }
    });
    let file = config(service.address, ", not_executed_on: [503], response_headers: [x-request-id]");
    let setup = Setup::demo().file(&file);
    let bodies: Vec<String> = ["ok", "lost", "busy"]
        .iter()
        .map(|what| request("send", &json!({"do": what}), what))
        .chain([request("echo", &json!({"ä": "\u{1f600}"}), "echo")])
        .collect();
    let server = setup.start();
    let answers: Vec<Response> = bodies.iter().map(|body| server.execute(body)).collect();
    let export = path(&setup, "export.jsonl");
    must(&ledger(&setup, &["export", text(&export)]), 0, &["exported 4 executions"]);
    assert_eq!(std::fs::metadata(&export).unwrap().permissions().mode() & 0o777, 0o600);
    let exported = std::fs::read_to_string(&export).unwrap();
    let printed = ledger(&setup, &["export"]);
    assert_eq!(printed.stdout.split(|&b| b == b'\n').skip(1).collect::<Vec<_>>(), {
        exported.as_bytes().split(|&b| b == b'\n').skip(1).collect::<Vec<_>>()
    });
    must(&ledger(&setup, &["import", text(&export)]), 75, &["in use by process"]);
    server.stop();
    let other = elsewhere(setup, "other.db");
    let import = |name: &str| ledger(&other, &["import", text(&path(&other, name))]);
    // What is not whole, or not right, is not imported at all.
    let without_end = exported.trim_end().rsplit_once('\n').unwrap().0;
    let altered = exported.replace(r#"{\"sent\": true}"#, r#"{\"sent\": false}"#);
    assert_ne!(altered, exported);
    let newer = exported.replacen(r#""openexec_export":2"#, r#""openexec_export":3"#, 1);
    let unknown_member = exported.replacen(r#""tenant""#, r#""x":1,"tenant""#, 1);
    for (wrong, said) in [
        (without_end, "ends early"),
        (&exported[..exported.len() - 40], "line 5"),
        (&altered, "line 2: execution"),
        (&newer, "format 3"),
        (&unknown_member, "line 2: no execution"),
        ("{}\n", "neither an export"),
        ("", "neither an export"),
    ] {
        std::fs::write(path(&other, "wrong.jsonl"), wrong).unwrap();
        let printed = must(&import("wrong.jsonl"), 65, &[said]);
        assert!(!printed.contains("sent"), "{printed}");
        let count: i64 = Connection::open(path(&other, "other.db"))
            .unwrap()
            .query_row("SELECT count(*) FROM executions", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 0);
    }
    // Nobody signs an export: what it says is not sent by itself.
    assert!(exported.contains(r#""policy":"operator""#));
    std::fs::write(&export, exported.replace(r#""policy":"operator""#, r#""policy":"idempotent""#)).unwrap();
    must(&import("export.jsonl"), 0, &["imported 4 executions", "approvals issued before"]);
    let policies = "SELECT group_concat(DISTINCT policy) FROM executions";
    let policies: String =
        Connection::open(path(&other, "other.db")).unwrap().query_row(policies, [], |r| r.get(0)).unwrap();
    assert_eq!(policies, "operator");
    // Again, and as a version wrote it that knew neither keys nor callers.
    std::fs::write(&export, exported.replacen(r#""openexec_export":2"#, r#""openexec_export":1"#, 1)).unwrap();
    must(&import("export.jsonl"), 0, &["imported 0 executions", "4 were here already"]);
    must(&ledger(&other, &["check"]), 0, &["1 NOT_EXECUTED", "1 UNKNOWN", "2 DONE", "receipts    2 checked"]);
    let asked = service.seen().len();
    let server = other.start();
    for (body, before) in bodies.iter().zip(&answers) {
        let after = server.execute(body);
        if before.header("openexec-receipt").is_some() {
            assert_eq!((after.status, &after.body), (before.status, &before.body));
            assert_eq!(after.header("x-request-id"), before.header("x-request-id"));
        } else {
            assert_eq!(after.json()["code"], before.json()["code"]);
            assert_eq!(after.header("openexec-execution-id"), before.header("openexec-execution-id"));
        }
    }
    assert_eq!(service.seen().len(), asked, "nothing was sent again");
    server.stop();
    // A nonce that is another execution's here.
    let third = elsewhere(other, "third.db");
    let server = third.start();
    server.execute(&request("echo", &json!({"mine": 1}), "echo")).must_be_executed(false);
    server.stop();
    let import = ledger(&third, &["import", text(&path(&third, "export.jsonl"))]);
    must(&import, 65, &["line 5", "belongs to another one here"]);
    must(&ledger(&third, &["check"]), 0, &["executions  1 (1 DONE)"]);
}

/// As the service made it.
fn legacy_file(path: &Path, rows: &[(&str, &str, &str, &str, &str)]) {
    let file = Connection::open(path).unwrap();
    file.execute_batch(
        "CREATE TABLE execution_logs (id VARCHAR NOT NULL PRIMARY KEY, action VARCHAR NOT NULL, payload TEXT NOT NULL,
         result TEXT NOT NULL, nonce VARCHAR NOT NULL UNIQUE, approved BOOLEAN)",
    )
    .unwrap();
    for (id, action, payload, result, nonce) in rows {
        let row = params![id, action, payload, result, nonce];
        file.execute("INSERT INTO execution_logs VALUES (?1, ?2, ?3, ?4, ?5, 1)", row).unwrap();
    }
}

#[test]
fn the_file_of_0_2_0_is_imported_with_its_nonces_and_results() {
    let setup = Setup::demo();
    let old = path(&setup, "old.db");
    let (plain, no_number) = ("0b4e3f0a-1111-4222-8333-444455556666", "0b4e3f0a-1111-4222-8333-444455557777");
    legacy_file(
        &old,
        &[
            (plain, "echo", r#"{"b": 1, "msg": "h\u00e9"}"#, r#"{"echo": {"b": 1, "msg": "h\u00e9"}}"#, "n-1"),
            (no_number, "echo", r#"{"a": NaN}"#, r#"{"echo": {"a": NaN}}"#, "n-2"),
            ("0b4e3f0a-1111-4222-8333-444455558888", "echo", "{}", r#"{"echo": {}}"#, &"n".repeat(300)),
            ("0b4e3f0a-1111-4222-8333-444455559999", "echo", "{}", r#"{"echo": {}}"#, ""),
        ],
    );
    let import = ledger(&setup, &["import", text(&old)]);
    must(&import, 0, &["imported 2 executions", "2 were left out", "approvals issued before"]);
    must(&ledger(&setup, &["import", text(&old)]), 0, &["imported 0 executions", "2 were here already"]);
    must(&ledger(&setup, &["check"]), 0, &["executions  2 (2 DONE)", "receipts    1 checked"]);
    let server = setup.start();
    let answer = server.execute(&request("echo", &json!({"msg": "hé", "b": 1}), "n-1"));
    answer.must_be_executed(true);
    assert_eq!(answer.header("openexec-execution-id"), Some(plain));
    let receipt = receipt::receipt(plain, r#"{"echo": {"b": 1, "msg": "h\u00e9"}}"#);
    assert_eq!(answer.header("openexec-receipt"), Some(receipt.as_str()));
    // A result that is no JSON cannot be answered. That it was executed, and its receipt, can.
    let gone = server.execute(&request("echo", &json!({}), "n-2"));
    gone.must_be(410, "result_expired", "no longer kept");
    assert_eq!(gone.json()["receipt"], json!(receipt::receipt(no_number, r#"{"echo": {"a": NaN}}"#)));
    server.execute(&request("echo", &json!({}), "new")).must_be_executed(false);
    server.stop();
    // In ClawShield mode they are the tenant's; without one somebody must say whose.
    let clawshield = elsewhere(Setup { directory: setup.directory.clone(), ..Setup::clawshield() }, "claw.db");
    must(&ledger(&clawshield, &["import", text(&old)]), 0, &["imported 2 executions"]);
    let server = clawshield.start();
    let late = Approval { issued_at: "2020-01-01T00:00:00Z".to_owned(), ..Approval::default() };
    server.execute(&approved("echo", &json!({"msg": "hé", "b": 1}), "n-1", &late)).must_be_executed(true);
    let other = approved("echo", &json!({"msg": "other"}), "n-1", &late);
    server.execute(&other).must_be(422, "nonce_reused", "");
    server.stop();
    let nobody = elsewhere(clawshield.without("CLAWSHIELD_TENANT_ID"), "nobody.db");
    must(&ledger(&nobody, &["import", text(&old)]), 78, &["--tenant"]);
    must(&ledger(&nobody, &["import", "--tenant", "t-1", text(&old)]), 0, &["imported 2 executions"]);
    must(&ledger(&nobody, &["import", "--tenant", "a b", text(&old)]), 78, &["--tenant"]);
}

#[test]
fn what_is_old_is_forgotten_when_asked_and_nothing_that_still_counts() {
    let setup = Setup::clawshield();
    let server = setup.start();
    let (old, ids) = ("2020-01-01T00:00:00.000000Z", ["a-1", "a-2", "a-3"]);
    let approval = |id| Approval { approval_id: id, ..Default::default() };
    let bodies = ids.map(|id| approved("echo", &json!({"id": id}), id, &approval(id)));
    let answers = bodies.each_ref().map(|body| server.execute(body));
    must(&ledger(&setup, &["prune", "--results", "30d"]), 75, &["in use by process"]);
    server.stop();
    let age = |nonce: &str| {
        let change = "UPDATE executions SET settled_at = ?1 WHERE nonce = ?2";
        assert_eq!(Connection::open(setup.ledger()).unwrap().execute(change, [old, nonce]).unwrap(), 1);
    };
    age("a-1");
    must(&ledger(&setup, &["prune"]), 2, &["--results"]);
    must(&ledger(&setup, &["prune", "--executions", "24h"]), 2, &["at least 1day 1m"]);
    must(&ledger(&setup, &["prune", "--results", "30d"]), 0, &["forgot 0 executions", "results of 1 others"]);
    must(&ledger(&setup, &["check"]), 0, &["3 DONE", "receipts    2 checked", "The ledger is good"]);
    let server = setup.start();
    let gone = server.execute(&bodies[0]);
    gone.must_be(410, "result_expired", "no longer kept");
    assert_eq!(gone.json()["receipt"], json!(answers[0].header("openexec-receipt").unwrap()));
    assert_eq!(gone.json()["execution_id"], json!(answers[0].header("openexec-execution-id").unwrap()));
    assert_eq!(server.execute(&bodies[1]).body, answers[1].body);
    server.stop();
    // The newest stays, or the ledger would look as if it had been rolled back; so does what nobody knows.
    age("a-3");
    let unknown = "UPDATE executions SET state = 'UNKNOWN', result = NULL, receipt = NULL, settled_at = ?1
                   WHERE nonce = 'a-2'";
    assert_eq!(Connection::open(setup.ledger()).unwrap().execute(unknown, [old]).unwrap(), 1);
    let fenced = ["forgot 1 executions", "approvals issued before"];
    must(&ledger(&setup, &["prune", "--executions", "400d"]), 0, &fenced);
    must(&ledger(&setup, &["check"]), 0, &["1 DONE", "1 UNKNOWN", "fence       2", "openexec.db.anchor fits"]);
    let server = setup.start();
    assert_eq!(server.execute(&bodies[2]).body, answers[2].body);
    server.execute(&bodies[1]).must_be(409, "outcome_unknown", "");
    // Forgotten: the age of its approval is in the way of a second time.
    let late = Approval { issued_at: old.to_owned(), ..approval("a-1") };
    let again = approved("echo", &json!({"id": "a-1"}), "a-1", &late);
    server.execute(&again).must_be(403, "approval_expired", "");
    server.stop();
    // And the fence, should the clock say that it is young.
    let server = setup.at("2020-01-01T00:00:10Z").start();
    server.execute(&again).must_be(403, "approval_predates_ledger", "");
}

#[test]
fn a_server_forgets_what_is_old() {
    let setup = Setup::clawshield().at("2026-03-01T12:00:00Z");
    let server = setup.start();
    let issued_at = "2026-03-01T12:00:00Z".to_owned();
    let approval = |id| Approval { approval_id: id, issued_at: issued_at.clone(), ..Default::default() };
    let bodies = ["a-1", "a-2"].map(|id| approved("echo", &json!({"id": id}), id, &approval(id)));
    let answers = bodies.each_ref().map(|body| server.execute(body));
    server.stop();
    // As long as the file says; the first look is at the start.
    let setup = setup.file("retention: {results: 40d}").at("2026-04-02T12:00:00Z");
    let server = setup.start();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.execute(&bodies[0]).body, answers[0].body);
    server.stop();
    let setup = setup.file("{}");
    let server = setup.start();
    server.await_metric("openexec_ledger_results_forgotten_total", 2.0);
    for (body, answer) in bodies.iter().zip(&answers) {
        let gone = server.execute(body);
        gone.must_be(410, "result_expired", "no longer kept");
        assert_eq!(gone.json()["receipt"], json!(answer.header("openexec-receipt").unwrap()));
    }
    server.must_be_well();
    server.stop();
    // Executions only where that is asked for, and not the newest.
    let setup = setup.file("retention: {tombstones: 31d}");
    let server = setup.start();
    server.await_metric("openexec_ledger_executions_forgotten_total", 1.0);
    server.execute(&bodies[0]).must_be(403, "approval_expired", "");
    server.execute(&bodies[1]).must_be(410, "result_expired", "");
    server.stop();
    // The clock is set back: the approval is young again, and behind the fence.
    let setup = setup.at("2026-03-01T12:00:10Z");
    let server = setup.start();
    server.execute(&bodies[0]).must_be(403, "approval_predates_ledger", "");
    server.execute(&bodies[1]).must_be(410, "result_expired", "");
    server.stop();
    must(&ledger(&setup, &["check"]), 0, &["1 DONE", "openexec.db.anchor fits", "The ledger is good"]);
}

#[test]
fn a_check_finds_what_was_changed() {
    let setup = Setup::demo();
    must(&ledger(&setup, &["check"]), 78, &["there is no ledger"]);
    let server = setup.start();
    let id = server.execute(&request("add", &json!({"a": 1}), "n")).json()["id"].as_str().unwrap().to_owned();
    server.stop();
    must(&ledger(&setup, &["check"]), 0, &["The ledger is good", "openexec.db.anchor fits"]);
    let changed = |change: &str, back: &str, problem: &str| {
        let run = |sql: &str| assert_eq!(Connection::open(setup.ledger()).unwrap().execute(sql, []).unwrap(), 1);
        run(change);
        must(&ledger(&setup, &["check"]), 74, &[&id, problem]);
        must(&ledger(&setup, &["export"]), 74, &[&id, problem]);
        run(back);
    };
    changed(
        "UPDATE executions SET result = '{\"sum\": 2}'",
        "UPDATE executions SET result = '{\"sum\": 1}'",
        "its receipt does not fit its result",
    );
    changed(
        "UPDATE executions SET settled_at = NULL",
        "UPDATE executions SET settled_at = claimed_at",
        "settled_at contradicts its state",
    );
    changed(
        "UPDATE executions SET action_hash = 'x' || action_hash",
        "UPDATE executions SET action_hash = substr(action_hash, 2)",
        "its action_hash is none",
    );
    must(&ledger(&setup, &["check"]), 0, &["The ledger is good"]);
    must(&ledger(&setup.with("OPENEXEC_DB_URL", "memory:"), &["check"]), 78, &["memory:"]);
}

#[test]
fn what_changes_the_ledger_needs_its_lock() {
    let setup = Setup::demo();
    must(&ledger(&setup, &["fence"]), 78, &["there is no ledger"]);
    let server = setup.start();
    must(&ledger(&setup, &["fence"]), 75, &["in use by process"]);
    server.execute(&request("echo", &json!({}), "n")).must_be_executed(false);
    must(&ledger(&setup, &["check"]), 0, &["The ledger is good"]);
    server.stop();
    must(&ledger(&setup, &["fence"]), 0, &["approvals issued before"]);
    // One that cannot be read could only fall.
    let export = path(&setup, "export.jsonl");
    must(&ledger(&setup, &["export", text(&export)]), 0, &["exported 1 executions"]);
    let set = |fence: &str| {
        let set = "UPDATE meta SET value = ?1 WHERE key = 'fence'";
        assert_eq!(Connection::open(setup.ledger()).unwrap().execute(set, [fence]).unwrap(), 1);
    };
    set("yesterday");
    for command in [&["fence"][..], &["import", text(&export)], &["prune", "--executions", "400d"]] {
        must(&ledger(&setup, command), 74, &["fence is missing or unreadable"]);
    }
    set("2020-01-01T00:00:00.000000Z");
    must(&ledger(&setup, &["import", text(&export)]), 0, &["1 were here already"]);
    // A ledger is no export, and a stranger's file neither.
    must(&ledger(&setup, &["import", text(&setup.ledger())]), 65, &["export it first"]);
    let stranger = path(&setup, "stranger.db");
    Connection::open(&stranger).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    must(&ledger(&setup, &["import", text(&stranger)]), 65, &["neither an export"]);
    must(&ledger(&setup, &["import", "not-there"]), 74, &["not-there"]);
}
