//! What is stored after it happened, before anyone hears of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::receipt::{self, ResultText};

use crate::ledger::{Claim, Done, Execution, Ledger, LedgerError, Outcome, State};

/// A result with its receipt.
pub(super) fn done(execution_id: &str, status: u16, result: &CanonicalText) -> Done {
    let result = ResultText::from(result).into_string();
    let receipt = receipt::receipt(execution_id, &result);
    Done { status, result, receipt }
}

/// How long an outcome that is known is kept for a ledger that cannot take it now.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Records an outcome, trying again for a while: it has happened, and forgetting it would be worse than being slow. One
/// that cannot be recorded is unknown to everybody who asks later, so it is to the first one too.
pub(super) async fn settle(ledger: &dyn Ledger, claim: Claim, outcome: Outcome, intent: &Execution) -> Arc<Execution> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        match ledger.record(&claim, &outcome).await {
            Ok(execution) => return execution,
            Err(LedgerError::Full | LedgerError::Unavailable) if Instant::now() < deadline => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => {
                tracing::error!(execution_id = %intent.id, %error, "the outcome could not be recorded: it is unknown");
                return Arc::new(Execution { state: State::Settled(Outcome::Unknown), ..intent.clone() });
            }
        }
    }
}
