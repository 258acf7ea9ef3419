//! The configuration file as it was typed. Unknown members are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use openexec_protocol::approval::Form;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::action::BodyForm;
use super::ledger::FencePolicy;
use super::upstream::Balance;
use crate::listen::tls::MinVersion;

/// The whole file. What is absent has its default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub mode: Option<String>,
    pub listen: Option<Listen>,
    pub admin: Admin,
    pub ledger: Ledger,
    pub approval: Approval,
    pub tenants: BTreeMap<String, Tenant>,
    /// Absent: nobody is asked.
    pub callers: Option<BTreeMap<String, Caller>>,
    pub replay: Replay,
    pub allowed_actions: Option<Vec<String>>,
    pub upstreams: BTreeMap<String, Upstream>,
    /// Absent: the built-in ones.
    pub actions: Option<BTreeMap<String, Action>>,
    pub passthrough: Vec<PassRule>,
    pub bypass_check: BypassCheck,
    pub probes: BTreeMap<String, AppProbe>,
    pub telemetry: Telemetry,
    pub limits: Limits,
    pub retention: Retention,
    pub shutdown: Shutdown,
    pub startup: Startup,
}

/// How long, for the schema alone.
pub(crate) struct Time;

impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How long: 500ms, 30s, 1h 30m",
            "type": "string",
            "pattern": "^([0-9]+ *[a-z]+ *)+$"
        })
    }
}

impl File {
    /// The files that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Some(Listen::Many(listeners)) = &self.listen {
            for tls in listeners.iter().filter_map(Listener::tls) {
                files.extend([&tls.certificate, &tls.key].into_iter().chain(&tls.client_ca).cloned());
            }
        }
        files.extend(self.tenants.values().flat_map(|tenant| &tenant.keys).map(|key| key.file.clone()));
        for tls in self.upstreams.values().filter_map(|upstream| upstream.tls.as_ref()) {
            files.extend([&tls.ca, &tls.certificate, &tls.key].into_iter().flatten().cloned());
        }
        if let Some(tls) = &self.telemetry.traces.tls {
            files.extend([&tls.ca, &tls.certificate, &tls.key].into_iter().flatten().cloned());
        }
        files.extend(self.telemetry.traces.headers.values().filter_map(Header::file));
        for action in self.actions.iter().flat_map(BTreeMap::values) {
            if let Some(serde_json::Value::String(schema)) = &action.schema {
                files.push(PathBuf::from(schema));
            }
            files.extend(action.headers.values().filter_map(Header::file));
        }
        files
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    pub listen: Option<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ledger {
    pub url: Option<String>,
    pub anchor: Option<PathBuf>,
    pub create: Option<bool>,
    pub fence: Option<FencePolicy>,
    pub cache_bytes: Option<usize>,
    pub min_free_bytes: Option<u64>,
    pub memory_bytes: Option<usize>,
    pub password_file: Option<PathBuf>,
    pub tls: LedgerTls,
    pub connections: Option<usize>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub connect_timeout: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub statement_timeout: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub lease: Option<Duration>,
    pub require_synchronous: Option<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LedgerTls {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Approval {
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub clock_skew: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub max_lifetime: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tenant {
    pub keys: Vec<Key>,
    pub allowed_actions: Option<Vec<String>>,
    pub rate: Option<Rate>,
    pub in_flight: Option<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    pub per_second: u32,
    pub burst: Option<u32>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Caller {
    pub token_sha256: Vec<String>,
    pub certificate_names: Vec<String>,
    pub tenant: Option<String>,
    pub actions: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub id: String,
    pub form: KeyForm,
    pub file: PathBuf,
    pub not_before: Option<String>,
    pub not_after: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyForm {
    Hmac,
    Ed25519,
}

impl From<KeyForm> for Form {
    fn from(form: KeyForm) -> Self {
        match form {
            KeyForm::Hmac => Form::Hmac,
            KeyForm::Ed25519 => Form::Ed25519,
        }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Replay {
    pub on_mismatch: Option<OnMismatch>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub wait: Option<Duration>,
    pub waiters: Option<usize>,
}

/// One address, or several listeners.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Listen {
    One(String),
    Many(Vec<Listener>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Listener {
    Address(String),
    Full(FullListener),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FullListener {
    pub address: String,
    pub mode: Option<String>,
    pub tls: Option<ListenTls>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    #[serde(default)]
    pub min_version: MinVersion,
    pub client_ca: Option<PathBuf>,
    #[serde(default)]
    pub client_names: Vec<String>,
}

impl Listener {
    fn tls(&self) -> Option<&ListenTls> {
        match self {
            Listener::Address(_) => None,
            Listener::Full(full) => full.tls.as_ref(),
        }
    }
}

/// What a known nonce with another payload gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// The first request's answer, as 0.2.0 did. Demo mode only.
    Original,
    /// 422.
    Reject,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Upstream {
    pub addresses: Vec<String>,
    pub balance: Option<Balance>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub connect_timeout: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub idle_timeout: Option<Duration>,
    pub max_idle: Option<usize>,
    pub reuse: Option<bool>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub dns_refresh: Option<Duration>,
    pub tls: Option<Tls>,
    pub health: Health,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub ca: Option<PathBuf>,
    pub server_name: Option<String>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    pub active: Option<Active>,
    pub passive: Passive,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Active {
    pub path: Option<String>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub interval: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub timeout: Option<Duration>,
    pub healthy: Option<u32>,
    pub unhealthy: Option<u32>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Passive {
    pub failures: Option<u32>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub eject: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Action {
    pub builtin: Option<String>,
    pub upstream: Option<String>,
    pub path: Option<String>,
    pub method: Option<String>,
    pub body: Option<BodyForm>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub timeout: Option<Duration>,
    pub result: ResultLimits,
    pub recovery: Option<Recovery>,
    pub not_executed_on: Vec<u16>,
    pub headers: BTreeMap<String, Header>,
    pub response_headers: Vec<String>,
    /// Inline, or the name of a file.
    pub schema: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ResultLimits {
    pub read_bytes: Option<usize>,
    pub kept_bytes: Option<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Recovery {
    Operator,
    Idempotent(Idempotent),
    Probe(Probe),
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Idempotent {
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub window: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Probe {
    pub path: Option<String>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub settle: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub window: Option<Duration>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Header {
    Value(String),
    File(HeaderFile),
}

impl Header {
    fn file(&self) -> Option<PathBuf> {
        match self {
            Header::File(from) => Some(from.file.clone()),
            Header::Value(_) => None,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderFile {
    pub file: PathBuf,
    #[serde(default)]
    pub prefix: String,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PassRule {
    pub upstream: String,
    pub methods: Vec<String>,
    pub path: String,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BypassCheck {
    pub addresses: Vec<String>,
    pub ports: Vec<u16>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub interval: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AppProbe {
    pub address: String,
    pub path: Option<String>,
    pub headers: BTreeMap<String, String>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Telemetry {
    pub traces: Traces,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Traces {
    pub endpoint: Option<String>,
    pub sample: Option<f64>,
    pub service_name: Option<String>,
    pub headers: BTreeMap<String, Header>,
    pub tls: Option<Tls>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub timeout: Option<Duration>,
    pub queue_spans: Option<usize>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub header_bytes: Option<usize>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub header_time: Option<Duration>,
    pub body_bytes: Option<usize>,
    pub receipt_body_bytes: Option<usize>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub body_time: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub write_time: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub idle_time: Option<Duration>,
    pub json_depth: Option<usize>,
    pub json_nodes: Option<usize>,
    pub connections: Option<usize>,
    pub connection_requests: Option<u32>,
    pub in_flight: Option<usize>,
    pub buffered_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retention {
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub results: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub tombstones: Option<Duration>,
    pub denials: Option<usize>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Startup {
    pub takeover_socket: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub wait: Option<Duration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shutdown {
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub delay: Option<Duration>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<Time>")]
    pub timeout: Option<Duration>,
}
