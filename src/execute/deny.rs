//! A refused request that was authentic leaves a trace: whoever audits sees what was tried with good approvals. What
//! nobody signed leaves none, or strangers could fill the ledger.

use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;

use super::Gate;
use super::authenticate::Authenticated;
use super::caller::Caller;
use crate::ledger::Denied;

impl Gate {
    /// Remembers it, if it was refused for what it is, and neither for the state of this server nor for its rate. So many in
    /// a second of each tenant; those over it are counted only.
    pub(super) fn note_denial(
        &self,
        kept: usize,
        request: &Request,
        authenticated: &Authenticated,
        caller: Option<&Caller>,
        refusal: &Refusal,
    ) {
        let (tenant, approval) = (authenticated.tenant(), authenticated.approval());
        // Demo mode approves whatever comes, from whomever.
        let is_authentic = approval.is_some() || caller.is_some();
        let is_noted = kept > 0 && is_authentic && is_for_the_request(refusal.code);
        let Some(ledger) = self.ledger().filter(|_| is_noted) else { return };
        // Who asks for what is another tenant's must not fill that one's record.
        let stranger = caller.filter(|caller| refusal.code == Code::CallerNotAllowed && !caller.is_of(tenant.id()));
        if !stranger.map_or_else(|| tenant.traces(), Caller::traces).takes_one() {
            return self.metrics.denials_dropped(1);
        }
        let denied = Denied {
            denied_at: self.clock.now(),
            tenant: stranger.and_then(Caller::tenant).unwrap_or(tenant.id()).clone(),
            reason: refusal.code.as_str().to_owned(),
            action: request.action().to_owned(),
            action_hash: request.action_hash().as_str().to_owned(),
            nonce: request.nonce().to_owned(),
            approval_id: approval.map(|approval| approval.approval_id().to_owned()),
            key_id: approval.and_then(|approval| approval.key_id()).map(str::to_owned),
            caller: caller.map(|caller| caller.name().clone()),
        };
        ledger.deny(denied, kept);
    }
}

fn is_for_the_request(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownAction
            | Code::InvalidPayload
            | Code::CallerNotAllowed
            | Code::ApprovalSignatureInvalid
            | Code::ApprovalExpired
            | Code::ApprovalNotYetValid
            | Code::ApprovalLifetimeTooLong
            | Code::ApprovalTimestampInvalid
            | Code::ApprovalAlreadyUsed
            | Code::ApprovalPredatesLedger
            | Code::ActionNotAllowed
            | Code::NonceReused
    )
}
