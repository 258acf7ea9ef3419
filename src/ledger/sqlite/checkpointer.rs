//! Copies the WAL into the database beside the writer, which would otherwise hold up a commit for as long.
//!
//! By hand, since SQLite's automatic check-point tells nobody when it fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::writer::is_fatal;
use crate::ledger::OnFatal;

/// Bytes of new rows after which the WAL is copied into the database, where most pages are changed once: little, so that
/// what is written again and again stays near the processor.
const SOON_BYTES: usize = 32 << 20;
/// The same, where pages are changed by many rows: much, so that each of them is copied once.
const LATE_BYTES: usize = 256 << 20;
/// So many times the database's growth the WAL holds where pages are changed by many rows. At seventeen rows a commit it
/// is 3.6 times where names begin with the time, and 7.6 where they are random, and more in a large database.
const OFTEN_CHANGED: i64 = 6;

pub(super) struct Checkpointer {
    start: mpsc::SyncSender<()>,
    done: Arc<AtomicBool>,
    due: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// With a connection of its own.
    pub(super) fn new(connection: Connection, on_fatal: OnFatal) -> io::Result<Self> {
        let (start, started) = mpsc::sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let due = Arc::new(AtomicUsize::new(SOON_BYTES));
        let (finished, next_due) = (done.clone(), due.clone());
        let mut pages_before = page_count(&connection);
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while started.recv().is_ok() {
                // Before it: by what was written while it copies the database grows, but the frames are not counted.
                let pages = page_count(&connection);
                let frames = checkpoint(&connection, &*on_fatal);
                if let Some(((frames, pages), before)) = frames.zip(pages).zip(pages_before) {
                    next_due.store(due_bytes(frames, pages - before), Ordering::Relaxed);
                }
                // What was committed meanwhile, so that little is left for the writer.
                checkpoint(&connection, &*on_fatal);
                pages_before = page_count(&connection);
                finished.store(true, Ordering::Release);
            }
        })?;
        Ok(Checkpointer { start, done, due, thread })
    }

    /// Bytes of new rows after which the next one is due.
    pub(super) fn due_bytes(&self) -> usize {
        self.due.load(Ordering::Relaxed)
    }

    /// Begins one, unless one is due already.
    pub(super) fn start(&self) {
        let _ = self.start.try_send(());
    }

    /// Whether one has ended since this was last asked.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed) && self.done.swap(false, Ordering::Acquire)
    }

    /// Waits for one that runs: SQLite makes only one at a time.
    pub(super) fn end(self) {
        drop(self.start);
        let _ = self.thread.join();
    }
}

/// Pages that a check-point may leave behind before it is said that something is in its way.
const LEFT_BEHIND: i64 = 50_000;

/// By the last one: so many frames were in the WAL, and by so many pages the database had grown.
fn due_bytes(frames: i64, grown: i64) -> usize {
    if frames > OFTEN_CHANGED * grown { LATE_BYTES } else { SOON_BYTES }
}

fn page_count(connection: &Connection) -> Option<i64> {
    connection.query_row("PRAGMA page_count", [], |row| row.get(0)).ok()
}

/// Copies what can be copied without waiting for anyone, and says how many frames the WAL has. `None`: another one runs, or
/// it failed.
pub(super) fn checkpoint(
    connection: &Connection,
    on_fatal: &(dyn Fn(&dyn std::fmt::Display) + Send + Sync),
) -> Option<i64> {
    let copied = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    match copied {
        Ok((frames, copied)) => {
            if frames - copied > LEFT_BEHIND {
                tracing::warn!(
                    pages = frames,
                    copied,
                    "somebody reads an old state of the ledger: its WAL cannot start anew, and grows"
                );
            }
            // SQLite says -1 when another one runs.
            (frames >= 0).then_some(frames)
        }
        Err(error) => {
            if is_fatal(&error) {
                on_fatal(&error);
            }
            tracing::error!(%error, "the ledger's WAL was not copied into the database");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rusqlite::params;
    use uuid::Uuid;

    use super::*;
    use crate::ledger::sqlite::{file, schema};

    /// What is due after 2 000 rows of the ledger's, 17 a commit, whose texts are named so.
    fn due_after(name: impl Fn() -> Uuid) -> usize {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let mut writer = file::connect(&path).unwrap();
        writer.execute_batch(schema::CREATE).unwrap();
        let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
        let checkpointer = Checkpointer::new(file::connect(&path).unwrap(), on_fatal).unwrap();
        let result = "r".repeat(640);
        let hash = &result[..64];
        for _ in 0..2_000 / 17 {
            let commit = writer.transaction().unwrap();
            for _ in 0..17 {
                let [id, nonce, approval] = [name(), name(), name()].map(|name| name.to_string());
                let none = None::<String>;
                commit
                    .prepare_cached(schema::CLAIM)
                    .unwrap()
                    .execute(params![
                        id, "t", nonce, "echo", hash, "DONE", "2026", "2026", approval, none, none, hash, result, none,
                        none, none, none
                    ])
                    .unwrap();
            }
            commit.commit().unwrap();
        }
        checkpointer.start();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !checkpointer.is_done() {
            assert!(Instant::now() < deadline, "no check-point was made");
            std::thread::sleep(Duration::from_millis(5));
        }
        let due = checkpointer.due_bytes();
        checkpointer.end();
        due
    }

    #[test]
    fn pages_that_many_rows_change_are_copied_later() {
        assert_eq!(due_after(Uuid::now_v7), SOON_BYTES);
        assert_eq!(due_after(Uuid::new_v4), LATE_BYTES);
    }

    #[test]
    fn a_database_that_does_not_grow_is_of_pages_that_are_changed_often() {
        assert_eq!(due_bytes(1, 0), LATE_BYTES);
        assert_eq!(due_bytes(0, 0), SOON_BYTES);
        assert_eq!(due_bytes(OFTEN_CHANGED * 7, 7), SOON_BYTES);
        assert_eq!(due_bytes(OFTEN_CHANGED * 7 + 1, 7), LATE_BYTES);
    }
}
