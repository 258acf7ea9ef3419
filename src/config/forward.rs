//! The checks of `upstreams:`, `actions:` and `passthrough:`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, header};
use sha2::{Digest, Sha256};

use super::action::{ActionConfig, BodyForm, Forward, PassRule, Recovery};
use super::upstream::{Active, Origin, Passive, UpstreamConfig};
use super::{Check, raw};
use crate::execute::dispatch::builtin;
use crate::execute::front;
use crate::headers;
use crate::upstream::tls;

/// Methods that may be let through.
const PASSABLE: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Results are held in memory and in a row.
const MOST_KEPT: usize = 64 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// As long as an execution may take before it is cut off, whoever waits for it.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Check {
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    pub(super) fn upstreams(&mut self, typed: BTreeMap<String, raw::Upstream>) -> Vec<UpstreamConfig> {
        typed.into_iter().filter_map(|(name, typed)| self.upstream(name, typed)).collect()
    }

    fn upstream(&mut self, name: String, typed: raw::Upstream) -> Option<UpstreamConfig> {
        let member = format!("upstreams.{name}");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            self.problem(format!("{member}: a name has the characters A-Z a-z 0-9 . _ -"));
        }
        let before = self.problems.len();
        if typed.addresses.is_empty() {
            self.problem(format!("{member}.addresses must name at least one"));
        }
        let has_tls = typed.tls.is_some();
        let tls_typed = typed.tls.unwrap_or_default();
        let mut addresses = Vec::new();
        for (index, address) in typed.addresses.iter().enumerate() {
            match Origin::parse(address, tls_typed.server_name.as_deref()) {
                Ok(origin) => addresses.push(origin),
                // Not repeated: it may hold a password.
                Err(problem) => self.problem(format!("{member}.addresses[{index}] {problem}")),
            }
        }
        if has_tls && addresses.iter().all(|origin| origin.server_name.is_none()) {
            self.problem(format!("{member}.tls: no address begins with https://"));
        }
        let tls = if addresses.iter().any(|origin| origin.server_name.is_some()) {
            let raw::Tls { ca, certificate, key, .. } = &tls_typed;
            self.certificate("upstream", &name, certificate.as_deref(), ca.as_deref());
            tls::client_config(ca.as_deref(), certificate.as_deref(), key.as_deref())
                .map_err(|error| self.problem(format!("{member}.tls: {error}")))
                .ok()
        } else {
            None
        };
        let active = typed.health.active.map(|active| Active {
            path: self.path(&format!("{member}.health.active.path"), active.path.as_deref().unwrap_or("/")),
            interval: active.interval.unwrap_or(Duration::from_secs(5)),
            timeout: active.timeout.unwrap_or(Duration::from_secs(1)),
            healthy: active.healthy.unwrap_or(1),
            unhealthy: active.unhealthy.unwrap_or(2),
        });
        let passive = Passive {
            failures: typed.health.passive.failures.unwrap_or(5),
            eject: typed.health.passive.eject.unwrap_or(Duration::from_secs(10)),
        };
        let config = UpstreamConfig {
            name,
            addresses,
            balance: typed.balance.unwrap_or_default(),
            connect_timeout: typed.connect_timeout.unwrap_or(Duration::from_secs(1)),
            idle_timeout: typed.idle_timeout.unwrap_or(Duration::from_secs(4)),
            max_idle: typed.max_idle.unwrap_or(128),
            reuse: typed.reuse.unwrap_or(true),
            dns_refresh: typed.dns_refresh.unwrap_or(Duration::from_secs(5)),
            tls,
            active,
            passive,
        };
        let mut times = vec![
            ("connect_timeout", config.connect_timeout),
            ("idle_timeout", config.idle_timeout),
            ("dns_refresh", config.dns_refresh),
            ("health.passive.eject", config.passive.eject),
        ];
        if let Some(active) = &config.active {
            times.extend([("health.active.interval", active.interval), ("health.active.timeout", active.timeout)]);
        }
        for (name, time) in times {
            self.time(&format!("{member}.{name}"), time, Duration::from_millis(1));
        }
        (self.problems.len() == before).then_some(config)
    }

    pub(super) fn actions(
        &mut self,
        typed: Option<BTreeMap<String, raw::Action>>,
        upstreams: &[UpstreamConfig],
    ) -> BTreeMap<String, ActionConfig> {
        let Some(typed) = typed else {
            return builtin::ALL.map(|(name, _)| (name.to_owned(), ActionConfig::Builtin(name.to_owned()))).into();
        };
        let mut actions = BTreeMap::new();
        for (name, action) in typed {
            let member = format!("actions.{name}");
            if name.is_empty() || name.len() > 128 {
                self.problem(format!("{member}: a name has 1 to 128 bytes"));
            }
            let action = match (&action.builtin, &action.upstream) {
                (Some(builtin), None) => self.builtin(&member, builtin),
                (None, Some(upstream)) => {
                    let upstream = upstream.clone();
                    self.forward(&member, action, &upstream, upstreams)
                }
                _ => {
                    self.problem(format!("{member} must have either `builtin` or `upstream`"));
                    None
                }
            };
            actions.extend(action.map(|action| (name, action)));
        }
        actions
    }

    fn builtin(&mut self, member: &str, builtin: &str) -> Option<ActionConfig> {
        if builtin::ALL.iter().any(|(name, _)| *name == builtin) {
            return Some(ActionConfig::Builtin(builtin.to_owned()));
        }
        let names = builtin::ALL.map(|(name, _)| name).join(", ");
        self.problem(format!("{member}.builtin must be one of: {names}"));
        None
    }

    fn forward(
        &mut self,
        member: &str,
        typed: raw::Action,
        upstream: &str,
        upstreams: &[UpstreamConfig],
    ) -> Option<ActionConfig> {
        let before = self.problems.len();
        let upstream_config = upstreams.iter().find(|found| found.name == upstream);
        if upstream_config.is_none() {
            self.problem(format!("{member}.upstream: there is no usable upstream {upstream:?}"));
        }
        let path = match &typed.path {
            Some(path) => self.path(&format!("{member}.path"), path),
            None => {
                self.problem(format!("{member}.path is missing"));
                String::new()
            }
        };
        let method = typed.method.as_deref().unwrap_or("POST");
        let method = match method {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            _ => {
                self.problem(format!("{member}.method must be POST, PUT, PATCH or DELETE"));
                Method::POST
            }
        };
        let timeout = typed.timeout.unwrap_or(TIMEOUT);
        self.time(&format!("{member}.timeout"), timeout, Duration::from_millis(1));
        let read_bytes = typed.result.read_bytes.unwrap_or(16 << 20);
        let kept_bytes = typed.result.kept_bytes.unwrap_or(1 << 20);
        let most = read_bytes.min(MOST_KEPT);
        if kept_bytes < 256 || kept_bytes > most {
            self.problem(format!("{member}.result.kept_bytes must be between 256 and {most}"));
        }
        for status in typed.not_executed_on.iter().filter(|status| !(400..600).contains(*status)) {
            self.problem(format!("{member}.not_executed_on: {status} is no error status"));
        }
        let recovery = self.recovery(member, typed.recovery.unwrap_or(raw::Recovery::Operator), timeout);
        let headers = self.headers(member, typed.headers);
        let response_headers = self.response_headers(member, typed.response_headers);
        let schema = typed.schema.and_then(|schema| self.schema(member, schema));
        let body = typed.body.unwrap_or_default();
        let addresses = upstream_config.map(|found| &found.addresses[..]).unwrap_or_default();
        let route = route(&method, &path, body, upstream, addresses, &headers);
        (self.problems.len() == before).then(|| {
            ActionConfig::Forward(Arc::new(Forward {
                upstream: upstream.to_owned(),
                method,
                path,
                body,
                timeout,
                read_bytes,
                kept_bytes,
                recovery,
                not_executed_on: typed.not_executed_on,
                headers,
                response_headers,
                schema,
                route,
            }))
        })
    }

    fn recovery(&mut self, member: &str, typed: raw::Recovery, timeout: Duration) -> Recovery {
        let recovery = match typed {
            raw::Recovery::Operator => return Recovery::Operator,
            raw::Recovery::Idempotent(typed) => Recovery::Idempotent { window: typed.window.unwrap_or(DAY) },
            raw::Recovery::Probe(typed) => {
                let path = typed.path.unwrap_or_default();
                if !path.contains("{key}") {
                    self.problem(format!("{member}.recovery.probe.path must have {{key}} where the key goes"));
                }
                self.path(&format!("{member}.recovery.probe.path"), &path.replace("{key}", "key"));
                let settle = typed.settle.unwrap_or(Duration::from_secs(30));
                self.time(&format!("{member}.recovery.probe.settle"), settle, Duration::ZERO);
                Recovery::Probe { path, settle, window: typed.window.unwrap_or(DAY) }
            }
        };
        let (window, needed) = match recovery {
            Recovery::Idempotent { window } => (window, timeout),
            Recovery::Probe { window, settle, .. } => (window, timeout.saturating_add(settle)),
            Recovery::Operator => return recovery,
        };
        if window <= needed {
            self.problem(format!(
                "{member}.recovery: the window must be longer than {needed:?}, or it is over at once"
            ));
        }
        recovery
    }

    pub(super) fn headers(
        &mut self,
        member: &str,
        typed: BTreeMap<String, raw::Header>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut checked = Vec::new();
        for (name, source) in typed {
            let member = format!("{member}.headers.{name}");
            let (text, secret) = match source {
                raw::Header::Value(text) => (text, false),
                raw::Header::File(from) => match std::fs::read_to_string(&from.file) {
                    Ok(text) => (from.prefix + text.trim_end_matches(['\r', '\n']), true),
                    Err(e) => {
                        self.problem(format!("{member}: {} cannot be read: {e}", from.file.display()));
                        continue;
                    }
                },
            };
            let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(&text).ok());
            let Some((name, mut value)) = parsed else {
                self.problem(format!("{member} is no header that can be sent"));
                continue;
            };
            let is_fixed = name == header::USER_AGENT || name == header::ACCEPT_ENCODING;
            if is_fixed || headers::is_ours(name.as_str()) || headers::is_framing(name.as_str()) {
                self.problem(format!("{member} is set by OpenExec itself"));
                continue;
            }
            value.set_sensitive(secret);
            checked.push((name, value));
        }
        checked
    }

    fn response_headers(&mut self, member: &str, typed: Vec<String>) -> Vec<HeaderName> {
        let mut checked = Vec::new();
        for name in typed {
            match name.parse::<HeaderName>() {
                Ok(name)
                    if !headers::is_ours(name.as_str())
                        && !headers::is_framing(name.as_str())
                        && name != header::CONTENT_ENCODING =>
                {
                    checked.push(name);
                }
                _ => self.problem(format!("{member}.response_headers: {name:?} cannot be passed on")),
            }
        }
        checked
    }

    fn schema(&mut self, member: &str, typed: serde_json::Value) -> Option<jsonschema::Validator> {
        let schema = match typed {
            serde_json::Value::String(file) => {
                let read = std::fs::read_to_string(Path::new(&file)).map_err(|e| e.to_string());
                match read.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string())) {
                    Ok(schema) => schema,
                    Err(e) => {
                        self.problem(format!("{member}.schema: {file}: {e}"));
                        return None;
                    }
                }
            }
            inline => inline,
        };
        // Not the default engine, which a payload can make slow: this one's time is linear.
        let built = jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .should_validate_formats(true)
            .build(&schema);
        built.map_err(|e| self.problem(format!("{member}.schema: {e}"))).ok()
    }

    /// A path as it is sent: absolute, without anything that a server could read in two ways.
    fn path(&mut self, member: &str, path: &str) -> String {
        let is_plain = path.starts_with('/')
            && path.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == path)
            && path
                .split('?')
                .next()
                .is_some_and(|path| crate::path::Normal::parse(path).is_some_and(|normal| normal.as_str() == path));
        if !is_plain {
            self.problem(format!("{member} must be a path such as /mail/send"));
        }
        path.to_owned()
    }

    pub(super) fn passthrough(
        &mut self,
        typed: Vec<raw::PassRule>,
        upstreams: &[UpstreamConfig],
        actions: &BTreeMap<String, ActionConfig>,
    ) -> Vec<PassRule> {
        let mut rules = Vec::new();
        for (index, typed) in typed.into_iter().enumerate() {
            let member = format!("passthrough[{index}]");
            let Some(upstream) = upstreams.iter().find(|found| found.name == typed.upstream) else {
                self.problem(format!("{member}.upstream: there is no usable upstream {:?}", typed.upstream));
                continue;
            };
            let path = self.path(&format!("{member}.path"), &typed.path);
            if path.contains('?') {
                self.problem(format!("{member}.path has no query"));
            }
            if path != "/" && front::PATHS.contains(&path.as_str()) {
                self.warnings
                    .push(format!("{member}.path: {path} itself is answered by OpenExec, and never passed on"));
            }
            let mut methods = Vec::new();
            for method in typed.methods {
                match method.parse::<Method>() {
                    Ok(parsed) if PASSABLE.contains(&parsed) => methods.push(parsed),
                    _ => self.problem(format!("{member}.methods: {method:?} cannot be passed through")),
                }
            }
            if methods.is_empty() {
                self.problem(format!("{member}.methods must name at least one"));
            }
            // By address too: another name for the same service is no way around.
            let shares = |other: &UpstreamConfig| {
                other.addresses.iter().any(|a| upstream.addresses.iter().any(|b| a.place.is_same_as(&b.place)))
            };
            let action_paths: Vec<String> = actions
                .values()
                .filter_map(|action| match action {
                    ActionConfig::Forward(forward) => Some(forward),
                    ActionConfig::Builtin(_) => None,
                })
                .filter(|forward| upstreams.iter().any(|other| other.name == forward.upstream && shares(other)))
                .map(|forward| forward.path.split('?').next().unwrap_or_default().to_owned())
                .collect();
            let is_read = |method: &Method| *method == Method::GET || *method == Method::HEAD;
            if !action_paths.is_empty() && !methods.iter().all(is_read) {
                self.problem(format!(
                    "{member}.methods: actions use this upstream, so only GET and HEAD may go through"
                ));
            }
            let timeout = typed.timeout.unwrap_or(TIMEOUT);
            self.time(&format!("{member}.timeout"), timeout, Duration::from_millis(1));
            rules.push(PassRule { upstream: typed.upstream, methods, path, timeout, action_paths });
        }
        rules
    }

    /// An allow-list may name what is not there: it is a mistake all the same.
    pub(super) fn allowed(
        &mut self,
        list: &str,
        allowed: Option<&HashSet<String>>,
        actions: &BTreeMap<String, ActionConfig>,
    ) {
        let mut unknown: Vec<&String> =
            allowed.into_iter().flatten().filter(|name| !actions.contains_key(*name)).collect();
        unknown.sort();
        for name in unknown {
            self.warnings.push(format!("{list} names {name:?}, which is no action"));
        }
    }
}

/// What would happen, in words: a recovery under another route could do something else. Headers count by a hash, and
/// secret ones by their names only: credentials are renewed.
fn route(
    method: &Method,
    path: &str,
    body: BodyForm,
    upstream: &str,
    addresses: &[Origin],
    headers: &[(HeaderName, HeaderValue)],
) -> String {
    let mut addresses: Vec<String> = addresses.iter().map(Origin::identity).collect();
    addresses.sort();
    let route = format!("{method} {path} ({}) to {upstream}: {}", body.as_str(), addresses.join(" "));
    if headers.is_empty() {
        return route;
    }
    let mut hash = Sha256::new();
    for (name, value) in headers {
        let value = if value.is_sensitive() { b"" } else { value.as_bytes() };
        hash.update([name.as_str().as_bytes(), b": ", value, b"\n"].concat());
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{route}, headers {hash}")
}
