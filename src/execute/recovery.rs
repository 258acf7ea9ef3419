//! Finds out about unknown outcomes, by the policies of their actions. It starts by itself, backs off, and is visible.
//!
//! What it finds is stored by compare-and-set on UNKNOWN, and never while an operator is settling the same one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Gate, record};
use crate::ledger::{Ledger, LedgerError, Outcome, State};
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
const AT_ONCE: usize = 16;
/// Attempts at once for one action: a service that hangs must not keep the others waiting.
const AT_ONCE_OF_ONE: usize = 4;

/// When an execution is looked at next.
struct Plan {
    due: Instant,
    pause: Duration,
}

/// What an attempt came to.
enum Next {
    /// Not ours any more; seen again at each look, and left alone.
    Never,
    Later,
    /// Too many of its action are under way.
    Soon,
}

/// What is known between two looks.
#[derive(Default)]
struct Recovery {
    plans: HashMap<String, Plan>,
    running: JoinSet<(String, Next)>,
    running_ids: HashSet<String>,
}

/// Runs for as long as the server executes anything.
pub(super) async fn run(gate: Arc<Gate>) {
    let mut recovery = Recovery::default();
    loop {
        let Some(ledger) = gate.ledger().cloned() else {
            sleep(SHORTEST_SCAN).await;
            continue;
        };
        if let Err(error) = recovery.look_through(&gate, &ledger).await {
            tracing::error!(%error, "unknown outcomes could not be listed");
        }
        sleep(SHORTEST_SCAN).await;
        let next = recovery.next_due();
        tokio::select! {
            () = sleep_until(next) => {}
            () = gate.unknown.notified() => {}
            Some(ended) = recovery.running.join_next() => recovery.note(ended.ok()),
        }
        while let Some(ended) = recovery.running.try_join_next() {
            recovery.note(ended.ok());
        }
    }
}

impl Recovery {
    fn next_due(&self) -> Instant {
        let scan = Instant::now() + SCAN;
        let waiting = self.plans.iter().filter(|(id, _)| !self.running_ids.contains(*id));
        waiting.map(|(_, plan)| plan.due).min().map_or(scan, |due| due.min(scan))
    }

    async fn look_through(&mut self, gate: &Arc<Gate>, ledger: &Arc<dyn Ledger>) -> Result<(), LedgerError> {
        gate.metrics.unknown_executions(ledger.count_unknown().await?);
        let mut seen = HashSet::new();
        let mut after = 0;
        loop {
            let page = ledger.recoverable(after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            seen.extend(page.into_iter().map(|(_, id)| id));
        }
        self.plans.retain(|id, _| seen.contains(id));
        for id in seen {
            self.plans.entry(id).or_insert_with(|| Plan { due: Instant::now() + FIRST_PAUSE, pause: FIRST_PAUSE });
        }
        let now = Instant::now();
        for (id, plan) in &mut self.plans {
            if plan.due > now || self.running.len() >= AT_ONCE || !self.running_ids.insert(id.clone()) {
                continue;
            }
            // Whatever becomes of the attempt, a panic included: the next one is not at once.
            plan.pause = (plan.pause * 2).min(LONGEST_PAUSE);
            plan.due = now + plan.pause;
            let (gate, ledger, id) = (gate.clone(), ledger.clone(), id.clone());
            self.running.spawn(async move {
                let next = attempt(&gate, &*ledger, &id).await;
                (id, next)
            });
        }
        Ok(())
    }

    fn note(&mut self, ended: Option<(String, Next)>) {
        let Some((id, next)) = ended else {
            // A panic says nothing of whose it was; all that ended are looked at again when they are due.
            self.running_ids.clear();
            return;
        };
        self.running_ids.remove(&id);
        let Some(plan) = self.plans.get_mut(&id) else { return };
        match next {
            Next::Later => plan.due = Instant::now() + plan.pause,
            Next::Soon => {
                plan.pause /= 2;
                plan.due = Instant::now() + FIRST_PAUSE;
            }
            Next::Never => plan.due = Instant::now() + Duration::from_secs(365 * 86_400),
        }
    }
}

async fn attempt(gate: &Gate, ledger: &dyn Ledger, id: &str) -> Next {
    // Before it is looked up: nobody else settles it from here on.
    let Some(_settling) = gate.settle_alone(id) else { return Next::Later };
    let found = match ledger.find(id).await {
        Ok(Some(found)) if found.execution.state == State::Settled(Outcome::Unknown) => found,
        Ok(_) => return Next::Never,
        Err(_) => return Next::Later,
    };
    let Some(_one_of_few) = gate.recovering(&found.execution.action, AT_ONCE_OF_ONE) else { return Next::Soon };
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
                    gate.unknown.notify_one();
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
