//! Finds out about unknown outcomes, by the policies of their actions. It starts by itself, backs off, and is visible.
//!
//! What it finds is stored by compare-and-set on UNKNOWN, and never while an operator is settling the same one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Gate, dispatch, record};
use crate::ledger::{Lease, Ledger, LedgerError, Outcome, Record, State};
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
    action: Arc<str>,
    due: Instant,
    pause: Duration,
}

/// What an attempt came to.
enum Next {
    /// Not ours any more; seen again at each look, and left alone.
    Never,
    Later,
}

/// What is known between two looks.
#[derive(Default)]
struct Recovery {
    plans: HashMap<String, Plan>,
    attempts: JoinSet<Next>,
    /// Whose attempts they are.
    running: HashMap<task::Id, String>,
}

/// Runs for as long as the server executes anything.
pub(super) async fn run(gate: Arc<Gate>) {
    let mut recovery = Recovery::default();
    let (mut looked, mut next_look) = (Instant::now(), Instant::now());
    let mut judged_by = gate.rules();
    loop {
        let Some(ledger) = gate.ledger().cloned() else {
            sleep(SHORTEST_SCAN).await;
            continue;
        };
        let rules = gate.rules();
        if !Arc::ptr_eq(&rules, &judged_by) {
            // What no route or no key allowed before may be found out now.
            recovery.plans.values_mut().for_each(|plan| plan.due = plan.due.min(Instant::now() + plan.pause));
            judged_by = rules;
        }
        if next_look <= Instant::now() {
            if let Err(error) = recovery.look_through(&gate, &ledger).await {
                tracing::error!(%error, "unknown outcomes could not be listed");
            }
            looked = Instant::now();
            next_look = looked + SCAN;
        }
        recovery.start_due(&gate, &ledger);
        tokio::select! {
            () = sleep_until(next_look.min(recovery.next_due())) => {}
            () = gate.unknown.notified() => next_look = next_look.min(looked + SHORTEST_SCAN),
            Some(ended) = recovery.attempts.join_next_with_id(), if !recovery.attempts.is_empty() => match ended {
                Ok((attempt, next)) => recovery.note(attempt, next),
                // A panic: it is due again after its pause.
                Err(error) => recovery.note(error.id(), Next::Later),
            },
        }
    }
}

impl Recovery {
    async fn look_through(&mut self, gate: &Gate, ledger: &Arc<dyn Ledger>) -> Result<(), LedgerError> {
        gate.metrics.unknown_executions(ledger.count_unknown().await?);
        let mut seen = HashMap::new();
        let mut after = 0;
        loop {
            let page = ledger.recoverable(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            seen.extend(page.into_iter().map(|found| (found.id, found.action)));
        }
        self.plans.retain(|id, _| seen.contains_key(id));
        for (id, action) in seen {
            let due = Instant::now() + FIRST_PAUSE;
            self.plans.entry(id).or_insert_with(|| Plan { action: action.into(), due, pause: FIRST_PAUSE });
        }
        Ok(())
    }

    /// Whether another attempt of this action may begin.
    fn has_room(&self, action: &str) -> bool {
        let of_one = self.running.values().filter(|id| self.plans.get(*id).is_some_and(|plan| &*plan.action == action));
        self.running.len() < AT_ONCE && of_one.count() < AT_ONCE_OF_ONE
    }

    fn waiting(&self) -> impl Iterator<Item = (&String, &Plan)> {
        let running: HashSet<&String> = self.running.values().collect();
        self.plans.iter().filter(move |(id, plan)| !running.contains(id) && self.has_room(&plan.action))
    }

    /// Of those that could begin if they were due; the others begin when an attempt ends.
    fn next_due(&self) -> Instant {
        let latest = Instant::now() + SCAN;
        self.waiting().map(|(_, plan)| plan.due).min().map_or(latest, |due| due.min(latest))
    }

    fn first_due(&self) -> Option<String> {
        let now = Instant::now();
        self.waiting().find(|(_, plan)| plan.due <= now).map(|(id, _)| id.clone())
    }

    fn start_due(&mut self, gate: &Arc<Gate>, ledger: &Arc<dyn Ledger>) {
        while let Some(id) = self.first_due() {
            let (gate, ledger, of) = (gate.clone(), ledger.clone(), id.clone());
            let attempt = self.attempts.spawn(async move { attempt(&gate, &*ledger, &of).await });
            self.running.insert(attempt.id(), id);
        }
    }

    fn note(&mut self, attempt: task::Id, next: Next) {
        let Some(plan) = self.running.remove(&attempt).and_then(|id| self.plans.get_mut(&id)) else { return };
        plan.pause = (plan.pause * 2).min(LONGEST_PAUSE);
        plan.due = Instant::now()
            + match next {
                Next::Later => plan.pause,
                Next::Never => Duration::from_secs(365 * 86_400),
            };
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
    let turn = match ledger.take_turn(id).await {
        Ok(Some(turn)) => turn,
        // Another replica finds out.
        Ok(None) | Err(_) => return Next::Later,
    };
    let next = find_out(gate, ledger, found, turn.lease.clone()).await;
    ledger.end_turn(id, turn).await;
    next
}

async fn find_out(gate: &Gate, ledger: &dyn Ledger, found: Record, lease: Option<Arc<Lease>>) -> Next {
    let id = &*found.execution.id;
    // What this server would not execute now, it does not execute again: demo mode's and other tenants' rows, what a key
    // approved that was revoked, and actions that were taken off the allow-list.
    let rules = gate.rules();
    let (key, action) = (found.execution.key_id.as_deref(), &found.execution.action);
    let is_ours = rules.authenticator.acts_for(&found.tenant, key, action) && rules.policy.allows(action);
    let recovered = match rules.registry.get(&found.execution.action) {
        Some(Handler::Effect(effect)) if is_ours => match gate.memory.take_many(dispatch::RESERVED_BYTES) {
            Some(memory) => effect.recover(&found, Arc::new(memory), lease).await,
            None => Recovered::AskAgain,
        },
        _ => Recovered::Operator,
    };
    let policy = found.dispatched.as_ref().map_or("", |dispatched| dispatched.policy.as_str());
    match recovered {
        Recovered::Settled(ended) => {
            let outcome = record::outcome(id, ended).await;
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
