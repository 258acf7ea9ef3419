//! What is stored after it happened, before anyone hears of it.

use std::sync::Arc;

use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::receipt::{self, ResultText};

use crate::ledger::{Claim, Done, Execution, Ledger, Outcome, State};

/// A result with its receipt.
pub(super) fn done(execution_id: &str, status: u16, result: &CanonicalText) -> Done {
    let result = ResultText::from(result).into_string();
    let receipt = receipt::receipt(execution_id, &result);
    Done { status, result, receipt }
}

/// Records an outcome. One that cannot be recorded is unknown to everybody who asks later, so it is to the first one too.
pub(super) async fn settle(ledger: &dyn Ledger, claim: Claim, outcome: Outcome, intent: &Execution) -> Arc<Execution> {
    match ledger.record(claim, outcome).await {
        Ok(execution) => execution,
        Err(error) => {
            tracing::error!(execution_id = %intent.id, %error, "the outcome could not be recorded: it counts as unknown");
            Arc::new(Execution { state: State::Settled(Outcome::Unknown), ..intent.clone() })
        }
    }
}
