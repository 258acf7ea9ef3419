//! What every sidecar is made of, unless its pod's annotations say otherwise: `sidecar:` in the injector's settings.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Time;

/// One sidecar, as it is to be.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// The image of the gate; by digest, so that it is the same one everywhere.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Who approves.
    #[serde(default)]
    pub mode: Mode,
    /// What kind of container it is.
    #[serde(default)]
    pub sidecar: Kind,
    /// How requests for the app come to the gate.
    #[serde(default)]
    pub traffic: Traffic,
    /// Where the gate listens.
    #[serde(default)]
    pub ports: Ports,
    /// The address that both listeners are on: `0.0.0.0`, or `[::]` in pods with IPv6.
    #[serde(default = "all_addresses")]
    pub listen_host: String,
    /// Whom it runs as.
    #[serde(default = "nobody_else")]
    pub user: u32,
    /// The log's filter.
    #[serde(default = "info")]
    pub log_level: String,
    /// As Kubernetes has them.
    #[serde(default)]
    pub resources: Resources,
    /// The ConfigMap in the pod's namespace with `openexec.yaml`.
    pub config_map: Option<String>,
    /// The Secret in the pod's namespace with the ledger's `url`.
    pub ledger_secret: Option<String>,
    /// Whether it has a `password` too.
    #[serde(default)]
    pub ledger_password: bool,
    /// The Secret in the pod's namespace with the keys of approvals, each a file below `/etc/openexec/keys`.
    pub keys_secret: Option<String>,
    /// The Secret in the pod's namespace with the admin listener's `token`.
    pub admin_secret: Option<String>,
    /// Whom the gate acts for; absent: whom its configuration names.
    pub tenant: Option<String>,
    /// The form of that tenant's approvals: its key is `public-key.pem` or `secret-key` among the keys.
    #[serde(default)]
    pub approval_form: Form,
    /// How long the app waits at its end for what the gate executes.
    #[serde(default = "drain_wait", with = "humantime_serde")]
    #[schemars(with = "Time")]
    pub drain_wait: Duration,
}

/// When the image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// Who approves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everybody.
    Demo,
    /// Whoever has a key.
    #[default]
    ClawShield,
}

/// What kind of container the gate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An init container that stays (`restartPolicy: Always`): it is ready before the app starts, and ends after it.
    #[default]
    Native,
    /// One beside the app's.
    Container,
}

/// How requests for the app come to the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// The app listens on 127.0.0.1 or on a socket, and its port's name is the gate's.
    #[default]
    Localhost,
    /// Rules of the kernel lead what comes for the app's port to the gate.
    Redirect,
}

/// An approval's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Verified with a public key.
    #[default]
    Ed25519,
    /// Verified with the secret that signs.
    Hmac,
}

/// The gate's ports.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// For requests.
    pub gate: u16,
    /// For probes and metrics.
    pub admin: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Ports { gate: 5000, admin: 5001 }
    }
}

/// What the gate asks for, and what it gets at most.
#[derive(Clone, Debug, Deserialize, JsonSchema, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Asked for.
    pub requests: Quantities,
    /// At most.
    pub limits: Quantities,
}

/// As Kubernetes spells them: `50m`, `64Mi`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quantities {
    /// Cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl Default for Resources {
    fn default() -> Self {
        let quantities = |cpu: Option<&str>, memory: &str| Quantities {
            cpu: cpu.map(str::to_owned),
            memory: Some(memory.to_owned()),
        };
        Resources { requests: quantities(Some("50m"), "64Mi"), limits: quantities(None, "512Mi") }
    }
}

fn all_addresses() -> String {
    "0.0.0.0".to_owned()
}

/// As in the image.
fn nobody_else() -> u32 {
    65_532
}

fn info() -> String {
    "info".to_owned()
}

fn drain_wait() -> Duration {
    Duration::from_secs(40)
}

/// The longest wait for the gate at a pod's end.
const LONGEST_DRAIN: Duration = Duration::from_secs(3_600);

impl Sidecar {
    /// With this image, and the defaults of everything else.
    pub fn of(image: &str) -> Self {
        serde_json::from_value(serde_json::json!({"image": image})).expect("nothing else is needed")
    }

    /// What cannot be, each with the member's name.
    pub(crate) fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut must = |member, is_good: bool, problem| {
            if !is_good {
                problems.push((member, problem));
            }
        };
        must("image", !self.image.is_empty() && self.image.bytes().all(|b| b.is_ascii_graphic()), "must be an image");
        must("ports.gate", self.ports.gate > 0, PORT);
        must("ports.admin", self.ports.admin > 0, PORT);
        must("ports.admin", self.ports.admin != self.ports.gate, "must be another one than ports.gate");
        let host = format!("{}:1", self.listen_host).parse::<std::net::SocketAddr>();
        let is_pods = host.is_ok_and(|host| !host.ip().is_loopback());
        must("listen_host", is_pods, "must be an address that others reach, such as 0.0.0.0 or [::]");
        must("user", self.user > 0, "must not be root");
        must(
            "log_level",
            tracing_subscriber::EnvFilter::try_new(&self.log_level).is_ok(),
            "must be a filter, such as `info` or `warn,openexec=debug`",
        );
        let quantities = [
            ("resources.requests.cpu", &self.resources.requests.cpu),
            ("resources.requests.memory", &self.resources.requests.memory),
            ("resources.limits.cpu", &self.resources.limits.cpu),
            ("resources.limits.memory", &self.resources.limits.memory),
        ];
        for (member, quantity) in quantities {
            must(member, quantity.as_deref().is_none_or(is_quantity), "must be a quantity, such as 50m or 64Mi");
        }
        let names = [
            ("config_map", &self.config_map),
            ("ledger_secret", &self.ledger_secret),
            ("keys_secret", &self.keys_secret),
            ("admin_secret", &self.admin_secret),
        ];
        for (member, name) in names {
            must(member, name.as_deref().is_none_or(is_object_name), "must be the name of an object");
        }
        must("tenant", self.tenant.as_ref().is_none_or(|tenant| !tenant.is_empty()), "must not be empty");
        must("drain_wait", self.drain_wait <= LONGEST_DRAIN, "must be at most 1h");
        must("drain_wait", self.drain_wait.subsec_nanos() == 0, "must be whole seconds");
        problems
    }
}

const PORT: &str = "must be between 1 and 65535";

/// An RFC 1123 subdomain.
fn is_object_name(name: &str) -> bool {
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(is_alphanumeric)
            && bytes.last().is_some_and(is_alphanumeric)
            && bytes.iter().all(|b| is_alphanumeric(b) || *b == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let is_number =
        digits.parse::<f64>().is_ok_and(|number| number > 0.0) && digits.starts_with(|c: char| c.is_ascii_digit());
    is_number && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&suffix)
}
