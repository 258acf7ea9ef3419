//! From a URL to a ledger: waits for the database, looks at what it is, makes or checks the tables, and registers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use deadpool::managed::{Object, PoolError};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::acks::Acks;
use super::connect::{ConnectError, Connections, Server, describe, pool};
use super::shared::{Parameters, Shared, Standing};
use super::{Postgres, denials, keeper, schema, sql};
use crate::config::ledger::{FencePolicy, PostgresConfig};
use crate::ledger::{Lease, LedgerError};
use crate::metrics::Metrics;

/// The first with everything that is asked of it.
const OLDEST_VERSION: i32 = 130_000;
/// Between two attempts to reach a database at the start.
const PAUSE: Duration = Duration::from_secs(1);
/// For making tables, and for another process to make them.
const MIGRATION: Duration = Duration::from_secs(60);

/// Why a database is no ledger. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It says no to us.
    #[error("the ledger's database refuses the connection: {0}")]
    Connect(ConnectError),
    /// Nobody answers.
    #[error("the ledger's database is not there: {0}")]
    NotThere(String),
    /// Statements fail.
    #[error("the ledger's database cannot be used: {0}")]
    Statement(String),
    /// What it is.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// It has no tables.
    #[error(
        "the database has no ledger, and ledger.create is false: run `openexec ledger migrate` if it is really new"
    )]
    NoTables,
    /// Written by an older version.
    #[error("the ledger's tables have version {0}, and this version needs {1}: run `openexec ledger migrate`")]
    Older(i32, i32),
    /// Written by a newer version.
    #[error("the ledger's tables have version {0}, and this version knows {1}: use the version that made them")]
    Newer(i32, i32),
}

/// A database that would lose what it was given.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Of old.
    #[error("the ledger's PostgreSQL is older than 13")]
    Old,
    /// Texts would be lost.
    #[error("the ledger's database has the encoding {0}: it must be UTF8")]
    Encoding(String),
    /// Statements would see too little.
    #[error("default_transaction_isolation is `{0}` for the ledger's role: it must be `read committed`")]
    Isolation(String),
    /// Commits would be lost.
    #[error(
        "{0} is off in the ledger's database: what is acknowledged could be lost, and executed again. Set it to on, for \
         the role at least"
    )]
    NotDurable(&'static str),
    /// What a commit says would not be heard.
    #[error(
        "client_min_messages hides warnings from the ledger's role, and that a commit did not wait for another machine is \
         one: set it to notice or warning"
    )]
    Deaf,
    /// Commits would be lost with the machine.
    #[error(
        "ledger.require_synchronous is set, and commits do not wait for another machine: set synchronous_standby_names, \
         and synchronous_commit to on or remote_apply"
    )]
    NotSynchronous,
}

/// A database that was reached and is a ledger.
pub(in crate::ledger) struct Opened {
    config: PostgresConfig,
    connections: Connections,
    served_clawshield: bool,
}

/// Waits until the database is there.
///
/// # Errors
/// It is there, and is no ledger, or not for us.
pub(in crate::ledger) async fn open(config: &PostgresConfig) -> Result<Opened, Refused> {
    let connections = pool(config, config.connections);
    loop {
        match look(config, &connections, config.create).await {
            Ok(served_clawshield) => return Ok(Opened { config: config.clone(), connections, served_clawshield }),
            Err(Trouble::Refused(refused)) => return Err(refused),
            Err(Trouble::NotThere(reason)) => {
                tracing::error!(reason, "the ledger's database is not there: it is waited for");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Makes the tables, or brings them to this version.
///
/// # Errors
/// See [`Refused`]; a database that is not there is one, too.
pub(super) async fn migrate(config: &PostgresConfig) -> Result<i32, Refused> {
    look(config, &pool(config, 1), true).await?;
    Ok(schema::VERSION)
}

pub(super) enum Trouble {
    NotThere(String),
    Refused(Refused),
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Trouble::Refused(refused)
    }
}

/// For commands, which wait for nothing.
impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(refused) => refused,
            Trouble::NotThere(reason) => Refused::NotThere(reason),
        }
    }
}

impl From<LedgerError> for Trouble {
    fn from(error: LedgerError) -> Self {
        Trouble::Refused(Refused::Statement(error.to_string()))
    }
}

/// The connection was lost, or the server says no.
fn trouble(error: &tokio_postgres::Error) -> Trouble {
    let text = describe(error);
    match error.as_db_error().map(|refusal| refusal.code().code().get(..2).unwrap_or_default()) {
        // Resources, operators, systems, connections: all of that passes. A standby becomes a primary.
        None | Some("08" | "53" | "57" | "58" | "25") => Trouble::NotThere(text),
        Some(_) => Trouble::Refused(Refused::Statement(text)),
    }
}

pub(super) async fn connect(connections: &Connections) -> Result<Object<Server>, Trouble> {
    connections.get().await.map_err(|error| match error {
        PoolError::Backend(ConnectError::Server(error)) => match trouble(&error) {
            Trouble::Refused(_) => Trouble::Refused(Refused::Connect(error.into())),
            there => there,
        },
        PoolError::Backend(error @ ConnectError::Late) => Trouble::NotThere(error.to_string()),
        PoolError::Backend(error) => Trouble::Refused(Refused::Connect(error)),
        PoolError::Timeout(_) => Trouble::NotThere("no connection in time".to_owned()),
        error => Trouble::NotThere(error.to_string()),
    })
}

pub(super) async fn ask(
    connected: &Object<Server>,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>, Trouble> {
    let asked = timeout(MIGRATION, connected.client.query_typed(sql, parameters)).await;
    let late = |_| Trouble::NotThere("no answer in time".to_owned());
    asked.map_err(late)?.map_err(|error| trouble(&error))
}

pub(super) async fn command(connected: &Object<Server>, sql: &str) -> Result<(), Trouble> {
    let done = timeout(MIGRATION, connected.client.batch_execute(sql)).await;
    done.map_err(|_| Trouble::NotThere("no answer in time".to_owned()))?.map_err(|error| trouble(&error))
}

fn get<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, Trouble> {
    Ok(super::row::get(row, at)?)
}

fn one(rows: &[Row]) -> Result<&Row, Trouble> {
    let incomplete = "openexec_meta is empty: restore the tables from a backup and raise the fence";
    rows.first().ok_or_else(|| Trouble::Refused(Refused::Statement(incomplete.to_owned())))
}

/// Whether ClawShield mode ever used it.
pub(super) async fn look(config: &PostgresConfig, connections: &Connections, may_make: bool) -> Result<bool, Trouble> {
    let connected = connect(connections).await?;
    let looked = async {
        let facts = ask(&connected, sql::FACTS, &[]).await?;
        suits(one(&facts)?, config.require_synchronous)?;
        match find_version(&connected).await? {
            Some(schema::VERSION) => {}
            Some(version) if version > schema::VERSION => return Err(Refused::Newer(version, schema::VERSION).into()),
            None if !may_make => return Err(Refused::NoTables.into()),
            Some(version) if !may_make => return Err(Refused::Older(version, schema::VERSION).into()),
            _ => make(&connected).await?,
        }
        let meta = ask(&connected, sql::META, &[]).await?;
        get(one(&meta)?, 1)
    };
    let looked = looked.await;
    if looked.is_err() {
        // Perhaps in the middle of a transaction.
        drop(Object::take(connected));
    }
    looked
}

fn suits(facts: &Row, require_synchronous: bool) -> Result<(), Trouble> {
    let unusable = |unusable: Unusable| Err(Refused::from(unusable).into());
    if get::<i32>(facts, 0)? < OLDEST_VERSION {
        return unusable(Unusable::Old);
    }
    let (encoding, isolation): (String, String) = (get(facts, 1)?, get(facts, 2)?);
    if encoding != "UTF8" {
        return unusable(Unusable::Encoding(encoding));
    }
    if isolation != "read committed" {
        return unusable(Unusable::Isolation(isolation));
    }
    if get::<&str>(facts, 3)? == "off" {
        return unusable(Unusable::NotDurable("synchronous_commit"));
    }
    if require_synchronous && !get::<bool>(facts, 4)? {
        return unusable(Unusable::NotSynchronous);
    }
    for (at, setting) in [(5, "fsync"), (6, "full_page_writes")] {
        if !get::<bool>(facts, at)? {
            return unusable(Unusable::NotDurable(setting));
        }
    }
    if get::<bool>(facts, 7)? {
        return unusable(Unusable::Deaf);
    }
    if get::<bool>(facts, 8)? {
        tracing::warn!(
            "the ledger's role has no statement_timeout: what this server gives up the database goes on with; \
             ALTER ROLE ... SET statement_timeout = '10s' bounds that"
        );
    }
    Ok(())
}

/// `None`: there are no tables.
async fn find_version(connected: &Object<Server>) -> Result<Option<i32>, Trouble> {
    if !get::<bool>(one(&ask(connected, schema::FIND, &[]).await?)?, 0)? {
        return Ok(None);
    }
    let found = ask(connected, schema::FOUND_VERSION, &[]).await?;
    get(one(&found)?, 0).map(Some)
}

/// One process at a time; whoever waited finds them made.
async fn make(connected: &Object<Server>) -> Result<(), Trouble> {
    command(connected, "BEGIN").await?;
    ask(connected, schema::LOCK, &[]).await?;
    if find_version(connected).await?.is_none() {
        command(connected, schema::CREATE).await?;
        tracing::info!("a new ledger, unfenced: its tables were made");
    }
    command(connected, "COMMIT").await
}

impl Opened {
    /// Whether ClawShield mode ever used it.
    pub(in crate::ledger) fn served_clawshield(&self) -> bool {
        self.served_clawshield
    }

    /// Registers this process as a replica, and begins to look after the ledger.
    pub(in crate::ledger) async fn start(self, clawshield: bool, skew: TimeDelta, metrics: Arc<Metrics>) -> Postgres {
        let Opened { config, connections, .. } = self;
        let standing = Standing {
            replica: Uuid::nil(),
            next_replica: Uuid::new_v4(),
            lease: Arc::new(Lease::default()),
            fence: None,
            trouble: None,
        };
        let shared = Arc::new(Shared {
            acks: Mutex::new(Acks::default()),
            own_connection: pool(&config, 1),
            connections,
            skew,
            metrics,
            standing: Mutex::new(standing),
            given_up: Mutex::default(),
            unended_turns: Mutex::default(),
            down: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            attention: Notify::new(),
            config,
        });
        while let Err(error) = enter(&shared, clawshield).await {
            tracing::error!(%error, "the ledger's database is gone again: it is waited for");
            sleep(PAUSE).await;
        }
        let (denials, notes) = mpsc::channel(denials::MOST_WAITING);
        let recorder = AbortOnDropHandle::new(tokio::spawn(denials::run(shared.clone(), notes)));
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper::run(shared.clone())));
        Postgres { shared, denials, keeper: Mutex::new(Some(keeper)), _recorder: recorder }
    }
}

/// Raises the fence where that is due, and registers this process.
async fn enter(shared: &Shared, clawshield: bool) -> Result<(), LedgerError> {
    let (skew, now) = (shared.skew.as_seconds_f64(), Utc::now());
    for (sql, is_due, reason) in [
        (sql::MOVE_CLUSTER, true, "the tables were copied from another database"),
        (sql::RAISE, shared.config.fence == FencePolicy::Always, "ledger.fence is `always`"),
    ] {
        if is_due
            && let Some(row) = shared.keep(sql, &[(&skew, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)]).await?.first()
        {
            let fence: DateTime<Utc> = super::row::get(row, 0)?;
            tracing::warn!(%fence, reason, "approvals issued before the fence are refused");
        }
    }
    if clawshield {
        shared.keep(sql::SERVES_CLAWSHIELD, &[]).await?;
    }
    keeper::register(shared).await?;
    let meta = shared.keep(sql::META, &[]).await?;
    shared.standing.lock().fence = meta.first().map_or(Ok(None), |row| super::row::get(row, 2))?;
    Ok(())
}
