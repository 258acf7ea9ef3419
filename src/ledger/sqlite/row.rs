//! Between rows and types.

use rusqlite::Row;
use rusqlite::types::{Type, ValueRef};

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;

use crate::ledger::{Denied, Dispatched, Done, Execution, Outcome, Record, RecoveryPolicy, State};

/// Reads the first columns of every statement that returns executions.
pub(super) fn execution(row: &Row<'_>) -> rusqlite::Result<Execution> {
    let state = match row.get_ref(3)?.as_str()? {
        "INTENT" => State::Intent,
        "DONE" if row.get_ref(6)? == ValueRef::Null => State::Expired { receipt: row.get(5)? },
        "DONE" => {
            let headers = match row.get_ref(7)?.as_str_or_null()? {
                None => Vec::new(),
                Some(headers) => serde_json::from_str(headers)
                    .map_err(|_| rusqlite::Error::InvalidColumnType(7, "headers".to_owned(), Type::Text))?,
            };
            let (receipt, result) = (row.get(5)?, row.get(6)?);
            State::Settled(Outcome::Done(Done { upstream_status: row.get(4)?, headers, receipt, result }))
        }
        "NOT_EXECUTED" => State::Settled(Outcome::NotExecuted { status: row.get(4)? }),
        "UNKNOWN" => State::Settled(Outcome::Unknown),
        _ => return Err(rusqlite::Error::InvalidColumnType(3, "state".to_owned(), Type::Text)),
    };
    Ok(Execution { id: row.get(0)?, action: row.get(1)?, action_hash: row.get(2)?, key_id: row.get(8)?, state })
}

/// Reads the columns of the statements that return refused requests.
pub(super) fn denied(row: &Row<'_>) -> rusqlite::Result<(i64, Denied)> {
    let denied_at = timestamp::parse(row.get_ref(1)?.as_str()?)
        .ok_or_else(|| rusqlite::Error::InvalidColumnType(1, "denied_at".to_owned(), Type::Text))?;
    let denied = Denied {
        denied_at,
        tenant: row.get(2)?,
        reason: row.get(3)?,
        action: row.get(4)?,
        action_hash: row.get(5)?,
        nonce: row.get(6)?,
        approval_id: row.get(7)?,
        key_id: row.get(8)?,
        caller: row.get(9)?,
    };
    Ok((row.get(0)?, denied))
}

/// Reads the columns of the statements that return records.
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let time = |at: usize, name: &str, text: &str| {
        timestamp::parse(text).ok_or_else(|| rusqlite::Error::InvalidColumnType(at, name.to_owned(), Type::Text))
    };
    let settled_at: Option<DateTime<Utc>> =
        row.get_ref(14)?.as_str_or_null()?.map(|text| time(14, "settled_at", text)).transpose()?;
    let dispatched = match row.get::<_, Option<String>>(17)? {
        None => None,
        Some(route) => {
            let policy = RecoveryPolicy::parse(row.get_ref(18)?.as_str()?);
            Some(Dispatched { payload: row.get(16)?, route, policy })
        }
    };
    Ok(Record {
        execution: execution(row)?,
        seq: row.get(9)?,
        tenant: row.get(10)?,
        nonce: row.get(11)?,
        approval_id: row.get(12)?,
        claimed_at: time(13, "claimed_at", row.get_ref(13)?.as_str()?)?,
        settled_at,
        settled_by: row.get(15)?,
        dispatched,
        caller: row.get(19)?,
    })
}
