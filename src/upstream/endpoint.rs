//! One address of an upstream: its idle connections, how busy it is, and whether it works.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::connection::{Connection, Idle};
use super::stream::{Counting, Transport};
use crate::config::upstream::{Passive, UpstreamConfig};

pub(super) struct Endpoint {
    pub(super) address: Address,
    /// What the `Host` header says.
    authority: HeaderValue,
    server_name: Option<rustls::pki_types::ServerName<'static>>,
    idle: Mutex<Vec<Idle>>,
    requests: AtomicUsize,
    failures: AtomicU32,
    ejected_until: Mutex<Option<Instant>>,
    pub(super) failed_check: AtomicBool,
    /// Checks that ended alike: how, and how many.
    checks: Mutex<(bool, u32)>,
    /// Which of the configured addresses it comes from.
    pub(super) origin: usize,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A request that is under way, counted as long as this lives.
pub(super) struct Lease(pub(super) Arc<Endpoint>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    pub(super) fn new(
        address: Address,
        authority: HeaderValue,
        server_name: Option<rustls::pki_types::ServerName<'static>>,
        origin: usize,
    ) -> Self {
        Endpoint {
            address,
            authority,
            server_name,
            idle: Mutex::default(),
            requests: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejected_until: Mutex::new(None),
            failed_check: AtomicBool::new(false),
            checks: Mutex::new((true, 0)),
            origin,
        }
    }

    /// Whether a look-up found what is here already.
    pub(super) fn is_same(&self, other: &Endpoint) -> bool {
        self.address == other.address && self.authority == other.authority && self.server_name == other.server_name
    }

    pub(super) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        !self.failed_check.load(Ordering::Relaxed) && self.ejected_until.lock().is_none_or(|until| until <= now)
    }

    /// A connection failed, or an exchange on one.
    pub(super) fn failed(&self, passive: &Passive) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if passive.failures > 0 && failures >= passive.failures {
            *self.ejected_until.lock() = Some(Instant::now() + passive.eject);
        }
    }

    pub(super) fn worked(&self) {
        if self.failures.swap(0, Ordering::Relaxed) > 0 {
            *self.ejected_until.lock() = None;
        }
    }

    pub(super) fn checks_in_a_row(&self, is_good: bool) -> u32 {
        let mut checks = self.checks.lock();
        *checks = (is_good, if checks.0 == is_good { checks.1 + 1 } else { 1 });
        checks.1
    }

    fn lease(self: &Arc<Self>) -> Lease {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Lease(self.clone())
    }

    /// A connection that waits, is not too old, and was not closed by the other side: of this thread if there is one,
    /// since whatever happens to another's socket is that one's to tell.
    pub(super) fn reuse(self: &Arc<Self>, idle_timeout: Duration) -> Option<Connection> {
        let here = thread::current().id();
        loop {
            // In a statement of its own: the lock must not be held while the connection is looked at.
            let idle = take_last(&mut self.idle.lock(), |idle| idle.home == here);
            let idle = idle?;
            if idle.age() >= idle_timeout {
                self.drop_idle(idle_timeout);
                continue;
            }
            if let Some(connection) = idle.wake(self.lease()) {
                return Some(connection);
            }
        }
    }

    pub(super) fn keep(&self, idle: Idle, most: usize) {
        let mut waiting = self.idle.lock();
        if waiting.len() < most {
            waiting.push(idle);
        }
    }

    pub(super) fn drop_idle(&self, idle_timeout: Duration) {
        self.idle.lock().retain(|idle| idle.age() < idle_timeout);
    }

    pub(super) async fn open(self: &Arc<Self>, config: &UpstreamConfig) -> io::Result<Connection> {
        let transport: Box<dyn Transport> = match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(address) => Box::new(tcp(*address).await?),
        };
        // Counted below TLS: what it holds back has not left, and what it has written has.
        let (counting, written) = Counting::new(transport);
        let stream: Box<dyn Transport> = match &self.server_name {
            None => Box::new(counting),
            Some(name) => {
                let tls = config.tls.clone().ok_or_else(|| io::Error::other("no TLS configuration"))?;
                Box::new(TlsConnector::from(tls).connect(name.clone(), counting).await?)
            }
        };
        Connection::open(stream, written, self.lease(), config).await
    }
}

/// The youngest that is wanted, else the youngest.
fn take_last<T>(waiting: &mut Vec<T>, is_wanted: impl FnMut(&T) -> bool) -> Option<T> {
    let at = waiting.iter().rposition(is_wanted).or(waiting.len().checked_sub(1))?;
    Some(waiting.remove(at))
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
