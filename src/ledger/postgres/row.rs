//! Between rows and types.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::ledger::{Denied, Dispatched, Done, Execution, LedgerError, Outcome, Record, RecoveryPolicy, State};

/// A row that no OpenExec wrote: somebody changed it by hand, or a newer one did.
pub(super) fn get<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, LedgerError> {
    row.try_get(at).map_err(|_| unreadable(at))
}

fn unreadable(column: usize) -> LedgerError {
    tracing::error!(column, "a row of the ledger cannot be read");
    LedgerError::Unavailable
}

/// Reads the first columns of every statement that returns executions.
pub(super) fn execution(row: &Row) -> Result<Execution, LedgerError> {
    let status = || {
        let status: Option<i32> = get(row, 4)?;
        status.map(|status| u16::try_from(status).map_err(|_| unreadable(4))).transpose()
    };
    let state = match get::<&str>(row, 3)? {
        "INTENT" => State::Intent,
        "DONE" => match get::<Option<String>>(row, 6)? {
            None => State::Expired { receipt: get(row, 5)? },
            Some(result) => {
                let headers = get::<Option<&str>>(row, 7)?.map(serde_json::from_str).transpose();
                let headers = headers.map_err(|_| unreadable(7))?.unwrap_or_default();
                let done = Done { upstream_status: status()?, headers, receipt: get(row, 5)?, result };
                State::Settled(Outcome::Done(done))
            }
        },
        "NOT_EXECUTED" => State::Settled(Outcome::NotExecuted { status: status()?.ok_or_else(|| unreadable(4))? }),
        "UNKNOWN" => State::Settled(Outcome::Unknown),
        _ => return Err(unreadable(3)),
    };
    Ok(Execution { id: get(row, 0)?, action: get(row, 1)?, action_hash: get(row, 2)?, key_id: get(row, 8)?, state })
}

/// Reads the columns of the statements that return records.
pub(super) fn record(row: &Row) -> Result<Record, LedgerError> {
    let dispatched = match get::<Option<String>>(row, 17)? {
        None => None,
        Some(route) => {
            let policy = RecoveryPolicy::parse(get::<Option<&str>>(row, 18)?.unwrap_or_default());
            Some(Dispatched { payload: get(row, 16)?, route, policy })
        }
    };
    Ok(Record {
        execution: execution(row)?,
        seq: get(row, 9)?,
        tenant: get(row, 10)?,
        nonce: get(row, 11)?,
        approval_id: get(row, 12)?,
        claimed_at: get(row, 13)?,
        settled_at: get(row, 14)?,
        settled_by: get(row, 15)?,
        dispatched,
        caller: get(row, 19)?,
    })
}

/// Reads the columns of the statements that return refused requests.
pub(super) fn denied(row: &Row) -> Result<(i64, Denied), LedgerError> {
    let denied_at: DateTime<Utc> = get(row, 1)?;
    let denied = Denied {
        denied_at,
        tenant: get::<&str>(row, 2)?.into(),
        reason: get(row, 3)?,
        action: get(row, 4)?,
        action_hash: get(row, 5)?,
        nonce: get(row, 6)?,
        approval_id: get(row, 7)?,
        key_id: get(row, 8)?,
        caller: get::<Option<&str>>(row, 9)?.map(Into::into),
    };
    Ok((get(row, 0)?, denied))
}
