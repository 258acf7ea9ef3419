//! A database that is away, that hangs, or that comes later than the server.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{actions, ask, must_work, must_work_again, replica, service, start, until, until_not, wish};
use crate::database::Postgres;
use crate::support::{Client, Process, Setup, free};

/// Its troubles, as the readiness probe tells them.
fn troubles(admin: SocketAddr) -> String {
    let response = Client::connect(admin).get("/readyz");
    if response.status == 200 { String::new() } else { response.text() }
}

/// A process that lives and need not be ready. What it says is in [`log`].
pub(super) fn spawn_unready(setup: &Setup) -> Process {
    let (address, admin) = (free(), free());
    let mut command = setup.command(&[]);
    command.env("OPENEXEC_LISTEN", &address).env("OPENEXEC_ADMIN_LISTEN", &admin);
    let log = File::create(setup.directory.path().join("log")).unwrap();
    let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let process = Process { child, address: address.parse().unwrap(), admin: admin.parse().unwrap() };
    until("it listens", || std::net::TcpStream::connect(process.admin).is_ok());
    process
}

pub(super) fn log(setup: &Setup) -> String {
    std::fs::read_to_string(setup.directory.path().join("log")).unwrap()
}

/// It waits for its database, and ends when it is told to.
pub(super) fn must_wait(setup: &Setup) -> String {
    let process = spawn_unready(setup);
    until("it waits", || log(setup).contains("the ledger's database is not there: it is waited for"));
    ask(process.address, &wish("echo", "ok", "early")).must_be(503, "ledger_unavailable", "nothing was executed");
    assert!(troubles(process.admin).contains("ledger_"), "{}", troubles(process.admin));
    assert_eq!(Client::connect(process.admin).get("/livez").status, 200);
    process.signal("TERM");
    let (code, _) = process.end();
    let log = log(setup);
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    log
}

#[test]
fn a_database_that_is_down_is_said_at_once_and_served_again_without_a_restart() {
    let (service, door) = service();
    door.open();
    let server = Postgres::start();
    let replica = start(&replica(&server.url(), &actions(service.address, "15s", "60s")));
    let before = wish("plain", "before", "before");
    let stored = replica.execute(&before);
    stored.must_be_executed(false);
    for (round, ends) in [Postgres::stop, Postgres::kill].into_iter().enumerate() {
        ends(&server);
        for (at, action) in ["plain", "echo", "plain"].iter().enumerate() {
            let body = wish(action, "never", &format!("n-{round}-{at}"));
            replica.execute(&body).must_be(503, "ledger_unavailable", "nothing was executed");
        }
        assert_eq!(replica.execute(&before).body, stored.body, "what this process stored it still gives");
        assert!(troubles(replica.admin).contains("ledger_unavailable"), "{}", troubles(replica.admin));
        assert_eq!(service.times("never"), 0);
        server.restart();
        must_work_again(replica.address);
        until("it is ready", || troubles(replica.admin).is_empty());
        // What was refused was not used up.
        let again = wish("plain", &format!("again-{round}"), &format!("n-{round}-0-again"));
        ask(replica.address, &again).must_be_executed(false);
        let refused = wish("echo", "never", &format!("n-{round}-1"));
        ask(replica.address, &refused).must_be_executed(false);
    }
    assert_eq!(service.times("before"), 1);
}

#[test]
fn a_database_that_hangs_holds_up_the_first_who_ask_and_nobody_after_them() {
    let (service, _door) = service();
    let server = Postgres::start();
    let yaml = actions(service.address, "15s", "60s")
        .replace("ledger: {lease: 60s}", "ledger: {lease: 60s, statement_timeout: 300ms, connect_timeout: 300ms}");
    let replica = start(&replica(&server.url(), &yaml));
    must_work(replica.address);
    server.pause();
    replica.execute(&wish("plain", "ok", "first")).must_be(503, "ledger_unavailable", "");
    let asked = Instant::now();
    for at in 0..40 {
        replica.execute(&wish("plain", "ok", &format!("n-{at}"))).must_be(503, "ledger_unavailable", "");
    }
    assert!(asked.elapsed() < Duration::from_millis(300) * 20, "they did not wait for it: {:?}", asked.elapsed());
    assert!(troubles(replica.admin).contains("ledger_unavailable"));
    let sent = service.times("ok");
    server.resume();
    let first =
        until_not(&["ledger_unavailable", "execution_in_flight"], replica.address, &wish("plain", "ok", "first"));
    first.must_be_executed(false);
    assert_eq!(service.times("ok"), sent + 1, "whatever became of its claim, it is executed once");
    must_work(replica.address);
}

#[test]
fn a_server_waits_for_its_database_and_a_signal_ends_the_waiting() {
    let (service, _door) = service();
    let server = Postgres::start();
    server.stop();
    let setup = replica(&server.url(), &actions(service.address, "15s", "60s"));
    let waits = setup.start();
    ask(waits.address, &wish("plain", "ok", "early")).must_be(503, "ledger_unavailable", "nothing was executed");
    must_wait(&setup);
    server.restart();
    until("it is ready", || troubles(waits.admin).is_empty());
    ask(waits.address, &wish("plain", "ok", "early")).must_be_executed(false);
    must_work(waits.address);
    // One that hangs, too.
    server.pause();
    let hangs = spawn_unready(&setup);
    hangs.signal("TERM");
    let (code, _) = hangs.end();
    assert_eq!(code, Some(0), "{}", log(&setup));
    assert!(!log(&setup).contains("panicked"), "{}", log(&setup));
    server.resume();
    must_work_again(waits.address);
}
