//! The one writer: drains its queue, commits once for all, then wakes everyone (group commit).
//!
//! The sync is what a commit costs, and 64 executions share it. A delay to gather more was rejected: while one commit
//! runs the next batch gathers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::checkpointer::{Checkpointer, checkpoint};
use super::retention::Old;
use super::row::NewRow;
use super::statements::Statements;
use crate::ledger::{Claim, Claimed, Denied, Execution, Forgotten, Horizon, LedgerError, OnFatal, Outcome};
use crate::metrics::Metrics;

/// Jobs of one commit, at most.
const MAX_BATCH: usize = 1_024;

/// Tells whoever waits for a job what came of it.
pub(super) struct Reply<T> {
    runtime: Handle,
    sender: oneshot::Sender<T>,
}

impl<T> Reply<T> {
    /// For a task of this runtime.
    pub(super) fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Reply { runtime: Handle::current(), sender }, receiver)
    }
}

/// What came of a job, and what it was made of: memory is freed where it was taken, since the writer has more to do than
/// those who wait for it.
pub(super) type Back<J, T> = (Box<J>, Result<T, LedgerError>);

/// Something to write, with whom to tell.
pub(super) enum Job {
    Claim(Box<NewRow>, Reply<Back<NewRow, Claimed>>),
    Record(Box<(Claim, Outcome)>, Reply<Back<(Claim, Outcome), ()>>),
    Resolve {
        id: String,
        outcome: Outcome,
        by: String,
        reply: Reply<Result<Arc<Execution>, LedgerError>>,
    },
    Deny(Box<Denied>, usize),
    Forget {
        old: Old,
        horizon: Horizon,
        /// Raised to this first.
        fence: Option<DateTime<Utc>>,
        reply: Reply<Result<Forgotten, LedgerError>>,
    },
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
    /// Approvals issued before this time do not count.
    pub(super) fence: Mutex<Option<DateTime<Utc>>>,
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
/// What a row adds to the WAL beside its texts: a page of each index.
const ROW_WAL_BYTES: usize = 16 << 10;

/// Told after the commit, and only what the commit made true.
enum Told {
    Claim(Reply<Back<NewRow, Claimed>>, Box<NewRow>, Result<Claimed, LedgerError>),
    Record(Reply<Back<(Claim, Outcome), ()>>, Box<(Claim, Outcome)>, Result<(), LedgerError>),
    Resolve(Reply<Result<Arc<Execution>, LedgerError>>, Result<Arc<Execution>, LedgerError>),
    Forget(Reply<Result<Forgotten, LedgerError>>, Result<Forgotten, LedgerError>),
}

impl Told {
    fn runtime(&self) -> &Handle {
        match self {
            Told::Claim(Reply { runtime, .. }, ..) => runtime,
            Told::Record(Reply { runtime, .. }, ..) => runtime,
            Told::Resolve(Reply { runtime, .. }, ..) => runtime,
            Told::Forget(Reply { runtime, .. }, ..) => runtime,
        }
    }

    /// It is no matter whether anybody waits still.
    fn tell(self) {
        match self {
            Told::Claim(reply, row, outcome) => drop(reply.sender.send((row, outcome))),
            Told::Record(reply, settling, outcome) => drop(reply.sender.send((settling, outcome))),
            Told::Resolve(reply, outcome) => drop(reply.sender.send(outcome)),
            Told::Forget(reply, outcome) => drop(reply.sender.send(outcome)),
        }
    }

    /// Wakes each runtime once: from here every single task of theirs would be a system call.
    fn tell_all(all: Vec<Told>) {
        let mut of_runtimes: Vec<(Handle, Vec<Told>)> = Vec::new();
        for told in all {
            match of_runtimes.iter_mut().find(|(runtime, _)| runtime.id() == told.runtime().id()) {
                Some((_, those)) => those.push(told),
                None => of_runtimes.push((told.runtime().clone(), vec![told])),
            }
        }
        for (runtime, those) in of_runtimes {
            runtime.spawn(async move { those.into_iter().for_each(Told::tell) });
        }
    }
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
                put_in_order(&mut batch);
                self.commit(&mut statements, &mut batch);
            }
            if since_checkpoint >= self.checkpointer.due_bytes() {
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
        let (mut seq, mut denials) = (0, 0);
        // Raised before what it covers is forgotten, so it is of this transaction, too.
        let fence = *self.progress.fence.lock();
        let before = self.connection.total_changes();
        let mut failure = statements.begin.execute([]).and_then(|_| first(statements)).err();
        for job in batch.drain(..) {
            let dead = failure.is_some();
            let error = match job {
                Job::Claim(row, reply) => {
                    let outcome =
                        if dead { Ok(Err(LedgerError::Unavailable)) } else { statements.claim(&row, fence, &mut seq) };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Claim(reply, row, outcome));
                    error
                }
                Job::Record(settling, reply) => {
                    let (claim, outcome) = &*settling;
                    let outcome =
                        if dead { Ok(Err(LedgerError::Unavailable)) } else { statements.record(claim, outcome) };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Record(reply, settling, outcome));
                    error
                }
                Job::Resolve { id, outcome, by, reply } => {
                    let outcome =
                        if dead { Ok(Err(LedgerError::Unavailable)) } else { statements.resolve(&id, &outcome, &by) };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Resolve(reply, outcome));
                    error
                }
                // Nobody waits for it.
                Job::Deny(..) if self.progress.disk_low.load(Ordering::Relaxed) => {
                    self.metrics.denials_dropped(1);
                    None
                }
                Job::Deny(denied, kept) => {
                    denials += 1;
                    if dead { None } else { statements.deny(&denied, kept).err() }
                }
                Job::Forget { old, horizon, fence, reply } => {
                    let outcome = if dead {
                        Ok(Err(LedgerError::Unavailable))
                    } else {
                        statements.forget(old, &horizon, fence).map(Ok)
                    };
                    let (outcome, error) = split(outcome);
                    told.push(Told::Forget(reply, outcome));
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
            self.metrics.denials_dropped(denials);
        } else if self.connection.total_changes() != before {
            // A commit of nothing, as of nonces that were all known, shows nothing about the disk.
            self.progress.last_commit.store(GOOD, Ordering::Relaxed);
            self.progress.last_seq.fetch_max(seq, Ordering::Release);
            self.metrics.ledger_committed(size, started.elapsed());
        }
        Told::tell_all(told);
    }

    /// Nothing of this batch was stored: everyone is told so.
    fn fail(&self, error: &rusqlite::Error, statements: &mut Statements<'_>, told: &mut [Told]) {
        if is_fatal(error) {
            (self.on_fatal)(error);
        }
        statements.denials_of.clear();
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
                Told::Claim(_, _, outcome) => *outcome = Err(reason),
                Told::Record(_, _, outcome) => *outcome = Err(reason),
                Told::Resolve(_, outcome) => *outcome = Err(reason),
                Told::Forget(_, outcome) => *outcome = Err(reason),
            }
        }
    }
}

/// Claims that follow each other go by their names, as the indexes have them: names that were given in the order of time
/// arrive a little mixed up, and then pages in the middle are filled and divided, and not the last one only. Of two that
/// want the same nonce the first stays the first.
fn put_in_order(batch: &mut [Job]) {
    for claims in batch.chunk_by_mut(|one, next| name(one).is_some() && name(next).is_some()) {
        claims.sort_by(|one, other| name(one).cmp(&name(other)));
    }
}

/// Only claims have one.
fn name(job: &Job) -> Option<(&str, &str)> {
    if let Job::Claim(row, _) = job { Some((&*row.tenant, row.nonce.as_str())) } else { None }
}

fn wal_bytes(job: &Job) -> usize {
    if let Job::Forget { old, .. } = job {
        return ROW_WAL_BYTES * (old.results.len() + old.executions.len());
    }
    let outcome = match job {
        Job::Claim(row, _) => {
            let payload = row.dispatched.as_ref().and_then(|dispatched| dispatched.payload.as_ref());
            let texts = payload.map_or(0, String::len) + row.done().map_or(0, |done| done.result.len());
            return ROW_WAL_BYTES + texts;
        }
        Job::Record(settling, _) => &settling.1,
        Job::Resolve { outcome, .. } => outcome,
        Job::Deny(..) | Job::Forget { .. } | Job::Close(_) => return ROW_WAL_BYTES,
    };
    let texts = if let Outcome::Done(done) = outcome { done.result.len() } else { 0 };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::conformance::new;

    #[tokio::test]
    async fn claims_go_by_their_names_and_nothing_else_changes_its_place() {
        let claim = |tenant: &str, nonce: &str, id: &str| {
            Job::Claim(Box::new(NewRow::new(new(id, tenant, nonce, None), None)), Reply::channel().0)
        };
        let (close, _closed) = oneshot::channel();
        let mut batch = vec![
            claim("t", "c", "1"),
            claim("t", "a", "2"),
            claim("s", "d", "3"),
            claim("t", "a", "4"),
            Job::Close(close),
            claim("t", "b", "5"),
            claim("t", "a", "6"),
        ];
        put_in_order(&mut batch);
        let ids: Vec<&str> =
            batch.iter().map(|job| if let Job::Claim(row, _) = job { &*row.execution.id } else { "close" }).collect();
        assert_eq!(ids, ["3", "2", "4", "1", "close", "6", "5"]);
    }
}
