//! Copies the WAL into the database beside the writer, which would otherwise hold up a commit for as long.
//!
//! By hand, since SQLite's automatic check-point tells nobody when it fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::writer::is_fatal;
use crate::ledger::OnFatal;

pub(super) struct Checkpointer {
    start: mpsc::SyncSender<()>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// With a connection of its own.
    pub(super) fn new(connection: Connection, on_fatal: OnFatal) -> io::Result<Self> {
        let (start, started) = mpsc::sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while started.recv().is_ok() {
                checkpoint(&connection, &*on_fatal);
                finished.store(true, Ordering::Release);
            }
        })?;
        Ok(Checkpointer { start, done, thread })
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

/// Copies what can be copied without waiting for anyone.
pub(super) fn checkpoint(connection: &Connection, on_fatal: &(dyn Fn(&dyn std::fmt::Display) + Send + Sync)) {
    let copied = connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    match copied {
        Ok((pages, copied)) if pages - copied > LEFT_BEHIND => {
            tracing::warn!(
                pages,
                copied,
                "somebody reads an old state of the ledger: its WAL cannot start anew, and grows"
            );
        }
        Ok(_) => {}
        Err(error) => {
            if is_fatal(&error) {
                on_fatal(&error);
            }
            tracing::error!(%error, "the ledger's WAL was not copied into the database");
        }
    }
}
