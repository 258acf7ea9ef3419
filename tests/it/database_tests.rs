//! What tests of a ledger rely on does what it says.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::database::{PASSWORD, PgBouncer, Postgres, Proxy, is_alive, psql, wait_until};

/// What psql prints for a client's statement, or nothing if it failed.
fn ask(url: &str, sql: &str) -> Option<String> {
    let output = psql(url).args(["-c", sql]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

/// A server of its own with a table `t (n int)`.
fn server_with_table() -> Postgres {
    let server = Postgres::start();
    ask(&server.url(), "CREATE TABLE t (n int)").unwrap();
    server
}

#[test]
fn committed_rows_survive_a_kill_and_a_stop() {
    let server = server_with_table();
    ask(&server.url(), "INSERT INTO t VALUES (1)").unwrap();
    server.kill();
    assert_eq!(ask(&server.url(), "SELECT 1"), None);
    server.restart();
    assert!(server.log().contains("was not properly shut down"), "{}", server.log());
    ask(&server.url(), "INSERT INTO t VALUES (2)").unwrap();
    server.stop();
    assert_eq!(ask(&server.url(), "SELECT 1"), None);
    server.restart();
    assert_eq!(server.sql("SELECT n FROM t ORDER BY n"), "1\n2");
}

#[test]
fn a_standby_has_what_was_committed_and_takes_over() {
    let primary = server_with_table();
    let standby = primary.standby("second");
    assert_eq!(ask(&standby.url(), "INSERT INTO t VALUES (0)"), None, "a standby takes no writes");
    primary.set("synchronous_standby_names", "second");
    let states = "SELECT application_name, sync_state FROM pg_stat_replication";
    wait_until("the standby is the synchronous one", || primary.sql(states) == "second|sync");
    // A commit waits for the standby, and for no other reason.
    standby.pause();
    let mut waiting = psql(&primary.url()).args(["-c", "INSERT INTO t VALUES (1)"]).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("the commit waits", || primary.sql(waits) == "1");
    standby.resume();
    assert!(waiting.wait().unwrap().success());
    primary.kill();
    standby.promote();
    ask(&standby.url(), "INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(standby.sql("SELECT n FROM t ORDER BY n"), "1\n2");
}

#[test]
fn a_paused_server_is_silent_until_it_is_resumed() {
    let server = Postgres::start();
    server.pause();
    let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap(); // SSLRequest
    connection.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut answer = [0];
    assert_eq!(connection.read_exact(&mut answer).unwrap_err().kind(), ErrorKind::WouldBlock);
    server.resume();
    connection.set_read_timeout(None).unwrap();
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    assert_eq!(ask(&server.url(), "SELECT 1").as_deref(), Some("1"));
}

#[test]
fn databases_of_the_shared_server_are_apart_and_belong_to_the_role() {
    let server = Postgres::shared();
    let (first, second) = (server.new_database(), server.new_database());
    for url in [&first, &second] {
        ask(url, "CREATE TABLE t (n int)").unwrap();
    }
    ask(&first, "INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(server.sql_on(&first, "SELECT n FROM t"), "1");
    assert_eq!(server.sql_on(&second, "SELECT n FROM t"), "");
    assert_eq!(ask(&first, "CREATE ROLE other"), None, "the role is no superuser");
    assert_eq!(
        ask(&first.replace("openexec@", "postgres@"), "SELECT 1"),
        None,
        "the superuser has a socket of its own"
    );
}

#[test]
fn a_server_with_tls_takes_passwords_or_certificates_and_no_plain_text() {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let signed = |name: &str, role: &str| {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, role);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Command::new("chmod").arg("600").arg(&path).status().unwrap();
        path.display().to_string()
    };
    let (certificate, key) = signed("localhost", "server");
    let root = file("ca.crt", &ca.pem());
    let tls = |server: &Postgres| {
        format!("{}?sslmode=verify-full&sslrootcert={root}", server.url().replace("127.0.0.1", "localhost"))
    };

    let server = Postgres::with_tls(&certificate, &key, None);
    let asked = |password: &str| {
        psql(&tls(&server)).env("PGPASSWORD", password).args(["-c", "SELECT 1"]).output().unwrap().status.success()
    };
    assert!(!asked("another"));
    assert!(asked(PASSWORD));
    assert_eq!(ask(&format!("{}?sslmode=disable&password={PASSWORD}", server.url()), "SELECT 1"), None);
    assert_eq!(server.sql("SELECT 1"), "1");

    let server = Postgres::with_tls(&certificate, &key, Some(&ca.pem()));
    assert_eq!(ask(&tls(&server), "SELECT 1"), None);
    for (role, expected) in [("somebody", None), ("openexec", Some("1"))] {
        let (certificate, key) = signed("client", role);
        let (certificate, key) = (file("client.crt", &certificate), file("client.key", &key));
        let url = format!("{}&sslcert={certificate}&sslkey={key}", tls(&server));
        assert_eq!(ask(&url, "SELECT 1").as_deref(), expected);
    }
}

#[test]
fn pgbouncer_lends_four_connections_to_many_clients() {
    let server = server_with_table();
    let pool = PgBouncer::start(&server);
    let url = pool.url();
    let backends: Vec<String> = std::thread::scope(|scope| {
        let insert = "INSERT INTO t SELECT 1 FROM pg_sleep(0.01) RETURNING pg_backend_pid()";
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| ask(&url, insert).unwrap())).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let distinct: std::collections::HashSet<_> = backends.iter().collect();
    assert!(distinct.len() <= 4, "{backends:?}");
    assert_eq!(server.sql("SELECT count(*) FROM t"), "16");
}

#[test]
fn the_proxy_cuts_before_or_after_a_commit() {
    let server = server_with_table();
    let proxy = Proxy::start(server.port());
    let rows = || server.sql("SELECT n FROM t ORDER BY n").replace('\n', " ");
    let insert = |n: u32| ask(&proxy.url(), &format!("INSERT INTO t VALUES ({n})"));
    assert!(insert(1).is_some());
    assert_eq!((proxy.connections(), proxy.round_trips(), proxy.cuts()), (1, 1, 0));
    proxy.cut_after("INSERT");
    assert_eq!(ask(&proxy.url(), "SELECT 1").as_deref(), Some("1"), "it does not match");
    assert!(insert(2).is_none());
    assert_eq!(rows(), "1 2");
    proxy.cut_before("INSERT");
    assert!(insert(3).is_none());
    assert_eq!((rows().as_str(), proxy.cuts()), ("1 2", 2));
    proxy.cut_each_after("INSERT", 2);
    let answered: Vec<bool> = (4..8).map(|n| insert(n).is_some()).collect();
    assert_eq!(answered, [true, false, true, false]);
    proxy.cut_each_after("", 0);
    assert!(insert(8).is_some());
    assert_eq!(rows(), "1 2 4 5 6 7 8");
    assert_eq!((proxy.connections(), proxy.round_trips(), proxy.cuts()), (9, 9, 4));
}

#[test]
fn the_proxy_tells_statements_that_run_from_those_that_are_prepared() {
    let server = server_with_table();
    let proxy = Proxy::start(server.port());
    let mut connection = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    let startup = b"\0\x03\0\0user\0openexec\0database\0openexec\0\0";
    connection.write_all(&u32::try_from(startup.len() + 4).unwrap().to_be_bytes()).unwrap();
    connection.write_all(startup).unwrap();
    read_to(&mut connection, b'Z');
    // Both are on their way at once, and only the second runs the statement.
    proxy.cut_after("INSERT");
    let mut sent = message(b'P', b"one\0INSERT INTO t VALUES (1)\0\0\0");
    sent.extend(message(b'S', b""));
    connection.write_all(&sent).unwrap();
    assert_eq!(read_to(&mut connection, b'Z'), b"1Z");
    let mut sent = message(b'B', b"\0one\0\0\0\0\0\0\0");
    sent.extend(message(b'E', b"\0\0\0\0\0"));
    sent.extend(message(b'S', b""));
    connection.write_all(&sent).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "the answer was thrown away");
    assert_eq!((server.sql("SELECT n FROM t").as_str(), proxy.round_trips(), proxy.cuts()), ("1", 2, 1));
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// The types of the messages up to one of that type.
fn read_to(connection: &mut TcpStream, last: u8) -> Vec<u8> {
    let mut kinds = Vec::new();
    while kinds.last() != Some(&last) {
        let mut head = [0; 5];
        connection.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        connection.read_exact(&mut vec![0; length as usize - 4]).unwrap();
        kinds.push(head[0]);
    }
    kinds
}

#[test]
fn what_the_proxy_holds_reaches_the_server_after_the_client_has_gone() {
    let server = server_with_table();
    let proxy = Proxy::start(server.port());
    proxy.hold("INSERT");
    let mut client = psql(&proxy.url()).args(["-c", "INSERT INTO t VALUES (1)"]).spawn().unwrap();
    wait_until("it is held", || proxy.held() == 1);
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM t"), "0");
    assert!(ask(&proxy.url(), "INSERT INTO t VALUES (2)").is_some(), "one is held, and no more");
    proxy.release();
    wait_until("it arrives", || server.sql("SELECT n FROM t ORDER BY n") == "1\n2");
    assert_eq!(proxy.held(), 0);
}

#[test]
fn the_proxy_closes_all_connections_and_takes_new_ones_to_another_server() {
    let (first, second) = (server_with_table(), Postgres::start());
    let proxy = Proxy::start(first.port());
    let mut client = psql(&proxy.url()).args(["-c", "SELECT pg_sleep(600)"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it runs", || proxy.round_trips() == 1);
    proxy.forward_to(second.port());
    proxy.cut_all();
    assert!(!client.wait().unwrap().success());
    assert_eq!(ask(&proxy.url(), "SELECT to_regclass('t') IS NULL").as_deref(), Some("t"));
    first.stop();
    assert!(ask(&proxy.url(), "SELECT 1").is_some());
}

#[test]
fn nothing_is_left_of_a_process_that_was_killed() {
    const CHILD: &str = "OPENEXEC_TEST_IS_KILLED";
    if std::env::var_os(CHILD).is_some() {
        // One of them can answer no signal but SIGKILL.
        let servers = [server_with_table(), Postgres::start()];
        servers[1].pause();
        for server in &servers {
            let lock = std::fs::read_to_string(server.directory().join("data/postmaster.pid")).unwrap();
            println!("\nserver {} {}", lock.lines().next().unwrap(), server.directory().display());
        }
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "database_tests::nothing_is_left_of_a_process_that_was_killed", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.filter(|line| line.starts_with("server "));
    let servers = [(); 2].map(|()| {
        let line = lines.next().expect("the child says which servers it has");
        let [_, pid, directory] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (pid.parse::<u32>().unwrap(), directory.to_owned())
    });
    for (pid, directory) in &servers {
        assert!(is_alive(*pid) && Path::new(directory).exists());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for (pid, directory) in &servers {
        wait_until("all is gone", || !is_alive(*pid) && !Path::new(directory).exists());
    }
}
