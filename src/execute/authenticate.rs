//! Whose request it is: hash, signature, tenant, issuer.

use std::sync::Arc;

use openexec_protocol::approval::{self, Authentic, Verifier};
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;

use crate::config::Mode;

/// Knows what approvals are checked against.
pub(super) struct Authenticator {
    tenant: Arc<str>,
    /// `None` in demo mode; `Err` names what is not configured.
    verifier: Option<Result<Verifier, &'static str>>,
}

/// Proof that a request may be answered for this tenant. Whether it may be executed is another question.
pub(super) struct Authenticated {
    tenant: Arc<str>,
    approval: Option<Authentic>,
}

impl Authenticator {
    pub(super) fn new(mode: &Mode) -> Self {
        match mode {
            // The reserved empty tenant: no tenant that can be configured is spelled so.
            Mode::Demo { .. } => Authenticator { tenant: "".into(), verifier: None },
            Mode::ClawShield { verifier } => Authenticator {
                tenant: verifier.as_ref().map_or("", |v| v.tenant_id.as_str()).into(),
                verifier: Some(verifier.clone()),
            },
        }
    }

    /// What is not configured.
    pub(super) fn missing(&self) -> Option<&'static str> {
        self.verifier.as_ref()?.as_ref().err().copied()
    }

    /// Whether executions of this tenant are this server's, and it is configured to make any.
    pub(super) fn acts_for(&self, tenant: &str) -> bool {
        self.missing().is_none() && *self.tenant == *tenant
    }

    pub(super) fn authenticate(&self, request: &Request) -> Result<Authenticated, Refusal> {
        let tenant = self.tenant.clone();
        let Some(verifier) = &self.verifier else {
            return Ok(Authenticated { tenant, approval: None });
        };
        let verifier = verifier
            .as_ref()
            .map_err(|missing| Refusal::new(Code::NotConfigured, format!("{missing} not configured")))?;
        let artifact = request
            .artifact()
            .ok_or_else(|| Refusal::new(Code::ApprovalMissing, "ClawShield mode requires an approval artifact"))?;
        let approval = approval::authenticate(artifact, request.action_hash(), verifier)?;
        Ok(Authenticated { tenant, approval: Some(approval) })
    }
}

impl Authenticated {
    pub(super) fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// `None` in demo mode only.
    pub(super) fn approval(&self) -> Option<&Authentic> {
        self.approval.as_ref()
    }
}
