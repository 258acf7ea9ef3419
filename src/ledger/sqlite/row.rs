//! Between rows and types.

use rusqlite::Row;
use rusqlite::types::{Type, ValueRef};

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;

use crate::ledger::{Dispatched, Done, Execution, Outcome, Record, RecoveryPolicy, State};

/// What a settled state adds to its row.
pub(super) struct Columns<'s> {
    pub(super) status: Option<u16>,
    pub(super) receipt: Option<&'s str>,
    pub(super) result: Option<&'s str>,
    /// A JSON object; `None` when there are none.
    pub(super) headers: Option<String>,
}

pub(super) fn columns(outcome: &Outcome) -> Columns<'_> {
    match outcome {
        Outcome::Done(done) => Columns {
            status: done.upstream_status,
            receipt: Some(&done.receipt),
            result: Some(&done.result),
            headers: (!done.headers.is_empty())
                .then(|| serde_json::to_string(&done.headers).expect("strings are JSON")),
        },
        Outcome::NotExecuted { status } => {
            Columns { status: Some(*status), receipt: None, result: None, headers: None }
        }
        Outcome::Unknown => Columns { status: None, receipt: None, result: None, headers: None },
    }
}

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
    Ok(Execution { id: row.get(0)?, action: row.get(1)?, action_hash: row.get(2)?, state })
}

/// Reads the columns of the statements that return records.
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let time = |at: usize, name: &str, text: &str| {
        timestamp::parse(text).ok_or_else(|| rusqlite::Error::InvalidColumnType(at, name.to_owned(), Type::Text))
    };
    let settled_at: Option<DateTime<Utc>> =
        row.get_ref(13)?.as_str_or_null()?.map(|text| time(13, "settled_at", text)).transpose()?;
    let dispatched = match row.get::<_, Option<String>>(16)? {
        None => None,
        Some(route) => {
            let policy = RecoveryPolicy::parse(row.get_ref(17)?.as_str()?);
            Some(Dispatched { payload: row.get(15)?, route, policy })
        }
    };
    Ok(Record {
        execution: execution(row)?,
        seq: row.get(8)?,
        tenant: row.get(9)?,
        nonce: row.get(10)?,
        approval_id: row.get(11)?,
        claimed_at: time(12, "claimed_at", row.get_ref(12)?.as_str()?)?,
        settled_at,
        settled_by: row.get(14)?,
        dispatched,
    })
}
