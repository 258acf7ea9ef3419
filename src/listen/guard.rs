//! A connection that hands Pingora one request at a time: never a byte of the head before it was checked, and never a
//! byte of the next request.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use openexec_protocol::refusal::{Code, Refusal};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::chunks::Chunks;
use super::client::{self, Socket};
use super::head::{self, Extent, HeadError, Scan};
use crate::config::Limits;

/// Bytes asked of the connection at once.
const READ_SIZE: usize = 8 << 10;
/// What is still read of a client that was refused, so that it sees the answer and not a reset.
pub(crate) const LINGER_BYTES: usize = 256 << 10;
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(2);

/// As the client speaks: plainly, or encrypted.
type Inner = Either<Socket, Box<TlsStream<Socket>>>;

/// A connection between its client and Pingora.
#[derive(Debug)]
pub struct Guarded {
    inner: Inner,
    /// Read, and not handed on.
    buffer: BytesMut,
    /// What Pingora may still have.
    rest: Rest,
    /// How long the client may take to make room for more of an answer.
    write_time: Duration,
    /// Set while it makes none.
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// It made none in time: nothing is written any more.
    stuck: bool,
    /// Nothing is written any more: how much is still read, and how long.
    lingering: Option<(usize, Pin<Box<Sleep>>)>,
}

/// What is left of the present request.
#[derive(Debug)]
enum Rest {
    /// So many bytes.
    Bytes(u64),
    /// As many as there are to where its framing ends it.
    Chunked(Chunks),
    /// Nobody knows where it ends.
    Malformed,
}

impl Guarded {
    /// Nothing of it is read yet.
    pub(super) fn new(socket: Socket, write_time: Duration) -> Self {
        Guarded::around(Either::Left(socket), write_time)
    }

    /// Its handshake is over.
    pub(super) fn encrypted(stream: TlsStream<Socket>, write_time: Duration) -> Self {
        Guarded::around(Either::Right(Box::new(stream)), write_time)
    }

    fn around(inner: Inner, write_time: Duration) -> Self {
        let (buffer, rest) = (BytesMut::new(), Rest::Bytes(0));
        Guarded { inner, buffer, rest, write_time, write_deadline: None, stuck: false, lingering: None }
    }

    /// What is below any encryption.
    fn socket(&self) -> &Socket {
        match &self.inner {
            Either::Left(stream) => stream,
            Either::Right(stream) => stream.get_ref().0,
        }
    }

    /// Waits for the next request until its head is whole and good; once a stop began, for its first byte no longer than
    /// `grace`. `None`: there will be none.
    pub(super) async fn read_head(
        &mut self,
        limits: &Limits,
        closed: &watch::Receiver<bool>,
        grace: Duration,
    ) -> Result<Option<Extent>, Refusal> {
        let mut scan = Scan::default();
        // The start of a request may have come with the end of the last one.
        let mut deadline = (!self.buffer.is_empty()).then(|| Instant::now() + limits.header_time);
        loop {
            if let Some(end) = scan.find_end(&mut self.buffer).map_err(refuse)? {
                if end > limits.header_bytes {
                    return Err(too_large(limits));
                }
                let extent = head::check(&self.buffer[..end]).map_err(refuse)?;
                self.rest = match extent {
                    Extent::Bytes(bytes) => Rest::Bytes(bytes),
                    Extent::Chunked => Rest::Chunked(Chunks::behind(end, limits.header_bytes)),
                };
                return Ok(Some(extent));
            }
            // Empty lines count: who sends nothing else is never waited for, so no deadline would end it.
            if scan.passed_over() + self.buffer.len() > limits.header_bytes {
                return Err(too_large(limits));
            }
            self.buffer.reserve(READ_SIZE);
            let read = self.inner.read_buf(&mut self.buffer);
            let count = match deadline {
                Some(deadline) => match timeout_at(deadline, read).await {
                    Ok(count) => count,
                    // Empty lines and nothing else.
                    Err(_) if self.buffer.is_empty() => return Ok(None),
                    Err(_) => return Err(too_slow()),
                },
                None => tokio::select! {
                    biased;
                    count = timeout(limits.idle_time, read) => match count {
                        Ok(count) => count,
                        Err(_) => return Ok(None),
                    },
                    () = stopped(closed, grace) => return Ok(None),
                },
            };
            match count {
                Ok(1..) => {}
                // Nobody is left to be told.
                Ok(0) | Err(_) => return Ok(None),
            }
            deadline.get_or_insert_with(|| Instant::now() + limits.header_time);
        }
    }

    /// Writes an answer and closes. With `linger` the client gets a chance to read it even if it is still sending.
    pub(super) async fn write_last(&mut self, answer: &[u8], linger: bool) {
        if linger {
            self.rest = Rest::Malformed;
        }
        if AsyncWriteExt::write_all(self, answer).await.is_ok() {
            let _ = AsyncWriteExt::shutdown(self).await;
        }
    }

    /// Reads on for a while: a client that is still sending would get a reset instead of the answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (left, deadline) = self.lingering.get_or_insert_with(|| (LINGER_BYTES, Box::pin(sleep(LINGER_TIME))));
        loop {
            self.buffer.clear();
            self.buffer.reserve(READ_SIZE);
            if deadline.as_mut().poll(cx).is_ready() || *left == 0 {
                return Poll::Ready(Ok(()));
            }
            let read = pin!(self.inner.read_buf(&mut self.buffer));
            match ready!(read.poll(cx)) {
                Ok(count @ 1..) => *left = left.saturating_sub(count),
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

async fn stopped(closed: &watch::Receiver<bool>, grace: Duration) {
    // An error means that nobody is left who could ever stop us.
    if closed.clone().wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending().await
    }
    sleep(grace).await;
}

fn refuse(error: HeadError) -> Refusal {
    let code = match error {
        HeadError::Framing(_) => Code::BadHttp,
        HeadError::TooManyFields => Code::HeadersTooLarge,
    };
    Refusal::new(code, error.to_string())
}

fn too_large(limits: &Limits) -> Refusal {
    Refusal::new(Code::HeadersTooLarge, format!("The request's header is over {} bytes", limits.header_bytes))
}

fn too_slow() -> Refusal {
    Refusal::new(Code::RequestTimeout, "The request's header took too long")
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.rest {
            Rest::Bytes(0) => return Poll::Ready(Ok(())),
            Rest::Chunked(chunks) if chunks.is_over() => return Poll::Ready(Ok(())),
            Rest::Malformed => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            Rest::Bytes(_) | Rest::Chunked(_) => {}
        }
        if this.buffer.is_empty() {
            this.buffer.reserve(READ_SIZE);
            let read = pin!(this.inner.read_buf(&mut this.buffer));
            if ready!(read.poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let most = this.buffer.len().min(out.remaining());
        let Some(count) = this.rest.take(&this.buffer[..most]) else {
            this.rest = Rest::Malformed;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        };
        out.put_slice(&this.buffer[..count]);
        this.buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl Rest {
    /// How many of these bytes belong to the request. `None`: nobody knows.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Rest::Bytes(left) => {
                let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                Some(count)
            }
            Rest::Chunked(chunks) => chunks.follow(bytes).ok(),
            Rest::Malformed => None,
        }
    }
}

impl Guarded {
    /// Lets a write wait for the client, but not for ever: Pingora's own deadline covers bodies only, and neither
    /// headers nor flushes.
    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Inner>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.stuck {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Poll::Ready(written) = write(Pin::new(&mut self.inner), cx) {
            self.write_deadline = None;
            return Poll::Ready(written);
        }
        let write_time = self.write_time;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(write_time)));
        ready!(deadline.as_mut().poll(cx));
        self.stuck = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().bounded(cx, |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().bounded(cx, |inner, cx| inner.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().bounded(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(this.bounded(cx, |inner, cx| inner.poll_shutdown(cx)))?;
        }
        // Who sent that may be sending still.
        if matches!(this.rest, Rest::Malformed) { this.poll_linger(cx) } else { Poll::Ready(Ok(())) }
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        let end = async {
            match &mut self.inner {
                Either::Left(stream) => drop(AsyncWriteExt::shutdown(stream).await),
                Either::Right(stream) => drop(AsyncWriteExt::shutdown(stream).await),
            }
        };
        let _ = timeout(self.write_time, end).await;
    }
}

// What Pingora can ask of a connection, and needs for its own log lines and for proxies only.

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        client::descriptor(self.socket())
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Ssl for Guarded {}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Peek for Guarded {}
