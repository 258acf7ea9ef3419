//! What can be wrong with the ledger's file: each has a defined outcome and a message that says what to do.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use openexec_protocol::timestamp;
use rusqlite::Connection;
use serde_json::json;

use crate::forward::config;
use crate::service::{Service, json as json_answer};
use crate::support::{Approval, Client, PATIENCE, Process, Setup, approved, free, request, wait};

/// A start that fails: its exit code, and what it says.
#[track_caller]
fn must_not_start(setup: &Setup, code: i32, words: &[&str]) {
    let mut child = setup.command(&[]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = wait(&mut child);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

#[test]
fn a_second_process_on_the_same_file_is_told_who_has_it() {
    let setup = Setup::demo();
    let first = setup.spawn();
    must_not_start(&setup, 75, &["in use by process", &first.child.id().to_string()]);
    // By another name it is the same file.
    let link = setup.directory.path().join("link.db");
    std::os::unix::fs::symlink(setup.ledger(), &link).unwrap();
    let linked = Setup { directory: setup.directory.clone(), ..Setup::demo() };
    let linked = linked.with("OPENEXEC_DB_URL", &format!("sqlite:///{}", link.display()));
    must_not_start(&linked, 75, &["in use by process"]);
    assert_eq!(Client::connect(first.address).execute(&request("echo", &json!({}), "n")).status, 200);
}

#[test]
fn a_file_of_another_program_is_left_alone() {
    let setup = Setup::demo();
    let foreign = Connection::open(setup.ledger()).unwrap();
    foreign.execute_batch("CREATE TABLE songs (title TEXT); INSERT INTO songs VALUES ('x')").unwrap();
    drop(foreign);
    let before = std::fs::read(setup.ledger()).unwrap();
    must_not_start(&setup, 78, &["another program", "OPENEXEC_DB_URL"]);
    let songs: i64 =
        Connection::open(setup.ledger()).unwrap().query_row("SELECT count(*) FROM songs", [], |r| r.get(0)).unwrap();
    assert_eq!(songs, 1);
    assert!(std::fs::read(setup.ledger()).unwrap() == before, "not a byte of it is changed");
}

#[test]
fn the_0_2_0_services_file_is_recognised() {
    let setup = Setup::demo();
    Connection::open(setup.ledger())
        .unwrap()
        .execute_batch(
            "CREATE TABLE execution_logs (id VARCHAR PRIMARY KEY, action VARCHAR NOT NULL, payload TEXT NOT NULL,
             result TEXT NOT NULL, nonce VARCHAR NOT NULL UNIQUE, approved BOOLEAN)",
        )
        .unwrap();
    must_not_start(&setup, 78, &["OpenExec 0.2.0", "openexec ledger import"]);
}

#[test]
fn a_newer_schema_is_refused() {
    let setup = Setup::demo();
    setup.start().stop();
    Connection::open(setup.ledger()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    must_not_start(&setup, 78, &["schema version 99"]);
}

/// From each version that there was, made by taking away what the later ones brought.
#[test]
fn an_older_schema_is_brought_up_to_date() {
    let back = [
        "DROP INDEX executions_late; DELETE FROM meta WHERE key = 'results_forgotten_to';
         CREATE INDEX executions_kept ON executions (seq) WHERE result IS NOT NULL; PRAGMA user_version = 4;",
        "ALTER TABLE executions DROP COLUMN key_id; ALTER TABLE executions DROP COLUMN caller; DROP TABLE denials;
         PRAGMA user_version = 3;",
        "DROP INDEX executions_kept; PRAGMA user_version = 2;",
        "DROP INDEX executions_not_executed;
         ALTER TABLE executions DROP COLUMN route;
         ALTER TABLE executions DROP COLUMN policy;
         ALTER TABLE executions DROP COLUMN headers;
         ALTER TABLE executions DROP COLUMN settled_by;
         UPDATE executions SET status = 200;
         PRAGMA user_version = 1;",
    ];
    for steps in 1..=back.len() {
        let setup = Setup::demo();
        let server = setup.start();
        let body = request("echo", &json!({"a": 1}), "n");
        let before = server.execute(&body);
        server.stop();
        let fresh = schema(&setup);
        let connection = Connection::open(setup.ledger()).unwrap();
        back[..steps].iter().for_each(|sql| connection.execute_batch(sql).unwrap());
        drop(connection);
        let server = setup.start();
        let after = server.execute(&body);
        after.must_be_executed(true);
        assert_eq!((&after.body, after.header("openexec-upstream-status")), (&before.body, None));
        server.execute(&request("echo", &json!({"a": 1}), "m")).must_be_executed(false);
        server.stop();
        assert_eq!(schema(&setup), fresh);
    }
}

/// Columns and indexes of every table; SQLite keeps no other order than that of their making.
fn schema(setup: &Setup) -> BTreeSet<String> {
    let connection = Connection::open(setup.ledger()).unwrap();
    let columns = "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\"
                   FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table'";
    let indexes = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL";
    let rows = |sql: &str| -> Vec<String> {
        connection.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    [rows(columns), rows(indexes)].concat().into_iter().collect()
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let setup = Setup::demo();
    std::fs::write(setup.ledger(), "this is no database, and long enough to be looked at as one").unwrap();
    must_not_start(&setup, 74, &["damaged or is no SQLite file", "backup"]);
}

#[test]
fn a_damaged_file_is_found_by_the_check_after_a_crash() {
    let setup = Setup::demo();
    let process = setup.spawn();
    for n in 0..200 {
        Client::connect(process.address).execute(&request("echo", &json!({"a": "x".repeat(500)}), &n.to_string()));
    }
    process.signal("TERM");
    process.end();
    let mut bytes = std::fs::read(setup.ledger()).unwrap();
    assert!(bytes.len() > 40_000);
    bytes[16_384..28_672].fill(0xa5);
    std::fs::write(setup.ledger(), &bytes).unwrap();
    // A crash: the mark of a clean stop is gone. (The page that holds it is not one of the damaged.)
    let connection = Connection::open(setup.ledger()).unwrap();
    connection.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
    drop(connection);
    must_not_start(&setup, 74, &["damaged", "backup"]);
}

/// Met while it serves: by a claim, and by a look-up, each of which needs the page.
#[test]
fn damage_that_is_met_while_serving_ends_the_process() {
    let claims = approved("echo", &json!({}), "m", &Approval { approval_id: "approval-2", ..Approval::default() });
    // Expired, which is said only of a nonce that has no answer yet.
    let issued_at = timestamp::print(Utc::now() - TimeDelta::minutes(30));
    let looks_up = approved("echo", &json!({}), "n", &Approval { issued_at, ..Approval::default() });
    for body in [claims, looks_up] {
        let setup = Setup::clawshield();
        let server = setup.start();
        server.execute(&approved("echo", &json!({}), "n", &Approval::default())).must_be_executed(false);
        server.stop();
        let connection = Connection::open(setup.ledger()).unwrap();
        let (page, size): (u32, u32) = connection
            .query_row(
                "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE type = 'index' AND sql LIKE '%(tenant, nonce)%'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        drop(connection);
        let (page, size) = (page as usize, size as usize);
        let mut bytes = std::fs::read(setup.ledger()).unwrap();
        bytes[(page - 1) * size..page * size].fill(0xa5);
        std::fs::write(setup.ledger(), &bytes).unwrap();
        // It was closed cleanly, so that the start does not read all of it.
        let process = setup.spawn();
        assert!(Client::connect(process.address).try_execute(&body).is_none(), "nobody is told anything");
        must_have_died_of_its_file(process);
        must_not_start(&setup, 74, &["damaged", "backup"]);
    }
}

#[track_caller]
fn must_have_died_of_its_file(process: Process) {
    let (code, log) = process.end();
    assert_eq!(code, Some(74), "{log}");
    assert!(log.contains("can no longer be trusted"), "{log}");
}

/// Nobody is told of a commit that failed, and nothing is sent for it. Later the file's own word counts: what was written
/// is there, since the machine has not failed, whether or not it could be synced.
#[test]
fn a_disk_that_fails_a_write_or_a_sync_ends_the_process() {
    enum Then {
        Executed { replayed: bool },
        Unknown,
    }
    let library = tempfile::tempdir().unwrap();
    let library = library.path().join("failing_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/failing_disk.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success());
    for (what, claim, outcome) in [
        ("SYNCS_FAIL", Then::Unknown, Then::Executed { replayed: true }),
        ("WRITES_FAIL", Then::Executed { replayed: false }, Then::Unknown),
    ] {
        let setup = Setup::demo();
        let fails = setup.directory.path().join("fails");
        let breaks = fails.clone();
        let service = Service::start(move |seen, stream| {
            if seen.asked() == "outcome" {
                std::fs::write(&breaks, "").unwrap();
            }
            json_answer(stream, "200 OK", "{}")
        });
        let setup = setup
            .with("LD_PRELOAD", library.to_str().unwrap())
            .with(what, fails.to_str().unwrap())
            .file(&config(service.address, ""));
        for (commit, sent, then) in [("claim", 0, &claim), ("outcome", 1, &outcome)] {
            let process = setup.spawn();
            let stored = request("echo", &json!({}), commit);
            let first = Client::connect(process.address).execute(&stored);
            first.must_be_executed(false);
            if commit == "claim" {
                std::fs::write(&fails, "").unwrap();
            }
            let body = request("send", &json!({"do": commit}), &format!("send-{commit}"));
            assert!(Client::connect(process.address).try_execute(&body).is_none(), "nobody is told anything");
            must_have_died_of_its_file(process);
            assert_eq!(service.times(commit), sent, "{what}: {commit}");
            std::fs::remove_file(&fails).unwrap();
            let process = setup.spawn();
            let mut client = Client::connect(process.address);
            assert_eq!(client.execute(&stored).body, first.body);
            let again = client.execute(&body);
            match then {
                Then::Executed { replayed } => drop(again.must_be_executed(*replayed)),
                Then::Unknown => again.must_be(409, "outcome_unknown", ""),
            }
            let sent = sent + usize::from(matches!(then, Then::Executed { replayed: false }));
            assert_eq!(service.times(commit), sent, "{what}: {commit}");
            client.execute(&request("send", &json!({}), &format!("innocent-{commit}"))).must_be_executed(false);
        }
    }
}

/// The whole file is read first. A program that reads an old state of it holds that up here, for five seconds at most.
#[test]
fn while_the_file_is_checked_nothing_is_executed_and_it_is_said_why() {
    let in_time = (0..5).any(|_| is_seen_while_it_is_checked());
    assert!(in_time, "it was never looked at before the five seconds were over");
}

/// `false` where this machine was too busy to look in time.
fn is_seen_while_it_is_checked() -> bool {
    let setup = Setup::demo();
    let killed = setup.spawn();
    let body = request("echo", &json!({}), "1");
    let first = Client::connect(killed.address).execute(&body);
    first.must_be_executed(false);
    drop(killed);
    let reader = Connection::open(setup.ledger()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM executions").unwrap();
    let began = Instant::now();
    let server = setup.start();
    let readyz = || Client::connect(server.admin).get("/readyz");
    let (probe, ready) = (readyz(), server.client().get("/ready"));
    let live = Client::connect(server.admin).get("/livez");
    let new = server.execute(&request("echo", &json!({}), "2"));
    let known = server.execute(&body);
    if began.elapsed() >= Duration::from_secs(5) {
        return false;
    }
    assert_eq!((probe.status, probe.text()), (503, "ledger_checking\n".to_owned()));
    assert_eq!(ready.json(), json!({"ready": false, "reasons": ["ledger_checking"]}));
    assert_eq!(live.status, 200);
    new.must_be(503, "ledger_unavailable", "");
    // Nor is anybody answered from what may be damaged.
    known.must_be(503, "ledger_unavailable", "");
    reader.execute_batch("ROLLBACK").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while readyz().status != 200 {
        assert!(Instant::now() < deadline, "still {}", readyz().text());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.execute(&body).body, first.body);
    server.execute(&request("echo", &json!({}), "2")).must_be_executed(false);
    true
}

/// It was made, and nothing was ever served from it: there is nothing that it could have forgotten.
#[test]
fn a_first_start_that_fails_leaves_no_fence_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::clawshield().with("OPENEXEC_LISTEN", &taken.local_addr().unwrap().to_string());
    must_not_start(&setup, 69, &["cannot be listened on"]);
    assert!(setup.ledger().exists());
    let server = setup.with("OPENEXEC_LISTEN", "127.0.0.1:0").start();
    server.execute(&approved("echo", &json!({}), "n", &Approval::default())).must_be_executed(false);
}

#[test]
fn a_missing_file_is_not_made_where_that_is_forbidden() {
    let setup = Setup::demo().file("ledger: {create: false}");
    must_not_start(&setup, 78, &["ledger.create is false"]);
    assert!(!setup.ledger().exists());
}

#[test]
fn accidental_demo_mode_does_not_open_a_real_ledger() {
    let setup = Setup::clawshield();
    setup.start().stop();
    let demo = Setup::demo().without("OPENEXEC_MODE");
    let demo = Setup { directory: setup.directory.clone(), ..demo };
    let demo = demo.with("OPENEXEC_DB_URL", &format!("sqlite:///{}", setup.ledger().display()));
    must_not_start(&demo, 78, &["served ClawShield mode", "OPENEXEC_MODE=clawshield"]);
    // Asked for by name it may: the empty tenant sees nothing of the other.
    demo.with("OPENEXEC_MODE", "demo").start().must_be_well();
}

/// Runs a script in a mount namespace of its own, then the server. Root has one for the asking, others through a user
/// namespace.
pub fn in_mount_namespace(setup: &Setup, script: &str, url: &str) -> Command {
    let root = std::fs::metadata("/proc/self").unwrap();
    let is_root = std::os::unix::fs::MetadataExt::uid(&root) == 0;
    let server = env!("CARGO_BIN_EXE_openexec");
    let mut command = Command::new("unshare");
    command
        .args(if is_root { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"][..] })
        .args(["sh", "-ec", &format!("{script}\nexec {server}")])
        .envs(&setup.environment)
        .env("OPENEXEC_DB_URL", url)
        .env("OPENEXEC_LISTEN", free())
        .env("OPENEXEC_ADMIN_LISTEN", free())
        .current_dir(setup.directory.path());
    if let Some(path) = setup.config_path() {
        command.env("OPENEXEC_CONFIG", path);
    }
    command
}

#[test]
fn a_read_only_mount_is_said_to_be_one() {
    let setup = Setup::demo();
    let inside = setup.directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let url = format!("sqlite:///{}/openexec.db", inside.display());
    let script = format!("mount -t tmpfs -o ro none {}", inside.display());
    let output = in_mount_namespace(&setup, &script, &url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.contains("cannot be opened for writing") && said.contains("Read-only file system"), "{said}");
}

/// SQLite would open it all the same, for reading.
#[test]
fn a_read_only_file_is_said_to_be_one() {
    let setup = Setup::demo();
    setup.start().stop();
    let file = setup.ledger();
    let file = file.display();
    let script = format!("mount --bind {file} {file}\nmount -o remount,bind,ro {file}");
    let output = in_mount_namespace(&setup, &script, &format!("sqlite:///{file}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.contains("cannot be opened for writing"), "{said}");
}

#[test]
fn what_waits_together_is_committed_together() {
    let setup = Setup::demo();
    let server = setup.start();
    server.execute(&request("echo", &json!({}), "first")).must_be_executed(false);
    let commits = || server.metric("openexec_ledger_commits_total");
    let rows = || server.metric("openexec_ledger_batch_size_sum");
    let (commits_before, rows_before) = (commits(), rows());
    // Another program holds the write lock for a moment.
    let other = Connection::open(setup.ledger()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        for at in 0..16 {
            let server = &server;
            let execute = move || server.execute(&request("echo", &json!({}), &at.to_string())).must_be_executed(false);
            scope.spawn(execute);
        }
        std::thread::sleep(Duration::from_secs(1));
        other.execute_batch("ROLLBACK").unwrap();
    });
    assert_eq!(rows() - rows_before, 16.0);
    // One that found the lock taken, and those that came meanwhile.
    assert!(commits() - commits_before < 8.0, "{}", commits() - commits_before);
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let setup = Setup::demo().file("ledger: {min_free_bytes: 0}");
    let inside = setup.directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let url = format!("sqlite:///{}/openexec.db", inside.display());
    let directory = inside.display();
    let script = format!("mount -t tmpfs -o size=2m none {directory}\nhead -c 700000 /dev/zero > {directory}/filler");
    let process = Process::start(&mut in_mount_namespace(&setup, &script, &url));
    let execute = |nonce: &str| {
        Client::connect(process.address).execute(&request("echo", &json!({"a": "x".repeat(60_000)}), nonce))
    };
    let mut stored = Vec::new();
    let full = loop {
        let nonce = stored.len().to_string();
        let response = execute(&nonce);
        if response.status != 200 {
            break response;
        }
        stored.push(response);
        assert!(stored.len() < 100, "2 MiB hold more than 6");
    };
    assert!(!stored.is_empty());
    full.must_be(503, "ledger_unavailable", "nothing was executed");
    let readyz = || Client::connect(process.admin).get("/readyz");
    assert_eq!((readyz().status, readyz().text()), (503, "ledger_full\n".to_owned()));
    // What is stored is still answered, in the company of what cannot be, too.
    std::thread::scope(|scope| {
        let execute = &execute;
        for (nonce, response) in stored.iter().enumerate() {
            scope.spawn(move || {
                execute(&format!("new-{nonce}")).must_be(503, "ledger_unavailable", "nothing was executed")
            });
            scope.spawn(move || assert!(execute(&nonce.to_string()).body == response.body));
        }
    });
    // Room again: it notices by itself.
    let filler = format!("/proc/{}/root{directory}/filler", process.child.id());
    std::fs::remove_file(Path::new(&filler)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while readyz().status != 200 {
        assert!(Instant::now() < deadline, "still {}", readyz().text());
        std::thread::sleep(Duration::from_millis(50));
    }
    execute(&stored.len().to_string()).must_be_executed(false);
}

#[test]
fn a_disk_that_is_nearly_full_takes_nothing_new_and_keeps_room_for_what_runs() {
    let setup = Setup::demo().file("ledger: {min_free_bytes: 6000000}");
    let inside = setup.directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let url = format!("sqlite:///{}/openexec.db", inside.display());
    let directory = inside.display();
    let script = format!("mount -t tmpfs -o size=8m none {directory}");
    let process = Process::start(&mut in_mount_namespace(&setup, &script, &url));
    let execute = |nonce: &str| Client::connect(process.address).execute(&request("echo", &json!({}), nonce));
    let first = execute("1");
    first.must_be_executed(false);
    let free = crate::support::metric(process.admin, "openexec_ledger_disk_free_bytes");
    assert!(free > 6e6 && crate::support::metric(process.admin, "openexec_ledger_wal_bytes") > 0.0, "{free}");
    let filler = format!("/proc/{}/root{directory}/filler", process.child.id());
    std::fs::write(&filler, vec![0; 3_000_000]).unwrap();
    let readyz = || Client::connect(process.admin).get("/readyz").text();
    let becomes = |text: &str| {
        let deadline = Instant::now() + PATIENCE;
        while readyz() != text {
            assert!(Instant::now() < deadline, "still {}", readyz());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    becomes("ledger_disk_low\n");
    execute("2").must_be(503, "ledger_unavailable", "nothing was executed");
    // What is stored is still answered.
    assert_eq!(execute("1").body, first.body);
    std::fs::remove_file(&filler).unwrap();
    becomes("ok\n");
    execute("2").must_be_executed(false);
}

#[test]
fn a_ledger_that_stops_to_be_writable_is_a_503_and_not_ready() {
    let setup = Setup::clawshield();
    let server = setup.start();
    server.execute(&approved("echo", &json!({}), "1", &Approval::default())).must_be_executed(false);
    // Another program holds the write lock for longer than anyone waits.
    let other = Connection::open(setup.ledger()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let second = Approval { approval_id: "approval-2", ..Approval::default() };
    let refused = server.execute(&approved("echo", &json!({}), "2", &second));
    refused.must_be(503, "ledger_unavailable", "nothing was executed");
    assert_eq!(server.client().get("/ready").json()["reasons"], json!(["ledger_unavailable"]));
    other.execute_batch("ROLLBACK").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while server.client().get("/ready").status != 200 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    server.execute(&approved("echo", &json!({}), "2", &second)).must_be_executed(false);
}

#[test]
fn a_person_can_read_it() {
    let setup = Setup::clawshield();
    let server = setup.start();
    let answer = server.execute(&approved("add", &json!({"a": 1}), "n", &Approval::default())).json();
    // While it is in use, and without a right to write.
    let reader = Connection::open_with_flags(setup.ledger(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let row: (String, String, String, String, String) = reader
        .query_row("SELECT id, state, approval_id, result, receipt FROM executions WHERE nonce = 'n'", [], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))
        })
        .unwrap();
    let expected = (answer["id"].as_str().unwrap(), answer["receipt"].as_str().unwrap());
    assert_eq!((row.0.as_str(), row.4.as_str()), expected);
    assert_eq!((row.1.as_str(), row.2.as_str(), row.3.as_str()), ("DONE", "approval-1", r#"{"sum": 1}"#));
    let mode = std::fs::metadata(setup.ledger()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "results are nobody else's: {mode:o}");
}
