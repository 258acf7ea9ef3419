//! Why a statement failed, and what that says about what it did.

use deadpool::managed::{PoolError, TimeoutType};
use tokio_postgres::error::{Severity, SqlState};

use super::connect::{ConnectError, describe};
use crate::ledger::LedgerError;

/// What became of a statement that did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did nothing.
    Nothing(LedgerError),
    /// It did nothing, and may be tried again at once: another one was in its way.
    Again,
    /// It may have been committed.
    Ambiguous,
}

impl From<LedgerError> for Failure {
    /// A row that cannot be read says nothing of what was stored.
    fn from(_: LedgerError) -> Self {
        Failure::Ambiguous
    }
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Nothing(error) => error,
            Failure::Again | Failure::Ambiguous => LedgerError::Unavailable,
        }
    }
}

/// What a failure says of the database.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It works.
    Working,
    /// One connection was lost: whether others can be had will be seen.
    Lost,
    /// It cannot be reached, or does not answer; in words for the log.
    Down(String),
}

/// No connection: nothing was sent.
pub(super) fn of_pool(error: &PoolError<ConnectError>) -> Seen {
    match error {
        // Everybody has one, and nobody has given one back in time.
        PoolError::Timeout(TimeoutType::Wait) => Seen::Working,
        PoolError::Timeout(_) => Seen::Down("no connection in time".to_owned()),
        // It has too many clients: those who are connected already work.
        PoolError::Backend(ConnectError::Server(error)) if class(error) == "53" => {
            tracing::warn!(reason = describe(error), "the ledger's database takes no more connections");
            Seen::Working
        }
        PoolError::Backend(error) => Seen::Down(error.to_string()),
        error => Seen::Down(error.to_string()),
    }
}

fn class(error: &tokio_postgres::Error) -> &str {
    error.code().and_then(|code| code.code().get(..2)).unwrap_or_default()
}

/// The server's refusal, or the loss of the connection. The server's own words are left out of the log: they may repeat
/// what a statement was about.
pub(super) fn of_statement(error: &tokio_postgres::Error) -> (Failure, Seen) {
    let Some(refusal) = error.as_db_error() else {
        return (Failure::Ambiguous, Seen::Lost);
    };
    let code = refusal.code();
    // The server, or a pooler in front of it, ends the connection: whether the commit came first is not said.
    let ends = matches!(refusal.parsed_severity(), Some(Severity::Fatal | Severity::Panic) | None);
    if ends || *code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN {
        return (Failure::Ambiguous, Seen::Lost);
    }
    if [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&code) {
        return (Failure::Again, Seen::Working);
    }
    if [&SqlState::DISK_FULL, &SqlState::OUT_OF_MEMORY].contains(&code) {
        return (Failure::Nothing(LedgerError::Full), Seen::Working);
    }
    let nothing = Failure::Nothing(LedgerError::Unavailable);
    if [&SqlState::READ_ONLY_SQL_TRANSACTION, &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE].contains(&code) {
        return (nothing, Seen::Down(format!("it takes no writes any more ({})", code.code())));
    }
    // A server that refuses a statement works. What this one was about is nobody else's trouble.
    tracing::error!(sqlstate = code.code(), "the ledger's database refused a statement");
    (nothing, Seen::Working)
}
