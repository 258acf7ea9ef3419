//! `openexec ledger` on PostgreSQL, and from one engine to the other and back.

use std::path::Path;

use serde_json::{Value, json};

use crate::care::{ledger, must, text};
use crate::database::Postgres;
use crate::forward::config;
use crate::service::{After, Service, answer, json as json_answer};
use crate::support::{Approval, Client, Process, Response, Setup, approved, request};

fn with_database(setup: Setup) -> (Setup, String) {
    let url = Postgres::shared().new_database();
    (setup.with("OPENEXEC_DB_URL", &url), url)
}

fn stop(process: Process) {
    process.signal("TERM");
    let (code, _) = process.end();
    assert_eq!(code, Some(0));
}

/// Without the first line, which has the time and the ledger.
fn executions(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_moves_from_one_engine_to_the_other_and_back() {
    let service = Service::start(|seen, stream| match seen.asked().as_str() {
        "lost" => After::Reset,
        "busy" => json_answer(stream, "503 Busy", "{}"),
        _ => {
            answer(stream, "202 Accepted", "Content-Type: application/json\r\nX-Request-Id: a1\r\n", r#"{"sent":true}"#)
        }
    });
    let file = config(service.address, ", not_executed_on: [503], response_headers: [x-request-id]");
    let setup = Setup::clawshield().file(&file);
    let body = |action: &str, payload: &Value, id: &str| {
        approved(action, payload, id, &Approval { approval_id: id, ..Approval::default() })
    };
    let mut bodies: Vec<String> =
        ["ok", "lost", "busy"].iter().map(|what| body("send", &json!({"do": what}), what)).collect();
    bodies.extend((0..200).map(|n| body("echo", &json!({"ä": "\u{1f600}", "n": n}), &format!("echo-{n}"))));
    let execute = |setup: &Setup| -> Vec<Response> {
        let process = setup.spawn();
        let mut client = Client::connect(process.address);
        let answers = bodies.iter().map(|body| client.execute(body)).collect();
        drop(client);
        stop(process);
        answers
    };
    let first = execute(&setup);
    let asked = service.seen().len();
    let [one, two, three] = ["1.jsonl", "2.jsonl", "3.jsonl"].map(|name| setup.directory.path().join(name));
    must(&ledger(&setup, &["export", text(&one)]), 0, &["exported 203 executions"]);

    let (shared, url) = with_database(setup);
    must(&ledger(&shared, &["import", text(&one)]), 0, &["imported 203 executions", "approvals issued before"]);
    must(&ledger(&shared, &["import", text(&one)]), 0, &["imported 0 executions", "203 were here already"]);
    let good = ["203 (201 DONE, 1 NOT_EXECUTED, 1 UNKNOWN)", "receipts    201 checked", "replicas    0", "is good"];
    must(&ledger(&shared, &["check"]), 0, &good);
    let same = |answers: &[Response]| {
        for (before, after) in first.iter().zip(answers) {
            let id = "openexec-execution-id";
            assert_eq!((after.header(id), &after.json()["result"]), (before.header(id), &before.json()["result"]));
            assert_eq!(after.header("openexec-receipt"), before.header("openexec-receipt"));
        }
    };
    same(&execute(&shared));
    assert_eq!(service.seen().len(), asked, "nothing was sent again");
    must(&ledger(&shared, &["export", text(&two)]), 0, &["exported 203 executions"]);
    assert_eq!(executions(&one), executions(&two));

    let moved = |name: &str| {
        let url = format!("sqlite:///{}", shared.directory.path().join(name).display());
        Setup { directory: shared.directory.clone(), ..Setup::clawshield() }.with("OPENEXEC_DB_URL", &url).file(&file)
    };
    let back = moved("back.db");
    must(&ledger(&back, &["import", text(&two)]), 0, &["imported 203 executions"]);
    must(&ledger(&back, &["export", text(&three)]), 0, &["exported 203 executions"]);
    assert_eq!(executions(&one), executions(&three));
    same(&execute(&back));

    // What somebody has changed is found on the way, and not handed on.
    Postgres::shared().sql_on(&url, "UPDATE openexec_executions SET result = '{\"n\": 7}' WHERE nonce = 'echo-3'");
    let altered = shared.directory.path().join("altered.jsonl");
    must(&ledger(&shared, &["export", text(&altered)]), 74, &["its receipt does not fit"]);
    assert!(!altered.exists());
    must(&ledger(&shared, &["check"]), 74, &["its receipt does not fit"]);
}

#[test]
fn an_import_is_whole_or_none_and_not_beside_replicas() {
    let setup = Setup::demo();
    let process = setup.spawn();
    for nonce in ["1", "2", "3"] {
        Client::connect(process.address).execute(&request("echo", &json!({}), nonce)).must_be_executed(false);
    }
    stop(process);
    let export = setup.directory.path().join("export.jsonl");
    must(&ledger(&setup, &["export", text(&export)]), 0, &["exported 3"]);
    let (shared, url) = with_database(setup);
    let process = shared.spawn();
    let mine = request("echo", &json!({"mine": true}), "3");
    Client::connect(process.address).execute(&mine).must_be_executed(false);
    must(&ledger(&shared, &["import", text(&export)]), 75, &["1 replicas use the ledger"]);
    stop(process);
    must(&ledger(&shared, &["import", text(&export)]), 65, &["line 4", "belongs to another one here"]);
    assert_eq!(
        Postgres::shared().sql_on(&url, "SELECT count(*), (SELECT fence FROM openexec_meta) FROM openexec_executions"),
        "1|"
    );
    let cut_off = std::fs::read_to_string(&export).unwrap().lines().take(3).collect::<Vec<_>>().join("\n");
    std::fs::write(&export, cut_off).unwrap();
    must(&ledger(&shared, &["import", text(&export)]), 65, &["ends early"]);
    assert_eq!(Postgres::shared().sql_on(&url, "SELECT count(*) FROM openexec_executions"), "1");
    let process = shared.spawn();
    Client::connect(process.address).execute(&mine).must_be_executed(true);
}

#[test]
fn a_database_is_made_fenced_and_pruned_by_hand() {
    let (setup, url) = with_database(Setup::clawshield());
    let sql = |sql: &str| Postgres::shared().sql_on(&url, sql);
    // The server itself forgets nothing meanwhile.
    let setup = setup.file("ledger: {create: false, statement_timeout: 500ms}\nretention: {results: 90d}");
    must(&ledger(&setup, &["check"]), 78, &["run `openexec ledger migrate`"]);
    must(&setup.command(&[]).output().unwrap(), 78, &["run `openexec ledger migrate`"]);
    must(&ledger(&setup, &["migrate"]), 0, &["the ledger's tables have version 1"]);
    must(&ledger(&setup, &["migrate"]), 0, &["the ledger's tables have version 1"]);
    let process = setup.spawn();
    let execute = |id: &str| {
        let approval = Approval { approval_id: id, ..Approval::default() };
        Client::connect(process.address).execute(&approved("echo", &json!({"n": 1}), id, &approval))
    };
    for id in ["1", "2", "3"] {
        execute(id).must_be_executed(false);
    }
    let unused = approved("echo", &json!({}), "4", &Approval { approval_id: "4", ..Approval::default() });
    // Beside a server, which compares it in each claim.
    must(&ledger(&setup, &["fence"]), 0, &["approvals issued before"]);
    Client::connect(process.address).execute(&unused).must_be(403, "approval_predates_ledger", "");
    execute("1").must_be_executed(true);
    sql(
        "UPDATE openexec_executions SET claimed_at = claimed_at - interval '40 days', settled_at = settled_at - interval '40 days'",
    );
    must(&ledger(&setup, &["prune", "--results", "30d"]), 0, &["forgot 0 executions, and the results of 3 others"]);
    must(&ledger(&setup, &["prune", "--executions", "30d"]), 0, &["forgot 2 executions"]);
    assert_eq!(sql("SELECT nonce FROM openexec_executions"), "3", "the newest stays");
    must(&ledger(&setup, &["backup", "copy.db"]), 64, &["pg_dump"]);
    stop(process);
    assert_eq!(sql("SELECT count(*) FROM openexec_replicas"), "0", "it has left");
}
