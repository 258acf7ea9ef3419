//! Who may talk to the database, and who is believed to be it.

use std::fs;

use super::outages::must_wait;
use super::refusals::must_be_refused;
use super::{actions, must_work, must_work_again, replica, service, start, until};
use crate::database::{PASSWORD, Postgres};
use crate::network::Authority;
use crate::support::{Client, Setup};

/// A server with a certificate of the authority for `localhost`, and the URL under that name.
fn with_tls(ours: &Authority, clients: Option<&Authority>) -> (Postgres, String) {
    let (certificate, key) = ours.issue("localhost", 10);
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let clients = clients.map(|clients| read(&clients.path("ca.pem")));
    let server = Postgres::with_tls(&read(&certificate), &read(&key), clients.as_deref());
    let url = format!("postgresql://openexec@localhost:{}/openexec?sslmode=verify-full", server.port());
    (server, url)
}

/// Nobody is served, and the log says why in these words and in none that are secret.
fn must_wait_because(setup: &Setup, why: &str) {
    let log = must_wait(setup);
    assert!(log.contains(why), "{log}");
    must_be_discreet(&log);
}

pub(super) fn must_be_discreet(text: &str) {
    for secret in [PASSWORD, "another-password", "postgresql://", "sslrootcert"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn the_databases_certificate_must_be_good_and_ours_may_be_asked_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (service, door) = service();
    door.open();
    let yaml = actions(service.address, "15s", "60s");
    let (_server, url) = with_tls(&ours, None);
    let with = |url: &str| replica(url, &yaml).with("OPENEXEC_DB_PASSWORD", PASSWORD);
    let good = format!("{url}&sslrootcert={}", ours.path("ca.pem"));
    must_wait_because(&with(&format!("{url}&sslrootcert={}", theirs.path("ca.pem"))), "invalid peer certificate");
    must_wait_because(&with(&good.replace("localhost", "127.0.0.1")), "not valid for name");
    must_be_refused(&with(&good).with("OPENEXEC_DB_PASSWORD", "another-password"), "password authentication failed");
    let replica_of_good = start(&with(&good));
    must_work(replica_of_good.address);

    let (_asks_for_ours, url) = with_tls(&ours, Some(&theirs));
    let good = format!("{url}&sslrootcert={}", ours.path("ca.pem"));
    let with = |authority: &Authority, role: &str| {
        let (certificate, key) = authority.issue(role, 10);
        replica(&format!("{good}&sslcert={certificate}&sslkey={key}"), &yaml)
    };
    must_wait_because(&with(&ours, "openexec"), "fatal alert");
    must_be_refused(&with(&theirs, "somebody"), "certificate authentication failed");
    must_work(start(&with(&theirs, "openexec")).address);
    must_work(replica_of_good.address);
}

#[test]
fn a_password_in_a_file_may_change_while_the_server_runs() {
    let ours = Authority::new();
    let (service, door) = service();
    door.open();
    let (server, url) = with_tls(&ours, None);
    let url = format!("{url}&sslrootcert={}", ours.path("ca.pem"));
    let password = ours.path("password");
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let setup = replica(&url, &actions(service.address, "15s", "60s")).with("OPENEXEC_DB_PASSWORD_FILE", &password);
    let process = setup.spawn();
    must_work(process.address);
    server.sql("ALTER ROLE openexec PASSWORD 'another-password'");
    let end_connections =
        || server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'openexec'");
    end_connections();
    let refused =
        || Client::connect(process.address).execute(&super::wish("echo", "ok", &uuid::Uuid::new_v4().to_string()));
    until("it is refused", || refused().status == 503);
    fs::write(&password, "another-password\n").unwrap();
    must_work_again(process.address);
    end_connections();
    must_work_again(process.address);
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("stays as it was"), "it is no change of the configuration: {log}");
    must_be_discreet(&log);
}
