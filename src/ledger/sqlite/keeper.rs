//! Looks after what is beside the table: the anchor, every second under load and at a clean stop; the room on the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;

use chrono::Utc;

use super::ANCHOR_PERIOD;
use super::file::OpenError;
use super::writer::Progress;
use crate::config::ledger::SqliteConfig;
use crate::ledger::Anchor;
use crate::ledger::anchor::with_suffix;
use crate::metrics::Metrics;

pub(super) struct Keeper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Writes the anchor once, since a ledger without one is suspicious, and looks at the disk; then goes on with both.
    pub(super) fn start(
        config: SqliteConfig,
        ledger_id: String,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let mut kept = progress.last_seq.load(Ordering::Acquire);
        write(&config.anchor, &ledger_id, kept).map_err(|e| OpenError::Anchor(config.anchor.clone(), e))?;
        look_at_disk(&config, &progress, &metrics);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("anchor".to_owned())
            .spawn(move || {
                loop {
                    let stopping = stopped.recv_timeout(ANCHOR_PERIOD) != Err(RecvTimeoutError::Timeout);
                    look_at_disk(&config, &progress, &metrics);
                    let last_seq = progress.last_seq.load(Ordering::Acquire);
                    if last_seq != kept || stopping {
                        let path = &config.anchor;
                        match write(path, &ledger_id, last_seq) {
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

/// Where it cannot be told how much is free, the first commit that fails will tell.
fn look_at_disk(config: &SqliteConfig, progress: &Progress, metrics: &Metrics) {
    let bytes = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    metrics.ledger_files(bytes(&config.path), bytes(&with_suffix(&config.path, "-wal")));
    let Ok(found) = rustix::fs::statvfs(&config.path) else { return };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    metrics.ledger_disk(free);
    let is_low = free < config.min_free_bytes;
    if progress.disk_low.swap(is_low, Ordering::Relaxed) != is_low {
        if is_low {
            tracing::error!(free, "less than ledger.min_free_bytes is free: nothing new is executed");
        } else {
            tracing::info!(free, "the ledger has room again");
        }
    }
}
