//! What ends a process that serves.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, and SIGINT as a terminal sends it.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on none is lost.
    pub(super) fn new() -> Self {
        let on = |kind| signal(kind).expect("SIGTERM and SIGINT can be handled");
        Signals { terminate: on(SignalKind::terminate()), interrupt: on(SignalKind::interrupt()) }
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
