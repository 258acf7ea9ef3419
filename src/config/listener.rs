//! `listen:`, checked: where clients come in.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

use super::{Check, raw};
use crate::listen::tls;

/// A place where clients come in.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it is.
    pub place: Place,
    /// Certificates, ours and theirs.
    pub tls: Option<Arc<ServerConfig>>,
    /// Clients must show certificates of a known authority.
    pub asks_for_certificates: bool,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix {
        /// Its file.
        path: PathBuf,
        /// Who may connect: the file's permission bits.
        mode: u32,
    },
}

impl Listener {
    /// Without TLS.
    pub fn plain(place: Place) -> Self {
        Listener { place, tls: None, asks_for_certificates: false }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => address.fmt(f),
            Place::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is fixed while a server runs; certificates are not.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix { mode, .. } => write!(f, "{} {mode:o}", self.place)?,
            Place::Tcp(_) => self.place.fmt(f)?,
        }
        f.write_str(if self.tls.is_some() { " tls" } else { "" })
    }
}

/// The mode of a Unix socket: its owner and group, and nobody else.
const MODE: u32 = 0o660;
const FORMS: &str = "must be an IP address and a port, such as 127.0.0.1:5000, or unix:/whole/path";

impl Check {
    pub(super) fn listeners(&mut self, variable: Option<String>, typed: Option<raw::Listen>) -> Vec<Listener> {
        let typed = match (variable, typed) {
            (Some(text), _) => {
                return self.place(super::env::LISTEN, &text, None).map(Listener::plain).into_iter().collect();
            }
            (None, Some(raw::Listen::Many(listeners))) => listeners,
            (None, Some(raw::Listen::One(address))) => {
                return self.place("listen", &address, None).map(Listener::plain).into_iter().collect();
            }
            (None, None) => vec![raw::Listener::Address("127.0.0.1:5000".to_owned())],
        };
        if typed.is_empty() {
            self.problem("listen names no address".to_owned());
        }
        let listeners: Vec<_> =
            typed.into_iter().enumerate().filter_map(|(at, typed)| self.listener(at, typed)).collect();
        for (at, listener) in listeners.iter().enumerate() {
            if listeners[..at].iter().any(|other| other.place == listener.place) {
                self.problem(format!("listen[{at}] is {} once more", listener.place));
            }
        }
        listeners
    }

    fn listener(&mut self, at: usize, typed: raw::Listener) -> Option<Listener> {
        let member = format!("listen[{at}]");
        let typed = match typed {
            raw::Listener::Address(address) => return self.place(&member, &address, None).map(Listener::plain),
            raw::Listener::Full(typed) => typed,
        };
        let place = self.place(&format!("{member}.address"), &typed.address, typed.mode.as_deref());
        if let (Some(place), Some(tls)) = (&place, &typed.tls) {
            self.certificate("listener", &place.to_string(), Some(&tls.certificate), tls.client_ca.as_deref());
        }
        let asks_for_certificates = typed.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let tls = typed.tls.map(|typed| {
            tls::server_config(
                &typed.certificate,
                &typed.key,
                typed.client_ca.as_deref(),
                &typed.client_names,
                typed.min_version,
            )
            .map_err(|error| self.problem(format!("{member}.tls: {error}")))
        });
        Some(Listener { place: place?, tls: tls.transpose().ok()?, asks_for_certificates })
    }

    fn place(&mut self, member: &str, address: &str, mode: Option<&str>) -> Option<Place> {
        let bits = mode.map_or(Ok(MODE), |mode| u32::from_str_radix(mode, 8));
        let place = match address.strip_prefix("unix:").map(Path::new) {
            Some(path) if path.is_absolute() && path.file_name().is_some() => match bits {
                Ok(mode) if mode <= 0o777 => Some(Place::Unix { path: path.to_owned(), mode }),
                _ => {
                    self.problem(format!("{member}: `mode` must be permission bits, such as \"0660\""));
                    return None;
                }
            },
            Some(_) => None,
            None if mode.is_some() => {
                self.problem(format!("{member}: `mode` is for unix: addresses"));
                return None;
            }
            None => address.parse().ok().map(Place::Tcp),
        };
        if place.is_none() {
            self.problem(format!("{member} {FORMS}"));
        }
        place
    }
}
