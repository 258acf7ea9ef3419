//! Keeps the anchor: every second under load, and at a clean stop.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;

use chrono::Utc;

use super::ANCHOR_PERIOD;
use super::file::OpenError;
use super::writer::Progress;
use crate::ledger::Anchor;

pub(super) struct Keeper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Writes the anchor once, since a ledger without one is suspicious, then keeps it.
    pub(super) fn start(path: PathBuf, ledger_id: String, progress: Arc<Progress>) -> Result<Self, OpenError> {
        let mut kept = progress.last_seq.load(Ordering::Acquire);
        write(&path, &ledger_id, kept).map_err(|e| OpenError::Anchor(path.clone(), e))?;
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("anchor".to_owned())
            .spawn(move || {
                loop {
                    let stopping = stopped.recv_timeout(ANCHOR_PERIOD) != Err(RecvTimeoutError::Timeout);
                    let last_seq = progress.last_seq.load(Ordering::Acquire);
                    if last_seq != kept || stopping {
                        match write(&path, &ledger_id, last_seq) {
                            Ok(()) => kept = last_seq,
                            Err(error) => tracing::error!(%error, path = %path.display(), "the anchor was not written"),
                        }
                    }
                    if stopping {
                        return;
                    }
                }
            })
            .map_err(OpenError::Thread)?;
        Ok(Keeper { stop, thread })
    }

    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn write(path: &std::path::Path, ledger_id: &str, last_seq: i64) -> io::Result<()> {
    Anchor { ledger_id: ledger_id.to_owned(), last_seq, time: Utc::now() }.write(path)
}
