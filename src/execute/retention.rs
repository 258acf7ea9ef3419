//! Forgets what is old: results first, whole executions only where that is asked for. Little by little, so that nobody who
//! executes anything waits for it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::Gate;
use crate::ledger::Horizon;

/// Between two looks for what has become old.
const LOOK: Duration = Duration::from_secs(60);
/// Between two commits, for the others' sake.
const BREATH: Duration = Duration::from_millis(20);
/// Until the ledger is there.
const NO_LEDGER: Duration = Duration::from_millis(200);

/// Runs for as long as the server executes anything.
pub(super) async fn run(gate: Arc<Gate>) {
    loop {
        let pause = look(&gate).await;
        sleep(pause).await;
    }
}

async fn look(gate: &Gate) -> Duration {
    let Some(ledger) = gate.ledger() else { return NO_LEDGER };
    let rules = gate.rules();
    let now = gate.clock.now();
    let horizon = Horizon {
        results: before(now, rules.retention.results),
        executions: rules.retention.tombstones.and_then(|kept| before(now, kept)),
        skew: rules.policy.clock_skew,
    };
    match ledger.retain(&horizon).await {
        Ok(forgotten) => {
            gate.metrics.forgotten(forgotten.results, forgotten.executions);
            let (results, executions) = (forgotten.results, forgotten.executions);
            if results + executions > 0 {
                tracing::debug!(results, executions, "what was old was forgotten");
            }
            if forgotten.more { BREATH } else { LOOK }
        }
        Err(error) => {
            tracing::error!(%error, "what is old could not be forgotten");
            LOOK
        }
    }
}

/// `None`: before there was time.
fn before(now: DateTime<Utc>, kept: Duration) -> Option<DateTime<Utc>> {
    now.checked_sub_signed(chrono::TimeDelta::from_std(kept).ok()?)
}
