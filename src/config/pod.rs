//! `bypass_check:` and `probes:`, and what the environment of a pod says that `openexec inject` has changed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::env::{self, Environment};
use super::upstream::{Origin, Place, UpstreamConfig};
use super::{Check, raw};

/// Whose address `OPENEXEC_UPSTREAM` is.
const APP: &str = "app";
/// More would be a list of everything.
const MOST_PROBES: usize = 256;

/// Where a service must not answer.
#[derive(Clone, Debug)]
pub struct BypassCheck {
    /// Every address that others can reach, with each of the service's ports; none: nothing is checked.
    pub targets: Vec<SocketAddr>,
    /// How often.
    pub interval: Duration,
}

/// A question that somebody asks the service through the admin listener, which passes on nothing but whether the answer
/// was good.
#[derive(Clone, Debug)]
pub struct AppProbe {
    /// Where the service is.
    pub origin: Origin,
    /// What is asked for, by GET; `None`: that it takes a connection is enough.
    pub path: Option<PathAndQuery>,
    /// Sent along, `Host` among them.
    pub headers: HeaderMap,
    /// For all of it.
    pub timeout: Duration,
}

impl AppProbe {
    /// Whether it may have this header.
    pub(crate) fn may_send(name: &str, value: &str) -> bool {
        sendable(name, value).is_ok()
    }
}

fn sendable(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    match (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
        (Ok(header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION), _) => {
            Err("belongs to the connection")
        }
        (Ok(header), Ok(value)) => Ok((header, value)),
        _ => Err("is no header"),
    }
}

impl Check {
    /// The environment's address for the upstream `app`, which the file need not have.
    pub(super) fn app(&mut self, environment: &impl Environment, upstreams: &mut BTreeMap<String, raw::Upstream>) {
        let Some(address) = environment.get(env::UPSTREAM) else { return };
        match Origin::parse(&address, None) {
            Ok(_) => upstreams.entry(APP.to_owned()).or_default().addresses = vec![address],
            // Not repeated: it may hold a password.
            Err(problem) => self.problem(format!("{} {problem}", env::UPSTREAM)),
        }
    }

    pub(super) fn bypass(
        &mut self,
        environment: &impl Environment,
        typed: raw::BypassCheck,
        upstreams: &[UpstreamConfig],
    ) -> BypassCheck {
        let interval = typed.interval.unwrap_or(Duration::from_secs(5));
        self.time("bypass_check.interval", interval, Duration::from_millis(100));
        let (typed_addresses, source) = match environment.get(env::POD_IPS) {
            Some(list) => (list.split(',').map(|part| part.trim().to_owned()).collect(), env::POD_IPS),
            None => (typed.addresses, "bypass_check.addresses"),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for typed in typed_addresses {
            match typed.parse::<IpAddr>() {
                Ok(address) if address.is_loopback() || address.is_unspecified() => {
                    self.problem(format!("{source}: {address} is none that others can reach"));
                }
                Ok(address) => addresses.push(address),
                Err(_) => self.problem(format!("{source} must be IP addresses")),
            }
        }
        if typed.ports.contains(&0) {
            self.problem("bypass_check.ports must be between 1 and 65535".to_owned());
        }
        let local = upstreams.iter().flat_map(|upstream| &upstream.addresses).filter_map(|origin| local(&origin.place));
        let mut ports: Vec<u16> = typed.ports.into_iter().chain(local).collect();
        ports.sort_unstable();
        ports.dedup();
        let targets = addresses.iter().flat_map(|address| ports.iter().map(|port| SocketAddr::new(*address, *port)));
        BypassCheck { targets: targets.collect(), interval }
    }

    pub(super) fn probes(
        &mut self,
        environment: &impl Environment,
        typed: BTreeMap<String, raw::AppProbe>,
    ) -> BTreeMap<String, AppProbe> {
        let (typed, source) = match environment.get(env::APP_PROBES).map(|json| serde_json::from_str(&json)) {
            None => (typed, "probes"),
            Some(Ok(typed)) => (typed, env::APP_PROBES),
            Some(Err(error)) => {
                self.problem(format!("{}: {error}", env::APP_PROBES));
                return BTreeMap::new();
            }
        };
        if typed.len() > MOST_PROBES {
            self.problem(format!("{source} has more than {MOST_PROBES} probes"));
        }
        typed.into_iter().filter_map(|(name, typed)| self.probe(source, name, typed)).collect()
    }

    fn probe(&mut self, source: &str, name: String, typed: raw::AppProbe) -> Option<(String, AppProbe)> {
        let member = format!("{source}.{name}");
        let is_name = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if name.split('/').count() != 2 || !name.split('/').all(is_name) {
            self.problem(format!("{member}: its name must be such as container/readiness"));
        }
        let timeout = typed.timeout.unwrap_or(Duration::from_secs(1));
        self.time(&format!("{member}.timeout"), timeout, Duration::from_millis(1));
        let origin = Origin::parse(&typed.address, None).map_err(|e| self.problem(format!("{member}.address {e}")));
        let path = typed.path.map(|path| path.parse::<PathAndQuery>().ok().filter(|_| path.starts_with('/')));
        if path == Some(None) {
            self.problem(format!("{member}.path must be a path such as /healthz"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in typed.headers {
            match sendable(&name, &value) {
                Ok((header, value)) => drop(headers.insert(header, value)),
                Err(problem) => self.problem(format!("{member}.headers.{name} {problem}")),
            }
        }
        Some((name, AppProbe { origin: origin.ok()?, path: path.flatten(), headers, timeout }))
    }
}

/// The port, if the service should be reached from this machine only.
fn local(place: &Place) -> Option<u16> {
    match place {
        Place::Tcp(host, port) => {
            let is_local = host.eq_ignore_ascii_case("localhost")
                || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
            is_local.then_some(*port)
        }
        Place::Unix(_) => None,
    }
}
