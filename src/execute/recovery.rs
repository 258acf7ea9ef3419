//! Finds out about unknown outcomes, by the policies of their actions. It starts by itself, backs off, and is visible.
//!
//! What it finds is stored by compare-and-set on UNKNOWN, so an operator who was quicker keeps the last word.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Gate, record};
use crate::ledger::{Ledger, LedgerError, RecoveryPolicy};
use crate::metrics::RecoveryResult;
use crate::registry::{Handler, Recovered};

/// Before the first attempt, and twice as long before each later one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often the ledger is looked through when nobody rings.
const SCAN: Duration = Duration::from_secs(10);
/// Between two looks, however often it rings.
const SHORTEST_SCAN: Duration = Duration::from_millis(200);
/// Rows of one look-up.
const PAGE: usize = 500;
/// Attempts at once.
const AT_ONCE: usize = 8;

/// When an execution is looked at next.
struct Plan {
    due: Instant,
    pause: Duration,
}

/// Runs for as long as the server executes anything.
pub(super) async fn run(gate: Arc<Gate>) {
    let mut plans: HashMap<String, Plan> = HashMap::new();
    loop {
        match gate.ledger().cloned() {
            Some(ledger) => {
                if let Err(error) = look_through(&gate, &ledger, &mut plans).await {
                    tracing::error!(%error, "unknown outcomes could not be listed");
                }
            }
            None => {
                sleep(SHORTEST_SCAN).await;
                continue;
            }
        }
        let earliest = plans.values().map(|plan| plan.due).min();
        let next = earliest.map_or(Instant::now() + SCAN, |due| due.min(Instant::now() + SCAN));
        sleep(SHORTEST_SCAN).await;
        tokio::select! {
            () = sleep_until(next) => {}
            () = gate.unknown.notified() => {}
        }
    }
}

async fn look_through(
    gate: &Arc<Gate>,
    ledger: &Arc<dyn Ledger>,
    plans: &mut HashMap<String, Plan>,
) -> Result<(), LedgerError> {
    let mut still = HashMap::new();
    let mut due = Vec::new();
    let (mut after, mut count) = (0, 0);
    loop {
        let page = ledger.unknown(after, PAGE).await?;
        count += page.len();
        let Some(last) = page.last() else { break };
        after = last.seq;
        for found in page {
            let is_ours = found.dispatched.as_ref().is_some_and(|d| d.policy != RecoveryPolicy::Operator);
            if !is_ours {
                continue;
            }
            let id = found.execution.id;
            let first = Plan { due: Instant::now() + FIRST_PAUSE, pause: FIRST_PAUSE };
            let plan = plans.remove(&id).unwrap_or(first);
            if plan.due <= Instant::now() {
                due.push(id.clone());
            }
            still.insert(id, plan);
        }
    }
    gate.metrics.unknown_executions(count);
    *plans = still;
    let mut attempts = JoinSet::new();
    for id in due {
        if attempts.len() == AT_ONCE {
            finish(&mut attempts, plans).await;
        }
        let (gate, ledger) = (gate.clone(), ledger.clone());
        attempts.spawn(async move { (attempt(&gate, &*ledger, &id).await, id) });
    }
    while !attempts.is_empty() {
        finish(&mut attempts, plans).await;
    }
    Ok(())
}

/// How long to wait before the next attempt.
enum Next {
    Never,
    Later,
}

async fn finish(attempts: &mut JoinSet<(Next, String)>, plans: &mut HashMap<String, Plan>) {
    // An attempt that panicked keeps its plan, and is made again.
    let Some(Ok((next, id))) = attempts.join_next().await else { return };
    let Some(plan) = plans.get_mut(&id) else { return };
    match next {
        Next::Later => {
            plan.pause = (plan.pause * 2).min(LONGEST_PAUSE);
            plan.due = Instant::now() + plan.pause;
        }
        // Seen again at each look, for the count, and left alone.
        Next::Never => plan.due = Instant::now() + Duration::from_secs(365 * 86_400),
    }
}

async fn attempt(gate: &Gate, ledger: &dyn Ledger, id: &str) -> Next {
    let Ok(found) = ledger.find(id).await else { return Next::Later };
    let Some(found) = found else { return Next::Never };
    let recovered = match gate.registry.get(&found.execution.action) {
        Some(Handler::Effect(effect)) => effect.recover(&found).await,
        _ => Recovered::Operator,
    };
    let policy = found.dispatched.as_ref().map_or("", |dispatched| dispatched.policy.as_str());
    match recovered {
        Recovered::Settled(ended) => {
            let outcome = record::outcome(id, ended);
            match ledger.resolve(id, &outcome, &format!("recovery: {policy}")).await {
                Ok(execution) => {
                    let state = execution.state.as_str();
                    gate.metrics.recovery(RecoveryResult::Settled);
                    tracing::info!(execution_id = id, policy, state, "an unknown outcome was recovered");
                    Next::Never
                }
                Err(LedgerError::NotOurs) => Next::Never,
                Err(_) => Next::Later,
            }
        }
        Recovered::AskAgain => {
            gate.metrics.recovery(RecoveryResult::AskAgain);
            tracing::info!(execution_id = id, policy, "an outcome is still unknown");
            Next::Later
        }
        Recovered::Operator => {
            gate.metrics.recovery(RecoveryResult::Operator);
            tracing::warn!(execution_id = id, policy, "an outcome stays unknown: an operator must decide");
            Next::Never
        }
    }
}
