//! What is stored after it happened, before anyone hears of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openexec_protocol::receipt::{self, ResultText};

use crate::beside::beside;
use crate::ledger::{Claim, Done, Execution, Ledger, LedgerError, Outcome, State};
use crate::registry::Ended;

/// What a dispatch ended with, with its receipt.
pub(super) async fn outcome(execution_id: &str, ended: Ended) -> Outcome {
    match ended {
        Ended::Answered { status, headers, result } => {
            let id = execution_id.to_owned();
            let done = beside(result.as_str().len(), move || done(&id, status, headers, result));
            Outcome::Done(done.await)
        }
        Ended::NotExecuted { status } => Outcome::NotExecuted { status },
        Ended::Unknown => Outcome::Unknown,
    }
}

/// A result with its receipt.
pub(super) fn done(
    execution_id: &str,
    upstream_status: Option<u16>,
    headers: Vec<(String, String)>,
    result: ResultText,
) -> Done {
    let result = result.into_string();
    let receipt = receipt::receipt(execution_id, &result);
    Done { upstream_status, headers, result, receipt }
}

/// How long an outcome that is known is kept for a ledger that cannot take it now.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Records an outcome, trying again for a while: it has happened, and forgetting it would be worse than being slow. One
/// that cannot be recorded is unknown to everybody who asks now, so it is to the first one too; whether it can be
/// recorded after all is tried for as long as the process lives, with what it `holds`.
pub(super) async fn settle(
    ledger: Arc<dyn Ledger>,
    claim: Claim,
    outcome: Outcome,
    intent: &Execution,
    holds: impl Send + 'static,
) -> Arc<Execution> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        match ledger.record(&claim, &outcome).await {
            Ok(execution) => return execution,
            Err(LedgerError::Full | LedgerError::Unavailable) if Instant::now() < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => {
                if matches!(error, LedgerError::Full | LedgerError::Unavailable) {
                    let id = intent.id.clone();
                    tokio::spawn(async move {
                        late(&*ledger, &claim, &outcome, &id).await;
                        drop(holds);
                    });
                }
                tracing::error!(execution_id = %intent.id, %error, "the outcome could not be recorded: it is unknown");
                return Arc::new(Execution { state: State::Settled(Outcome::Unknown), ..intent.clone() });
            }
        }
    }
}

const LATE_PAUSE: Duration = Duration::from_secs(1);

/// A late true answer is better than none.
async fn late(ledger: &dyn Ledger, claim: &Claim, outcome: &Outcome, id: &str) {
    loop {
        tokio::time::sleep(LATE_PAUSE).await;
        match ledger.record(claim, outcome).await {
            Ok(_) => return tracing::warn!(execution_id = %id, "the outcome was recorded late"),
            Err(LedgerError::Full | LedgerError::Unavailable) => {}
            Err(_) => return,
        }
    }
}
