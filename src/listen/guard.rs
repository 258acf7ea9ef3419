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
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::head::{self, Extent, HeadError, Scan};
use crate::config::Limits;

/// Bytes asked of the connection at once.
const READ_SIZE: usize = 8 << 10;
/// What is still read of a client that was refused, so that it sees the answer and not a reset.
pub(crate) const LINGER_BYTES: usize = 256 << 10;
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(2);

/// As the client speaks: plainly, or encrypted.
type Inner = Either<Stream, Box<TlsStream<Stream>>>;

/// A connection between its client and Pingora.
#[derive(Debug)]
pub struct Guarded {
    inner: Inner,
    /// Read, and not handed on.
    buffer: BytesMut,
    /// How many bytes of the present request Pingora may still have; `None`: chunked, as many as there are.
    allowance: Option<u64>,
    /// How long the client may take to make room for more of an answer.
    write_time: Duration,
    /// Set while it makes none.
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// It made none in time: nothing is written any more.
    stuck: bool,
}

impl Guarded {
    /// Nothing of it is read yet.
    pub fn new(stream: Stream, write_time: Duration) -> Self {
        Guarded::around(Either::Left(stream), write_time)
    }

    /// Its handshake is over.
    pub fn encrypted(stream: TlsStream<Stream>, write_time: Duration) -> Self {
        Guarded::around(Either::Right(Box::new(stream)), write_time)
    }

    fn around(inner: Inner, write_time: Duration) -> Self {
        let (buffer, allowance) = (BytesMut::new(), Some(0));
        Guarded { inner, buffer, allowance, write_time, write_deadline: None, stuck: false }
    }

    /// What is below any encryption.
    fn socket(&self) -> &Stream {
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
        shutdown: &ShutdownWatch,
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
                self.allowance = match extent {
                    Extent::Bytes(bytes) => Some(bytes),
                    Extent::Chunked => None,
                };
                return Ok(Some(extent));
            }
            if self.buffer.len() > limits.header_bytes {
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
                    () = stopped(shutdown, grace) => return Ok(None),
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
        let written = timeout(self.write_time, async {
            self.inner.write_all(answer).await?;
            self.inner.flush().await?;
            AsyncWriteExt::shutdown(&mut self.inner).await
        });
        if !matches!(written.await, Ok(Ok(()))) || !linger {
            return;
        }
        let linger = async {
            let mut left = LINGER_BYTES;
            let mut scratch = [0; 4 << 10];
            while let Ok(count @ 1..) = self.inner.read(&mut scratch).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(LINGER_TIME, linger).await;
    }
}

async fn stopped(shutdown: &ShutdownWatch, grace: Duration) {
    // An error means that nobody is left who could ever stop us.
    if shutdown.clone().wait_for(|stopping| *stopping).await.is_err() {
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
        if this.allowance == Some(0) {
            return Poll::Ready(Ok(()));
        }
        if this.buffer.is_empty() {
            this.buffer.reserve(READ_SIZE);
            let read = pin!(this.inner.read_buf(&mut this.buffer));
            if ready!(read.poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let allowed = this.allowance.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let count = this.buffer.len().min(out.remaining()).min(allowed);
        out.put_slice(&this.buffer[..count]);
        this.buffer.advance(count);
        if let Some(left) = &mut this.allowance {
            *left -= count as u64;
        }
        Poll::Ready(Ok(()))
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
        self.get_mut().bounded(cx, |inner, cx| inner.poll_shutdown(cx))
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        let end = async {
            match &mut self.inner {
                Either::Left(stream) => Shutdown::shutdown(&mut **stream).await,
                Either::Right(stream) => drop(AsyncWriteExt::shutdown(stream).await),
            }
        };
        let _ = timeout(self.write_time, end).await;
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.socket().id()
    }
}

impl Ssl for Guarded {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.socket().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.socket().selected_alpn_proto()
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.socket().get_timing_digest()
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.socket().get_proxy_digest()
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket().get_socket_digest()
    }
}

impl Peek for Guarded {}
