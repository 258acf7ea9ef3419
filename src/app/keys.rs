//! Says which keys there are: at the start, and after each reload. So that whoever reads the log can tell what was loaded when,
//! and whether it is what the approver has.

use chrono::Utc;
use openexec_protocol::approval::Material;

use crate::config::{Config, Mode};

pub(super) fn announce(config: &Config) {
    let Mode::ClawShield { tenants: Ok(tenants) } = &config.mode else { return };
    let now = Utc::now();
    for (tenant, key) in tenants.iter().flat_map(|tenant| tenant.verifier.keys.iter().map(move |key| (tenant, key))) {
        let (form, fingerprint) = match &key.material {
            // Its hash would help whoever guesses at it.
            Material::Hmac(_) => ("hmac", String::new()),
            Material::Ed25519(key) => ("ed25519", key.fingerprint()),
        };
        let state = match key {
            key if key.is_retired(now) => "retired",
            key if key.not_before.is_some_and(|not_before| not_before > now) => "not begun",
            _ => "active",
        };
        tracing::info!(
            tenant = tenant.verifier.tenant_id,
            key = key.id.as_deref().unwrap_or_default(),
            form,
            fingerprint,
            state,
            "a tenant's key"
        );
    }
}
