//! A bound socket becomes a listener that serves.

use std::fs::Permissions;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::Fds;
use pingora::services::Service as _;
use pingora::services::listening;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::socket::Socket;
use super::{Connections, Permits, Service};
use crate::bypass::Bypass;
use crate::config::Limits;
use crate::config::listener::Place;
use crate::current::Current;
use crate::metrics::Metrics;

/// Header and body of an ordinary answer leave in one write. Reads are buffered by the guard.
const WRITE_BUFFER: usize = 8 << 10;

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

/// Hands a bound socket to a Pingora service and runs it on this runtime. (Pingora's own binding panics when it fails.)
pub(crate) fn serve<S: Service>(
    name: &str,
    socket: Socket,
    service: S,
    shared: Shared,
    close: &watch::Sender<bool>,
) -> JoinHandle<()> {
    let Shared { tls, limits, permits, serving, metrics, bypass } = shared;
    let (name_of_fd, listener) = match &socket.place {
        Place::Tcp(address) => (address.to_string(), ListenerConfig::tcp(address.to_string())),
        Place::Unix { path, mode } => {
            let path = path.to_string_lossy().into_owned();
            // Pingora sets the mode once more, and its own default is everybody's.
            (path.clone(), ListenerConfig::uds(path).permissions(Permissions::from_mode(*mode)))
        }
    };
    let mut fds = Fds::new();
    fds.add(name_of_fd, socket.fd.into_raw_fd());
    let connections = Connections { service, tls, limits, permits, serving, metrics, bypass };
    let mut service = listening::Service::new(name.to_owned(), connections);
    let unbuffered_read = L4BufferSettings::new(0, WRITE_BUFFER);
    service.add_listener(listener.l4_buffer(unbuffered_read));
    let closed = close.subscribe();
    tokio::spawn(async move { service.start_service(Some(Arc::new(Mutex::new(fds))), closed, 1).await })
}
