//! `upstreams:`, checked.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, uri::Authority};
use rustls::pki_types::ServerName;

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name in the configuration, and in metrics.
    pub name: String,
    /// Where it is.
    pub addresses: Vec<Origin>,
    /// Which address is next.
    pub balance: Balance,
    /// For all attempts to get a connection, look-up and TLS included.
    pub connect_timeout: Duration,
    /// A connection that waited longer is not used again. Below the upstream's own, or it closes first.
    pub idle_timeout: Duration,
    /// Connections of an address that may wait.
    pub max_idle: usize,
    /// Whether connections are used again at all.
    pub reuse: bool,
    /// How often names are looked up again.
    pub dns_refresh: Duration,
    /// Whom to believe, and who we are.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Asking how it is.
    pub active: Option<Active>,
    /// Seeing how it is.
    pub passive: Passive,
}

/// Which address is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastRequests,
}

/// Checks by asking.
#[derive(Clone, Debug)]
pub struct Active {
    /// What is asked for; any 2xx is good.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row that make an address healthy.
    pub healthy: u32,
    /// Bad ones that make it unhealthy.
    pub unhealthy: u32,
}

/// Checks by seeing what happens.
#[derive(Clone, Copy, Debug)]
pub struct Passive {
    /// Failures in a row after which an address is tried last; 0: never.
    pub failures: u32,
    /// For how long.
    pub eject: Duration,
}

/// One configured address.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it is.
    pub place: Place,
    /// What the `Host` header says.
    pub authority: HeaderValue,
    /// Whose certificate it must have; with TLS only.
    pub server_name: Option<ServerName<'static>>,
    text: String,
}

/// Where an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host's name or address, and a port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Place {
    /// Whether both are one service, as far as that can be told without asking.
    pub fn is_same_as(&self, other: &Place) -> bool {
        let host = |host: &str| {
            let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
            if is_loopback { "localhost".to_owned() } else { host.to_ascii_lowercase() }
        };
        match (self, other) {
            (Place::Tcp(a, port), Place::Tcp(b, other_port)) => port == other_port && host(a) == host(b),
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Origin {
    /// Reads `http://host:port`, `https://host:port` or `unix:/path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, server_name: Option<&str>) -> Result<Self, &'static str> {
        const FORMS: &str = "must be http://host:port, https://host:port or unix:/path";
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err("must name a Unix socket by its whole path, as in unix:/run/mail.sock");
            }
            let authority = HeaderValue::from_static("localhost");
            return Ok(Origin { place: Place::Unix(path.into()), authority, server_name: None, text: text.to_owned() });
        }
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(FORMS),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest.parse().map_err(|_| FORMS)?;
        let has_bad_port = rest.len() > authority.host().len() && authority.port_u16().is_none();
        if rest.contains('@') || authority.host().is_empty() || has_bad_port {
            return Err(FORMS);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let name = tls.then(|| ServerName::try_from(server_name.unwrap_or(&host).to_owned()));
        let server_name = name.transpose().map_err(|_| "has a name that no certificate can have")?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let authority = HeaderValue::from_str(rest).map_err(|_| FORMS)?;
        Ok(Origin { place: Place::Tcp(host, port), authority, server_name, text: text.to_owned() })
    }

    /// What it is, for comparison: with whom its certificate must name.
    pub fn identity(&self) -> String {
        match &self.server_name {
            Some(name) => format!("{} as {}", self.text, name.to_str()),
            None => self.text.clone(),
        }
    }

    /// Whether it has to be looked up.
    pub fn is_name(&self) -> bool {
        matches!(&self.place, Place::Tcp(host, _) if host.parse::<std::net::IpAddr>().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_three_forms() {
        let place = |text| Origin::parse(text, None).map(|origin| (origin.place, origin.server_name.is_some()));
        let tcp = |host: &str, port| Place::Tcp(host.to_owned(), port);
        assert_eq!(place("http://127.0.0.1:8080"), Ok((tcp("127.0.0.1", 8080), false)));
        assert_eq!(place("http://[::1]:8080/"), Ok((tcp("::1", 8080), false)));
        assert_eq!(place("https://mail.example.com"), Ok((tcp("mail.example.com", 443), true)));
        assert_eq!(place("unix:/run/mail.sock"), Ok((Place::Unix("/run/mail.sock".into()), false)));
        for wrong in [
            "",
            "127.0.0.1:8080",
            "http://",
            "http://a/b",
            "http://user:secret@a",
            "unix:mail.sock",
            "ftp://a",
            "http://a:99999",
            "https://a_b!c",
        ] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
