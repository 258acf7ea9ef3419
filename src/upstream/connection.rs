//! One HTTP/1.1 connection, driven by whoever uses it: no task stands between, and nothing below sends a request again.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::endpoint::{Endpoint, Lease};
use super::stream::Transport;
use crate::config::upstream::{Passive, UpstreamConfig};

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
type Driver = http1::Connection<TokioIo<Box<dyn Transport>>, Body>;

/// Bytes of an upstream's response header, at most.
const HEADER_BYTES: usize = 64 << 10;
/// Fields of an upstream's response header, at most.
const HEADER_FIELDS: usize = 128;

/// A body that is known.
pub fn body_of(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes piece by piece; an empty piece is its end. An error, or the end of all senders before that, breaks
/// the connection: what was cut off must not look whole.
pub fn stream_body(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async {
        match pieces.recv().await {
            Some(Ok(piece)) if piece.is_empty() => None,
            Some(piece) => Some((piece.map(Frame::data), pieces)),
            None => Some((Err(io::ErrorKind::UnexpectedEof.into()), pieces)),
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// A connection for one request.
pub struct Connection {
    sender: SendRequest<Body>,
    /// `None` once it has ended.
    driver: Option<Pin<Box<Driver>>>,
    written: Arc<AtomicU64>,
    lease: Lease,
    passive: Passive,
    /// How many may wait to be used again; none: this one is closed after its response.
    idle: usize,
    /// Whose runtime its socket is known to.
    home: ThreadId,
}

/// A response whose body is still to be read.
pub struct Response {
    /// Status and headers.
    pub head: response::Parts,
    body: Incoming,
    connection: Connection,
}

impl Connection {
    pub(super) async fn open(
        stream: Box<dyn Transport>,
        written: Arc<AtomicU64>,
        lease: Lease,
        config: &UpstreamConfig,
    ) -> io::Result<Connection> {
        let (sender, driver) = http1::Builder::new()
            .max_headers(HEADER_FIELDS)
            .max_buf_size(HEADER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let idle = if config.reuse { config.max_idle } else { 0 };
        let driver = Some(Box::pin(driver));
        let home = thread::current().id();
        Ok(Connection { sender, driver, written, lease, passive: config.passive, idle, home })
    }

    /// What the `Host` header says.
    pub fn authority(&self) -> &HeaderValue {
        self.lease.0.authority()
    }

    /// Sends the request, once, and reads the response's header.
    ///
    /// # Errors
    /// No whole header came. The connection is gone; [`Watch::sent`] tells whether the upstream may know of the request.
    pub async fn send(mut self, request: Request<Body>) -> Result<Response, hyper::Error> {
        let response = self.sender.send_request(request);
        match drive(&mut self.driver, response).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                Ok(Response { head, body, connection: self })
            }
            Err(error) => {
                self.failed();
                Err(error)
            }
        }
    }

    /// Watches the request that is sent next, for whoever gives up waiting.
    pub fn watch(&self) -> Watch {
        Watch {
            written: self.written.clone(),
            before: self.written.load(Ordering::Relaxed),
            endpoint: self.lease.0.clone(),
            passive: self.passive,
        }
    }

    /// Counts against the address: it did not answer as it should.
    fn failed(&self) {
        self.lease.0.failed(&self.passive);
    }

    /// Back among those that wait, if it can be used again.
    fn release(mut self) {
        self.lease.0.worked();
        if self.idle == 0 {
            return;
        }
        // The end of the response has to be noticed by the other half.
        poke(&mut self.driver);
        if self.driver.is_some() && self.sender.is_ready() {
            let Connection { sender, driver, written, lease, passive, idle, home } = self;
            let waiting = Idle { sender, driver, written, passive, idle, home, since: Instant::now() };
            lease.0.keep(waiting, idle);
        }
    }
}

/// See [`Connection::watch`].
pub struct Watch {
    written: Arc<AtomicU64>,
    before: u64,
    endpoint: Arc<Endpoint>,
    passive: Passive,
}

impl Watch {
    /// Whether any byte was given to the transport: the upstream may have seen some of the request.
    pub fn sent(&self) -> bool {
        self.written.load(Ordering::Relaxed) != self.before
    }

    /// Counts against the address: it did not answer in time.
    pub fn failed(&self) {
        self.endpoint.failed(&self.passive);
    }
}

impl Response {
    /// The next piece of the body; `None` at its end, with which the connection may be used again.
    ///
    /// # Errors
    /// The body ended early, or was malformed.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match drive(&mut self.connection.driver, self.body.frame()).await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => {}
                },
                Err(error) => {
                    self.connection.failed();
                    return Some(Err(error));
                }
            }
        }
    }

    /// After the body's end: the connection may be used again.
    pub fn done(self) -> response::Parts {
        drop(self.body);
        // After an answer in HTTP/1.0 hyper would write a chunked request without its body.
        if self.head.version == http::Version::HTTP_11 {
            self.connection.release();
        }
        self.head
    }
}

/// A connection that waits. Nobody reads it meanwhile; whether it was closed is seen when it is woken.
pub(super) struct Idle {
    sender: SendRequest<Body>,
    driver: Option<Pin<Box<Driver>>>,
    written: Arc<AtomicU64>,
    passive: Passive,
    idle: usize,
    pub(super) home: ThreadId,
    since: Instant,
}

impl Idle {
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// `None`: the other side closed it, or said something that nobody asked for.
    pub(super) fn wake(self, lease: Lease) -> Option<Connection> {
        let Idle { sender, mut driver, written, passive, idle, home, since: _ } = self;
        poke(&mut driver);
        let works = driver.is_some() && sender.is_ready();
        works.then_some(Connection { sender, driver, written, lease, passive, idle, home })
    }
}

/// Lets the connection do what it can do at once.
fn poke(driver: &mut Option<Pin<Box<Driver>>>) {
    if let Some(running) = driver
        && running.as_mut().now_or_never().is_some()
    {
        *driver = None;
    }
}

/// Runs the connection for as long as the future needs.
async fn drive<F: Future>(driver: &mut Option<Pin<Box<Driver>>>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        let Some(running) = driver else { return Poll::Pending };
        if running.as_mut().poll(cx).is_ready() {
            // Its end, good or bad, reaches the future through the channel between them.
            *driver = None;
        }
        future.as_mut().poll(cx)
    })
    .await
}
