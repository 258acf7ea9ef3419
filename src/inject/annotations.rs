//! What a pod says of itself: labels that select it, annotations that change its sidecar.

use std::time::Duration;

use humantime_serde::re::humantime::parse_duration;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Refused;
use super::settings::Sidecar;

/// The label that selects pods, and namespaces.
pub const INJECT: &str = "openexec.dev/inject";
/// The annotation that asks for a ledger that dies with the pod.
pub const LEDGER: &str = "openexec.dev/ledger";
/// The annotation that says what was done.
pub const STATUS: &str = "openexec.dev/status";
/// Before each annotation that changes the sidecar.
pub const CONFIG: &str = "config.openexec.dev/";
/// The kubelet's own, on pods that it only shows to the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What one pod wants.
pub(super) struct Wanted {
    pub(super) sidecar: Sidecar,
    /// The app's container; absent: the one with the port, or the first.
    pub(super) container: Option<String>,
    pub(super) upstream: Option<Upstream>,
    /// Whether the app's port speaks TLS.
    pub(super) has_tls: bool,
    /// Beside the gate's, in redirect mode.
    pub(super) allowed_ports: Vec<u16>,
    pub(super) local_ledger: bool,
}

/// Where the app is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upstream {
    /// On this port, or the one with this name.
    Port(String),
    /// On this socket.
    Socket(String),
}

/// Where sockets of the app are: a directory that both containers have.
pub(super) const SOCKETS: &str = "/run/openexec";

pub(super) fn is_mirror(pod: &Value) -> bool {
    annotation(pod, MIRROR).is_some()
}

pub(super) fn opts_out(pod: &Value) -> bool {
    pod["metadata"]["labels"][INJECT] == "disabled"
}

pub(super) fn annotation<'p>(pod: &'p Value, name: &str) -> Option<&'p str> {
    pod["metadata"]["annotations"][name].as_str()
}

impl Wanted {
    /// The settings, changed by the pod's annotations. One that nobody knows is refused: it is a mistake in writing.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn by(pod: &Value, settings: &Sidecar) -> Result<Self, Refused> {
        let mut wanted = Wanted {
            sidecar: settings.clone(),
            container: None,
            upstream: None,
            has_tls: false,
            allowed_ports: Vec::new(),
            local_ledger: false,
        };
        let mut problems = Vec::new();
        for (name, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            if let Some(name) = name.strip_prefix(CONFIG)
                && let Err(problem) = wanted.set(name, text)
            {
                problems.push(format!("{CONFIG}{name} {problem}"));
            }
        }
        match annotation(pod, LEDGER) {
            None => {}
            Some("local") => wanted.local_ledger = true,
            Some(_) => problems.push(format!("{LEDGER} must be `local`; without it the ledger is the shared one")),
        }
        let checked = wanted.sidecar.problems();
        problems.extend(checked.into_iter().map(|(member, problem)| format!("{CONFIG}{} {problem}", spelled(member))));
        if problems.is_empty() { Ok(wanted) } else { Err(Refused::Annotations(problems)) }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let sidecar = &mut self.sidecar;
        let resources = &mut sidecar.resources;
        match name {
            "mode" => sidecar.mode = word(text, "demo, clawshield")?,
            "sidecar" => sidecar.sidecar = word(text, "native, container")?,
            "traffic" => sidecar.traffic = word(text, "localhost, redirect")?,
            "approval-form" => sidecar.approval_form = word(text, "ed25519, hmac")?,
            "gate-port" => sidecar.ports.gate = port(text)?,
            "admin-port" => sidecar.ports.admin = port(text)?,
            "log-level" => sidecar.log_level = text.to_owned(),
            "cpu-request" => resources.requests.cpu = Some(text.to_owned()),
            "memory-request" => resources.requests.memory = Some(text.to_owned()),
            "cpu-limit" => resources.limits.cpu = Some(text.to_owned()),
            "memory-limit" => resources.limits.memory = Some(text.to_owned()),
            "config-map" => sidecar.config_map = Some(text.to_owned()),
            "ledger-secret" => sidecar.ledger_secret = Some(text.to_owned()),
            "keys-secret" => sidecar.keys_secret = Some(text.to_owned()),
            "admin-secret" => sidecar.admin_secret = Some(text.to_owned()),
            "tenant" => sidecar.tenant = Some(text.to_owned()),
            "drain-wait" => sidecar.drain_wait = time(text)?,
            "container" => self.container = Some(text.to_owned()),
            "upstream-port" | "upstream-socket" if self.upstream.is_some() => {
                return Err("cannot stand beside the other one: the app is at a port or at a socket".to_owned());
            }
            "upstream-scheme" => match text {
                "http" | "https" => self.has_tls = text == "https",
                _ => return Err("must be one of: http, https".to_owned()),
            },
            "upstream-port" => self.upstream = Some(Upstream::Port(text.to_owned())),
            "upstream-socket" => {
                let file = text.strip_prefix(SOCKETS).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
                if file.is_empty()
                    || file.contains('/')
                    || file.starts_with('.')
                    || !file.bytes().all(|b| b.is_ascii_graphic())
                {
                    return Err(format!("must be a file in {SOCKETS}, such as {SOCKETS}/app.sock"));
                }
                self.upstream = Some(Upstream::Socket(text.to_owned()));
            }
            "allow-inbound-ports" => {
                self.allowed_ports = text.split(',').map(|text| port(text.trim())).collect::<Result<_, _>>()?;
            }
            _ => return Err("is unknown".to_owned()),
        }
        Ok(())
    }
}

/// As annotations spell a member of the settings.
fn spelled(member: &str) -> String {
    match member {
        "ports.gate" => "gate-port".to_owned(),
        "ports.admin" => "admin-port".to_owned(),
        "resources.requests.cpu" => "cpu-request".to_owned(),
        "resources.requests.memory" => "memory-request".to_owned(),
        "resources.limits.cpu" => "cpu-limit".to_owned(),
        "resources.limits.memory" => "memory-limit".to_owned(),
        other => other.replace('_', "-"),
    }
}

fn word<T: DeserializeOwned>(text: &str, words: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|_| format!("must be one of: {words}"))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "must be between 1 and 65535".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|_| "must be a time, such as 40s".to_owned())
}
