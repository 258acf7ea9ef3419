//! Whether the service behind the gate can be reached past it, on an address of its own pod or machine.
//!
//! A service that should listen on a loopback address only, and listens on all of them, answers whoever finds its port.
//! So its port is called here on every address that others can reach. Where rules of the kernel lead such calls to the
//! gate (`openexec redirect`), the call arrives at a listener of this very process, and that is no way past it.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::config::pod::BypassCheck;
use crate::current::Current;
use crate::metrics::Metrics;

/// For a connection: both ends are on this machine.
const PATIENCE: Duration = Duration::from_secs(1);
/// For its arrival at a listener of ours. One that takes longer to accept answers no readiness probe in time either (two of
/// five seconds), so that load alone is not taken for a way past the gate.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Looks for ways past the gate, as long as the server runs.
pub struct Bypass {
    check: Arc<Current<BypassCheck>>,
    seen: AtomicU8,
    /// Where our own calls come from that have not arrived yet.
    calls: Mutex<HashSet<SocketAddr>>,
    calling: AtomicUsize,
    arrived: Notify,
    /// Rings when there is something else to look at.
    changed: Notify,
}

const UNCHECKED: u8 = 0;
const NONE: u8 = 1;
const FOUND: u8 = 2;

/// What calling an address of the service showed.
enum Call {
    /// Nobody answers there.
    Closed,
    /// The gate answers there.
    Ourselves,
    /// Somebody else does.
    Answered,
}

impl Bypass {
    /// Looks at these.
    pub fn new(check: BypassCheck) -> Arc<Self> {
        Arc::new(Bypass {
            check: Current::new(check),
            seen: AtomicU8::new(UNCHECKED),
            calls: Mutex::default(),
            calling: AtomicUsize::new(0),
            arrived: Notify::new(),
            changed: Notify::new(),
        })
    }

    /// Looks at these from now on.
    pub fn set(&self, check: BypassCheck) {
        self.check.set(check);
        self.changed.notify_one();
    }

    /// Why the gate is of no use: there is a way past it, or nobody has looked yet.
    pub fn trouble(&self) -> Option<&'static str> {
        match self.seen.load(Ordering::Acquire) {
            _ if self.check.get().targets.is_empty() => None,
            NONE => None,
            FOUND => Some("bypass_found"),
            _ => Some("bypass_unchecked"),
        }
    }

    /// Whether a connection from there is a call of our own, which wants nothing else.
    pub fn is_own_call(&self, peer: Option<SocketAddr>) -> bool {
        if self.calling.load(Ordering::Acquire) == 0 {
            return false;
        }
        let is_own = peer.is_some_and(|peer| self.calls.lock().remove(&canonical(peer)));
        if is_own {
            self.arrived.notify_waiters();
        }
        is_own
    }

    /// Looks again and again.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            let check = self.check.get();
            let calls = check.targets.iter().map(|target| self.look(*target));
            let seen = join_all(calls).await.into_iter().max().unwrap_or(NONE);
            let before = self.seen.swap(seen, Ordering::AcqRel);
            metrics.bypass(seen == FOUND);
            if before == FOUND && seen == NONE {
                tracing::info!("the service is not reached past the gate any more");
            }
            tokio::select! {
                () = sleep(check.interval) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// How an address is; said in the log whenever that is bad.
    async fn look(&self, target: SocketAddr) -> u8 {
        match self.call(target).await {
            Ok(Call::Answered) => {
                tracing::error!(address = %target, "the service answers here, past the gate: let it listen on 127.0.0.1 only");
                FOUND
            }
            Ok(Call::Closed | Call::Ourselves) => NONE,
            Err(error) => {
                tracing::error!(address = %target, %error, "whether the service answers here cannot be checked");
                UNCHECKED
            }
        }
    }

    async fn call(&self, target: SocketAddr) -> io::Result<Call> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // So that its source is known before it can arrive.
        socket.bind(SocketAddr::new(target.ip(), 0))?;
        let source = canonical(socket.local_addr()?);
        let call = OwnCall::begin(self, source);
        match timeout(PATIENCE, socket.connect(target)).await {
            Ok(Ok(connection)) => Ok(call.whose(connection).await),
            Ok(Err(_)) | Err(_) => Ok(Call::Closed),
        }
    }
}

/// A call that is expected to arrive, until this is dropped.
struct OwnCall<'b> {
    bypass: &'b Bypass,
    source: SocketAddr,
}

impl<'b> OwnCall<'b> {
    fn begin(bypass: &'b Bypass, source: SocketAddr) -> Self {
        bypass.calls.lock().insert(source);
        bypass.calling.fetch_add(1, Ordering::AcqRel);
        OwnCall { bypass, source }
    }

    async fn whose(&self, _open: TcpStream) -> Call {
        let arrival = async {
            loop {
                let arrived = self.bypass.arrived.notified();
                if !self.bypass.calls.lock().contains(&self.source) {
                    return;
                }
                arrived.await;
            }
        };
        if timeout(ARRIVAL, arrival).await.is_ok() { Call::Ourselves } else { Call::Answered }
    }
}

impl Drop for OwnCall<'_> {
    fn drop(&mut self) {
        self.bypass.calls.lock().remove(&self.source);
        self.bypass.calling.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A listener on all addresses of both families sees IPv4 ones as IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
