//! The time by which approvals are judged.

use chrono::{DateTime, Utc};

/// A clock that tests can replace in the process. No flag and no variable sets it: that would be a way in.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
