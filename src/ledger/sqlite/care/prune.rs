//! Forgetting, on purpose: results that nobody asks for any more, and in the end whole executions.

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::timestamp;

use super::CareError;
use crate::config::ledger::SqliteConfig;
use crate::ledger::fence::whole_micros;
use crate::ledger::sqlite::{OpenFile, set_meta, stored_fence};

/// What was forgotten.
#[derive(Debug)]
pub struct Pruned {
    /// Results, of executions that are still known.
    pub results: usize,
    /// Executions.
    pub executions: usize,
    /// Approvals issued before this time are refused.
    pub fence: Option<DateTime<Utc>>,
}

/// Forgets results, and executions, that were settled before these times. A retry for a forgotten result is told so, with
/// its receipt. With an execution its nonce and the use of its approval are forgotten. So the fence is raised to
/// `executions_before` and `skew`: no approval that it could have used counts again, whatever the clock says later. What is
/// not settled stays, and so does the newest execution, by which the anchor knows the ledger.
///
/// # Errors
/// There is none, or a server uses it.
pub fn prune(
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
    Ok(Pruned { results, executions, fence })
}

const FORGET_RESULTS: &str = "
UPDATE executions SET result = NULL, headers = NULL
WHERE state = 'DONE' AND result IS NOT NULL AND settled_at < ?1";

const FORGET_EXECUTIONS: &str = "
DELETE FROM executions
WHERE (state = 'DONE' OR state = 'NOT_EXECUTED') AND settled_at < ?1 AND seq < (SELECT max(seq) FROM executions)";
