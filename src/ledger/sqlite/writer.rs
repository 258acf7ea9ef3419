//! The one writer: drains its queue, commits once for all, then wakes everyone (group commit).
//!
//! The sync is what a commit costs, and 64 executions share it. A delay to gather more was rejected: while one commit
//! runs the next batch gathers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use chrono::Utc;
use openexec_protocol::timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Statement, ToSql, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::checkpointer::{Checkpointer, checkpoint};
use super::{row, schema};
use crate::ledger::{Claim, Claimed, Done, Execution, LedgerError, NewExecution, OnFatal, Outcome, State};
use crate::metrics::Metrics;

/// Jobs of one commit, at most.
const MAX_BATCH: usize = 1_024;

/// Something to write, with whom to tell.
pub(super) enum Job {
    Claim(Box<NewExecution>, Option<Done>, oneshot::Sender<Result<Claimed, LedgerError>>),
    Record(Claim, Outcome, oneshot::Sender<Result<Arc<Execution>, LedgerError>>),
    Resolve { id: String, outcome: Outcome, by: String, reply: oneshot::Sender<Result<Arc<Execution>, LedgerError>> },
    Close(oneshot::Sender<()>),
}

/// What the writer lets others see.
#[derive(Default)]
pub(super) struct Progress {
    /// The newest row that is durable.
    pub(super) last_seq: AtomicI64,
    /// How the last commit ended: one of the words below.
    last_commit: AtomicU8,
    /// There is less room on the disk than there must be for something new.
    pub(super) disk_low: AtomicBool,
}

const GOOD: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;

impl Progress {
    /// Why nothing new can be stored.
    pub(super) fn trouble(&self) -> Option<&'static str> {
        self.failed().or_else(|| self.disk_low.load(Ordering::Relaxed).then_some("ledger_disk_low"))
    }

    /// Why the last commit was none.
    fn failed(&self) -> Option<&'static str> {
        match self.last_commit.load(Ordering::Relaxed) {
            GOOD => None,
            FULL => Some("ledger_full"),
            _ => Some("ledger_unavailable"),
        }
    }
}

/// How often a ledger in trouble tries whether it is over.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Bytes of new rows after which the WAL is copied into the database: large, so that pages that many rows touch are
/// copied once.
const CHECKPOINT_BYTES: usize = 256 << 20;
/// What a row adds to the WAL beside its texts: a page of each index.
const ROW_WAL_BYTES: usize = 16 << 10;

/// Told after the commit, and only what the commit made true.
enum Told {
    Claim(oneshot::Sender<Result<Claimed, LedgerError>>, Result<Claimed, LedgerError>),
    Record(oneshot::Sender<Result<Arc<Execution>, LedgerError>>, Result<Arc<Execution>, LedgerError>),
}

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) progress: Arc<Progress>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) on_fatal: OnFatal,
    pub(super) checkpointer: Checkpointer,
}

impl Writer {
    /// Runs until it is told to close, or nobody is left to tell it anything.
    pub(super) fn run(self, jobs: &Receiver<Job>) {
        let mut done = match Statements::prepare(&self.connection) {
            Ok(statements) => self.serve(jobs, statements),
            Err(error) => {
                (self.on_fatal)(&error);
                None
            }
        };
        self.checkpointer.end();
        if let Err(error) = super::mark_clean(&self.connection) {
            tracing::error!(%error, "the ledger was not closed cleanly");
        }
        drop(self.connection);
        if let Some(done) = done.take() {
            let _ = done.send(());
        }
    }

    fn serve(&self, jobs: &Receiver<Job>, mut statements: Statements<'_>) -> Option<oneshot::Sender<()>> {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let mut since_checkpoint = 0;
        loop {
            let mut closing = None;
            let mut next = self.wait(jobs, &mut statements);
            loop {
                match next {
                    Ok(Job::Close(done)) => closing = Some(done),
                    Ok(job) => batch.push(job),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) if batch.is_empty() => return None,
                    Err(TryRecvError::Disconnected) => break,
                }
                if batch.len() == MAX_BATCH || closing.is_some() {
                    break;
                }
                next = jobs.try_recv();
            }
            if !batch.is_empty() {
                since_checkpoint += batch.iter().map(wal_bytes).sum::<usize>();
                self.commit(&mut statements, &mut batch);
            }
            if since_checkpoint >= CHECKPOINT_BYTES {
                since_checkpoint = 0;
                self.checkpointer.start();
            }
            if self.checkpointer.is_done() {
                // Only what was committed meanwhile is left; with all of it copied the WAL starts anew.
                self.checkpoint();
            }
            if closing.is_some() {
                return closing;
            }
        }
    }

    /// The first job of a batch. A ledger in trouble does not wait for one to find out whether it is over: nobody sends
    /// any to a server that is not ready.
    fn wait(&self, jobs: &Receiver<Job>, statements: &mut Statements<'_>) -> Result<Job, TryRecvError> {
        while self.progress.failed().is_some() {
            match jobs.recv_timeout(PROBE_PERIOD) {
                Ok(job) => return Ok(job),
                Err(RecvTimeoutError::Disconnected) => return Err(TryRecvError::Disconnected),
                Err(RecvTimeoutError::Timeout) => {
                    self.commit_with(statements, &mut Vec::new(), |statements| statements.probe.execute([]).map(drop))
                }
            }
        }
        jobs.recv().map_err(|_| TryRecvError::Disconnected)
    }

    fn checkpoint(&self) {
        checkpoint(&self.connection, &*self.on_fatal);
    }

    fn commit(&self, statements: &mut Statements<'_>, batch: &mut Vec<Job>) {
        self.commit_with(statements, batch, |_| Ok(()));
    }

    fn commit_with(
        &self,
        statements: &mut Statements<'_>,
        batch: &mut Vec<Job>,
        first: impl FnOnce(&mut Statements<'_>) -> rusqlite::Result<()>,
    ) {
        let started = std::time::Instant::now();
        let size = batch.len();
        let mut told: Vec<Told> = Vec::with_capacity(size);
        let mut seq = 0;
        let mut failure = statements.begin.execute([]).and_then(|_| first(statements)).err();
        for job in batch.drain(..) {
            let dead = failure.is_some();
            let error = match job {
                Job::Claim(new, result, reply) => {
                    let outcome =
                        if dead { Ok(Err(LedgerError::Unavailable)) } else { statements.claim(*new, result, &mut seq) };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Claim(reply, outcome));
                    error
                }
                Job::Record(claim, outcome, reply) => {
                    let outcome =
                        if dead { Ok(Err(LedgerError::Unavailable)) } else { statements.record(&claim, &outcome) };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Record(reply, outcome));
                    error
                }
                Job::Resolve { id, outcome, by, reply } => {
                    let outcome =
                        if dead { Ok(Err(LedgerError::Unavailable)) } else { statements.resolve(&id, &outcome, &by) };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Record(reply, outcome));
                    error
                }
                Job::Close(_) => unreachable!("serve keeps Close out of a batch"),
            };
            // One failing row fails alone, as long as SQLite kept the transaction.
            if let Some(error) = error
                && (is_fatal(&error) || self.connection.is_autocommit())
            {
                failure = Some(error);
            }
        }
        if failure.is_none() {
            failure = statements.commit.execute([]).err();
        }
        if let Some(error) = failure {
            self.fail(&error, statements, &mut told);
        } else {
            self.progress.last_commit.store(GOOD, Ordering::Relaxed);
            self.progress.last_seq.fetch_max(seq, Ordering::Release);
            self.metrics.ledger_committed(size, started.elapsed());
        }
        for told in told {
            match told {
                Told::Claim(reply, outcome) => drop(reply.send(outcome)),
                Told::Record(reply, outcome) => drop(reply.send(outcome)),
            }
        }
    }

    /// Nothing of this batch was stored: everyone is told so.
    fn fail(&self, error: &rusqlite::Error, statements: &mut Statements<'_>, told: &mut [Told]) {
        if is_fatal(error) {
            (self.on_fatal)(error);
        }
        tracing::error!(%error, "the ledger could not commit");
        self.metrics.ledger_failed();
        if !self.connection.is_autocommit()
            && let Err(error) = statements.rollback.execute([])
        {
            (self.on_fatal)(&error);
        }
        let full = is_full(error);
        self.progress.last_commit.store(if full { FULL } else { FAILED }, Ordering::Relaxed);
        let reason = if full { LedgerError::Full } else { LedgerError::Unavailable };
        for told in told {
            match told {
                Told::Claim(_, outcome) => *outcome = Err(reason),
                Told::Record(_, outcome) => *outcome = Err(reason),
            }
        }
    }
}

fn wal_bytes(job: &Job) -> usize {
    let texts = match job {
        Job::Claim(new, result, _) => {
            let payload = new.dispatched.as_ref().and_then(|dispatched| dispatched.payload.as_ref());
            payload.map_or(0, String::len) + result.as_ref().map_or(0, |done| done.result.len())
        }
        Job::Record(_, Outcome::Done(done), _) | Job::Resolve { outcome: Outcome::Done(done), .. } => done.result.len(),
        Job::Record(..) | Job::Resolve { .. } | Job::Close(_) => 0,
    };
    ROW_WAL_BYTES + texts
}

/// The statement's own failure becomes its caller's answer, and is looked at once more for the batch.
fn split<T>(outcome: rusqlite::Result<Result<T, LedgerError>>) -> (Result<T, LedgerError>, Option<rusqlite::Error>) {
    match outcome {
        Ok(outcome) => (outcome, None),
        Err(error) => {
            let reason = if is_full(&error) { LedgerError::Full } else { LedgerError::Unavailable };
            (Err(reason), Some(error))
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    // The second: no room for the index of the WAL, which SQLite takes for a fault of the disk.
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// Corruption, or a write that the disk did not take: going on could contradict what is on it.
pub(super) fn is_fatal(error: &rusqlite::Error) -> bool {
    !is_full(error)
        && matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
        )
}

struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    claim: Statement<'c>,
    look_up: Statement<'c>,
    settle: Statement<'c>,
    resolve: Statement<'c>,
    by_id: Statement<'c>,
    probe: Statement<'c>,
    connection: &'c Connection,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Statements {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            claim: connection.prepare(schema::CLAIM)?,
            look_up: connection.prepare(schema::LOOK_UP)?,
            settle: connection.prepare(schema::SETTLE)?,
            resolve: connection.prepare(schema::RESOLVE)?,
            by_id: connection.prepare(schema::BY_ID)?,
            probe: connection.prepare(schema::PROBE)?,
            connection,
        })
    }

    fn claim(
        &mut self,
        new: NewExecution,
        result: Option<Done>,
        seq: &mut i64,
    ) -> rusqlite::Result<Result<Claimed, LedgerError>> {
        // Random, so that no claim of another process can be taken for ours.
        let token = Uuid::new_v4().as_u64_pair().0 as i64;
        let claimed_at = timestamp::print(new.claimed_at);
        let state = result.map_or(State::Intent, |done| State::Settled(Outcome::Done(done)));
        let done = match &state {
            State::Settled(Outcome::Done(done)) => Some(done),
            _ => None,
        };
        let dispatched = new.dispatched.as_ref();
        let inserted = self.claim.execute(params![
            new.id,
            &*new.tenant,
            new.nonce,
            new.action,
            new.action_hash.as_str(),
            state.as_str(),
            claimed_at,
            done.map(|_| &claimed_at),
            new.approval_id,
            done.is_none().then_some(token),
            dispatched.and_then(|dispatched| dispatched.payload.as_deref()),
            done.map(|done| &done.receipt),
            done.map(|done| &done.result),
            dispatched.map(|dispatched| &dispatched.route),
            dispatched.map(|dispatched| dispatched.policy.as_str()),
        ])?;
        if inserted == 1 {
            *seq = self.connection.last_insert_rowid();
            let action_hash = new.action_hash.as_str().to_owned();
            let execution = Arc::new(Execution { id: new.id, action: new.action, action_hash, state });
            let claim = Claim { intent: execution.clone(), seq: *seq, token };
            return Ok(Ok(Claimed::New(claim, execution)));
        }
        let known = self.look_up.query_row(params![&*new.tenant, new.nonce], row::execution).optional()?;
        Ok(match known {
            Some(execution) => Ok(Claimed::Known(Arc::new(execution))),
            None if new.approval_id.is_some() => Ok(Claimed::ApprovalUsed),
            // The id is random; if it is taken all the same, the caller may try again with another.
            None => Err(LedgerError::Unavailable),
        })
    }

    fn record(&mut self, claim: &Claim, outcome: &Outcome) -> rusqlite::Result<Result<Arc<Execution>, LedgerError>> {
        let settled = settle(&mut self.settle, &claim.seq, &claim.token, outcome)?;
        Ok(if settled { Ok(claim.settled(outcome)) } else { Err(LedgerError::NotOurs) })
    }

    fn resolve(
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
}

/// Whether the row was there to be settled; `who` is the claim's token, or who resolves it.
fn settle(
    statement: &mut Statement<'_>,
    which: &dyn ToSql,
    who: &dyn ToSql,
    outcome: &Outcome,
) -> rusqlite::Result<bool> {
    let columns = row::columns(outcome);
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
