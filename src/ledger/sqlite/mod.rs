//! The embedded ledger: one SQLite file, one writer thread, readers beside it.

pub(super) mod care;
mod checkpointer;
mod file;
mod keeper;
mod retention;
mod row;
mod schema;
mod statements;
mod writer;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::checkpointer::Checkpointer;
use self::keeper::Keeper;
use self::row::NewRow;
use self::writer::{Job, Progress, Reply, Writer};
use super::{
    Claim, Claimed, DenialFilter, Denied, Done, Execution, Filter, Forgotten, Horizon, Ledger, LedgerError,
    NewExecution, OnFatal, Outcome, Record, Recoverable, fence,
};
use crate::config::ledger::{FencePolicy, SqliteConfig};
use crate::metrics::Metrics;

pub use file::OpenError;

/// The first SQLite without the bug that could corrupt a WAL file when several connections check-point.
const MIN_SQLITE_VERSION: i32 = 3_051_003;
/// Connections that look things up.
const READERS: usize = 2;

/// A ledger file that is ours, locked, and understood; not yet checked.
pub struct OpenFile {
    connection: Connection,
    config: SqliteConfig,
    lock: file::Lock,
    ledger_id: String,
    is_new: bool,
    was_clean: bool,
}

/// The ledger at work.
pub struct Sqlite {
    jobs: mpsc::Sender<Job>,
    readers: Arc<[Mutex<Connection>]>,
    surveyor: Arc<Mutex<Connection>>,
    progress: Arc<Progress>,
    on_fatal: OnFatal,
    keeper: Mutex<Option<Keeper>>,
    _lock: file::Lock,
}

impl OpenFile {
    /// Takes the file, or makes it.
    ///
    /// # Errors
    /// See [`OpenError`]: each says what to do.
    pub fn open(mut config: SqliteConfig) -> Result<Self, OpenError> {
        if rusqlite::version_number() < MIN_SQLITE_VERSION {
            return Err(OpenError::OldSqlite(rusqlite::version()));
        }
        // One file has one lock, by whichever name it is called.
        if let Ok(path) = config.path.canonicalize() {
            config.path = path;
        }
        let (lock, exists) = file::take(&config)?;
        // Looked at before it is opened for writing, which would change the first page of a file that is not ours.
        let is_new = !exists || !file::recognise(&config.path)?;
        let connection = file::connect(&config.path)?;
        if is_new {
            create(&connection)?;
        } else {
            migrate(&connection)?;
        }
        let ledger_id = meta(&connection, "ledger_id")?.ok_or(OpenError::Incomplete)?;
        let was_clean = is_new || meta(&connection, "clean")?.as_deref() == Some("1");
        Ok(OpenFile { connection, config, lock, ledger_id, is_new, was_clean })
    }

    /// What can be told of a file that another process has: whether ClawShield mode ever used it.
    ///
    /// # Errors
    /// As [`OpenFile::open`], but for the lock.
    pub fn preview(config: &SqliteConfig) -> Result<bool, OpenError> {
        if !file::exists(config)? || !file::recognise(&config.path)? {
            return Ok(false);
        }
        Ok(meta(&file::connect_reader(&config.path)?, "served_clawshield")?.as_deref() == Some("1"))
    }

    /// Whether ClawShield mode ever used it.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn served_clawshield(&self) -> Result<bool, OpenError> {
        Ok(meta(&self.connection, "served_clawshield")?.as_deref() == Some("1"))
    }

    /// Whether the last process ended without closing it, so that [`OpenFile::start`] reads all of it first.
    pub fn needs_check(&self) -> bool {
        !self.was_clean
    }

    /// Checks what must be checked, raises the fence where it must be raised, and starts to write.
    ///
    /// # Errors
    /// Corruption, or a disk that does not take it.
    pub fn start(
        self,
        clawshield: bool,
        skew: TimeDelta,
        metrics: Arc<Metrics>,
        on_fatal: OnFatal,
    ) -> Result<Sqlite, OpenError> {
        if self.needs_check() {
            file::quick_check(&self.connection)?;
            // What a process leaves that is killed: one that is killed again and again would let it grow without end.
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        let (connection, config) = (self.connection, self.config);
        let (last_seq, newest_row) = newest(&connection)?;
        let fence = raise_fence(&connection, &config, &self.ledger_id, self.is_new, last_seq, newest_row, skew)?;
        let abandoned = connection.execute(schema::ABANDON, [timestamp::print(Utc::now())])?;
        if abandoned > 0 {
            tracing::warn!(executions = abandoned, "an earlier process died while they ran: their outcome is unknown");
        }
        if clawshield {
            set_meta(&connection, "served_clawshield", "1")?;
        }
        set_meta(&connection, "clean", "0")?;
        let progress = Arc::new(Progress::default());
        progress.last_seq.store(last_seq, Ordering::Release);
        *progress.fence.lock() = fence;
        let keeper = Keeper::start(config.clone(), self.ledger_id, progress.clone(), metrics.clone())?;
        let readers = (0..READERS).map(|_| file::connect_reader(&config.path).map(Mutex::new));
        let readers = readers.collect::<Result<_, _>>()?;
        let surveyor = Arc::new(Mutex::new(file::connect_reader(&config.path)?));
        let (jobs, queue) = mpsc::channel();
        let checkpointer =
            Checkpointer::new(file::connect(&config.path)?, on_fatal.clone()).map_err(OpenError::Thread)?;
        let (progress_seen, on_fatal_too) = (progress.clone(), on_fatal.clone());
        let writer = Writer { connection, progress: progress_seen, metrics, on_fatal: on_fatal_too, checkpointer };
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                let on_fatal = writer.on_fatal.clone();
                if std::panic::catch_unwind(AssertUnwindSafe(|| writer.run(&queue))).is_err() {
                    on_fatal(&"the ledger's writer panicked");
                }
            })
            .map_err(OpenError::Thread)?;
        Ok(Sqlite { jobs, readers, surveyor, progress, on_fatal, keeper: Mutex::new(Some(keeper)), _lock: self.lock })
    }
}

fn create(connection: &Connection) -> Result<(), OpenError> {
    let ledger_id = Uuid::new_v4().to_string();
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         {}
         INSERT INTO meta VALUES ('ledger_id', '{ledger_id}'), ('clean', '1');
         PRAGMA application_id = {};
         PRAGMA user_version = {};
         COMMIT;",
        schema::CREATE,
        schema::APPLICATION_ID,
        schema::SCHEMA_VERSION
    ))?;
    Ok(())
}

/// Brings an older ledger to today's columns, whole or not at all.
fn migrate(connection: &Connection) -> Result<(), OpenError> {
    let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps: String =
        [(1, schema::MIGRATE_1), (2, schema::MIGRATE_2), (3, schema::MIGRATE_3), (4, schema::MIGRATE_4)]
            .into_iter()
            .filter(|(from, _)| version <= *from)
            .map(|(_, step)| step)
            .collect();
    if !steps.is_empty() {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {steps} PRAGMA user_version = {}; COMMIT;",
            schema::SCHEMA_VERSION
        ))?;
        tracing::info!("the ledger was brought from version {version} to {}", schema::SCHEMA_VERSION);
    }
    Ok(())
}

fn newest(connection: &Connection) -> Result<(i64, Option<DateTime<Utc>>), OpenError> {
    let row = connection
        .query_row("SELECT seq, claimed_at FROM executions ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    Ok(row.map_or((0, None), |(seq, time)| (seq, timestamp::parse(&time))))
}

/// The fence is stored before the anchor is ever rewritten, or a crash between the two would hide the reason for it.
fn raise_fence(
    connection: &Connection,
    config: &SqliteConfig,
    ledger_id: &str,
    is_new: bool,
    last_seq: i64,
    newest_row: Option<DateTime<Utc>>,
    skew: TimeDelta,
) -> Result<Option<DateTime<Utc>>, OpenError> {
    let anchor = match super::Anchor::read(&config.anchor) {
        Ok(anchor) => Ok(anchor),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData || e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(())
        }
        Err(e) => return Err(OpenError::Anchor(config.anchor.clone(), e)),
    };
    let fence = stored_fence(connection)?;
    let findings = fence::Findings { ledger_id, is_new, last_seq, newest_row, fence, anchor };
    let (fence, reason) = fence::raise(&findings, config.fence == FencePolicy::Always, Utc::now(), skew);
    if let (Some(fence), Some(reason)) = (fence, reason) {
        set_meta(connection, "fence", &timestamp::print(fence))?;
        tracing::warn!(%fence, %reason, "approvals issued before the fence are refused");
    } else if is_new {
        tracing::info!(path = %config.path.display(), "a new ledger, unfenced");
    }
    Ok(fence)
}

fn stored_fence(connection: &Connection) -> Result<Option<DateTime<Utc>>, OpenError> {
    let text = meta(connection, "fence")?;
    text.map(|text| timestamp::parse(&text).ok_or(OpenError::Incomplete)).transpose()
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2", [key, value])?;
    Ok(())
}

/// The last thing that is written: the next start need not check the file.
fn mark_clean(connection: &Connection) -> rusqlite::Result<()> {
    set_meta(connection, "clean", "1")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

impl Sqlite {
    /// For clients.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let readers = self.readers.clone();
        self.read_with(move || {
            let reader = readers.iter().find_map(|reader| reader.try_lock());
            let reader = reader.unwrap_or_else(|| readers[0].lock());
            read(&reader)
        })
        .await
    }

    /// For operators and recovery, on a connection of their own: what takes long must not keep clients waiting.
    async fn survey<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let surveyor = self.surveyor.clone();
        self.read_with(move || read(&surveyor.lock())).await
    }

    async fn read_with<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                if writer::is_fatal(&error) {
                    (self.on_fatal)(&error);
                }
                tracing::error!(%error, "the ledger could not be read");
                Err(LedgerError::Unavailable)
            }
            Err(_) => Err(LedgerError::Closed),
        }
    }
}

#[async_trait]
impl Ledger for Sqlite {
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError> {
        let (tenant, nonce) = (tenant.to_owned(), nonce.to_owned());
        let found = self.read(move |reader| {
            let mut look_up = reader.prepare_cached(schema::LOOK_UP)?;
            look_up.query_row(params![tenant, nonce], row::execution).optional()
        });
        Ok(found.await?.map(Arc::new))
    }

    async fn find(&self, id: &str) -> Result<Option<Record>, LedgerError> {
        let id = id.to_owned();
        self.read(move |reader| reader.prepare_cached(schema::FIND)?.query_row([id], row::record).optional()).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        let Filter { state, before, limit } = filter.clone();
        self.survey(move |reader| {
            let sql = match state {
                None => schema::LIST,
                Some("INTENT" | "UNKNOWN") => schema::LIST_UNSETTLED,
                Some("NOT_EXECUTED") => schema::LIST_NOT_EXECUTED,
                Some(_) => schema::LIST_DONE,
            };
            let mut list = reader.prepare_cached(sql)?;
            match state {
                None => list.query_map(params![before, limit as i64], row::record)?.collect(),
                Some(state) => list.query_map(params![before, limit as i64, state], row::record)?.collect(),
            }
        })
        .await
    }

    async fn recoverable(&self, after: i64, limit: usize) -> Result<Vec<Recoverable>, LedgerError> {
        self.survey(move |reader| {
            let mut recoverable = reader.prepare_cached(schema::RECOVERABLE)?;
            recoverable
                .query_map(params![after, limit as i64], |row| {
                    Ok(Recoverable { seq: row.get(0)?, id: row.get(1)?, action: row.get(2)? })
                })?
                .collect()
        })
        .await
    }

    async fn count_unknown(&self) -> Result<usize, LedgerError> {
        let count = self
            .survey(|reader| reader.prepare_cached(schema::COUNT_UNKNOWN)?.query_row([], |row| row.get::<_, u32>(0)));
        Ok(count.await? as usize)
    }

    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
        if self.progress.disk_low.load(Ordering::Relaxed) {
            let known = self.look_up(&new.tenant, &new.nonce).await?;
            return known.map(Claimed::Known).ok_or(LedgerError::Full);
        }
        let (reply, answer) = Reply::channel();
        let row = Box::new(NewRow::new(new, result));
        self.jobs.send(Job::Claim(row, reply)).map_err(|_| LedgerError::Closed)?;
        let (row, claimed) = answer.await.map_err(|_| LedgerError::Closed)?;
        match claimed {
            // What was stored before is there, whatever became of the commit that it was asked for in.
            Err(error @ (LedgerError::Full | LedgerError::Unavailable)) => {
                self.look_up(&row.tenant, &row.nonce).await?.map(Claimed::Known).ok_or(error)
            }
            claimed => claimed,
        }
    }

    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError> {
        let (reply, answer) = Reply::channel();
        let settling = Box::new((claim.again(), outcome.clone()));
        self.jobs.send(Job::Record(settling, reply)).map_err(|_| LedgerError::Closed)?;
        let (settling, recorded) = answer.await.map_err(|_| LedgerError::Closed)?;
        let (claim, outcome) = *settling;
        recorded.map(|()| claim.settled(outcome))
    }

    async fn resolve(&self, id: &str, outcome: &Outcome, by: &str) -> Result<Arc<Execution>, LedgerError> {
        let (reply, answer) = Reply::channel();
        let job = Job::Resolve { id: id.to_owned(), outcome: outcome.clone(), by: by.to_owned(), reply };
        self.jobs.send(job).map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    fn deny(&self, denied: Denied, kept: usize) {
        let _ = self.jobs.send(Job::Deny(Box::new(denied), kept));
    }

    async fn denials(&self, filter: &DenialFilter) -> Result<Vec<(i64, Denied)>, LedgerError> {
        let DenialFilter { tenant, before, limit } = filter.clone();
        self.survey(move |reader| match tenant {
            None => {
                reader.prepare_cached(schema::DENIALS)?.query_map(params![before, limit as i64], row::denied)?.collect()
            }
            Some(tenant) => reader
                .prepare_cached(schema::DENIALS_OF_TENANT)?
                .query_map(params![before, limit as i64, tenant], row::denied)?
                .collect(),
        })
        .await
    }

    async fn retain(&self, horizon: &Horizon) -> Result<Forgotten, LedgerError> {
        let horizon = *horizon;
        let old = self.survey(move |reader| retention::find(reader, &horizon)).await?;
        if old.is_empty() {
            return Ok(Forgotten::default());
        }
        let fence = if old.executions.is_empty() { None } else { horizon.fence() };
        // At work before it is stored: what is refused for it in vain would be refused for its age.
        let fence = {
            let mut own = self.progress.fence.lock();
            *own = (*own).max(fence);
            fence.and(*own)
        };
        let (reply, answer) = Reply::channel();
        self.jobs.send(Job::Forget { old, horizon, fence, reply }).map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    fn fence(&self) -> Option<DateTime<Utc>> {
        *self.progress.fence.lock()
    }

    fn trouble(&self) -> Option<&'static str> {
        self.progress.trouble()
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).is_ok() {
            let _ = closed.await;
        }
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.stop();
        }
    }
}

/// How often the anchor follows the ledger under load.
const ANCHOR_PERIOD: Duration = Duration::from_secs(1);
