//! What a person does with a ledger's file: check it, copy it, move it, fence it. `openexec ledger` is the way in.
//!
//! Checking, copying and exporting read one state of the file and may be done while a server uses it. Importing and
//! fencing change it, and need its lock.

mod backup;
mod check;
mod export;
mod import;
mod legacy;
mod line;
mod prune;

pub use backup::backup;
pub use check::{Findings, check};
pub use export::export;
pub use import::{ImportError, Imported, import};
pub use prune::{Pruned, prune};

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use super::{OpenError, OpenFile, file, raise_fence, schema};
use crate::config::ledger::{FencePolicy, SqliteConfig};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It has no executions, since it was never made.
    #[error("there is no ledger {0}")]
    NoLedger(PathBuf),
    /// Of an older version, which only a start or an import brings up to date.
    #[error("the ledger {0} has schema version {1}: start this version once on it, then try again")]
    Older(PathBuf, i32),
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

impl From<rusqlite::Error> for CareError {
    fn from(error: rusqlite::Error) -> Self {
        CareError::Open(error.into())
    }
}

impl CareError {
    /// The exit code, as sysexits.h has them.
    pub fn exit_code(&self) -> u8 {
        match self {
            CareError::Open(error) => error.exit_code(),
            CareError::NoLedger(_) | CareError::Older(..) => 78,
            CareError::Damaged { .. } | CareError::File(..) => 74,
            CareError::Import(_) => 65,
        }
    }
}

/// Approvals issued before the time that this returns are refused from now on: now, or later if the ledger has seen
/// later times, and `skew`. For a ledger that was restored from a copy.
///
/// # Errors
/// There is none, or a server uses it.
pub fn raise(config: &SqliteConfig, skew: TimeDelta) -> Result<DateTime<Utc>, CareError> {
    let config = SqliteConfig { create: false, fence: FencePolicy::Always, ..config.clone() };
    let OpenFile { connection, config, ledger_id, lock: _lock, .. } = OpenFile::open(config)?;
    let (last_seq, newest_row) = super::newest(&connection)?;
    let fence = raise_fence(&connection, &config, &ledger_id, false, last_seq, newest_row, skew)?;
    Ok(fence.expect("a ledger that is always fenced has a fence"))
}

/// One state of a ledger that is there, whoever uses it.
fn snapshot(config: &SqliteConfig) -> Result<Connection, CareError> {
    if !config.path.exists() {
        return Err(CareError::NoLedger(config.path.clone()));
    }
    if !file::recognise(&config.path)? {
        return Err(CareError::NoLedger(config.path.clone()));
    }
    let connection = file::connect_reader(&config.path)?;
    let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version < schema::SCHEMA_VERSION {
        return Err(CareError::Older(config.path.clone(), version));
    }
    connection.execute_batch("BEGIN")?;
    Ok(connection)
}
