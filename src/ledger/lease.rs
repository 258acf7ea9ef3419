//! How long this process may be sure that nobody takes it for dead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A lease in a ledger that other processes use too. When it is over, they call what this one left running unknown and may
/// try to find out what came of it; so nothing may be dispatched that could still run then.
#[derive(Debug)]
pub struct Lease {
    /// Nanoseconds since the machine booted, or [`LOST`].
    until: AtomicU64,
}

const LOST: u64 = 0;

impl Default for Lease {
    /// Over, and not lost.
    fn default() -> Self {
        Lease { until: AtomicU64::new(1) }
    }
}

/// The machine's time since it booted, in which it slept too: a process that was stopped, or a machine that was, must not
/// believe in a lease of before.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootTime(u64);

impl BootTime {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let part = |part: i64| u64::try_from(part).expect("a clock that began at 0 is not negative");
        BootTime(part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec))
    }

    pub(super) fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Lease {
    /// Whether it lasts for so long from now on, at least.
    pub fn lasts_for(&self, time: Duration) -> bool {
        BootTime::now().0.saturating_add(nanos(time)) < self.until.load(Ordering::Acquire)
    }

    /// For so long from a time at which it was not given yet: the database counts from later.
    pub(super) fn renew(&self, asked: BootTime, time: Duration) {
        let until = asked.0.saturating_add(nanos(time));
        let renewed = |before| (before != LOST).then(|| until.max(before));
        let _ = self.until.fetch_update(Ordering::AcqRel, Ordering::Acquire, renewed);
    }

    /// Others take this process for dead, or may do so: for ever.
    pub(super) fn lose(&self) {
        self.until.store(LOST, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_when_it_was_asked_for() {
        let lease = Lease::default();
        assert!(!lease.lasts_for(Duration::ZERO));
        let asked = BootTime::now();
        lease.renew(asked, Duration::from_secs(60));
        assert!(lease.lasts_for(Duration::from_secs(59)) && !lease.lasts_for(Duration::from_secs(61)));
        // A renewal whose answer comes late.
        lease.renew(asked, Duration::from_secs(1));
        assert!(lease.lasts_for(Duration::from_secs(59)));
        assert!(!lease.lasts_for(Duration::MAX));
        lease.lose();
        lease.renew(BootTime::now(), Duration::from_secs(60));
        assert!(!lease.lasts_for(Duration::ZERO));
    }
}
