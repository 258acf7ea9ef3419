//! From a connection to requests, one after the other.
//!
//! Pingora accepts connections and speaks HTTP. What it leaves open is closed here, before it sees a byte: how long and
//! how large a header may be, what counts as framing, how many connections there are, and how many requests each has.

pub mod chunks;
mod guard;
pub mod head;
mod permits;
pub(crate) mod serve;
pub mod socket;
pub mod tls;

pub use guard::Guarded;
pub(crate) use guard::{LINGER_BYTES, LINGER_TIME};
pub use permits::{Permit, Permits};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::head::Extent;
use async_trait::async_trait;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::bypass::Bypass;
use crate::config::Limits;
use crate::current::Current;
use crate::execute::respond;
use crate::metrics::Metrics;

/// How long a connection that was accepted before a stop may take to send its first request's first byte: it is on its
/// way, and its client has no reason to expect that it is not answered.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The client's certificate, which the handshake has verified.
    pub certificate: Option<CertificateDer<'static>>,
}

/// What answers the requests of a listener.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers one request, whose header is read and whose framing has one reading.
    async fn serve(&self, session: &mut ServerSession, peer: &Peer);
}

/// Serves every connection of a listener.
pub struct Connections<S> {
    /// What answers.
    pub service: S,
    /// Our certificate, for a listener with TLS.
    pub tls: Option<Arc<Current<Arc<ServerConfig>>>>,
    /// Header, time and number.
    pub limits: Arc<Current<Limits>>,
    /// Connections at once.
    pub permits: Arc<Permits>,
    /// Requests that are awaited on new connections, or being answered: a stop waits for them.
    pub serving: Arc<Permits>,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    /// Whose calls are no requests; `None` where nobody calls.
    pub bypass: Option<Arc<Bypass>>,
}

#[async_trait]
impl<S: Service> ServerApp for Connections<S> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if self.bypass.as_ref().is_some_and(|bypass| bypass.is_own_call(|| source(&stream))) {
            return None;
        }
        let limits = self.limits.get();
        let Some(_permit) = self.permits.take() else {
            self.turn_away(stream, &limits).await;
            return None;
        };
        let first = self.serving.take();
        let connection = match &self.tls {
            None => (Guarded::new(stream, limits.write_time), Peer::default()),
            Some(tls) => self.encrypt(stream, &tls.get(), &limits).await?,
        };
        let (connection, peer) = connection;
        self.serve_all(connection, &peer, first, shutdown).await;
        None
    }
}

/// Where a connection comes from; `None` for one within the file system.
fn source(stream: &Stream) -> Option<SocketAddr> {
    stream.get_socket_digest()?.peer_addr()?.as_inet().copied()
}

impl<S: Service> Connections<S> {
    /// There are too many already.
    async fn turn_away(&self, stream: Stream, limits: &Limits) {
        if self.tls.is_some() {
            // Nothing can be said without a handshake, which is what there is too much of.
            return self.metrics.refused(Code::Overloaded);
        }
        let full = Refusal::new(Code::Overloaded, "Too many connections").with_retry_after(1);
        // Without lingering: it would hold one more descriptor than there may be.
        self.refuse(Guarded::new(stream, limits.write_time), &full, false).await;
    }

    /// Within the time that a header may take.
    async fn encrypt(&self, stream: Stream, tls: &Arc<ServerConfig>, limits: &Limits) -> Option<(Guarded, Peer)> {
        let handshake = timeout(limits.header_time, TlsAcceptor::from(tls.clone()).accept(stream)).await;
        let why = match handshake {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|chain| chain.first()).map(|own| own.clone().into_owned());
                return Some((Guarded::encrypted(stream, limits.write_time), Peer { certificate }));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        self.metrics.tls_handshake_failed();
        // Anybody can cause it at any rate.
        tracing::debug!(why, "no TLS handshake");
        None
    }
}

impl<S: Service> Connections<S> {
    async fn serve_all(
        &self,
        mut connection: Guarded,
        peer: &Peer,
        mut awaited: Option<Permit>,
        shutdown: &ShutdownWatch,
    ) {
        for served in 1.. {
            let limits = self.limits.get();
            let grace = if awaited.is_some() { FIRST_REQUEST_GRACE } else { Duration::ZERO };
            let extent = match connection.read_head(&limits, shutdown, grace).await {
                Ok(Some(extent)) => extent,
                Ok(None) => return,
                Err(refusal) => return self.refuse(connection, &refusal, true).await,
            };
            // Counted until the answer is written, so that a stop can wait for it.
            let _serving = awaited.take().or_else(|| self.serving.take());
            let mut session = ServerSession::new_http1(Box::new(connection));
            session.set_read_timeout(Some(limits.body_time));
            session.set_total_drain_timeout(Some(limits.body_time));
            session.set_keepalive(Some(limits.idle_time.as_secs().max(1)));
            if !matches!(session.read_request().await, Ok(true)) {
                // A target that passed our own check and is no URI.
                let refusal = Refusal::new(Code::BadHttp, "Bad HTTP framing: a malformed target");
                self.metrics.refused(refusal.code);
                session.set_keepalive(None);
                return respond::to_unread(&mut session, &refusal).await;
            }
            // Set here, since reading the header sets it too. After a chunked body the connection closes: its framing
            // is the last thing that two servers could read differently.
            let last = served >= limits.connection_requests || *shutdown.borrow();
            if last || extent == Extent::Chunked {
                session.set_keepalive(None);
            }
            self.service.serve(&mut session, peer).await;
            let Ok(Some(reusable)) = session.finish().await else { return };
            let (stream, _) = reusable.into_parts();
            let Ok(back) = stream.into_any().downcast::<Guarded>() else { return };
            connection = *back;
        }
    }

    /// Answers without an HTTP session, and closes.
    async fn refuse(&self, mut connection: Guarded, refusal: &Refusal, linger: bool) {
        self.metrics.refused(refusal.code);
        connection.write_last(&respond::raw(refusal), linger).await;
    }
}
