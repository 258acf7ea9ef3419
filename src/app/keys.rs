//! Which keys there are.

use chrono::{DateTime, Utc};
use openexec_protocol::approval::{Key, Material};

use crate::config::{Config, Mode};

/// Each with its tenant.
pub(crate) fn all(config: &Config) -> impl Iterator<Item = (&str, &Key)> {
    let tenants = match &config.mode {
        Mode::ClawShield { tenants: Ok(tenants) } => &tenants[..],
        _ => &[],
    };
    let verifiers = tenants.iter().map(|tenant| &tenant.verifier);
    verifiers.flat_map(|verifier| verifier.keys.iter().map(|key| (&*verifier.tenant_id, key)))
}

/// Says so, at the start and after each reload: whoever reads the log can tell what was loaded when, and whether it is what the
/// approver has.
pub(super) fn announce(config: &Config) {
    let now = Utc::now();
    for (tenant, key) in all(config) {
        let ((form, fingerprint), state) = (form(&key.material), state(key, now));
        let (id, fingerprint) = (key.id.as_deref().unwrap_or_default(), fingerprint.unwrap_or_default());
        tracing::info!(tenant, key = id, form, fingerprint, state, "a tenant's key");
    }
}

/// What it is, and what tells it from others.
pub(crate) fn form(material: &Material) -> (&'static str, Option<String>) {
    match material {
        // Its hash would help whoever guesses at it.
        Material::Hmac(_) => ("hmac", None),
        Material::Ed25519(key) => ("ed25519", Some(key.fingerprint())),
    }
}

/// Whether it approves.
pub(crate) fn state(key: &Key, now: DateTime<Utc>) -> &'static str {
    match key {
        key if key.is_retired(now) => "retired",
        key if key.not_before.is_some_and(|not_before| not_before > now) => "not begun",
        _ => "active",
    }
}
