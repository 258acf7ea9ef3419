//! What is stored before anything happens, and what is said when it could not be.

use chrono::{DateTime, Utc};
use openexec_protocol::refusal::{Code, Refusal};
use uuid::Uuid;

use super::authorise::Approved;
use super::caller::Caller;
use crate::ledger::{Dispatched, LedgerError, NewExecution};
use crate::registry::Effect;

/// A new execution's id. Ordered by time (RFC 9562, version 7), so that the ledger's index grows at its end.
pub(super) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// What is claimed for an approved request, and for nothing else.
pub(super) fn new_execution(
    id: String,
    approved: &Approved<'_>,
    caller: Option<&Caller>,
    now: DateTime<Utc>,
) -> NewExecution {
    let (request, authenticated) = (approved.request(), approved.authenticated());
    NewExecution {
        id,
        tenant: authenticated.tenant().id().clone(),
        nonce: request.nonce().to_owned(),
        action: request.action().to_owned(),
        action_hash: *request.action_hash(),
        approval_id: authenticated.approval().map(|approval| approval.approval_id().to_owned()),
        issued_at: approved.issued_at(),
        key_id: authenticated.approval().and_then(|approval| approval.key_id()).map(str::to_owned),
        caller: caller.map(|caller| caller.name().clone()),
        dispatched: None,
        claimed_at: now,
    }
}

/// An INTENT keeps what its recovery needs.
pub(super) fn dispatched(new: NewExecution, approved: &Approved<'_>, effect: &dyn Effect) -> NewExecution {
    let (route, policy) = effect.route();
    let payload = Some(approved.request().payload().as_str().to_owned());
    NewExecution { dispatched: Some(Dispatched { payload, route, policy }), ..new }
}

pub(super) fn already_used() -> Refusal {
    Refusal::new(Code::ApprovalAlreadyUsed, "The approval was consumed by another execution")
}

pub(super) fn unavailable(error: LedgerError) -> Refusal {
    match error {
        LedgerError::Closed => Refusal::new(Code::ShuttingDown, "The server is stopping").with_retry_after(1),
        LedgerError::Doubtful => {
            let detail = "The ledger did not say whether it stored this; ask again with the same nonce, and no other";
            Refusal::new(Code::LedgerUnavailable, detail).with_retry_after(1)
        }
        LedgerError::Full | LedgerError::Unavailable | LedgerError::NotOurs => {
            Refusal::new(Code::LedgerUnavailable, "The ledger cannot store executions now; nothing was executed")
                .with_retry_after(1)
        }
    }
}
