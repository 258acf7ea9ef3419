//! The shared ledger: PostgreSQL, for many replicas. Each write is one statement, one transaction and one round trip, without
//! a prepared statement or anything else of a session's, so that a pooler may stand in between.
//!
//! Which process works on what is told by leases ([`keeper`]); whether a new primary has everything, by [`failover`].

mod acks;
pub(super) mod care;
mod claim;
mod connect;
mod denials;
mod failover;
mod failure;
mod keeper;
mod open;
mod row;
mod schema;
mod shared;
mod sql;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::AbortOnDropHandle;

pub(super) use open::{Opened, open};
pub use open::{Refused, Unusable};

use self::acks::{Ack, Begun};
use self::denials::Note;
use self::failure::Failure;
use self::shared::Shared;
use super::columns::Columns;
use super::{
    Claim, Claimed, DenialFilter, Denied, Done, Execution, Filter, Forgotten, Horizon, Ledger, LedgerError,
    NewExecution, Outcome, Record, Recoverable, State, Turn,
};

/// Rows of one kind that are forgotten in one statement.
const MOST_ROWS: i64 = 128;
/// Bytes of results forgotten in one statement.
const MOST_BYTES: i64 = 4 << 20;
/// How long a fence is in place before anything is forgotten behind it: longer than any statement takes.
const FENCE_SETTLES: Duration = Duration::from_secs(60);
/// For the last words to a database.
const FAREWELL: Duration = Duration::from_secs(2);

/// The ledger at work.
pub(super) struct Postgres {
    shared: Arc<Shared>,
    denials: mpsc::Sender<Note>,
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
    _recorder: AbortOnDropHandle<()>,
}

impl Postgres {
    async fn settle(
        &self,
        sql: &str,
        which: (&(dyn ToSql + Sync), Type),
        who: (&(dyn ToSql + Sync), Type),
        outcome: &Outcome,
        more: Option<(&(dyn ToSql + Sync), Type)>,
    ) -> Result<Vec<tokio_postgres::Row>, Failure> {
        let columns = Columns::from(outcome);
        let (settled_at, status) = (Utc::now(), columns.status.map(i32::from));
        let state = outcome.as_str();
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> = [
            which,
            who,
            (&state, Type::TEXT),
            (&settled_at, Type::TIMESTAMPTZ),
            (&status, Type::INT4),
            (&columns.receipt, Type::TEXT),
            (&columns.result, Type::TEXT),
            (&columns.headers, Type::TEXT),
        ]
        .into_iter()
        .chain(more)
        .collect();
        let asked = Instant::now();
        let settled = self.shared.run(sql, &parameters).await?;
        self.shared.metrics.ledger_committed(1, asked.elapsed());
        Ok(settled)
    }

    /// Whether an outcome of which no acknowledgement came is stored, durably.
    async fn was_recorded(&self, claim: &Claim, outcome: &Outcome) -> Result<bool, LedgerError> {
        let rows = self.shared.run(sql::CONFIRM, &[(&claim.seq, Type::INT8), (&claim.token, Type::INT8)]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let is_ours = row::get::<Option<&str>>(row, 9)?.is_none();
        Ok(is_ours && row::execution(row)?.state == State::Settled(outcome.clone()))
    }
}

#[async_trait]
impl Ledger for Postgres {
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError> {
        claim::look_up(&self.shared, tenant, nonce).await
    }

    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
        claim::claim(&self.shared, new, result).await
    }

    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError> {
        let (seq, token) = (&claim.seq, &claim.token);
        // An earlier attempt may have stored it.
        let was_doubtful = claim.is_doubtful.load(Ordering::Acquire);
        let begun = if was_doubtful { Begun::default() } else { self.shared.acks.lock().begin() };
        match self.settle(sql::SETTLE, (seq, Type::INT8), (token, Type::INT8), outcome, None).await {
            Ok(rows) if rows.is_empty() => {
                // An acknowledgement that was lost, or another's word.
                if !was_doubtful || !self.was_recorded(claim, outcome).await? {
                    return Err(LedgerError::NotOurs);
                }
            }
            Ok(_) => {}
            Err(failure) => {
                if matches!(failure, Failure::Ambiguous) {
                    claim.is_doubtful.store(true, Ordering::Release);
                }
                return Err(failure.into());
            }
        }
        self.shared.acks.lock().push(Ack { seq: claim.seq, token: claim.token, state: outcome.as_str() }, begun);
        Ok(claim.settled(outcome.clone()))
    }

    async fn resolve(&self, id: &str, outcome: &Outcome, by: &str) -> Result<Arc<Execution>, LedgerError> {
        let replica = self.shared.standing().replica;
        let more = Some((&replica as _, Type::UUID));
        let begun = self.shared.acks.lock().begin();
        let rows = self.settle(sql::RESOLVE, (&id, Type::TEXT), (&by, Type::TEXT), outcome, more).await?;
        let row = rows.first().ok_or(LedgerError::NotOurs)?;
        // What was imported has no token, and no claim that could be told from another.
        if let Some(token) = row::get(row, 10)? {
            self.shared.acks.lock().push(Ack { seq: row::get(row, 9)?, token, state: outcome.as_str() }, begun);
        }
        row::execution(row).map(Arc::new)
    }

    async fn find(&self, id: &str) -> Result<Option<Record>, LedgerError> {
        let rows = self.shared.run(sql::FIND, &[(&id, Type::TEXT)]).await?;
        rows.first().map(row::record).transpose()
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        let sql = match filter.state {
            None => sql::LIST,
            Some("INTENT") => sql::LIST_INTENT,
            Some("UNKNOWN") => sql::LIST_UNKNOWN,
            Some("NOT_EXECUTED") => sql::LIST_NOT_EXECUTED,
            Some(_) => sql::LIST_DONE,
        };
        let limit = count(filter.limit);
        self.shared
            .run(sql, &[(&filter.before, Type::TEXT), (&limit, Type::INT8)])
            .await?
            .iter()
            .map(row::record)
            .collect()
    }

    async fn recoverable(&self, after: i64, limit: usize) -> Result<Vec<Recoverable>, LedgerError> {
        let limit = count(limit);
        let rows = self.shared.run(sql::RECOVERABLE, &[(&after, Type::INT8), (&limit, Type::INT8)]).await?;
        let recoverable =
            |row| Ok(Recoverable { seq: row::get(row, 0)?, id: row::get(row, 1)?, action: row::get(row, 2)? });
        rows.iter().map(recoverable).collect()
    }

    async fn take_turn(&self, id: &str) -> Result<Option<Turn>, LedgerError> {
        let standing = self.shared.standing();
        let taken = self.shared.run(sql::TAKE_TURN, &[(&id, Type::TEXT), (&standing.replica, Type::UUID)]).await?;
        let turn = Turn { lease: Some(standing.lease), replica: Some(standing.replica) };
        Ok((!taken.is_empty()).then_some(turn))
    }

    async fn end_turn(&self, id: &str, turn: Turn) {
        let Some(replica) = turn.replica else { return };
        // Else nobody else could settle it for as long as this replica lives.
        if self.shared.run(sql::END_TURN, &[(&id, Type::TEXT), (&replica, Type::UUID)]).await.is_err() {
            self.shared.unended_turns.lock().push(id.to_owned());
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn deny(&self, denied: Denied, kept: usize) {
        if self.denials.try_send(Note::Denied(Box::new(denied), kept)).is_err() {
            self.shared.metrics.denials_dropped(1);
        }
    }

    async fn denials(&self, filter: &DenialFilter) -> Result<Vec<(i64, Denied)>, LedgerError> {
        let sql = if filter.tenant.is_some() { sql::DENIALS_OF_TENANT } else { sql::DENIALS };
        let limit = count(filter.limit);
        let parameters =
            &[(&filter.before as _, Type::INT8), (&limit as _, Type::INT8), (&filter.tenant as _, Type::TEXT)];
        self.shared.run(sql, parameters).await?.iter().map(row::denied).collect()
    }

    async fn retain(&self, horizon: &Horizon) -> Result<Forgotten, LedgerError> {
        let mut forgotten = Forgotten::default();
        if let Some(before) = &horizon.results {
            let parameters =
                &[(before as _, Type::TIMESTAMPTZ), (&MOST_ROWS as _, Type::INT8), (&MOST_BYTES as _, Type::INT8)];
            let rows = self.shared.run(sql::FORGET_RESULTS, parameters).await?;
            forgotten.results = rows.len();
            forgotten.note(&rows)?;
        }
        if let (Some(before), Some(fence)) = (&horizon.executions, horizon.fence()) {
            let (skew, settles) = (horizon.skew.as_seconds_f64(), FENCE_SETTLES.as_secs_f64());
            let parameters =
                &[(&fence as _, Type::TIMESTAMPTZ), (&skew as _, Type::FLOAT8), (&settles as _, Type::FLOAT8)];
            if let Some(row) = self.shared.run(sql::RAISE_FOR_RETENTION, parameters).await?.first() {
                self.shared.standing.lock().fence = row::get(row, 0)?;
            }
            let parameters = &[(before as _, Type::TIMESTAMPTZ), (&MOST_ROWS as _, Type::INT8)];
            let rows = self.shared.run(sql::FORGET_EXECUTIONS, parameters).await?;
            forgotten.executions = rows.len();
            forgotten.note(&rows)?;
        }
        Ok(forgotten)
    }

    async fn count_unknown(&self) -> Result<usize, LedgerError> {
        let rows = self.shared.run(sql::COUNT_UNKNOWN, &[]).await?;
        let counted: i64 = rows.first().map_or(Ok(0), |row| row::get(row, 0))?;
        Ok(usize::try_from(counted).unwrap_or_default())
    }

    fn fence(&self) -> Option<DateTime<Utc>> {
        self.shared.standing.lock().fence
    }

    fn trouble(&self) -> Option<&'static str> {
        if self.shared.is_down() { Some("ledger_unavailable") } else { self.shared.standing.lock().trouble }
    }

    async fn close(&self) {
        let (done, flushed) = oneshot::channel();
        if self.denials.try_send(Note::Flush(done)).is_ok() {
            let _ = timeout(FAREWELL, flushed).await;
        }
        if !self.shared.closed.swap(true, Ordering::AcqRel) {
            // It would register this process again.
            drop(self.keeper.lock().take());
            keeper::leave(&self.shared, FAREWELL).await;
            self.shared.connections.close();
            self.shared.own_connection.close();
        }
    }
}

impl Forgotten {
    fn note(&mut self, rows: &[tokio_postgres::Row]) -> Result<(), LedgerError> {
        for row in rows {
            self.nonces.push((row::get(row, 0)?, row::get(row, 1)?));
            self.more |= row::get::<bool>(row, 2)?;
        }
        self.more |= rows.len() >= MOST_ROWS as usize;
        Ok(())
    }
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
