//! Whether an authentic request may become a new execution: time, fence, allow-list.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;

use super::authenticate::Authenticated;

/// What may be executed.
pub(super) struct Policy {
    /// Actions by name; `None`: every registered one.
    pub(super) allowed: Option<HashSet<String>>,
    /// How far clocks may be apart.
    pub(super) clock_skew: TimeDelta,
    /// How long an approval may live.
    pub(super) max_lifetime: TimeDelta,
}

impl Policy {
    /// Whether the action is on the allow-list.
    pub(super) fn allows(&self, action: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(action))
    }
}

/// Proof that this request may be executed, once, if nobody used its approval yet.
pub(super) struct Approved<'r> {
    authenticated: &'r Authenticated,
    request: &'r Request,
    issued_at: Option<DateTime<Utc>>,
}

pub(super) fn authorise<'r>(
    authenticated: &'r Authenticated,
    request: &'r Request,
    policy: &Policy,
    now: DateTime<Utc>,
    fence: Option<DateTime<Utc>>,
) -> Result<Approved<'r>, Refusal> {
    let mut issued_at = None;
    if let Some(approval) = authenticated.approval() {
        let fresh = approval.check_time(now, policy.clock_skew, policy.max_lifetime)?;
        issued_at = Some(fresh.issued_at());
        if fence.is_some_and(|fence| fresh.issued_at() < fence) {
            return Err(behind_fence());
        }
    }
    if !policy.allows(request.action()) || !authenticated.tenant().allows(request.action()) {
        let detail = format!("Action '{}' is not in the execution allow-list", request.action());
        return Err(Refusal::new(Code::ActionNotAllowed, detail));
    }
    Ok(Approved { authenticated, request, issued_at })
}

pub(super) fn behind_fence() -> Refusal {
    let detail = "The approval was issued before the ledger's fence, so it cannot be known to be unused: approve again";
    Refusal::new(Code::ApprovalPredatesLedger, detail)
}

impl<'r> Approved<'r> {
    pub(super) fn authenticated(&self) -> &'r Authenticated {
        self.authenticated
    }

    /// When its approval was; `None` in demo mode only.
    pub(super) fn issued_at(&self) -> Option<DateTime<Utc>> {
        self.issued_at
    }

    pub(super) fn request(&self) -> &'r Request {
        self.request
    }
}
