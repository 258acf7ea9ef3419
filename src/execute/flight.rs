//! Of requests with one nonce at one time, one leads; the others wait for what becomes of it, and do nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openexec_protocol::refusal::{Code, Refusal};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::ledger::Execution;

type Key = (Arc<str>, Arc<str>);

/// The executions that run now, by tenant and nonce.
#[derive(Default)]
pub(super) struct Flights {
    running: Arc<Mutex<HashMap<Key, Arc<Flight>>>>,
}

struct Flight {
    body: Bytes,
    waiters: AtomicUsize,
    landed: OnceLock<Verdict>,
    landing: Notify,
}

/// What became of the leader.
#[derive(Clone)]
pub(super) enum Verdict {
    /// There is an execution of this nonce.
    Stored(Arc<Execution>),
    /// There is none.
    Refused(Refusal),
}

/// How a request boards its nonce's flight.
pub(super) enum Boarding {
    /// As the one that goes on.
    Lead(Lead),
    /// As one that waits.
    Follow(Follower),
    /// Not at all: too many wait already.
    Full,
}

/// The right to act for a nonce. Whoever drops it without a word leaves its followers with "ask again".
pub(super) struct Lead {
    running: Arc<Mutex<HashMap<Key, Arc<Flight>>>>,
    key: Key,
    flight: Arc<Flight>,
}

pub(super) struct Follower {
    flight: Arc<Flight>,
}

impl Flights {
    /// `max_waiters`: how many may follow one.
    pub(super) fn board(&self, tenant: &Arc<str>, nonce: &str, body: &Bytes, max_waiters: usize) -> Boarding {
        let key = (tenant.clone(), nonce.into());
        let flight = match self.running.lock().entry(key.clone()) {
            Entry::Occupied(running) => {
                let flight = running.get();
                if flight.waiters.fetch_add(1, Ordering::Relaxed) >= max_waiters {
                    flight.waiters.fetch_sub(1, Ordering::Relaxed);
                    return Boarding::Full;
                }
                return Boarding::Follow(Follower { flight: flight.clone() });
            }
            Entry::Vacant(free) => {
                let flight = Flight {
                    body: body.clone(),
                    waiters: AtomicUsize::new(0),
                    landed: OnceLock::new(),
                    landing: Notify::new(),
                };
                free.insert(Arc::new(flight)).clone()
            }
        };
        Boarding::Lead(Lead { running: self.running.clone(), key, flight })
    }
}

impl Lead {
    /// The nonce has an execution now.
    pub(super) fn settle(self, execution: Arc<Execution>) {
        self.land(Verdict::Stored(execution));
    }

    /// It has none, for this reason, which is given back for the leader's own answer.
    pub(super) fn refuse(self, refusal: Refusal) -> Refusal {
        self.land(Verdict::Refused(refusal.clone()));
        refusal
    }

    fn land(&self, verdict: Verdict) {
        let first = self.flight.landed.set(verdict).is_ok();
        debug_assert!(first, "a flight lands once");
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let _ = self.flight.landed.set(Verdict::Refused(in_flight()));
        // Landed before it is gone from the map, so nobody who comes later can miss what is stored.
        self.running.lock().remove(&self.key);
        self.flight.landing.notify_waiters();
    }
}

impl Follower {
    /// Waits for the leader. A refusal is shared with requests of the same bytes only: the checks of others were never
    /// made, and they are not made now either, or a crowd could get past the first one's claim.
    pub(super) async fn verdict(self, body: &Bytes, wait: Duration) -> Verdict {
        let landing = self.flight.landing.notified();
        if self.flight.landed.get().is_none() && timeout(wait, landing).await.is_err() {
            return Verdict::Refused(in_flight());
        }
        match self.flight.landed.get() {
            Some(Verdict::Refused(_)) if self.flight.body != body => Verdict::Refused(in_flight()),
            Some(verdict) => verdict.clone(),
            None => Verdict::Refused(in_flight()),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn in_flight() -> Refusal {
    Refusal::new(Code::ExecutionInFlight, "An execution of this nonce is still running: ask again").with_retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(60);

    fn board(flights: &Flights, body: &'static str) -> Boarding {
        flights.board(&"t".into(), "n", &Bytes::from_static(body.as_bytes()), 2)
    }

    #[tokio::test]
    async fn a_refusal_is_shared_by_the_same_bytes_only() {
        let flights = Flights::default();
        let Boarding::Lead(lead) = board(&flights, "a") else { panic!("the first leads") };
        let (Boarding::Follow(same), Boarding::Follow(other)) = (board(&flights, "a"), board(&flights, "b")) else {
            panic!("the others follow")
        };
        assert!(matches!(board(&flights, "a"), Boarding::Full));
        let refusal = lead.refuse(Refusal::new(Code::ApprovalExpired, ""));
        let Verdict::Refused(shared) = same.verdict(&Bytes::from_static(b"a"), WAIT).await else { panic!() };
        assert_eq!(shared, refusal);
        let Verdict::Refused(not_shared) = other.verdict(&Bytes::from_static(b"b"), WAIT).await else { panic!() };
        assert_eq!(not_shared.code, Code::ExecutionInFlight);
        assert!(matches!(board(&flights, "b"), Boarding::Lead(_)), "the flight is over");
    }

    #[tokio::test]
    async fn a_lead_that_is_dropped_leaves_nobody_waiting() {
        let flights = Flights::default();
        let Boarding::Lead(lead) = board(&flights, "a") else { panic!("the first leads") };
        let Boarding::Follow(follower) = board(&flights, "a") else { panic!("the second follows") };
        let waiting = tokio::spawn(async move { follower.verdict(&Bytes::from_static(b"a"), WAIT).await });
        tokio::task::yield_now().await;
        drop(lead);
        let Verdict::Refused(refusal) = waiting.await.unwrap() else { panic!() };
        assert_eq!(refusal.code, Code::ExecutionInFlight);
    }
}
