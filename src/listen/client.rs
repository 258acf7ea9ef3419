//! A client's socket, from the moment that it is accepted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{net, os};

use tokio::io::BufWriter;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use super::socket;
use crate::config::listener::Place;

/// Header and body of an ordinary answer leave in one write. Reads are buffered by the guard.
const WRITE_BUFFER: usize = 8 << 10;

/// A socket that listens, on this runtime.
pub(crate) struct Listener {
    /// Where it listens.
    pub(crate) place: Place,
    socket: Either<TcpListener, UnixListener>,
}

/// A connection that belongs to no runtime yet.
pub(super) enum Accepted {
    Tcp(net::TcpStream, SocketAddr),
    Unix(os::unix::net::UnixStream),
}

/// Bytes to and from a client, of the runtime that [`Accepted::join`] ran on.
pub(super) type Socket = BufWriter<Either<TcpStream, UnixStream>>;

impl Listener {
    /// # Errors
    /// It is no socket that listens.
    pub(crate) fn new(socket: socket::Socket) -> io::Result<Self> {
        let socket::Socket { place, fd } = socket;
        let socket = match place {
            Place::Tcp(_) => Either::Left(TcpListener::from_std(fd.into())?),
            Place::Unix { .. } => Either::Right(UnixListener::from_std(fd.into())?),
        };
        Ok(Listener { place, socket })
    }

    /// The next connection.
    ///
    /// # Errors
    /// accept(2): one that is gone already, or no descriptor or memory for it.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Either::Left(listener) => {
                let (stream, source) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, source))
            }
            Either::Right(listener) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Either::Left(listener) => listener.as_fd(),
            Either::Right(listener) => listener.as_fd(),
        }
    }
}

impl Accepted {
    /// Where it comes from; `None` for one within the file system.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        match self {
            Accepted::Tcp(_, source) => Some(*source),
            Accepted::Unix(_) => None,
        }
    }

    /// Makes it this runtime's.
    ///
    /// # Errors
    /// It is gone already, or there is no memory for it.
    pub(super) fn join(self) -> io::Result<Socket> {
        let stream = match self {
            Accepted::Tcp(stream, _) => {
                stream.set_nodelay(true)?;
                Either::Left(TcpStream::from_std(stream)?)
            }
            Accepted::Unix(stream) => Either::Right(UnixStream::from_std(stream)?),
        };
        Ok(BufWriter::with_capacity(WRITE_BUFFER, stream))
    }
}

/// As Pingora tells connections apart.
pub(super) fn descriptor(socket: &Socket) -> RawFd {
    match socket.get_ref() {
        Either::Left(stream) => stream.as_raw_fd(),
        Either::Right(stream) => stream.as_raw_fd(),
    }
}
