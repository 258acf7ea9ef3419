//! What the writer does inside of its transaction, a method a job.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;
use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};

use super::retention::Old;
use super::row::{self, NewRow};
use super::{schema, set_meta};
use crate::ledger::columns::Columns;
use crate::ledger::{Claim, Claimed, Denied, Execution, Forgotten, Horizon, LedgerError, Outcome};

/// Denials that are forgotten for one that is remembered.
const MOST_DENIALS_FORGOTTEN: usize = 64;

pub(super) struct Statements<'c> {
    pub(super) begin: Statement<'c>,
    pub(super) commit: Statement<'c>,
    pub(super) rollback: Statement<'c>,
    claim: Statement<'c>,
    look_up: Statement<'c>,
    settle: Statement<'c>,
    resolve: Statement<'c>,
    by_id: Statement<'c>,
    deny: Statement<'c>,
    count_denials: Statement<'c>,
    forget_denials: Statement<'c>,
    /// How many there are of each tenant, as far as it was asked for.
    pub(super) denials_of: HashMap<String, usize>,
    forget_result: Statement<'c>,
    forget_execution: Statement<'c>,
    pub(super) probe: Statement<'c>,
    connection: &'c Connection,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Statements {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            claim: connection.prepare(schema::CLAIM)?,
            look_up: connection.prepare(schema::LOOK_UP)?,
            settle: connection.prepare(schema::SETTLE)?,
            resolve: connection.prepare(schema::RESOLVE)?,
            by_id: connection.prepare(schema::BY_ID)?,
            deny: connection.prepare(schema::DENY)?,
            count_denials: connection.prepare(schema::COUNT_DENIALS)?,
            forget_denials: connection.prepare(schema::FORGET_DENIALS)?,
            denials_of: HashMap::new(),
            forget_result: connection.prepare(schema::FORGET_RESULT)?,
            forget_execution: connection.prepare(schema::FORGET_EXECUTION)?,
            probe: connection.prepare(schema::PROBE)?,
            connection,
        })
    }

    pub(super) fn claim(
        &mut self,
        row: &NewRow,
        fence: Option<DateTime<Utc>>,
        seq: &mut i64,
    ) -> rusqlite::Result<Result<Claimed, LedgerError>> {
        if row.issued_at.zip(fence).is_some_and(|(issued_at, fence)| issued_at < fence) {
            let known = self.known(row)?;
            return Ok(Ok(known.map_or(Claimed::BehindFence, |known| Claimed::Known(Arc::new(known)))));
        }
        let (execution, done, dispatched) = (&row.execution, row.done(), row.dispatched.as_ref());
        let inserted = self.claim.execute(params![
            execution.id,
            &*row.tenant,
            row.nonce,
            execution.action,
            execution.action_hash,
            execution.state.as_str(),
            row.claimed_at,
            done.map(|_| &row.claimed_at),
            row.approval_id,
            done.is_none().then_some(row.token),
            dispatched.and_then(|dispatched| dispatched.payload.as_deref()),
            done.map(|done| &done.receipt),
            done.map(|done| &done.result),
            dispatched.map(|dispatched| &dispatched.route),
            dispatched.map(|dispatched| dispatched.policy.as_str()),
            execution.key_id,
            row.caller.as_deref(),
        ])?;
        if inserted == 1 {
            *seq = self.connection.last_insert_rowid();
            let claim = Claim::new(execution.clone(), *seq, row.token);
            return Ok(Ok(Claimed::New(claim, execution.clone())));
        }
        Ok(match self.known(row)? {
            Some(execution) => Ok(Claimed::Known(Arc::new(execution))),
            None if row.approval_id.is_some() => Ok(Claimed::ApprovalUsed),
            // The id is random; if it is taken all the same, the caller may try again with another.
            None => Err(LedgerError::Unavailable),
        })
    }

    /// The execution that has the row's nonce already.
    fn known(&mut self, row: &NewRow) -> rusqlite::Result<Option<Execution>> {
        self.look_up.query_row(params![&*row.tenant, row.nonce], row::execution).optional()
    }

    pub(super) fn record(&mut self, claim: &Claim, outcome: &Outcome) -> rusqlite::Result<Result<(), LedgerError>> {
        let settled = settle(&mut self.settle, &claim.seq, &claim.token, outcome)?;
        Ok(if settled { Ok(()) } else { Err(LedgerError::NotOurs) })
    }

    pub(super) fn resolve(
        &mut self,
        id: &str,
        outcome: &Outcome,
        by: &str,
    ) -> rusqlite::Result<Result<Arc<Execution>, LedgerError>> {
        if !settle(&mut self.resolve, &id, &by, outcome)? {
            return Ok(Err(LedgerError::NotOurs));
        }
        self.by_id.query_row([id], row::execution).map(Arc::new).map(Ok)
    }

    pub(super) fn deny(&mut self, denied: &Denied, kept: usize) -> rusqlite::Result<()> {
        self.deny.execute(params![
            timestamp::print(denied.denied_at),
            &*denied.tenant,
            denied.reason,
            denied.action,
            denied.action_hash,
            denied.nonce,
            denied.approval_id,
            denied.key_id,
            denied.caller.as_deref(),
        ])?;
        let count = match self.denials_of.get_mut(&*denied.tenant) {
            Some(count) => {
                *count += 1;
                count
            }
            None => {
                let count = self.count_denials.query_row([&*denied.tenant], |row| row.get::<_, u32>(0))? as usize;
                self.denials_of.entry(denied.tenant.to_string()).or_insert(count)
            }
        };
        // Little by little, should there be many more than there may be.
        let over = count.saturating_sub(kept).min(MOST_DENIALS_FORGOTTEN);
        if over > 0 {
            *count -= self.forget_denials.execute(params![&*denied.tenant, over as i64])?;
        }
        Ok(())
    }

    pub(super) fn forget(
        &mut self,
        old: Old,
        horizon: &Horizon,
        fence: Option<DateTime<Utc>>,
    ) -> rusqlite::Result<Forgotten> {
        if let Some(fence) = fence {
            set_meta(self.connection, "fence", &timestamp::print(fence))?;
        }
        let mut forgotten = Forgotten::default();
        let kinds = [
            (&mut self.forget_result, old.results, horizon.results, &mut forgotten.results),
            (&mut self.forget_execution, old.executions, horizon.executions, &mut forgotten.executions),
        ];
        for (statement, rows, before, count) in kinds {
            let before = before.map(timestamp::print);
            for row in rows {
                if statement.execute(params![row.seq, before])? == 1 {
                    *count += 1;
                    forgotten.nonces.push((row.tenant, row.nonce));
                }
            }
        }
        // The last: a row that fails may fail alone, and must not be passed.
        if let Some(seq) = old.forgotten_to {
            set_meta(self.connection, schema::RESULTS_FORGOTTEN_TO, &seq.to_string())?;
        }
        // Else the same would be found again and again.
        let goes_on = old.forgotten_to.is_some() || forgotten.results + forgotten.executions > 0;
        forgotten.more = old.more && goes_on;
        Ok(forgotten)
    }
}

/// Whether the row was there to be settled; `who` is the claim's token, or who resolves it.
fn settle(
    statement: &mut Statement<'_>,
    which: &dyn ToSql,
    who: &dyn ToSql,
    outcome: &Outcome,
) -> rusqlite::Result<bool> {
    let columns = Columns::from(outcome);
    let settled_at = timestamp::print(Utc::now());
    let settled = statement.execute(params![
        which,
        who,
        outcome.as_str(),
        settled_at,
        columns.status,
        columns.receipt,
        columns.result,
        columns.headers
    ])?;
    Ok(settled == 1)
}
