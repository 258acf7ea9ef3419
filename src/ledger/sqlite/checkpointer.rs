//! Copies the WAL into the database beside the writer, which would otherwise hold up a commit for as long.
//!
//! By hand, since SQLite's automatic check-point tells nobody when it fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use rusqlite::Connection;

use super::writer::is_fatal;
use crate::ledger::OnFatal;

pub(super) struct Checkpointer {
    start: mpsc::SyncSender<()>,
    done: Arc<AtomicBool>,
}

impl Checkpointer {
    /// With a connection of its own. It ends when the writer does.
    pub(super) fn new(connection: Connection, on_fatal: OnFatal) -> io::Result<Self> {
        let (start, started) = mpsc::sync_channel(1);
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while started.recv().is_ok() {
                checkpoint(&connection, &*on_fatal);
                finished.store(true, Ordering::Release);
            }
        })?;
        Ok(Checkpointer { start, done })
    }

    /// Begins one, unless one is due already.
    pub(super) fn start(&self) {
        let _ = self.start.try_send(());
    }

    /// Whether one has ended since this was last asked.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed) && self.done.swap(false, Ordering::Acquire)
    }
}

/// Copies what can be copied without waiting for anyone.
pub(super) fn checkpoint(connection: &Connection, on_fatal: &(dyn Fn(&dyn std::fmt::Display) + Send + Sync)) {
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        if is_fatal(&error) {
            on_fatal(&error);
        }
        tracing::error!(%error, "the ledger's WAL was not copied into the database");
    }
}
