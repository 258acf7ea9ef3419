//! Sockets that clients connect to.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tokio::net::TcpSocket;

use crate::config::listener::Place;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// A socket that listens, and where.
pub struct Socket {
    /// With the port that the system chose, if it was asked to choose one.
    pub place: Place,
    /// The socket.
    pub fd: OwnedFd,
}

impl Socket {
    /// Listens there.
    ///
    /// # Errors
    /// The address is taken or not ours; the file cannot be made.
    pub fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                let listener = socket.listen(BACKLOG)?.into_std()?;
                Ok(Socket { place: Place::Tcp(listener.local_addr()?), fd: listener.into() })
            }
            Place::Unix { path, mode } => {
                must_be_free(path)?;
                Ok(Socket { place: place.clone(), fd: bind_file(path, *mode)?.into() })
            }
        }
    }

    /// As [`Socket::bind`], in the place of whoever listens on the same file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn bind_again(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(_) => Socket::bind(place),
            Place::Unix { path, mode } => Ok(Socket { place: place.clone(), fd: bind_file(path, *mode)?.into() }),
        }
    }

    /// One that another process listened on.
    ///
    /// # Errors
    /// It is none.
    pub fn inherited(place: &Place, fd: OwnedFd) -> io::Result<Self> {
        let place = match place {
            Place::Tcp(_) => {
                let listener = std::net::TcpListener::from(fd.try_clone()?);
                listener.set_nonblocking(true)?;
                Place::Tcp(listener.local_addr()?)
            }
            Place::Unix { .. } => {
                UnixListener::from(fd.try_clone()?).set_nonblocking(true)?;
                place.clone()
            }
        };
        Ok(Socket { place, fd })
    }
}

fn must_be_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file of another kind"))
        }
        // One that nobody listens on is what a process that died leaves.
        Ok(_) if UnixStream::connect(path).is_ok() => Err(ErrorKind::AddrInUse.into()),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// The file appears under its name when it has its mode and listens: nobody connects before that.
fn bind_file(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(name);
    let listener = UnixListener::bind(&new)?;
    let named = fs::set_permissions(&new, fs::Permissions::from_mode(mode)).and_then(|()| fs::rename(&new, path));
    if let Err(e) = named {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Tells a socket's file from a later one of the same name.
pub struct Mark {
    path: PathBuf,
    inode: u64,
}

impl Mark {
    /// Of the file that is there now; `None`: the place has no file.
    pub fn of(place: &Place) -> Option<Self> {
        let Place::Unix { path, .. } = place else { return None };
        Some(Mark { path: path.clone(), inode: fs::symlink_metadata(path).ok()?.ino() })
    }

    /// Removes the file, if it is still the same.
    pub fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
