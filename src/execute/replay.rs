//! A request whose nonce is known gets what is stored, and causes nothing.

use openexec_protocol::approval::Denial;
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;

use super::authenticate::Authenticated;
use super::respond::{Answer, outcome_unknown};
use crate::config::OnMismatch;
use crate::ledger::{Execution, Outcome, State};

/// The stored answer, if it is this request's, and of an approval that this one's key may ask for.
pub(super) fn answer(
    execution: &Execution,
    request: &Request,
    authenticated: &Authenticated,
    on_mismatch: OnMismatch,
) -> Result<Answer, Refusal> {
    if let Some(approval) = authenticated.approval()
        && approval.key_is_retired()
        && approval.key_id() != execution.key_id.as_deref()
    {
        return Err(Denial::Retired.into());
    }
    if execution.action_hash != request.action_hash().as_str() && on_mismatch == OnMismatch::Reject {
        return Err(Refusal::new(Code::NonceReused, "The nonce belongs to a different request"));
    }
    match &execution.state {
        State::Settled(Outcome::Done(done)) => Ok(Answer::of(execution, done, true)),
        State::Expired { receipt } => Err(super::respond::result_expired(execution, receipt)),
        State::Settled(Outcome::NotExecuted { status }) => Err(super::respond::not_executed(execution, *status)),
        // Whoever asks here leads its nonce's flight: an INTENT that is not in flight was left by something that died.
        State::Intent | State::Settled(Outcome::Unknown) => Err(outcome_unknown(execution, 409)),
    }
}
