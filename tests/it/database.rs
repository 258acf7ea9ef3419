//! Real servers of PostgreSQL, and what stands before them: for the tests of a ledger that is there. They need what
//! `make tools` installs. Nothing of them is left when the process ends, however it ends.
//!
//! The library's unit tests include this file too: it needs no other of this directory but those below `database/`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

#[path = "database/pgbouncer.rs"]
mod pgbouncer;
#[path = "database/proxy.rs"]
mod proxy;
#[path = "database/watchdog.rs"]
mod watchdog;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

#[allow(unused_imports)]
pub use pgbouncer::PgBouncer;
#[allow(unused_imports)]
pub use proxy::Proxy;
use watchdog::{Watchdog, run, run_as_server, write_as_server};
pub use watchdog::{is_alive, wait_until};

/// Of the role `openexec`, where a server asks for it.
pub const PASSWORD: &str = "secret-of-the-tests";

/// One server: a directory and a port, which it keeps when it is stopped, killed and started again. It listens on
/// 127.0.0.1, and for the superuser on a socket in its directory.
pub struct Postgres {
    watchdog: Watchdog,
    port: u16,
    databases: AtomicUsize,
}

impl Postgres {
    /// With the settings of all tests.
    pub fn start() -> Self {
        Postgres::with(&[])
    }

    /// With these settings of postgresql.conf besides.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        Postgres::create(settings, &format!("{SUPERUSER}{LOCAL}"), &[])
    }

    /// Over TLS only, with this certificate and key (PEM). The role `openexec` has [`PASSWORD`]; or, where a CA of clients
    /// is given, a certificate of that CA whose common name is `openexec`.
    pub fn with_tls(certificate: &str, key: &str, client_ca: Option<&str>) -> Self {
        let mut settings = vec![("ssl", "on"), ("ssl_cert_file", "tls.crt"), ("ssl_key_file", "tls.key")];
        let mut files = vec![("tls.crt", certificate), ("tls.key", key)];
        if let Some(ca) = client_ca {
            settings.push(("ssl_ca_file", "clients.crt"));
            files.push(("clients.crt", ca));
        }
        let method = if client_ca.is_some() { "cert" } else { "scram-sha-256" };
        let access = format!("{SUPERUSER}hostssl all all 127.0.0.1/32 {method}\nhostnossl all all all reject\n");
        Postgres::create(&settings, &access, &files)
    }

    /// A cluster of its own kind: all others are copies of one, and have its identifier.
    pub fn unrelated() -> Self {
        let watchdog = Watchdog::start();
        initialise(watchdog.directory());
        write_settings(&watchdog.directory().join("data"), &[], &format!("{SUPERUSER}{LOCAL}"));
        Postgres::on_some_port(watchdog)
    }

    /// One for all tests of this process that do not disturb it. It starts when the first of them asks.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Postgres::start)
    }

    fn create(settings: &[(&str, &str)], access: &str, files: &[(&str, &str)]) -> Self {
        let watchdog = Watchdog::start();
        let data = watchdog.directory().join("data");
        run(Command::new("cp").arg("-a").arg(template()).arg(&data), "");
        write_settings(&data, settings, access);
        for (name, text) in files {
            write_as_server(&data.join(name), text);
        }
        Postgres::on_some_port(watchdog)
    }

    fn on_some_port(watchdog: Watchdog) -> Self {
        let mut server = Postgres { watchdog, port: next_port(), databases: AtomicUsize::new(0) };
        while !server.starts() {
            server.port = next_port();
        }
        server
    }

    /// Starts it, and waits until it accepts connections. False if somebody else has the port.
    fn starts(&self) -> bool {
        let logged = self.watchdog.log().len();
        let (data, port) = (self.data(), self.port.to_string());
        let directory = self.watchdog.directory().to_str().unwrap();
        let arguments = ["-D", data.to_str().unwrap(), "-h", "127.0.0.1", "-p", &port, "-k", directory];
        let pid = self.watchdog.run(&program("postgres"), &arguments);
        let mut ready = false;
        wait_until("PostgreSQL accepts connections", || {
            // The process, and at the end what it does: `pg_ctl start` reads the same.
            let lock = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let lines: Vec<_> = lock.lines().collect();
            ready =
                lines.first() == Some(&pid.to_string().as_str()) && lines.get(7).is_some_and(|l| l.trim() == "ready");
            ready || !is_alive(pid)
        });
        if !ready {
            self.watchdog.kill();
            let log = self.watchdog.log().split_off(logged);
            assert!(log.contains("Address already in use"), "PostgreSQL does not start: {log}");
        }
        ready
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of the database `openexec`, as the role `openexec`, which owns it and is no superuser.
    pub fn url(&self) -> String {
        url(self.port, "openexec")
    }

    /// Another database of the role `openexec`, which is empty: its URL.
    pub fn new_database(&self) -> String {
        let name = format!("openexec_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name} OWNER openexec"));
        url(self.port, &name)
    }

    /// What psql prints, as superuser on the database `openexec`: lines of columns that `|` separates. Several statements
    /// are several transactions. Panics with psql's words if one fails.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_on(&self.url(), sql)
    }

    /// The same on the database that the URL names, of this server.
    pub fn sql_on(&self, url: &str, sql: &str) -> String {
        let path = url.split('?').next().unwrap_or_default();
        let (_, database) = path.rsplit_once('/').expect("a URL names a database");
        let mut psql = psql("");
        psql.arg("-h").arg(self.watchdog.directory()).args(["-p", &self.port.to_string(), "-U", "postgres"]);
        run(psql.args(["-d", database, "-f", "-"]), sql).trim_end().to_owned()
    }

    /// SIGKILL to all of its processes, as in a crash. Returns when they are gone.
    pub fn kill(&self) {
        self.watchdog.kill();
    }

    /// Shuts it down, and with it its connections (`pg_ctl stop -m fast`).
    pub fn stop(&self) {
        self.watchdog.interrupt();
        let lock = self.data().join("postmaster.pid");
        wait_until("PostgreSQL stops", || !lock.exists());
        self.watchdog.kill();
    }

    /// Starts it where it was, after [`stop`](Self::stop) or [`kill`](Self::kill); or kills it first.
    pub fn restart(&self) {
        self.kill();
        wait_until("PostgreSQL has its port again", || self.starts());
    }

    /// SIGSTOP to all of its processes: connections stay, and are silent.
    pub fn pause(&self) {
        self.watchdog.signal("STOP");
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.watchdog.signal("CONT");
    }

    /// A copy that follows this server under that name, as `synchronous_standby_names` would call it. Returns when it
    /// streams. It waits for no standby itself, also when it is promoted.
    pub fn standby(&self, name: &str) -> Postgres {
        let watchdog = Watchdog::start();
        let (here, there) = (watchdog.directory(), self.watchdog.directory());
        let data = here.join("data");
        let (from, port) = (there.to_str().unwrap(), self.port.to_string());
        let copy =
            ["-h", from, "-p", &port, "-U", "postgres", "-D", data.to_str().unwrap(), "-X", "stream", "-c", "fast"];
        run_as_server(here, &program("pg_basebackup"), &[&copy[..], &["--no-sync"]].concat(), "");
        write_as_server(&data.join("standby.signal"), "");
        let follow = format!(
            "primary_conninfo = 'host={from} port={port} user=postgres application_name={name}'\n\
             synchronous_standby_names = ''\n"
        );
        write_as_server(&data.join("postgresql.auto.conf"), &follow);
        let standby = Postgres::on_some_port(watchdog);
        let streams = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
        );
        wait_until("the standby streams", || self.sql(&streams) == "1");
        standby
    }

    /// Makes a standby a primary. Returns when it takes writes.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote(true, 60)"), "t", "{}", self.watchdog.log());
    }

    /// Changes a setting of the running server, and waits until new connections have it, and commits wait for the standbys
    /// that it names. One that takes a start needs [`restart`](Self::restart).
    pub fn set(&self, name: &str, value: &str) {
        let loaded = "SELECT pg_conf_load_time()";
        let before = self.sql(loaded);
        let value = value.replace('\'', "''");
        self.sql(&format!("ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf()"));
        wait_until("the setting is in effect", || self.sql(loaded) != before);
        // The checkpointer tells commits whom to wait for, and has read the setting when it has made a checkpoint.
        self.sql("CHECKPOINT");
    }

    /// Copies the database `openexec` into that server's, which is empty, as a person would: with pg_dump and psql.
    pub fn copy_to(&self, other: &Postgres) {
        let mut dump = Command::new(program("pg_dump"));
        let dump = run(dump.env_clear().current_dir("/").args(["-d", &self.url()]), "");
        run(psql(&other.url()).args(["-f", "-"]), &dump);
    }

    /// Keeps what it has on its disk now, while it is stopped; its clients lose it in any case.
    pub fn save(&self) {
        self.stop();
        self.copy_data("data", "saved");
        self.restart();
    }

    /// Is killed, and goes on with what [`save`](Self::save) kept, as with a snapshot of its disk.
    pub fn put_back(&self) {
        self.kill();
        run(Command::new("rm").arg("-r").arg(self.data()), "");
        self.copy_data("saved", "data");
        self.restart();
    }

    fn copy_data(&self, from: &str, to: &str) {
        run(Command::new("cp").args(["-a", from, to]).current_dir(self.directory()), "");
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.watchdog.log()
    }

    /// Its directory of files, which is gone when it is.
    pub fn directory(&self) -> &Path {
        self.watchdog.directory()
    }

    fn data(&self) -> PathBuf {
        self.watchdog.directory().join("data")
    }
}

/// psql of the server's version with nothing but that URL, or none yet; no file and no variable adds to it. It prints
/// what it is asked for and nothing else, and fails when a statement does.
pub fn psql(url: &str) -> Command {
    let mut psql = Command::new(program("psql"));
    psql.env_clear().current_dir("/").args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"]);
    if !url.is_empty() {
        psql.args(["-d", url]);
    }
    psql
}

const DEFAULTS: &[(&str, &str)] = &[
    ("max_connections", "200"),
    ("shared_buffers", "16MB"),
    ("jit", "off"),
    ("wal_level", "replica"),
    ("fsync", "on"),
    // A standby that was away finds what it missed, and comes back at once.
    ("wal_keep_size", "256MB"),
    ("wal_retrieve_retry_interval", "100ms"),
    // Files of its directory, which go with it.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];

/// The directory of the socket is the server's user's alone.
const SUPERUSER: &str = "local all postgres trust\nlocal replication postgres trust\nhost all postgres all reject\n";

const LOCAL: &str = "host all all 127.0.0.1/32 trust\n";

fn write_settings(data: &Path, settings: &[(&str, &str)], access: &str) {
    let settings = DEFAULTS.iter().chain(settings).fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).unwrap();
        text
    });
    write_as_server(&data.join("postgresql.conf"), &settings);
    write_as_server(&data.join("pg_hba.conf"), access);
}

fn url(port: u16, database: &str) -> String {
    format!("postgresql://openexec@127.0.0.1:{port}/{database}")
}

/// A cluster that never ran, with the role and the database. Copying it takes a tenth of the time of making it, for its
/// first segment of WAL is small.
fn template() -> PathBuf {
    static TEMPLATE: OnceLock<Watchdog> = OnceLock::new();
    let made = TEMPLATE.get_or_init(|| {
        let watchdog = Watchdog::start();
        initialise(watchdog.directory());
        watchdog
    });
    made.directory().join("data")
}

fn initialise(directory: &Path) {
    let cluster = ["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "--wal-segsize=4"];
    run_as_server(directory, &program("initdb"), &cluster, "");
    let single = ["--single", "-D", "data", "-c", "password_encryption=scram-sha-256", "-F", "postgres"];
    let role = format!("CREATE ROLE openexec LOGIN PASSWORD '{PASSWORD}'\nCREATE DATABASE openexec OWNER openexec\n");
    run_as_server(directory, &program("postgres"), &single, &role);
}

/// Of the newest version that Debian's packages installed, or else in the path.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions
        .filter(|version| version.path().join("bin/postgres").exists())
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin"))))
        .max();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut elsewhere = std::env::split_paths(&path).filter(|directory| directory.join("postgres").exists());
    let bin = debian.map(|(_, bin)| bin).or_else(|| elsewhere.next());
    bin.expect("PostgreSQL is missing: run `make tools`").join(name)
}

/// Not the same one twice, and none of those that the system gives to a connection meanwhile (from 32768,
/// `ip_local_port_range`) or `free()` in support.rs to a server of a test (from 12000): it is needed again after a kill.
fn next_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 9_000;
    const COUNT: u16 = 3_000;
    // Processes that run at once have ids close to each other.
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT
}
