//! The stop: not ready → still serving → no new connections → what runs has ended → the ledger is closed. A second
//! signal makes it short. Where another process took the sockets, requests on connections that are still open are
//! executed until there are none left.

use std::sync::atomic::{AtomicU8, Ordering};

/// How far a stop has got.
#[derive(Default)]
pub struct Phase(AtomicU8);

const STOPPING: u8 = 1;
const DRAINING: u8 = 2;

impl Phase {
    /// Not ready any more, but serving, until load balancers have noticed.
    pub fn stop(&self) {
        self.0.fetch_max(STOPPING, Ordering::AcqRel);
    }

    /// Nothing new is executed.
    pub fn drain(&self) {
        self.0.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// Whether a stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.0.load(Ordering::Acquire) >= STOPPING
    }

    /// Whether new executions are refused.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire) >= DRAINING
    }
}
