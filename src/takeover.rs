//! A new process takes the listening sockets of the one that runs: no connection is refused in between.
//!
//! ```text
//! new ── connects ──────────────▶ old        over a Unix socket that only this user can reach
//! new ◀── names, sockets ─────── old         SCM_RIGHTS (unix(7))
//! new ── "go" ──────────────────▶ old        it has what it needs: the old one accepts no more, drains, closes the ledger
//! new accepts, and holds requests until the ledger is free
//! ```
//!
//! A new process that ends before "go" changes nothing. SO_REUSEPORT was rejected: what waits in the queue of the old
//! socket is reset when that one is closed.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::config::listener::Place;
use crate::listen::socket::{Mark, Socket};

/// Sockets of one process; Linux sends no more than 253 at once.
pub const MOST: usize = 64;
/// Bytes of all their names.
const NAMES: usize = 16 << 10;
/// For each step of the other side: it is on this machine, and has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);
const GO: &[u8; 2] = b"go";

/// Where the old process is asked. Dropped, it is asked no more.
pub struct Offer {
    mark: Option<Mark>,
    giving: JoinHandle<()>,
}

/// What a new process got, and the old one that waits for its word.
pub struct Taken {
    old: UnixStream,
    sockets: Vec<(String, OwnedFd)>,
}

/// The file of the Unix socket, for its owner alone.
fn place(path: &Path) -> Place {
    Place::Unix { path: path.to_owned(), mode: 0o600 }
}

impl Offer {
    /// Waits to be asked at this path. The sockets are duplicates: they listen until this is dropped.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: &Path, sockets: Vec<(String, OwnedFd)>) -> io::Result<Self> {
        let socket = Socket::bind_again(&place(path))?;
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket.fd))?;
        Ok(Offer { mark: Mark::of(&place(path)), giving: tokio::spawn(give_once(listener, sockets)) })
    }

    /// Ends when a new process has the sockets and everything that it needs.
    pub async fn taken(&mut self) {
        // A task of its own, so that nobody who stops to wait here misses the word of the new one.
        if (&mut self.giving).await.is_err() {
            std::future::pending().await
        }
    }
}

async fn give_once(listener: UnixListener, sockets: Vec<(String, OwnedFd)>) {
    let sockets = Arc::new(sockets);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        // The file's mode says the same; a directory that others may write to must not be enough to undo it.
        let is_ours =
            stream.peer_cred().is_ok_and(|peer| [0, rustix::process::geteuid().as_raw()].contains(&peer.uid()));
        if !is_ours {
            tracing::warn!("another user asked for the sockets");
            continue;
        }
        let sockets = sockets.clone();
        let given = tokio::task::spawn_blocking(move || give(stream.into_std()?, &sockets));
        match given.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(%error, "a process asked for the sockets, and did not take them"),
            Err(_) => {}
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.giving.abort();
        self.mark.iter().for_each(Mark::remove);
    }
}

fn give(mut stream: UnixStream, sockets: &[(String, OwnedFd)]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let names = sockets.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("\n");
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if names.len() > NAMES || !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    let sent = rustix::net::sendmsg(&stream, &[IoSlice::new(names.as_bytes())], &mut control, SendFlags::empty())?;
    if sent < names.len() {
        return Err(ErrorKind::WriteZero.into());
    }
    let mut word = [0; GO.len()];
    stream.read_exact(&mut word)?;
    if &word == GO { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// A running process did not give its sockets.
#[derive(Debug, thiserror::Error)]
#[error("no process gave its sockets at {path}: {error}", path = .path.display())]
pub struct NotTaken {
    path: PathBuf,
    error: io::Error,
}

impl Taken {
    /// Asks the process that runs. `None`: none does.
    ///
    /// # Errors
    /// One runs, and is not one of ours, or not this user's.
    pub fn ask(path: &Path) -> Result<Option<Self>, NotTaken> {
        match ask(path) {
            Ok(taken) => Ok(Some(taken)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(NotTaken { path: path.to_owned(), error }),
        }
    }

    /// The socket of this name, if the old process had it.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.sockets.iter().position(|(found, _)| found == name)?;
        Some(self.sockets.swap_remove(at).1)
    }

    /// Has the old process end. What was not taken is closed.
    ///
    /// # Errors
    /// It is gone already.
    pub fn go(mut self) -> io::Result<()> {
        self.old.write_all(GO)
    }
}

fn ask(path: &Path) -> io::Result<Taken> {
    let old = UnixStream::connect(path)?;
    old.set_read_timeout(Some(PATIENCE))?;
    let mut names = vec![0; NAMES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut names)];
    let received = rustix::net::recvmsg(&old, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    names.truncate(received.bytes);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let names = String::from_utf8(names).map_err(|_| ErrorKind::InvalidData)?;
    let names: Vec<_> = names.split('\n').map(str::to_owned).collect();
    if names.len() != fds.len() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it gave other sockets than it named"));
    }
    Ok(Taken { old, sockets: names.into_iter().zip(fds).collect() })
}
