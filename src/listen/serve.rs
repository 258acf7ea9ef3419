//! A bound socket becomes a listener that serves.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::Listener;
use super::threads::Threads;
use super::{Connections, Permits, Service};
use crate::bypass::Bypass;
use crate::config::Limits;
use crate::current::Current;
use crate::metrics::Metrics;

/// After what must not be tried again at once: there are too many descriptors open, or there is no memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What the connections of a listener share.
pub(crate) struct Shared {
    /// Our certificate, for a listener with TLS.
    pub(crate) tls: Option<Arc<Current<Arc<ServerConfig>>>>,
    pub(crate) limits: Arc<Current<Limits>>,
    /// Connections at once.
    pub(crate) permits: Arc<Permits>,
    /// See [`Connections::serving`].
    pub(crate) serving: Arc<Permits>,
    pub(crate) metrics: Arc<Metrics>,
    /// See [`Connections::bypass`].
    pub(crate) bypass: Option<Arc<Bypass>>,
}

/// Accepts on a bound socket until `close` says so, which ends the task. Connections are served on the threads, or where
/// there are none, on this runtime.
pub(crate) fn serve<S: Service>(
    listener: Listener,
    service: S,
    shared: Shared,
    threads: Option<Arc<Threads>>,
    close: &watch::Sender<bool>,
) -> JoinHandle<()> {
    let Shared { tls, limits, permits, serving, metrics, bypass } = shared;
    let connections = Arc::new(Connections { service, tls, limits, permits, serving, metrics, bypass });
    let closed = close.subscribe();
    let mut closing = close.subscribe();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                // Or nobody is left who could close it.
                _ = closing.wait_for(|closed| *closed) => return,
                accepted = listener.accept() => accepted,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    tracing::error!(%error, place = %listener.place, "no connection can be accepted");
                    if timeout(ACCEPT_PAUSE, closing.wait_for(|closed| *closed)).await.is_ok() {
                        return;
                    }
                    continue;
                }
            };
            // Here and not on the thread, which may be busy: whoever stops waits for it from now on.
            let first = connections.serving.take();
            let (connections, closed) = (connections.clone(), closed.clone());
            let served = async move {
                let source = accepted.source();
                match accepted.join() {
                    Ok(socket) => connections.serve(socket, source, first, &closed).await,
                    Err(error) => tracing::debug!(%error, "a connection ended before it was served"),
                }
            };
            match &threads {
                Some(threads) => threads.spawn(served),
                None => drop(tokio::spawn(served)),
            }
        }
    })
}

/// Whether the one connection is to blame, and not this process: accept(2), "Error handling". Not EPERM, which leaves the
/// connection where it is: it would come again at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    const OF_THE_CONNECTION: [Errno; 9] = [
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OF_THE_CONNECTION.contains(&errno))
}
