//! Between rows and types.

use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::{Type, ValueRef};

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;
use uuid::Uuid;

use crate::ledger::{Denied, Dispatched, Done, Execution, NewExecution, Outcome, Record, RecoveryPolicy, State};

/// A row to be inserted, made ready by whoever waits for it: the writer does nothing for a row that another can do.
pub(super) struct NewRow {
    pub(super) execution: Arc<Execution>,
    pub(super) tenant: Arc<str>,
    pub(super) nonce: String,
    pub(super) approval_id: Option<String>,
    pub(super) issued_at: Option<DateTime<Utc>>,
    pub(super) caller: Option<Arc<str>>,
    pub(super) dispatched: Option<Dispatched>,
    pub(super) claimed_at: String,
    /// Random, so that no claim of another process can be taken for ours.
    pub(super) token: i64,
}

impl NewRow {
    pub(super) fn new(new: NewExecution, result: Option<Done>) -> Self {
        let execution = Execution {
            id: new.id,
            action: new.action,
            action_hash: new.action_hash.as_str().to_owned(),
            key_id: new.key_id,
            state: result.map_or(State::Intent, |done| State::Settled(Outcome::Done(done))),
        };
        NewRow {
            execution: Arc::new(execution),
            tenant: new.tenant,
            nonce: new.nonce,
            approval_id: new.approval_id,
            issued_at: new.issued_at,
            caller: new.caller,
            dispatched: new.dispatched,
            claimed_at: timestamp::print(new.claimed_at),
            token: Uuid::new_v4().as_u64_pair().0 as i64,
        }
    }

    /// What it has to show already, if its action had no effects.
    pub(super) fn done(&self) -> Option<&Done> {
        match &self.execution.state {
            State::Settled(Outcome::Done(done)) => Some(done),
            _ => None,
        }
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
