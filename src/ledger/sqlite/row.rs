//! Between rows and types.

use rusqlite::Row;
use rusqlite::types::Type;

use crate::ledger::{Done, Execution, Outcome, State};

/// A state as its column spells it.
pub(super) fn state_word(state: &State) -> &'static str {
    match state {
        State::Intent => "INTENT",
        State::Settled(Outcome::Done(_)) => "DONE",
        State::Settled(Outcome::NotExecuted { .. }) => "NOT_EXECUTED",
        State::Settled(Outcome::Unknown) => "UNKNOWN",
    }
}

/// Status, receipt and result of a state.
pub(super) fn state_columns(state: &State) -> (Option<u16>, Option<&str>, Option<&str>) {
    match state {
        State::Settled(Outcome::Done(done)) => (Some(done.status), Some(&done.receipt), Some(&done.result)),
        State::Settled(Outcome::NotExecuted { status }) => (Some(*status), None, None),
        State::Intent | State::Settled(Outcome::Unknown) => (None, None, None),
    }
}

/// Reads the columns of `LOOK_UP` and `SETTLE`.
pub(super) fn execution(row: &Row<'_>) -> rusqlite::Result<Execution> {
    let state = match row.get_ref(3)?.as_str()? {
        "INTENT" => State::Intent,
        "DONE" => {
            State::Settled(Outcome::Done(Done { status: row.get(4)?, receipt: row.get(5)?, result: row.get(6)? }))
        }
        "NOT_EXECUTED" => State::Settled(Outcome::NotExecuted { status: row.get(4)? }),
        "UNKNOWN" => State::Settled(Outcome::Unknown),
        _ => return Err(rusqlite::Error::InvalidColumnType(3, "state".to_owned(), Type::Text)),
    };
    Ok(Execution { id: row.get(0)?, action: row.get(1)?, action_hash: row.get(2)?, state })
}
