//! The app's own containers: their ports' names, their probes and their end.

use std::collections::HashSet;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::annotations::{SOCKETS, Upstream, Wanted};
use super::pod::{self, CONTAINERS, INIT_CONTAINERS};
use super::settings::Traffic;
use super::status::{Led, Status};
use super::{GATE, Refused, literal};
use crate::config::pod::AppProbe;

/// A container's probes, and what they are called in the gate.
pub(super) const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
/// Where the gate asks them, and waits for what it executes.
const PROBES_PATH: &str = "/probes/";
const DRAINED_PATH: &str = "/drained";
/// What no URI has.
const NO_URI: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');
/// How long a pod has to end, where it does not say.
const GRACE: u64 = 30;
/// Kubernetes keeps it in 64 bits with a sign.
const LONGEST_GRACE: u64 = i64::MAX.unsigned_abs();
/// What a gate accepts as a probe's time.
const LONGEST_PROBE: u64 = 86_400;

/// The app behind the gate.
pub(super) struct App {
    /// The container that it is in.
    pub(super) container: String,
    pub(super) place: Option<Place>,
    /// Its probes, as the gate's environment has them.
    pub(super) probes: Map<String, Value>,
}

/// Where it is.
pub(super) enum Place {
    Port(u16),
    Socket(String),
}

/// Whether the gate asks it.
pub(super) fn is_ours(probe: &Value) -> bool {
    probe["httpGet"]["path"].as_str().is_some_and(|path| path.starts_with(PROBES_PATH))
}

impl App {
    /// The container and the port that the pod names, or the only ones that there are.
    ///
    /// # Errors
    /// There is none like that, or more than one.
    pub(super) fn find(pod: &Value, wanted: &Wanted) -> Result<Self, Refused> {
        let named = |container: &&Value| wanted.container.as_deref().is_none_or(|name| pod::name(container) == name);
        let candidates: Vec<_> = pod::list(pod, CONTAINERS).iter().filter(named).collect();
        let Some(first) = candidates.first() else {
            return Err(Refused::Port("config.openexec.dev/container: there is no such container".to_owned()));
        };
        let ports: Vec<_> =
            candidates.iter().flat_map(|container| tcp_ports(container).map(move |port| (*container, port))).collect();
        let at = |container: &Value, port: u16| App {
            container: pod::name(container).to_owned(),
            place: Some(Place::Port(port)),
            probes: Map::new(),
        };
        let app = match &wanted.upstream {
            Some(Upstream::Socket(path)) if wanted.sidecar.traffic == Traffic::Redirect => {
                Err(Refused::Port(format!("{path}: nothing is redirected to a socket")))
            }
            Some(Upstream::Socket(path)) => Ok(App { place: Some(Place::Socket(path.clone())), ..at(first, 0) }),
            Some(Upstream::Port(text)) => match text.parse::<u16>() {
                Ok(0) | Err(_) => match ports.iter().find(|(_, (_, name))| *name == Some(text)) {
                    Some((container, (port, _))) => Ok(at(container, *port)),
                    None => {
                        Err(Refused::Port(format!("config.openexec.dev/upstream-port: no port is called {text:?}")))
                    }
                },
                Ok(port) => {
                    let declared = ports.iter().find(|(_, (declared, _))| *declared == port);
                    Ok(at(declared.map_or(first, |(container, _)| container), port))
                }
            },
            None => {
                let mut numbers: Vec<_> = ports.iter().map(|(_, (port, _))| *port).collect();
                numbers.sort_unstable();
                numbers.dedup();
                match numbers[..] {
                    [] if wanted.sidecar.traffic == Traffic::Redirect => Err(Refused::Port(
                        "nothing can be redirected: say in config.openexec.dev/upstream-port which port is the app's"
                            .to_owned(),
                    )),
                    [] => Ok(App { place: None, ..at(first, 0) }),
                    [port] => Ok(at(ports[0].0, port)),
                    _ => Err(Refused::Port(format!(
                        "there are the ports {}: say in config.openexec.dev/upstream-port which one is behind the gate",
                        numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
                    ))),
                }
            }
        }?;
        app.must_fit(pod, wanted)?;
        Ok(app)
    }

    /// Two listeners cannot have one port: the app would not start, or the gate would ask itself.
    fn must_fit(&self, pod: &Value, wanted: &Wanted) -> Result<(), Refused> {
        let ports = &wanted.sidecar.ports;
        let staying = pod::list(pod, INIT_CONTAINERS).iter().filter(|container| pod::stays(container));
        let containers = pod::list(pod, CONTAINERS).iter().chain(staying);
        let declared =
            containers.flat_map(|container| tcp_ports(container).map(|(port, _)| (pod::name(container), port)));
        let app = match self.place {
            Some(Place::Port(port)) => Some((self.container.as_str(), port)),
            _ => None,
        };
        for (container, port) in declared.chain(app) {
            for (gates, annotation) in [(ports.gate, "gate-port"), (ports.admin, "admin-port")] {
                if port == gates {
                    return Err(Refused::Port(format!(
                        "{container} has the port {port}, and so has the gate: choose another in config.openexec.dev/{annotation}"
                    )));
                }
            }
        }
        if let Some((_, port)) = app.filter(|(_, port)| wanted.allowed_ports.contains(port)) {
            return Err(Refused::Port(format!(
                "config.openexec.dev/allow-inbound-ports: {port} is the app's, and only the gate is to reach it"
            )));
        }
        // A name leads to one port; Kubernetes has no container with one name twice either.
        for container in pod::list(pod, CONTAINERS).iter().chain(pod::list(pod, INIT_CONTAINERS)) {
            let ports = container["ports"].as_array().into_iter().flatten();
            let mut names = HashSet::new();
            if let Some(name) = ports.filter_map(|port| port["name"].as_str()).find(|name| !names.insert(*name)) {
                let container = pod::name(container);
                return Err(Refused::Port(format!("{container} has two ports that are called {name:?}")));
            }
        }
        let listed = pod::list(pod, CONTAINERS).iter().flat_map(|container| container["ports"].as_array()).flatten();
        let mut named = listed.filter(|port| pod::name(port) == GATE);
        if named.any(|port| app.is_none_or(|(_, app)| !is_at(port, app))) {
            return Err(Refused::ReservedName(format!("the port {GATE}")));
        }
        let Some(Place::Socket(_)) = self.place else { return Ok(()) };
        let apps = pod::list(pod, CONTAINERS).iter().find(|container| pod::name(container) == self.container);
        let mounts = apps.and_then(|app| app["volumeMounts"].as_array()).into_iter().flatten();
        let mut paths = mounts.filter_map(|mount| mount["mountPath"].as_str());
        match paths.any(|path| path.trim_end_matches('/') == SOCKETS) {
            true => Err(Refused::ReservedName(SOCKETS.to_owned())),
            false => Ok(()),
        }
    }

    /// As `OPENEXEC_UPSTREAM` has it.
    pub(super) fn address(&self, has_tls: bool) -> Option<String> {
        self.place.as_ref().map(|place| match place {
            Place::Port(port) if has_tls => format!("https://127.0.0.1:{port}"),
            Place::Port(port) => format!("http://127.0.0.1:{port}"),
            Place::Socket(path) => format!("unix:{path}"),
        })
    }

    /// Makes its containers what they are behind a gate.
    pub(super) fn go_behind_the_gate(
        &mut self,
        pod: &mut Value,
        wanted: &Wanted,
        status: &mut Status,
        warnings: &mut Vec<String>,
    ) {
        // Those that come before the gate and stay keep their probes: the gate would answer them only after they have
        // started, and one with a startup probe would never have.
        for container in pod::list(pod, INIT_CONTAINERS).iter().filter(|container| pod::stays(container)) {
            self.warn_of_ports(container, wanted, warnings);
        }
        for container in pod::list_mut(pod, CONTAINERS) {
            self.warn_of_ports(container, wanted, warnings);
            self.lead_names_to_the_gate(container, wanted, status);
            self.ask_through_the_gate(container, wanted, status, warnings);
            if self.place.is_some() {
                wait_for_the_gate(container, wanted, status, warnings);
            }
        }
        self.name_the_gate(pod, wanted, status, warnings);
        let spec = pod::member(pod, "spec");
        status.grace = spec.get("terminationGracePeriodSeconds").cloned();
        if self.place.is_none() {
            warnings.push(
                "no port of an app is known (config.openexec.dev/upstream-port): the gate stands before nothing"
                    .to_owned(),
            );
            return;
        }
        // A negative one is as good as none.
        let grace = status.grace.as_ref().and_then(Value::as_u64).unwrap_or(GRACE);
        let grace = grace.saturating_add(wanted.sidecar.drain_wait.as_secs()).min(LONGEST_GRACE);
        spec.insert("terminationGracePeriodSeconds".to_owned(), grace.into());
    }

    /// A Service that names the app's port then means the gate's. The name stays in the app's container, and leads to the
    /// gate's number: before Kubernetes 1.33 no Service finds the ports of init containers, native sidecars among them
    /// (kubernetes/kubernetes#128850, nowhere backported). A port is a number, whichever container lists it.
    fn lead_names_to_the_gate(&self, container: &mut Value, wanted: &Wanted, status: &mut Status) {
        let Some(Place::Port(app)) = self.place else { return };
        let name = pod::name(container).to_owned();
        for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if is_at(port, app)
                && let Some(led) = port["name"].as_str().map(str::to_owned)
            {
                status.ports.push(Led { container: name.clone(), name: led, port: Some(app) });
                port["containerPort"] = wanted.sidecar.ports.gate.into();
            }
        }
    }

    /// A name for the gate's port, where the app's has none.
    fn name_the_gate(&self, pod: &mut Value, wanted: &Wanted, status: &mut Status, warnings: &mut Vec<String>) {
        if !status.ports.is_empty() {
            return;
        }
        let apps = pod::list_mut(pod, CONTAINERS).iter_mut().find(|container| pod::name(container) == self.container);
        let Some(container) = apps.and_then(Value::as_object_mut) else { return };
        let port = json!({"name": GATE, "containerPort": wanted.sidecar.ports.gate, "protocol": "TCP"});
        pod::entry(container, "ports").push(port);
        status.ports.push(Led { container: self.container.clone(), name: GATE.to_owned(), port: None });
        if self.place.is_some() && wanted.sidecar.traffic == Traffic::Localhost {
            warnings.push(format!("the app's port has no name: a Service reaches the gate by targetPort: {GATE}"));
        }
    }

    /// Says which of a container's ports the gate does not stand before.
    fn warn_of_ports(&self, container: &Value, wanted: &Wanted, warnings: &mut Vec<String>) {
        let name = pod::name(container);
        let mut others = Vec::new();
        for port in container["ports"].as_array().into_iter().flatten() {
            let (number, is_tcp) = (port["containerPort"].as_u64().unwrap_or_default(), is_tcp(port));
            let is_apps = matches!(self.place, Some(Place::Port(app)) if is_at(port, app));
            let is_open = is_tcp && wanted.allowed_ports.iter().any(|open| u64::from(*open) == number);
            if !(is_apps || is_open && wanted.sidecar.traffic == Traffic::Redirect) {
                others.push(if is_tcp { number.to_string() } else { format!("{number} (not TCP)") });
            }
        }
        if others.is_empty() {
            return;
        }
        let which = others.join(", ");
        warnings.push(match wanted.sidecar.traffic {
            Traffic::Localhost => format!("not behind the gate: port {which} of {name}"),
            Traffic::Redirect => format!("closed (config.openexec.dev/allow-inbound-ports): port {which} of {name}"),
        });
    }

    /// A kubelet reaches what listens on the pod's own address, and that is the gate.
    fn ask_through_the_gate(
        &mut self,
        container: &mut Value,
        wanted: &Wanted,
        status: &mut Status,
        warnings: &mut Vec<String>,
    ) {
        let name = pod::name(container).to_owned();
        // What the names meant before they led to the gate.
        let led = status.ports.iter().filter(|led| led.container == name);
        let led = led.filter_map(|led| Some((led.name.clone(), u64::from(led.port?))));
        let own = container["ports"].as_array().into_iter().flatten();
        let own = own.filter_map(|port| Some((port["name"].as_str()?.to_owned(), port["containerPort"].as_u64()?)));
        let named: Vec<(String, u64)> = led.chain(own).collect();
        let number = |port: &Value| match port {
            Value::String(name) => {
                named.iter().find(|(named, _)| named == name).map(|(_, port)| *port).or(name.parse().ok())
            }
            port => port.as_u64(),
        };
        self.resolve_hooks(container, &number, warnings);
        for (field, kind) in PROBES {
            let Some(probe) = container.get_mut(field).filter(|probe| probe.is_object()) else { continue };
            if probe.get("grpc").is_some() {
                warnings.push(format!(
                    "{name}: its {field} is gRPC, which the gate does not ask: it must reach the pod's own address"
                ));
                continue;
            }
            let Some((ours, address)) = self.question(&name, probe, &number) else { continue };
            let Some(address) = address else {
                warnings.push(format!("{name}: its {field} asks another host, or a port that is not there: it stays"));
                continue;
            };
            status.probes.insert(format!("{name}/{kind}"), probe.clone());
            self.probes.insert(format!("{name}/{kind}"), with_address(ours, address, probe));
            let probe = probe.as_object_mut().expect("it is an object");
            probe.remove("tcpSocket");
            let through = json!({"path": format!("{PROBES_PATH}{name}/{kind}"), "port": wanted.sidecar.ports.admin, "scheme": "HTTP"});
            probe.insert("httpGet".to_owned(), through);
        }
    }

    /// What a probe by HTTP or TCP asks, and where; without a place if that is not this pod.
    fn question(
        &self,
        container: &str,
        probe: &Value,
        number: &impl Fn(&Value) -> Option<u64>,
    ) -> Option<(Value, Option<String>)> {
        let (ask, is_http) = match (&probe["httpGet"], &probe["tcpSocket"]) {
            (Value::Object(ask), _) => (ask, true),
            (_, Value::Object(ask)) => (ask, false),
            _ => return None,
        };
        let is_elsewhere = ask.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty());
        let scheme = if ask.get("scheme").is_some_and(|scheme| scheme == "HTTPS") { "https" } else { "http" };
        let port = number(&ask["port"]).filter(|port| !is_elsewhere && (1..=65_535).contains(port));
        let address = port.map(|port| match &self.place {
            // It has no port. Those beside it have theirs.
            Some(Place::Socket(path)) if container == self.container => format!("unix:{path}"),
            _ => format!("{scheme}://127.0.0.1:{port}"),
        });
        let mut ours = json!({});
        if is_http {
            let path = ask.get("path").and_then(Value::as_str).unwrap_or_default();
            // As a kubelet sends it: without a fragment, and with what no URI has encoded.
            let path = path.split('#').next().unwrap_or_default();
            let path = utf8_percent_encode(path.strip_prefix('/').unwrap_or(path), NO_URI);
            ours["path"] = format!("/{path}").into();
            for header in ask.get("httpHeaders").and_then(Value::as_array).into_iter().flatten() {
                if let Some(value) = header["value"].as_str()
                    && AppProbe::may_send(pod::name(header), value)
                {
                    ours["headers"][pod::name(header)] = value.into();
                }
            }
        }
        Some((ours, address))
    }

    /// Hooks that ask a port by a name that leads to the gate now.
    fn resolve_hooks(
        &self,
        container: &mut Value,
        number: &impl Fn(&Value) -> Option<u64>,
        warnings: &mut Vec<String>,
    ) {
        let name = pod::name(container).to_owned();
        for hook in ["postStart", "preStop"] {
            for ask in ["httpGet", "tcpSocket"] {
                let Some(port) = container.pointer_mut(&format!("/lifecycle/{hook}/{ask}/port")) else { continue };
                let resolved = number(port);
                if let Some(resolved) = resolved.filter(|_| port.is_string()) {
                    *port = resolved.into();
                }
                if matches!(self.place, Some(Place::Port(app)) if resolved == Some(app.into())) {
                    warnings.push(format!(
                        "{name}: its {hook} asks the app's port, which a kubelet does not reach: let it run a command"
                    ));
                }
            }
        }
    }

    /// As one text, for the gate's environment.
    pub(super) fn probes(&self) -> Option<String> {
        (!self.probes.is_empty()).then(|| literal(&Value::Object(self.probes.clone()).to_string()))
    }
}

fn with_address(mut ours: Value, address: String, probe: &Value) -> Value {
    ours["address"] = address.into();
    // Nothing is a second there.
    let seconds = probe["timeoutSeconds"].as_u64().unwrap_or_default().clamp(1, LONGEST_PROBE);
    ours["timeout"] = format!("{seconds}s").into();
    ours
}

/// A container's port and its name, for each by TCP.
fn tcp_ports(container: &Value) -> impl Iterator<Item = (u16, Option<&String>)> {
    let ports = container["ports"].as_array().into_iter().flatten().filter(|port| is_tcp(port));
    ports.filter_map(|port| {
        let number = port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok())?;
        let name = match &port["name"] {
            Value::String(name) => Some(name),
            _ => None,
        };
        Some((number, name))
    })
}

/// Whether it is this one, by TCP.
fn is_at(port: &Value, number: u16) -> bool {
    is_tcp(port) && port["containerPort"] == number
}

fn is_tcp(port: &Value) -> bool {
    port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP")
}

/// At the pod's end it hears of it at once, while the gate still executes: it waits for that first.
fn wait_for_the_gate(container: &mut Value, wanted: &Wanted, status: &mut Status, warnings: &mut Vec<String>) {
    let name = pod::name(container).to_owned();
    let lifecycle = pod::member(container, "lifecycle");
    if lifecycle.contains_key("preStop") {
        let wait = wanted.sidecar.drain_wait.as_secs();
        warnings
            .push(format!("{name} has a preStop of its own: it must take as long as the gate executes, or {wait} s"));
        return;
    }
    let path = format!("{DRAINED_PATH}?wait={}", wanted.sidecar.drain_wait.as_secs());
    lifecycle.insert(
        "preStop".to_owned(),
        json!({"httpGet": {"path": path, "port": wanted.sidecar.ports.admin, "scheme": "HTTP"}}),
    );
    status.waiting.push(name);
}
