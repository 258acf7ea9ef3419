//! What a person does with a ledger: check it, copy it, move it, fence it. `openexec ledger` is the way in.
//!
//! Checking, copying and exporting read one state of the ledger and may be done while a server uses it. What changes a
//! ledger's file needs its lock.

mod check;
mod export;
mod import;
pub(super) mod line;

pub(super) use check::LISTED;
pub use check::{Findings, check};
pub use export::export;
pub use import::{ImportError, Imported, import};

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};

use self::line::Line;
use super::sqlite::OpenError;
use super::{postgres, sqlite};
use crate::config::ledger::LedgerConfig;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nothing is left of it.
    #[error("memory: is gone with its process: name a file or a database in OPENEXEC_DB_URL")]
    InMemory,
    /// It has no executions, since it was never made.
    #[error("there is no ledger {0}")]
    NoLedger(PathBuf),
    /// Of an older version, which only a start or an import brings up to date.
    #[error("the ledger {0} has schema version {1}: start this version once on it, then try again")]
    Older(PathBuf, i32),
    /// Others use it.
    #[error("{0} replicas use the ledger: stop them first")]
    InUse(i64),
    /// The engine has better tools.
    #[error("PostgreSQL's own tools copy it: pg_dump, or a base backup. Raise the fence when it is restored")]
    UsePgDump,
    /// It holds what it must not.
    #[error("execution {id}: {problem}")]
    Damaged {
        /// Which one.
        id: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Another file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// What is read is not what can be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl CareError {
    /// The exit code, as sysexits.h has them.
    pub fn exit_code(&self) -> u8 {
        match self {
            CareError::Open(error) => error.exit_code(),
            CareError::NoLedger(_) | CareError::Older(..) | CareError::InMemory => 78,
            CareError::UsePgDump => 64,
            CareError::InUse(_) => 75,
            CareError::Damaged { .. } | CareError::File(..) => 74,
            CareError::Import(_) => 65,
        }
    }
}

/// What is known of a ledger beside its executions.
pub(super) struct About {
    pub(super) ledger_id: String,
    pub(super) fence: Option<DateTime<Utc>>,
    pub(super) served_clawshield: bool,
    /// What else a check tells: names and texts.
    pub(super) more: Vec<(&'static str, String)>,
    /// Damage of the engine's own structures.
    pub(super) problems: Vec<String>,
}

/// One state of a ledger, whoever uses it.
pub(super) trait Source {
    /// `thoroughly`: its structure, too.
    fn about(&mut self, thoroughly: bool) -> Result<About, CareError>;

    /// Each execution, in the order of their claims.
    fn each(&mut self, put: &mut dyn FnMut(Line) -> Result<(), CareError>) -> Result<(), CareError>;
}

/// A ledger that takes executions over: all of them, or none.
pub(super) trait Target {
    /// Where that is, in words.
    fn name(&self) -> String;

    /// How many of these are new; the others are there already. `Err` inside: this one's nonce or approval is another's.
    fn put(&mut self, lines: &[(u64, Line)]) -> Result<Result<u64, (u64, String)>, CareError>;

    /// Ends it. The fence is raised to this time, if it is not later. Gives the fence.
    fn finish(
        self: Box<Self>,
        served_clawshield: bool,
        fence: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, CareError>;
}

fn source(config: &LedgerConfig) -> Result<Box<dyn Source>, CareError> {
    match config {
        LedgerConfig::Memory { .. } => Err(CareError::InMemory),
        LedgerConfig::Sqlite(sqlite) => Ok(Box::new(sqlite::care::Snapshot::of(sqlite)?)),
        LedgerConfig::Postgres(postgres) => Ok(Box::new(postgres::care::Snapshot::of(postgres)?)),
    }
}

fn target(config: &LedgerConfig) -> Result<Box<dyn Target>, CareError> {
    match config {
        LedgerConfig::Memory { .. } => Err(CareError::InMemory),
        LedgerConfig::Sqlite(sqlite) => Ok(Box::new(sqlite::care::Import::into(sqlite)?)),
        LedgerConfig::Postgres(postgres) => Ok(Box::new(postgres::care::Import::into(postgres)?)),
    }
}

/// Makes the ledger, or brings it to this version. Gives what there is then, in words.
///
/// # Errors
/// It cannot be used, or a server uses it.
pub fn migrate(config: &LedgerConfig) -> Result<String, CareError> {
    match config {
        LedgerConfig::Memory { .. } => Err(CareError::InMemory),
        LedgerConfig::Sqlite(sqlite) => sqlite::care::migrate(sqlite),
        LedgerConfig::Postgres(postgres) => postgres::care::migrate(postgres),
    }
}

/// Copies one state of the ledger into a new file. Gives its size in bytes.
///
/// # Errors
/// The file is there already, or the copy is not good: then there is none.
pub fn backup(config: &LedgerConfig, to: &Path) -> Result<u64, CareError> {
    match config {
        LedgerConfig::Memory { .. } => Err(CareError::InMemory),
        LedgerConfig::Sqlite(sqlite) => sqlite::care::backup(sqlite, to),
        LedgerConfig::Postgres(_) => Err(CareError::UsePgDump),
    }
}

/// What was forgotten.
#[derive(Debug)]
pub struct Pruned {
    /// Results, of executions that are still known.
    pub results: u64,
    /// Executions.
    pub executions: u64,
    /// Approvals issued before this time are refused.
    pub fence: Option<DateTime<Utc>>,
}

/// Forgets results, and executions, that were settled before these times. A retry for a forgotten result is told so, with
/// its receipt. With an execution its nonce and the use of its approval are forgotten. So the fence is raised to
/// `executions_before` and `skew`: no approval that it could have used counts again, whatever the clock says later. What is
/// not settled stays, and so does the newest execution.
///
/// # Errors
/// There is none, or a server uses a ledger that is a file.
pub fn prune(
    config: &LedgerConfig,
    results_before: Option<DateTime<Utc>>,
    executions_before: Option<DateTime<Utc>>,
    skew: TimeDelta,
) -> Result<Pruned, CareError> {
    match config {
        LedgerConfig::Memory { .. } => Err(CareError::InMemory),
        LedgerConfig::Sqlite(sqlite) => sqlite::care::prune(sqlite, results_before, executions_before, skew),
        LedgerConfig::Postgres(postgres) => postgres::care::prune(postgres, results_before, executions_before, skew),
    }
}

/// Approvals issued before the time that this returns are refused from now on: now, or later if the ledger has seen
/// later times, and `skew`. For a ledger that was restored from a copy.
///
/// # Errors
/// There is none, or a server uses a ledger that is a file.
pub fn raise(config: &LedgerConfig, skew: TimeDelta) -> Result<DateTime<Utc>, CareError> {
    match config {
        LedgerConfig::Memory { .. } => Err(CareError::InMemory),
        LedgerConfig::Sqlite(sqlite) => sqlite::care::raise(sqlite, skew),
        LedgerConfig::Postgres(postgres) => postgres::care::raise(postgres, skew),
    }
}
