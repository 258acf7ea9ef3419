//! Forgetting, on purpose: results that nobody asks for any more, and in the end whole executions.

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::timestamp;

use crate::config::ledger::SqliteConfig;
use crate::ledger::care::{CareError, Pruned};
use crate::ledger::fence::whole_micros;
use crate::ledger::sqlite::{OpenFile, set_meta, stored_fence};

/// See [`care::prune`](crate::ledger::care::prune).
pub(in crate::ledger) fn prune(
    config: &SqliteConfig,
    results_before: Option<DateTime<Utc>>,
    executions_before: Option<DateTime<Utc>>,
    skew: TimeDelta,
) -> Result<Pruned, CareError> {
    let config = SqliteConfig { create: false, ..config.clone() };
    let OpenFile { mut connection, lock: _lock, .. } = OpenFile::open(config)?;
    let transaction = connection.transaction()?;
    let own = stored_fence(&transaction)?;
    let fence = own.max(executions_before.map(|before| whole_micros(before + skew)));
    if let Some(fence) = fence {
        set_meta(&transaction, "fence", &timestamp::print(fence))?;
    }
    let forget = |statement: &str, before: Option<DateTime<Utc>>| match before {
        // One spelling of time: its order is that of the texts.
        Some(before) => transaction.execute(statement, [timestamp::print(before)]),
        None => Ok(0),
    };
    let executions = forget(FORGET_EXECUTIONS, executions_before)?;
    let results = forget(FORGET_RESULTS, results_before)?;
    transaction.commit()?;
    Ok(Pruned { results: results as u64, executions: executions as u64, fence })
}

const FORGET_RESULTS: &str = "
UPDATE executions SET result = NULL, headers = NULL
WHERE state = 'DONE' AND result IS NOT NULL AND settled_at < ?1";

const FORGET_EXECUTIONS: &str = "
DELETE FROM executions
WHERE (state = 'DONE' OR state = 'NOT_EXECUTED') AND settled_at < ?1 AND seq < (SELECT max(seq) FROM executions)";
