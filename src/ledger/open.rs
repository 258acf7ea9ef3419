//! From configuration to a ledger, in two steps: what can be refused at once, and what may take long.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};

use tokio::runtime::Handle;

use super::sqlite::{OpenError, OpenFile};
use super::{Cached, Ledger, Memory, OnFatal, postgres};
use crate::config::ledger::{FencePolicy, LedgerConfig, PostgresConfig};
use crate::metrics::Metrics;

/// A ledger that may be used, and is not started yet.
pub enum Opening {
    /// `memory:`
    Memory {
        /// Its bound.
        max_bytes: usize,
        /// See [`FencePolicy`].
        fence: FencePolicy,
    },
    /// A file, locked for this process.
    Sqlite {
        /// The file.
        file: Box<OpenFile>,
        /// Bytes for finished answers.
        cache_bytes: usize,
    },
    /// A database, not looked for yet.
    Postgres(Box<PostgresConfig>),
}

/// A database that is there.
pub struct Reached {
    opened: postgres::Opened,
    cache_bytes: usize,
}

/// Takes the ledger that is configured.
///
/// # Errors
/// See [`OpenError`].
pub fn open(config: &LedgerConfig) -> Result<Opening, OpenError> {
    Ok(match config {
        LedgerConfig::Memory { max_bytes, fence } => Opening::Memory { max_bytes: *max_bytes, fence: *fence },
        LedgerConfig::Sqlite(sqlite) => {
            Opening::Sqlite { file: Box::new(OpenFile::open(sqlite.clone())?), cache_bytes: sqlite.cache_bytes }
        }
        LedgerConfig::Postgres(postgres) => Opening::Postgres(postgres.clone()),
    })
}

/// What can be told of the configured ledger while another process has it: whether ClawShield mode ever used it.
///
/// # Errors
/// See [`OpenError`].
pub fn preview(config: &LedgerConfig) -> Result<bool, OpenError> {
    match config {
        LedgerConfig::Memory { .. } | LedgerConfig::Postgres(_) => Ok(false),
        LedgerConfig::Sqlite(sqlite) => OpenFile::preview(sqlite),
    }
}

impl Opening {
    /// Whether ClawShield mode ever used it.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn served_clawshield(&self) -> Result<bool, OpenError> {
        match self {
            Opening::Memory { .. } | Opening::Postgres(_) => Ok(false),
            Opening::Sqlite { file, .. } => file.served_clawshield(),
        }
    }

    /// Whether [`Opening::start`] will read the whole file first.
    pub fn needs_check(&self) -> bool {
        matches!(self, Opening::Sqlite { file, .. } if file.needs_check())
    }

    /// Checks the file where that is needed, and starts. A database is waited for, on a thread of the runtime that may block.
    ///
    /// `memory:` in ClawShield mode is fenced: it has forgotten what an earlier process executed.
    ///
    /// # Errors
    /// Corruption, or a disk that does not take it.
    pub fn start(
        self,
        clawshield: bool,
        skew: TimeDelta,
        metrics: Arc<Metrics>,
        on_fatal: OnFatal,
    ) -> Result<Arc<dyn Ledger>, OpenError> {
        Ok(match self {
            Opening::Memory { max_bytes, fence } => {
                let fenced = clawshield || fence == FencePolicy::Always;
                Arc::new(Memory::new(max_bytes, fenced.then(|| Utc::now() + skew)))
            }
            Opening::Sqlite { file, cache_bytes } => {
                Arc::new(Cached::new(file.start(clawshield, skew, metrics, on_fatal)?, cache_bytes))
            }
            Opening::Postgres(config) => Handle::current().block_on(async {
                let reached = Reached::wait(&config).await?;
                Ok::<_, OpenError>(reached.start(clawshield, skew, metrics).await)
            })?,
        })
    }
}

impl Reached {
    /// Waits for a database, which need not be there yet.
    ///
    /// # Errors
    /// It is there, and is no ledger for us.
    pub async fn wait(config: &PostgresConfig) -> Result<Self, OpenError> {
        Ok(Reached { opened: postgres::open(config).await?, cache_bytes: config.cache_bytes })
    }

    /// Whether ClawShield mode ever used it.
    pub fn served_clawshield(&self) -> bool {
        self.opened.served_clawshield()
    }

    /// See [`Opening::start`].
    pub async fn start(self, clawshield: bool, skew: TimeDelta, metrics: Arc<Metrics>) -> Arc<dyn Ledger> {
        Arc::new(Cached::new(self.opened.start(clawshield, skew, metrics).await, self.cache_bytes))
    }
}
