//! Whose request it is: hash, signature, tenant, issuer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use openexec_protocol::approval::{self, Artifact, Authentic, Denial, Verifier};
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;

use super::tenant::Tenant;
use crate::config::{self, Mode};
use crate::metrics::Metrics;

/// Knows what approvals are checked against.
pub(super) enum Authenticator {
    /// Nothing is; everything belongs to the reserved empty tenant: none that can be configured is spelled so.
    Demo(Arc<Tenant>),
    /// `Err` names what is not configured.
    ClawShield(Result<Tenants, &'static str>),
}

/// One at least.
pub(super) struct Tenants {
    by_id: HashMap<Arc<str>, (Arc<Tenant>, Verifier)>,
}

/// Proof that a request may be answered for this tenant. Whether it may be executed is another question.
pub(super) struct Authenticated {
    tenant: Arc<Tenant>,
    approval: Option<Authentic>,
}

impl Authenticator {
    /// What tenants have used goes on counting: `previous` knows it.
    pub(super) fn new(mode: &Mode, previous: Option<&Self>, metrics: &Metrics) -> Self {
        match mode {
            Mode::Demo { .. } => Authenticator::Demo(Arc::new(Tenant::demo(usize::MAX, metrics.tenant("")))),
            Mode::ClawShield { tenants } => {
                let previous = match previous {
                    Some(Authenticator::ClawShield(Ok(previous))) => Some(previous),
                    _ => None,
                };
                let tenants = tenants.as_ref().map(|tenants| Tenants::new(tenants, previous, metrics));
                Authenticator::ClawShield(tenants.map_err(|missing| *missing))
            }
        }
    }

    /// Everybody whom this server acts for.
    pub(super) fn tenants(&self) -> Vec<&Tenant> {
        match self {
            Authenticator::Demo(demo) => vec![demo],
            Authenticator::ClawShield(Ok(tenants)) => tenants.by_id.values().map(|(tenant, _)| &**tenant).collect(),
            Authenticator::ClawShield(Err(_)) => Vec::new(),
        }
    }

    /// No label is of a tenant, or a key, that is configured no more.
    pub(super) fn forget_metrics_but_of(&self, new: &Self, metrics: &Metrics) {
        let named = |authenticator: &Self| match authenticator {
            Authenticator::ClawShield(Ok(tenants)) => tenants.names(),
            _ => HashSet::new(),
        };
        let kept = named(new);
        for (tenant, key) in named(self).difference(&kept) {
            match key {
                Some(key) => metrics.forget_key(tenant, key),
                None => metrics.forget_tenant(tenant),
            }
        }
    }

    /// What is not configured.
    pub(super) fn missing(&self) -> Option<&'static str> {
        match self {
            Authenticator::Demo(_) => None,
            Authenticator::ClawShield(tenants) => tenants.as_ref().err().copied(),
        }
    }

    /// Whether this server would still execute the action for this tenant, with an approval that the key with this name
    /// verified. A retired one will do: it approved it in its time; one that is gone was revoked.
    pub(super) fn acts_for(&self, tenant: &str, key: Option<&str>, action: &str) -> bool {
        let (tenant, has_key) = match self {
            Authenticator::Demo(demo) if **demo.id() == *tenant => (demo, true),
            Authenticator::ClawShield(Ok(tenants)) => match tenants.by_id.get(tenant) {
                Some((tenant, verifier)) => (tenant, verifier.keys.iter().any(|own| own.id.as_deref() == key)),
                None => return false,
            },
            _ => return false,
        };
        has_key && tenant.allows(action)
    }

    /// The time tells which keys have begun.
    pub(super) fn authenticate(&self, request: &Request, now: DateTime<Utc>) -> Result<Authenticated, Refusal> {
        let tenants = match self {
            Authenticator::Demo(demo) => return Ok(Authenticated { tenant: demo.clone(), approval: None }),
            Authenticator::ClawShield(tenants) => tenants
                .as_ref()
                .map_err(|missing| Refusal::new(Code::NotConfigured, format!("{missing} not configured")))?,
        };
        let artifact = request
            .artifact()
            .ok_or_else(|| Refusal::new(Code::ApprovalMissing, "ClawShield mode requires an approval artifact"))?;
        let (tenant, verifier) = tenants.named_by(artifact);
        let approval = approval::authenticate(artifact, request.action_hash(), verifier, now);
        let approval = approval.map_err(|denial| tenants.said(denial))?;
        Ok(Authenticated { tenant: tenant.clone(), approval: Some(approval) })
    }
}

impl Tenants {
    fn new(tenants: &[config::Tenant], previous: Option<&Tenants>, metrics: &Metrics) -> Self {
        let tenant = |config: &config::Tenant| {
            let id = config.verifier.tenant_id.as_str();
            let previous = previous.and_then(|previous| previous.by_id.get(id)).map(|(tenant, _)| &**tenant);
            let tenant = Tenant::new(config, previous, metrics);
            (tenant.id().clone(), (Arc::new(tenant), config.verifier.clone()))
        };
        Tenants { by_id: tenants.iter().map(tenant).collect() }
    }

    /// Of all tenants, and of all their keys.
    fn names(&self) -> HashSet<(Arc<str>, Option<String>)> {
        let of_tenant = |(id, (_, verifier)): (&Arc<str>, &(Arc<Tenant>, Verifier))| {
            let keys = verifier.keys.iter().map(|key| Some(key.id.clone().unwrap_or_default()));
            keys.chain([None]).map(|key| (id.clone(), key)).collect::<Vec<_>>()
        };
        self.by_id.iter().flat_map(of_tenant).collect()
    }

    /// Its keys are the ones that count, so that no tenant can approve for another. For an unknown tenant another one stands
    /// in, whose keys cannot have signed for it, so that it costs as much time to say no.
    fn named_by(&self, artifact: &Artifact) -> &(Arc<Tenant>, Verifier) {
        let named = self.by_id.get(artifact.tenant_id.as_str());
        named.or(self.by_id.values().next()).expect("there is one tenant at least")
    }

    /// With several, nobody is told which there are, nor which form of keys they have.
    fn said(&self, denial: Denial) -> Denial {
        match denial {
            Denial::Tenant | Denial::NotConfigured(_) if self.by_id.len() > 1 => Denial::Signature,
            denial => denial,
        }
    }
}

impl Authenticated {
    /// Whose it is.
    pub(super) fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// `None` in demo mode only.
    pub(super) fn approval(&self) -> Option<&Authentic> {
        self.approval.as_ref()
    }
}
