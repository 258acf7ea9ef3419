//! Databases that are there, and are no ledger for us: the start says so and ends.

use super::access::must_be_discreet;
use super::{actions, executions, must_work, replica, service, start};
use crate::database::Postgres;
use crate::support::{Setup, free};

/// It ends by itself, with the code of a bad configuration and with this text.
#[track_caller]
pub(super) fn must_be_refused(setup: &Setup, why: &str) {
    let mut command = setup.command(&[]);
    let output = command.env("OPENEXEC_LISTEN", free()).env("OPENEXEC_ADMIN_LISTEN", free()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{log}");
    assert!(log.contains(why), "{why}: {log}");
    assert!(!log.contains("panicked"), "{log}");
    must_be_discreet(&log);
}

#[test]
fn a_database_that_would_lose_what_it_is_given_is_refused() {
    let (service, _door) = service();
    let server = Postgres::shared();
    let yaml = actions(service.address, "15s", "60s");
    let url = server.new_database();
    let database = url.rsplit_once('/').unwrap().1;
    let settings = |setting: &str| server.sql(&format!("ALTER ROLE openexec IN DATABASE {database} {setting}"));
    for (setting, value, why) in [
        ("synchronous_commit", "off", "synchronous_commit is off in the ledger's database"),
        ("default_transaction_isolation", "'repeatable read'", "it must be `read committed`"),
    ] {
        settings(&format!("SET {setting} = {value}"));
        must_be_refused(&replica(&url, &yaml), why);
        settings(&format!("RESET {setting}"));
    }
    let alone = yaml.replace("ledger: {", "ledger: {require_synchronous: true, ");
    must_be_refused(&replica(&url, &alone), "ledger.require_synchronous is set, and commits do not wait");
    must_work(start(&replica(&url, &yaml)).address);

    server.sql("CREATE DATABASE of_bytes OWNER openexec ENCODING 'SQL_ASCII' TEMPLATE template0");
    let of_bytes = url.replace(database, "of_bytes");
    must_be_refused(&replica(&of_bytes, &yaml), "has the encoding SQL_ASCII: it must be UTF8");
    let careless = Postgres::with(&[("fsync", "off")]);
    must_be_refused(&replica(&careless.url(), &yaml), "fsync is off in the ledger's database");
    careless.set("fsync", "on");
    must_work(start(&replica(&careless.url(), &yaml)).address);
}

#[test]
fn tables_that_are_missing_or_of_a_newer_version_are_refused() {
    let (service, _door) = service();
    let server = Postgres::shared();
    let yaml = actions(service.address, "15s", "60s");
    let url = server.new_database();
    let careful = yaml.replace("ledger: {", "ledger: {create: false, ");
    must_be_refused(&replica(&url, &careful), "the database has no ledger, and ledger.create is false");
    must_work(start(&replica(&url, &yaml)).address);
    let versions = |change: &str| server.sql_on(&url, &format!("UPDATE openexec_meta SET version = version {change}"));
    versions("+ 90");
    must_be_refused(&replica(&url, &yaml), "use the version that made them");
    versions("- 90");
    let replica = start(&replica(&url, &careful));
    assert_eq!(executions(replica.admin, "").len(), 1, "what was there is there");
    must_work(replica.address);
}

#[test]
fn demo_mode_that_nobody_asked_for_does_not_open_a_database_of_clawshield_mode() {
    let (service, _door) = service();
    let url = Postgres::shared().new_database();
    let yaml = actions(service.address, "15s", "60s");
    let replica = start(&replica(&url, &yaml));
    must_work(replica.address);
    let demo = Setup::demo().without("OPENEXEC_MODE").with("OPENEXEC_DB_URL", &url).file(&yaml);
    must_be_refused(&demo, "ClawShield");
    must_work(replica.address);
    // Where demo mode is asked for it is had; and so it is where no approvals were ever asked for.
    let fresh = Postgres::shared().new_database();
    start(&Setup::demo().without("OPENEXEC_MODE").with("OPENEXEC_DB_URL", &fresh).file(&yaml)).must_be_well();
}
