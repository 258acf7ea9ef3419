//! Every environment variable there is, and the one way to read them.

use std::collections::HashMap;

/// `demo` (the default) or `clawshield`.
pub const MODE: &str = "OPENEXEC_MODE";
/// The configuration file.
pub const CONFIG: &str = "OPENEXEC_CONFIG";
/// The main listener's address.
pub const LISTEN: &str = "OPENEXEC_LISTEN";
/// The admin listener's address.
pub const ADMIN_LISTEN: &str = "OPENEXEC_ADMIN_LISTEN";
/// The token that reads and resolves executions on the admin listener.
pub const ADMIN_TOKEN: &str = "OPENEXEC_ADMIN_TOKEN";
/// The token that reads executions on the admin listener.
pub const ADMIN_READ_TOKEN: &str = "OPENEXEC_ADMIN_READ_TOKEN";
/// The ledger.
pub const DB_URL: &str = "OPENEXEC_DB_URL";
/// The password of the ledger's PostgreSQL.
pub const DB_PASSWORD: &str = "OPENEXEC_DB_PASSWORD";
/// `auto` or `always`: when the ledger's fence is raised.
pub const LEDGER_FENCE: &str = "OPENEXEC_LEDGER_FENCE";
/// The address of the upstream `app`.
pub const UPSTREAM: &str = "OPENEXEC_UPSTREAM";
/// Addresses at which others reach this machine or pod, comma-separated.
pub const POD_IPS: &str = "OPENEXEC_POD_IPS";
/// The service's probes, as JSON.
pub const APP_PROBES: &str = "OPENEXEC_APP_PROBES";
/// Actions that may be executed, comma-separated; unset: every registered one; empty: none.
pub const ALLOWED_ACTIONS: &str = "OPENEXEC_ALLOWED_ACTIONS";
/// The log's filter, in the syntax of `tracing_subscriber::EnvFilter`.
pub const LOG: &str = "OPENEXEC_LOG";
/// `text` or `json`.
pub const LOG_FORMAT: &str = "OPENEXEC_LOG_FORMAT";
/// The shared secret of HMAC approvals.
pub const SECRET_KEY: &str = "CLAWSHIELD_SECRET_KEY";
/// The public key of Ed25519 approvals.
pub const PUBLIC_KEY: &str = "CLAWSHIELD_PUBLIC_KEY";
/// The tenant that is acted for.
pub const TENANT_ID: &str = "CLAWSHIELD_TENANT_ID";
/// Where ClawShield is; accepted for the 0.2.0 service's sake.
pub const BASE_URL: &str = "CLAWSHIELD_BASE_URL";
/// The key to ClawShield; accepted for the 0.2.0 service's sake.
pub const API_KEY: &str = "CLAWSHIELD_API_KEY";
/// `true`: nothing of OpenTelemetry, whatever else is set.
pub const OTEL_DISABLED: &str = "OTEL_SDK_DISABLED";
/// The collector; `/v1/traces` is added.
pub const OTEL_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The collector, for traces: the whole URL.
pub const OTEL_TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// Only `http/protobuf` is spoken.
pub const OTEL_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
/// The same, for traces.
pub const OTEL_TRACES_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
/// Sent with each export: `name=value`, comma-separated, percent-encoded.
pub const OTEL_HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// The same, for traces; it wins.
pub const OTEL_TRACES_HEADERS: &str = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
/// Milliseconds for an export.
pub const OTEL_TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
/// The same, for traces; it wins.
pub const OTEL_TRACES_TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT";
/// Which traces are recorded.
pub const OTEL_SAMPLER: &str = "OTEL_TRACES_SAMPLER";
/// The share of them, 0 to 1.
pub const OTEL_SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
/// Who we are in traces.
pub const OTEL_SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// What else is said of us: `name=value`, comma-separated, percent-encoded.
pub const OTEL_RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// Spans that wait at most.
pub const OTEL_QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";

/// All that are read.
pub const ALL: [&str; 34] = [
    MODE,
    CONFIG,
    LISTEN,
    ADMIN_LISTEN,
    ADMIN_TOKEN,
    ADMIN_READ_TOKEN,
    DB_URL,
    DB_PASSWORD,
    LEDGER_FENCE,
    UPSTREAM,
    POD_IPS,
    APP_PROBES,
    ALLOWED_ACTIONS,
    LOG,
    LOG_FORMAT,
    SECRET_KEY,
    PUBLIC_KEY,
    TENANT_ID,
    BASE_URL,
    API_KEY,
    OTEL_DISABLED,
    OTEL_ENDPOINT,
    OTEL_TRACES_ENDPOINT,
    OTEL_PROTOCOL,
    OTEL_TRACES_PROTOCOL,
    OTEL_HEADERS,
    OTEL_TRACES_HEADERS,
    OTEL_TIMEOUT,
    OTEL_TRACES_TIMEOUT,
    OTEL_SAMPLER,
    OTEL_SAMPLER_ARG,
    OTEL_SERVICE_NAME,
    OTEL_RESOURCE,
    OTEL_QUEUE,
];

/// Those that may also be in a file, which `NAME_FILE` names.
pub const SECRETS: [&str; 9] = [
    SECRET_KEY,
    PUBLIC_KEY,
    API_KEY,
    ADMIN_TOKEN,
    ADMIN_READ_TOKEN,
    DB_URL,
    DB_PASSWORD,
    OTEL_HEADERS,
    OTEL_TRACES_HEADERS,
];

/// Variables by name, so that tests need no process environment.
pub trait Environment {
    /// The variable's value; `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;

    /// The value of a secret: from the variable, or from the file that `NAME_FILE` names, less one trailing newline.
    ///
    /// # Errors
    /// Both set, or a file that cannot be read or holds nothing.
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        let file_variable = format!("{name}_FILE");
        match (self.get(name), self.get(&file_variable)) {
            (Some(_), Some(_)) => Err(format!("{name} and {file_variable} are both set: keep one")),
            (value, None) => Ok(value),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                // A file that is being written: as if it were not set, everything would be refused meanwhile.
                Ok(text) if text.trim().is_empty() => Err(format!("{file_variable}: {path} is empty")),
                Ok(text) => Ok(Some(
                    text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned(),
                )),
                Err(e) => Err(format!("{file_variable}: {path} cannot be read: {e}")),
            },
        }
    }
}

/// The process's own environment.
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        // One that is no UTF-8 must not count as unset: what cannot be spelled matches nothing, and is reported.
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

impl Environment for HashMap<&str, String> {
    fn get(&self, name: &str) -> Option<String> {
        HashMap::get(self, name).cloned()
    }
}
