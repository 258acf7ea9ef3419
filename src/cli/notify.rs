//! Tells the service manager what becomes of this process: sd_notify(3). A crate for this was rejected: it is one
//! datagram.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::config::env::Environment;

/// Where the manager hears; without it there is none that waits for a word.
const SOCKET: &str = "NOTIFY_SOCKET";

/// What a manager is told.
#[derive(Clone, Copy)]
pub(super) enum State {
    /// Its sockets are open.
    Ready,
    /// It ends, by whatever was its reason.
    Stopping,
}

/// A manager that does not hear is no reason to end: it has time-outs of its own.
pub(super) fn tell(state: State, environment: &impl Environment) {
    let Some(socket) = environment.get(SOCKET) else { return };
    let word = match state {
        State::Ready => "READY=1",
        State::Stopping => "STOPPING=1",
    };
    if let Err(error) = send(&socket, word) {
        tracing::warn!(%error, "the service manager cannot be told {word}");
    }
}

fn send(socket: &str, word: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address).map(drop)
}
