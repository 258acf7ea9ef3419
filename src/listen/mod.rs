//! From a connection to requests, one after the other.
//!
//! Pingora speaks HTTP. What it leaves open is closed here, before it sees a byte: how long and how large a header may be,
//! what counts as framing, how many connections there are, and how many requests each has.

pub mod chunks;
pub(crate) mod client;
mod guard;
pub mod head;
mod permits;
pub(crate) mod serve;
pub mod socket;
pub(crate) mod threads;
pub mod tls;

pub use guard::Guarded;
pub(crate) use guard::{LINGER_BYTES, LINGER_TIME};
pub use permits::{Permit, Permits};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::client::Socket;
use self::head::Extent;
use async_trait::async_trait;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::protocols::http::ServerSession;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
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
    /// Where it comes from; `None` within the file system.
    pub address: Option<SocketAddr>,
    /// The client's certificate, which the handshake has verified.
    pub certificate: Certificate,
}

type Certificate = Option<CertificateDer<'static>>;

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

impl<S: Service> Connections<S> {
    /// Serves one to its end. `first` counts among [`Connections::serving`] until its first request is answered.
    async fn serve(
        &self,
        socket: Socket,
        source: Option<SocketAddr>,
        first: Option<Permit>,
        closed: &watch::Receiver<bool>,
    ) {
        if self.bypass.as_ref().is_some_and(|bypass| bypass.is_own_call(source)) {
            return;
        }
        let limits = self.limits.get();
        let Some(_permit) = self.permits.take() else {
            return self.turn_away(socket, &limits).await;
        };
        let (connection, certificate) = match &self.tls {
            None => (Guarded::new(socket, limits.write_time), None),
            Some(tls) => match self.encrypt(socket, &tls.get(), &limits).await {
                Some(encrypted) => encrypted,
                None => return,
            },
        };
        let peer = Peer { address: source, certificate };
        self.serve_all(connection, &peer, limits, first, closed).await;
    }

    /// There are too many already.
    async fn turn_away(&self, socket: Socket, limits: &Limits) {
        if self.tls.is_some() {
            // Nothing can be said without a handshake, which is what there is too much of.
            return self.metrics.refused(Code::Overloaded);
        }
        let full = Refusal::new(Code::Overloaded, "Too many connections").with_retry_after(1);
        // Without lingering: it would hold one more descriptor than there may be.
        self.refuse(Guarded::new(socket, limits.write_time), &full, false).await;
    }

    /// Within the time that a header may take.
    async fn encrypt(
        &self,
        socket: Socket,
        tls: &Arc<ServerConfig>,
        limits: &Limits,
    ) -> Option<(Guarded, Certificate)> {
        let handshake = timeout(limits.header_time, TlsAcceptor::from(tls.clone()).accept(socket)).await;
        let why = match handshake {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|chain| chain.first()).map(|own| own.clone().into_owned());
                return Some((Guarded::encrypted(stream, limits.write_time), certificate));
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
        mut limits: Arc<Limits>,
        mut awaited: Option<Permit>,
        closed: &watch::Receiver<bool>,
    ) {
        for served in 1.. {
            self.limits.renew(&mut limits);
            let grace = if awaited.is_some() { FIRST_REQUEST_GRACE } else { Duration::ZERO };
            let extent = match connection.read_head(&limits, closed, grace).await {
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
            let last = served >= limits.connection_requests || *closed.borrow();
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
