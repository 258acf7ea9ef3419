//! Threads that serve clients' connections. Each connection stays on one of them: its socket, its timers and its
//! tasks are known to no other.
//!
//! A runtime whose threads take each other's tasks was measured to cost a tenth more for each execution (see
//! docs/evidence.md): memory wanders between cores, and whoever has something for a task wakes a thread that has to take it
//! from another. What that buys, an even load, is had here by giving a new connection to the thread that has fewest,
//! and by keeping long work off these threads ([`crate::beside`]).

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads of all of them together for what blocks, as many as one of tokio's runtimes has.
const BLOCKING_THREADS: usize = 512;

/// Threads, until this is dropped: what they still run is given up then.
pub(crate) struct Threads(Vec<Thread>);

struct Thread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Ends it when dropped.
    _running: oneshot::Sender<()>,
}

impl Threads {
    /// So many, and at least one.
    ///
    /// # Errors
    /// The system does not give them.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(|at| Thread::start(at, count.max(1))).collect::<io::Result<_>>().map(Threads)
    }

    /// Runs what serves a connection on the thread that has the fewest.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self.0.iter().min_by_key(|thread| thread.connections.load(Ordering::Relaxed));
        let thread = fewest.expect("there is at least one thread");
        let counted = Counted::new(&thread.connections);
        thread.runtime.spawn(async move {
            let _counted = counted;
            connection.await;
        });
    }
}

impl Thread {
    fn start(at: usize, of: usize) -> io::Result<Self> {
        let blocking = (BLOCKING_THREADS / of).max(1);
        let (running, ended) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("serve-{at}"));
        // Made there: dropped here, where a runtime may run, it would panic.
        thread.spawn(move || {
            let built = Builder::new_current_thread().enable_all().max_blocking_threads(blocking).build();
            let runtime = match built {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            let _ = tell.send(Ok(runtime.handle().clone()));
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        let runtime = told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
        Ok(Thread { runtime, connections: Arc::default(), _running: running })
    }
}

/// One connection of a thread's.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Counted(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread::{ThreadId, current};
    use std::time::Duration;

    use super::*;

    fn wait() -> Duration {
        Duration::from_secs(10)
    }

    #[test]
    fn connections_are_spread_and_stay() {
        let threads = Threads::start(3).unwrap();
        let (seen, where_they_run) = mpsc::channel();
        let (close, _) = tokio::sync::watch::channel(false);
        for _ in 0..12 {
            let (seen, mut closed) = (seen.clone(), close.subscribe());
            threads.spawn(async move {
                let begun = current().id();
                tokio::time::sleep(Duration::from_millis(1)).await;
                tokio::task::yield_now().await;
                seen.send((begun, current().id())).unwrap();
                let _ = closed.changed().await;
            });
        }
        let mut each = HashMap::<ThreadId, usize>::new();
        for _ in 0..12 {
            let (begun, later) = where_they_run.recv_timeout(wait()).unwrap();
            assert_eq!(begun, later);
            *each.entry(begun).or_default() += 1;
        }
        assert_eq!(each.values().collect::<Vec<_>>(), [&4, &4, &4]);
    }

    #[test]
    fn who_lost_connections_gets_new_ones() {
        let threads = Threads::start(2).unwrap();
        let (seen, where_they_run) = mpsc::channel();
        let open = |until: oneshot::Receiver<()>| {
            let seen = seen.clone();
            threads.spawn(async move {
                seen.send(current().id()).unwrap();
                let _ = until.await;
            });
            where_they_run.recv_timeout(wait()).unwrap()
        };
        let (ends, untils): (Vec<_>, Vec<_>) = (0..4).map(|_| oneshot::channel()).unzip();
        let places: Vec<_> = untils.into_iter().map(&open).collect();
        assert_ne!(places[0], places[1]);
        let mut ends: Vec<_> = ends.into_iter().map(Some).collect();
        // Both of the first thread's.
        (ends[0], ends[2]) = (None, None);
        while threads.0.iter().all(|thread| thread.connections.load(Ordering::Relaxed) > 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (_more, until) = oneshot::channel();
        let (_and_more, and_until) = oneshot::channel();
        assert_eq!([open(until), open(and_until)], [places[0], places[0]]);
    }

    #[test]
    fn what_they_run_is_dropped_with_them() {
        let threads = Threads::start(1).unwrap();
        let (held, dropped) = mpsc::channel::<()>();
        threads.spawn(async move {
            let _held = held;
            std::future::pending().await
        });
        drop(threads);
        assert_eq!(dropped.recv_timeout(wait()), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
