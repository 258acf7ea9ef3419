//! `telemetry:` and OpenTelemetry's own variables, checked.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use uuid::Uuid;

use super::env::{self, Environment};
use super::upstream::{Balance, Origin, Passive, UpstreamConfig};
use super::{Check, raw};
use crate::headers;
use crate::trace::{Context, SAMPLED};
use crate::upstream::tls;

/// What the collector is called in metrics and the log. No upstream of the configuration can have this name.
const COLLECTOR: &str = "(collector)";
/// OpenTelemetry's own defaults.
const TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE_NAME: &str = "openexec";
/// More than OpenTelemetry's 2 048: a busy gate fills those in a moment. Some 4 MiB.
const QUEUE_SPANS: usize = 8_192;
/// A request's own spans must fit.
const LEAST_QUEUE: usize = 16;
const MOST_QUEUE: usize = 1 << 20;

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// The collector, as it was typed.
    pub endpoint: String,
    /// The collector.
    pub collector: UpstreamConfig,
    /// Where it takes traces.
    pub path: String,
    /// Sent with each export; those from files and variables cannot be printed.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For an export.
    pub timeout: Duration,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// Who we are, as attributes.
    pub resource: Vec<(String, String)>,
    /// Spans that wait at most.
    pub queue_spans: usize,
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a client that decided has decided for us too.
    pub parent_based: bool,
    /// The share of the others, 0 to 1.
    pub ratio: f64,
}

impl Sampler {
    /// Whether this trace is recorded. The same trace gets the same answer everywhere: its id's last 56 bits are
    /// taken for random, as W3C's and OpenTelemetry's sampling does.
    pub fn samples(&self, parent: Option<Context>, trace_id: u128) -> bool {
        const RANDOM_BITS: u32 = 56;
        if let (true, Some(parent)) = (self.parent_based, parent) {
            return parent.flags & SAMPLED != 0;
        }
        const ALL: u64 = 1 << RANDOM_BITS;
        // In whole numbers: as a float, the largest id would round up to what none reaches.
        trace_id as u64 % ALL >= ((1.0 - self.ratio) * ALL as f64) as u64
    }
}

impl TracesConfig {
    /// What a restart is needed for: all but the headers.
    pub(super) fn fixed(&self) -> String {
        let TracesConfig { endpoint, path, timeout, sampler, resource, queue_spans, .. } = self;
        // Each start has an id of its own.
        let resource: Vec<_> = resource.iter().filter(|(key, _)| key != INSTANCE).collect();
        format!("{endpoint} {path} {timeout:?} {sampler:?} {resource:?} {queue_spans}")
    }
}

const INSTANCE: &str = "service.instance.id";

impl Check {
    /// `None`: nobody asked for traces.
    pub(super) fn traces(&mut self, environment: &impl Environment, file: raw::Traces) -> Option<TracesConfig> {
        // An empty one counts as unset, says OpenTelemetry.
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        if variable(env::OTEL_DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let (endpoint, source, is_whole) =
            match (variable(env::OTEL_TRACES_ENDPOINT), variable(env::OTEL_ENDPOINT), file.endpoint) {
                (Some(endpoint), ..) => (endpoint, env::OTEL_TRACES_ENDPOINT, true),
                (None, Some(endpoint), _) => (endpoint, env::OTEL_ENDPOINT, false),
                (None, None, Some(endpoint)) => (endpoint, "telemetry.traces.endpoint", false),
                (None, None, None) => return None,
            };
        for name in [env::OTEL_TRACES_PROTOCOL, env::OTEL_PROTOCOL] {
            if variable(name).is_some_and(|protocol| protocol != "http/protobuf") {
                self.problem(format!("{name} must be `http/protobuf`, which collectors speak on port 4318"));
            }
        }
        let server_name = file.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let parsed = parse_endpoint(&endpoint, is_whole, server_name.as_deref());
        // Not repeated: it may hold a password.
        let parsed = parsed.map_err(|problem| self.problem(format!("{source} {problem}"))).ok();
        let sampler = self.sampler(&variable, file.sample);
        let timeout = self.number(&variable, [env::OTEL_TRACES_TIMEOUT, env::OTEL_TIMEOUT]);
        let timeout = timeout.map(Duration::from_millis).or(file.timeout).unwrap_or(TIMEOUT);
        self.time("telemetry.traces.timeout", timeout, Duration::from_millis(1));
        let queue = self.number(&variable, [env::OTEL_QUEUE]).and_then(|count| usize::try_from(count).ok());
        let queue_spans = queue.or(file.queue_spans).unwrap_or(QUEUE_SPANS);
        if !(LEAST_QUEUE..=MOST_QUEUE).contains(&queue_spans) {
            self.problem(format!("telemetry.traces.queue_spans must be between {LEAST_QUEUE} and {MOST_QUEUE}"));
        }
        let headers = self.collector_headers(environment, file.headers);
        let resource = self.resource(&variable, file.service_name);
        let (origin, path) = parsed?;
        let tls = self.collector_tls(&origin, file.tls);
        let collector = UpstreamConfig {
            name: COLLECTOR.to_owned(),
            addresses: vec![origin],
            balance: Balance::default(),
            connect_timeout: timeout,
            idle_timeout: Duration::from_secs(15),
            max_idle: 1,
            reuse: true,
            dns_refresh: Duration::from_secs(30),
            tls,
            active: None,
            passive: Passive { failures: 0, eject: Duration::ZERO },
        };
        Some(TracesConfig { endpoint, collector, path, headers, timeout, sampler, resource, queue_spans })
    }

    fn collector_tls(
        &mut self,
        origin: &Origin,
        typed: Option<raw::Tls>,
    ) -> Option<std::sync::Arc<rustls::ClientConfig>> {
        const MEMBER: &str = "telemetry.traces.tls";
        if origin.server_name.is_none() {
            if typed.is_some() {
                self.problem(format!("{MEMBER}: the endpoint does not begin with https://"));
            }
            return None;
        }
        let raw::Tls { ca, certificate, key, .. } = typed.unwrap_or_default();
        let config = tls::client_config(ca.as_deref(), certificate.as_deref(), key.as_deref());
        config.map_err(|error| self.problem(format!("{MEMBER}: {error}"))).ok()
    }

    fn sampler(&mut self, variable: &impl Fn(&str) -> Option<String>, sample: Option<f64>) -> Sampler {
        let share = |ratio: &f64| (0.0..=1.0).contains(ratio);
        if sample.is_some_and(|sample| !share(&sample)) {
            self.problem("telemetry.traces.sample must be between 0 and 1".to_owned());
        }
        let argument = variable(env::OTEL_SAMPLER_ARG).map(|text| text.parse::<f64>().ok().filter(share));
        let Some(name) = variable(env::OTEL_SAMPLER) else {
            return Sampler { parent_based: true, ratio: sample.unwrap_or(1.0) };
        };
        let (parent_based, name) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let ratio = match (name, argument) {
            ("always_on", _) | ("traceidratio", None) => 1.0,
            ("always_off", _) => 0.0,
            ("traceidratio", Some(Some(ratio))) => ratio,
            ("traceidratio", Some(None)) => {
                self.problem(format!("{} must be between 0 and 1", env::OTEL_SAMPLER_ARG));
                1.0
            }
            _ => {
                self.problem(format!(
                    "{} must be always_on, always_off or traceidratio, or one of these behind parentbased_",
                    env::OTEL_SAMPLER
                ));
                1.0
            }
        };
        Sampler { parent_based, ratio }
    }

    /// Of the first variable that is set.
    fn number<const N: usize>(
        &mut self,
        variable: &impl Fn(&str) -> Option<String>,
        names: [&'static str; N],
    ) -> Option<u64> {
        let (name, text) = names.into_iter().find_map(|name| Some((name, variable(name)?)))?;
        let number = text.parse().ok();
        if number.is_none() {
            self.problem(format!("{name} must be a whole number"));
        }
        number
    }

    /// A variable's take the place of the file's.
    fn collector_headers(
        &mut self,
        environment: &impl Environment,
        typed: std::collections::BTreeMap<String, raw::Header>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        for name in [env::OTEL_TRACES_HEADERS, env::OTEL_HEADERS] {
            let text = match environment.secret(name) {
                Ok(text) => text.filter(|text| !text.is_empty()),
                Err(problem) => {
                    self.problem(problem);
                    continue;
                }
            };
            let Some(text) = text else { continue };
            let mut checked = Vec::new();
            // Not repeated: they are secrets.
            let sendable = |(header, value): (String, String)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                let header = header.parse::<HeaderName>().ok()?;
                let is_ours = headers::is_ours(header.as_str()) || headers::is_framing(header.as_str());
                (!is_ours).then_some((header, value))
            };
            for pair in pairs(&text) {
                match pair.and_then(sendable) {
                    Some(header) => checked.push(header),
                    None => self.problem(format!("{name} must be headers that can be sent: name=value,name=value")),
                }
            }
            return checked;
        }
        self.headers("telemetry.traces", typed)
    }

    fn resource(
        &mut self,
        variable: &impl Fn(&str) -> Option<String>,
        typed_name: Option<String>,
    ) -> Vec<(String, String)> {
        let mut resource = Vec::new();
        for pair in pairs(&variable(env::OTEL_RESOURCE).unwrap_or_default()) {
            match pair {
                Some(pair) => resource.push(pair),
                None => self.problem(format!("{} must be name=value,name=value", env::OTEL_RESOURCE)),
            }
        }
        if let Some(name) = variable(env::OTEL_SERVICE_NAME) {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        let defaults = [
            ("service.name", typed_name.unwrap_or_else(|| SERVICE_NAME.to_owned())),
            ("service.version", crate::VERSION.to_owned()),
            (INSTANCE, Uuid::new_v4().to_string()),
        ];
        for (key, value) in defaults {
            if resource.iter().all(|(known, _)| known != key) {
                resource.push((key.to_owned(), value));
            }
        }
        resource
    }
}

/// The collector, and where it takes traces: `/v1/traces` below the endpoint, or the endpoint itself.
fn parse_endpoint(text: &str, is_whole: bool, server_name: Option<&str>) -> Result<(Origin, String), &'static str> {
    const FORMS: &str = "must be http://host:port or https://host:port";
    let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let origin = Origin::parse(&format!("{scheme}://{authority}"), server_name).map_err(|_| FORMS)?;
    let path = match (is_whole, path) {
        (true, "") => "/".to_owned(),
        (true, path) => path.to_owned(),
        (false, path) => format!("{}/v1/traces", path.trim_end_matches('/')),
    };
    match path.parse::<PathAndQuery>() {
        Ok(parsed) if parsed.as_str() == path => Ok((origin, path)),
        _ => Err("has a path that cannot be sent"),
    }
}

/// `name=value`, comma-separated, percent-encoded (W3C baggage, as OpenTelemetry's variables are); `None` for what is
/// none.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (decoded(name.trim())?, decoded(value.trim())?);
        (!name.is_empty()).then_some((name, value))
    })
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (code, tail) = rest.split_at_checked(2)?;
        if !code.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(str::from_utf8(code).ok()?, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_to_which_a_path_is_added_or_not() {
        let path = |text, is_whole| parse_endpoint(text, is_whole, None).map(|(_, path)| path);
        assert_eq!(path("http://127.0.0.1:4318", false).as_deref(), Ok("/v1/traces"));
        assert_eq!(path("https://a.example/otlp/", false).as_deref(), Ok("/otlp/v1/traces"));
        assert_eq!(path("http://a:4318/mine?x=1", true).as_deref(), Ok("/mine?x=1"));
        assert_eq!(path("http://a:4318", true).as_deref(), Ok("/"));
        for wrong in ["", "127.0.0.1:4318", "grpc://a:4317", "unix:/run/otel.sock", "http://u:p@a", "http://a/ b"] {
            assert!(path(wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_are_percent_encoded() {
        let of = |text| pairs(text).collect::<Option<Vec<_>>>();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of("a=1, b=x%20y%2C=,"), Some(vec![pair("a", "1"), pair("b", "x y,=")]));
        assert_eq!(of(""), Some(Vec::new()));
        for wrong in ["a", "=1", "a=%2", "a=%+2", "a=%ff"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_share_of_the_traces_is_sampled_and_a_parent_decides() {
        let sampler = |parent_based, ratio| Sampler { parent_based, ratio };
        let parent = |flags| Some(Context { trace_id: 1, span_id: 1, flags });
        assert!(sampler(true, 0.0).samples(parent(1), 0) && !sampler(true, 1.0).samples(parent(0), u128::MAX));
        assert!(sampler(false, 1.0).samples(parent(0), 0) && !sampler(false, 0.0).samples(parent(1), u128::MAX));
        let sampled = (0..10_000).filter(|_| sampler(true, 0.25).samples(None, Uuid::new_v4().as_u128())).count();
        assert!((2_000..3_000).contains(&sampled), "{sampled}");
    }
}
