//! Which ledger: from `OPENEXEC_DB_URL` or the file's `ledger:`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use humantime_serde::re::humantime::format_duration;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::action::ActionConfig;
use super::env::{self, Environment};
use super::{Check, raw};
use crate::upstream::tls;

/// A checked ledger configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerConfig {
    /// `memory:`
    Memory {
        /// Bytes of rows before it is full.
        max_bytes: usize,
        /// See [`FencePolicy`].
        fence: FencePolicy,
    },
    /// `sqlite:///...`
    Sqlite(SqliteConfig),
    /// `postgresql://...`
    Postgres(Box<PostgresConfig>),
}

/// Where the file is and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The file.
    pub path: PathBuf,
    /// Its anchor; beside it unless configured.
    pub anchor: PathBuf,
    /// Whether a file that is not there may be made.
    pub create: bool,
    /// When the fence is raised.
    pub fence: FencePolicy,
    /// Bytes for finished answers.
    pub cache_bytes: usize,
    /// Bytes that its file system must have free for new executions.
    pub min_free_bytes: u64,
}

/// Where the database is and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresConfig {
    /// Its servers, each with the user and the database; the one that can be written to is used.
    pub servers: Vec<tokio_postgres::Config>,
    /// The user's password; read for each connection, so that it may change.
    pub password_file: Option<PathBuf>,
    /// `None`: in plain text.
    pub tls: Option<DatabaseTls>,
    /// Whether tables that are not there, or are older, may be made at the start.
    pub create: bool,
    /// When the fence is raised beside failovers.
    pub fence: FencePolicy,
    /// Bytes for finished answers.
    pub cache_bytes: usize,
    /// Connections at once, and so statements at once.
    pub connections: usize,
    /// For one connection to one server, with everything that it needs.
    pub connect_timeout: Duration,
    /// For one statement, with its way there and back.
    pub statement_timeout: Duration,
    /// How long nobody hears of a process before what it left running is unknown.
    pub lease: Duration,
    /// Whether nothing may be claimed that only one machine has.
    pub require_synchronous: bool,
}

/// Files in PEM; read for each connection, so that they may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseTls {
    /// Whom the server's certificate must be from. `None`: from whom the system believes.
    pub ca: Option<PathBuf>,
    /// Ours.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// When approvals of the past stop to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FencePolicy {
    /// When the anchor shows that the ledger was lost or rolled back.
    #[default]
    Auto,
    /// At every start: for volumes that die with the pod.
    Always,
}

impl LedgerConfig {
    /// Whether it is expected to be gone with this process, its pod or its machine.
    pub fn is_local(&self) -> bool {
        match self {
            LedgerConfig::Memory { .. } => true,
            LedgerConfig::Sqlite(SqliteConfig { fence, .. }) => *fence == FencePolicy::Always,
            LedgerConfig::Postgres(_) => false,
        }
    }
}

impl Check {
    pub(super) fn ledger(&mut self, environment: &impl Environment, mut file: raw::Ledger) -> Option<LedgerConfig> {
        let (url, source) = match (environment.secret(env::DB_URL), &file.url) {
            (Ok(Some(url)), _) => (url, env::DB_URL),
            (Ok(None), Some(url)) => (url.clone(), "ledger.url"),
            (Ok(None), None) => ("sqlite:///openexec.db".to_owned(), "ledger.url"),
            (Err(problem), _) => {
                self.problems.push(problem);
                return None;
            }
        };
        match environment.get(env::LEDGER_FENCE).as_deref() {
            None => {}
            Some("auto") => file.fence = Some(FencePolicy::Auto),
            Some("always") => file.fence = Some(FencePolicy::Always),
            Some(_) => self.problems.push(format!("{} must be `auto` or `always`", env::LEDGER_FENCE)),
        }
        let fence = file.fence.unwrap_or_default();
        match DatabaseUrl::parse(&url) {
            Ok(DatabaseUrl::Memory) => {
                Some(LedgerConfig::Memory { max_bytes: file.memory_bytes.unwrap_or(256 << 20), fence })
            }
            Ok(DatabaseUrl::Sqlite(path)) => {
                let beside = || {
                    let mut name = path.clone().into_os_string();
                    name.push(".anchor");
                    PathBuf::from(name)
                };
                Some(LedgerConfig::Sqlite(SqliteConfig {
                    anchor: file.anchor.unwrap_or_else(beside),
                    path,
                    create: file.create.unwrap_or(true),
                    fence,
                    cache_bytes: file.cache_bytes.unwrap_or(64 << 20),
                    min_free_bytes: file.min_free_bytes.unwrap_or(64 << 20),
                }))
            }
            Ok(DatabaseUrl::Postgres(servers, tls)) => self.postgres(environment, file, servers, tls),
            Err(problem) => {
                self.problems.push(format!("{source} {problem}"));
                None
            }
        }
    }

    fn postgres(
        &mut self,
        environment: &impl Environment,
        file: raw::Ledger,
        mut servers: Vec<tokio_postgres::Config>,
        tls: Option<DatabaseTls>,
    ) -> Option<LedgerConfig> {
        let connect_timeout = file.connect_timeout.unwrap_or(Duration::from_secs(2));
        let statement_timeout = file.statement_timeout.unwrap_or(Duration::from_secs(5));
        let lease = file.lease.unwrap_or(LEASE);
        self.time("ledger.connect_timeout", connect_timeout, Duration::from_millis(10));
        self.time("ledger.statement_timeout", statement_timeout, Duration::from_millis(10));
        self.time("ledger.lease", lease, SHORTEST_LEASE);
        let connections = file.connections.unwrap_or(16);
        if !(1..=MOST_CONNECTIONS).contains(&connections) {
            self.problems.push(format!("ledger.connections must be between 1 and {MOST_CONNECTIONS}"));
        }
        if statement_timeout > LONGEST_STATEMENT {
            let most = format_duration(LONGEST_STATEMENT);
            self.problems.push(format!("ledger.statement_timeout must be at most {most}"));
        }
        let mut password_file = file.password_file;
        match environment.secret(env::DB_PASSWORD) {
            Err(problem) => self.problems.push(problem),
            Ok(None) => {}
            Ok(Some(password)) => match environment.get(&format!("{}_FILE", env::DB_PASSWORD)) {
                Some(path) => password_file = Some(path.into()),
                None => {
                    password_file = None;
                    for server in &mut servers {
                        server.password(&password);
                    }
                }
            },
        }
        let tls = self.database_tls(tls, file.tls);
        for server in servers.iter_mut().filter(|server| server.get_application_name().is_none()) {
            server.application_name("openexec");
        }
        Some(LedgerConfig::Postgres(Box::new(PostgresConfig {
            servers,
            password_file,
            tls,
            create: file.create.unwrap_or(true),
            fence: file.fence.unwrap_or_default(),
            cache_bytes: file.cache_bytes.unwrap_or(64 << 20),
            connections,
            connect_timeout,
            statement_timeout,
            lease,
            require_synchronous: file.require_synchronous.unwrap_or(false),
        })))
    }

    /// The file's members stand in for the URL's parameters.
    fn database_tls(&mut self, url: Option<DatabaseTls>, file: raw::LedgerTls) -> Option<DatabaseTls> {
        let is_typed = file.ca.is_some() || file.certificate.is_some() || file.key.is_some();
        let Some(url) = url else {
            if is_typed {
                let problem = "ledger.tls has no meaning for a URL without TLS: add ?sslmode=verify-full to it";
                self.problems.push(problem.to_owned());
            }
            return None;
        };
        let tls = DatabaseTls {
            ca: url.ca.or(file.ca),
            certificate: url.certificate.or(file.certificate),
            key: url.key.or(file.key),
        };
        self.certificate("ledger", "postgresql", tls.certificate.as_deref(), tls.ca.as_deref());
        if let Err(error) = tls::client_config(tls.ca.as_deref(), tls.certificate.as_deref(), tls.key.as_deref()) {
            self.problems.push(format!("ledger.tls: {error}"));
        }
        Some(tls)
    }

    /// What is dispatched must end while the lease lasts: it is renewed at a third of it, and renewals may be late.
    pub(super) fn leases(&mut self, ledger: Option<&LedgerConfig>, actions: &BTreeMap<String, ActionConfig>) {
        let Some(LedgerConfig::Postgres(postgres)) = ledger else { return };
        for (name, action) in actions {
            if let ActionConfig::Forward(forward) = action
                && forward.timeout * 2 > postgres.lease
            {
                let lease = format_duration(postgres.lease);
                self.problems
                    .push(format!("actions.{name}.timeout must be at most half of ledger.lease, which is {lease}"));
            }
        }
    }
}

/// Three times the time that an action has unless it is configured.
const LEASE: Duration = Duration::from_secs(90);
/// Renewals take their time, too.
const SHORTEST_LEASE: Duration = Duration::from_secs(3);
/// What is forgotten behind a fence waits for statements that began before it.
const LONGEST_STATEMENT: Duration = Duration::from_secs(30);
/// A database with more is slower, not faster.
const MOST_CONNECTIONS: usize = 1_000;

/// What a database URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// Nothing durable.
    Memory,
    /// A file.
    Sqlite(PathBuf),
    /// A database that others use too.
    Postgres(Vec<tokio_postgres::Config>, Option<DatabaseTls>),
}

impl DatabaseUrl {
    /// Reads the URL as SQLAlchemy would: three slashes and a relative path, four and an absolute one; a driver's
    /// name behind a `+` is dropped.
    ///
    /// # Errors
    /// What is wrong with it. The URL is not repeated: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url == "memory:" {
            return Ok(DatabaseUrl::Memory);
        }
        let (scheme, rest) = url.split_once("://").ok_or("must be sqlite:///file, postgresql://... or memory:")?;
        match scheme.split('+').next() {
            Some("sqlite") => match rest.strip_prefix('/') {
                Some("") | Some(":memory:") => Err("names no file: write memory: for a ledger that is not durable"),
                Some(path) => Ok(DatabaseUrl::Sqlite(path.into())),
                None => Err("must have three slashes and a relative path, or four and an absolute one"),
            },
            Some("postgresql" | "postgres") => postgres(rest),
            _ => Err("must be sqlite:///file, postgresql://... or memory:"),
        }
    }
}

/// libpq's parameters of TLS are ours; the driver knows the others. Of libpq's modes there are two: the others would accept
/// whoever answers.
fn postgres(rest: &str) -> Result<DatabaseUrl, &'static str> {
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let mut mode = None;
    let mut tls = DatabaseTls { ca: None, certificate: None, key: None };
    let mut others = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or("has a parameter without a value")?;
        let path = || percent_encoding::percent_decode_str(value).decode_utf8().map(|path| PathBuf::from(&*path));
        let path = || path().map(Some).map_err(|_| "has a parameter that is not UTF-8");
        match name {
            "sslmode" => mode = Some(value),
            "sslrootcert" => tls.ca = path()?,
            "sslcert" => tls.certificate = path()?,
            "sslkey" => tls.key = path()?,
            // A certificate is of a name, and what is plain must be here.
            "host" | "hostaddr" | "port" | "user" | "dbname" | "password" => {
                return Err("has a parameter that belongs in front of the `?`");
            }
            _ => others.push(parameter),
        }
    }
    let servers = servers(place, &others.join("&"))?;
    let is_here = servers.iter().flat_map(|server| server.get_hosts()).all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
        Host::Unix(_) => true,
    });
    let plain = match mode {
        None => is_here && tls.ca.is_none() && tls.certificate.is_none(),
        Some("disable") => true,
        Some("verify-full") => false,
        Some(_) => return Err("has an sslmode that trusts whoever answers: use verify-full, or disable"),
    };
    let with_mode = |mut server: tokio_postgres::Config| {
        server.ssl_mode(if plain { SslMode::Disable } else { SslMode::Require });
        server.target_session_attrs(TargetSessionAttrs::ReadWrite);
        server
    };
    Ok(DatabaseUrl::Postgres(servers.into_iter().map(with_mode).collect(), (!plain).then_some(tls)))
}

/// One for each host: the driver's own time limits are no limits for a server that accepts a connection and says nothing.
fn servers(place: &str, parameters: &str) -> Result<Vec<tokio_postgres::Config>, &'static str> {
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let server = |host: &str| {
        // The driver's own texts would repeat parts of the URL.
        let url = format!("postgresql://{user}@{host}/{database}?{parameters}");
        let server: tokio_postgres::Config = url.parse().map_err(|_| "is no URL of PostgreSQL that can be read")?;
        if server.get_hosts().len() != 1 || server.get_hosts()[0] == Host::Tcp(String::new()) {
            return Err("names no host");
        }
        if server.get_user().is_none_or(str::is_empty) || server.get_dbname().is_none_or(str::is_empty) {
            return Err("must name a user and a database: postgresql://user@host/database");
        }
        Ok(server)
    };
    hosts.split(',').map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls_of(url: &str) -> Option<DatabaseTls> {
        match DatabaseUrl::parse(url) {
            Ok(DatabaseUrl::Postgres(_, tls)) => tls,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn a_database_elsewhere_must_show_who_it_is() {
        for plain in [
            "postgresql://u@localhost/d",
            "postgres://u:p@127.0.0.1:5433/d",
            "postgresql+asyncpg://u@[::1]/d",
            "postgresql://u@%2Frun%2Fpostgresql/d",
            "postgresql://u@db.example/d?sslmode=disable",
        ] {
            assert_eq!(tls_of(plain), None, "{plain}");
        }
        for verified in ["postgresql://u@db.example/d", "postgresql://u@localhost/d?sslmode=verify-full"] {
            assert!(tls_of(verified).is_some(), "{verified}");
        }
        // One of two is elsewhere.
        assert!(tls_of("postgresql://u@localhost,db.example/d").is_some());
        let own = tls_of("postgresql://u@localhost/d?sslrootcert=%2Fca.pem&sslcert=c.pem&sslkey=k.pem").unwrap();
        assert_eq!(own.ca, Some("/ca.pem".into()));
        assert_eq!((own.certificate, own.key), (Some("c.pem".into()), Some("k.pem".into())));
        for wrong in [
            "postgresql://u@db.example/d?sslmode=require",
            "postgresql://u@db.example/d?sslmode=prefer",
            "postgresql://db.example/d",
            "postgresql://u@db.example",
            "postgresql:///d?user=u",
            "postgresql://u:secret@/d",
            "postgresql://u:secret@localhost/d?hostaddr=192.0.2.1",
            "postgresql://u:secret@localhost,/d",
            "postgresql://u:secret@db.example:port/d",
            "postgresql://u:secret@db.example/d?what",
            "postgresql://u:secret@db.example/d?sslpassword=secret",
        ] {
            let problem = DatabaseUrl::parse(wrong).unwrap_err();
            assert!(!problem.contains("secret"), "{problem}");
        }
        let two = DatabaseUrl::parse("postgresql://u:secret@a,b:5433/d").unwrap();
        assert!(!format!("{two:?}").contains("secret"));
    }

    #[test]
    fn urls_are_read_as_sqlalchemy_does() {
        let sqlite = |path: &str| Ok(DatabaseUrl::Sqlite(path.into()));
        assert_eq!(DatabaseUrl::parse("memory:"), Ok(DatabaseUrl::Memory));
        assert_eq!(DatabaseUrl::parse("sqlite:///relative.db"), sqlite("relative.db"));
        assert_eq!(DatabaseUrl::parse("sqlite:////var/lib/absolute.db"), sqlite("/var/lib/absolute.db"));
        assert_eq!(DatabaseUrl::parse("sqlite+pysqlite:///a.db"), sqlite("a.db"));
        for wrong in ["", "a.db", "sqlite://a.db", "sqlite:///", "sqlite:///:memory:", "mysql://u:p@x"] {
            let problem = DatabaseUrl::parse(wrong).unwrap_err();
            assert!(!problem.contains("u:p"), "{problem}");
        }
    }
}
