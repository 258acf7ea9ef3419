//! `GET /status`: what is configured and how old it is, without a secret.

use chrono::{DateTime, Utc};
use http::Method;
use http::request::Parts;
use openexec_protocol::approval::Key;
use openexec_protocol::refusal::Refusal;
use openexec_protocol::timestamp;
use serde_json::{Value, json};

use super::token::Role;
use super::{Admin, no_such_path};
use crate::app::keys;
use crate::config::Config;
use crate::config::action::ActionConfig;
use crate::config::ledger::LedgerConfig;
use crate::execute::respond;

impl Admin {
    /// For whoever has a token.
    pub(super) fn status(&self, header: &Parts) -> Result<Value, Refusal> {
        if !self.has_tokens() {
            return Err(no_such_path());
        }
        if header.method != Method::GET {
            return Err(respond::method_not_allowed("GET"));
        }
        self.require(Role::Reader, header)?;
        let (reload_ok, configured_at) = self.metrics.configuration();
        let mut document = describe(&self.config.get(), Utc::now());
        document["version"] = crate::VERSION.into();
        document["started_at"] = timestamp::print(self.started_at).into();
        document["configured_at"] = timestamp::print(configured_at).into();
        document["reload_ok"] = reload_ok.into();
        document["not_ready"] = self.gate.troubles().into();
        Ok(document)
    }
}

fn describe(config: &Config, now: DateTime<Utc>) -> Value {
    let limits = &config.limits;
    json!({
        "mode": config.mode.as_str(),
        "ledger": {"kind": kind(&config.ledger), "local": config.ledger.is_local()},
        "listen": config.listen.iter().map(|listener| listener.place.to_string()).collect::<Vec<_>>(),
        "admin_listen": config.admin_listen.to_string(),
        "actions": config.actions.iter().map(|(name, action)| describe_action(name, action)).collect::<Vec<_>>(),
        "upstreams": config.upstreams.iter().map(|upstream| json!({
            "name": upstream.name,
            "addresses": upstream.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "keys": keys::all(config).map(|(tenant, key)| describe_key(tenant, key, now)).collect::<Vec<_>>(),
        "certificates": config.certificates.iter().map(|certificate| json!({
            "of": certificate.of,
            "name": certificate.name,
            "not_after": timestamp::print(certificate.not_after),
        })).collect::<Vec<_>>(),
        "limits": {
            "connections": limits.connections,
            "in_flight": limits.in_flight,
            "buffered_bytes": limits.buffered_bytes,
            "body_bytes": limits.body_bytes,
        },
    })
}

fn kind(ledger: &LedgerConfig) -> &'static str {
    match ledger {
        LedgerConfig::Memory { .. } => "memory",
        LedgerConfig::Sqlite { .. } => "sqlite",
        LedgerConfig::Postgres(_) => "postgresql",
    }
}

fn describe_action(name: &str, action: &ActionConfig) -> Value {
    match action {
        ActionConfig::Builtin(_) => json!({"name": name, "kind": "builtin", "upstream": null, "recovery": null}),
        ActionConfig::Forward(forward) => json!({
            "name": name,
            "kind": "upstream",
            "upstream": forward.upstream,
            "recovery": forward.recovery.policy().as_str(),
        }),
    }
}

fn describe_key(tenant: &str, key: &Key, now: DateTime<Utc>) -> Value {
    let (form, fingerprint) = keys::form(&key.material);
    json!({
        "tenant": tenant,
        "key": key.id,
        "form": form,
        "fingerprint": fingerprint,
        "state": keys::state(key, now),
        "not_before": key.not_before.map(timestamp::print),
        "not_after": key.not_after.map(timestamp::print),
    })
}
