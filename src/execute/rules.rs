//! What requests are judged by. A reload replaces it as a whole; a request keeps to what it met at its start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::authenticate::Authenticator;
use super::authorise::Policy;
use super::caller::Callers;
use super::passthrough::Passthrough;
use crate::config::pod::{AppProbe, BypassCheck};
use crate::config::{Config, Limits, Mode, OnMismatch, Retention};
use crate::ledger::{Execution, State};
use crate::metrics::{ActionMetrics, Metrics};
use crate::registry::Registry;
use crate::upstream::Upstream;

/// Keys, actions, allow-lists and limits, of one configuration.
pub struct Rules {
    pub(super) authenticator: Authenticator,
    pub(super) callers: Callers,
    pub(super) policy: Policy,
    pub(super) registry: Registry,
    /// By action. Looked up in the metrics themselves, each execution would wait for a lock of theirs.
    ended: HashMap<String, ActionMetrics>,
    pub(super) on_mismatch: OnMismatch,
    /// How many duplicates wait for the one that runs, and how long.
    pub(super) waiters: usize,
    pub(super) wait: Duration,
    pub(super) limits: Limits,
    pub(super) retention: Retention,
    pub(super) mode: &'static str,
    /// Demo mode by default: a web page must not reach it under a name of its own (DNS rebinding).
    pub(super) loopback_names_only: bool,
    pub(super) passthrough: Passthrough,
    pub(super) bypass_check: BypassCheck,
    /// Of the service, by name: see the admin listener.
    pub probes: BTreeMap<String, AppProbe>,
}

impl Rules {
    /// With these actions, and these services behind them. What was used under the rules before goes on counting.
    pub fn new(
        config: &Config,
        registry: Registry,
        upstreams: &HashMap<String, Arc<Upstream>>,
        previous: Option<&Rules>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let ended = registry.names().map(|name| (name.to_owned(), metrics.action(name))).collect();
        let authenticator = previous.map(|previous| &previous.authenticator);
        let authenticator = Authenticator::new(&config.mode, authenticator, metrics);
        Rules {
            authenticator,
            callers: Callers::new(&config.callers),
            policy: Policy {
                allowed: config.allowed_actions.clone(),
                clock_skew: config.clock_skew,
                max_lifetime: config.max_lifetime,
            },
            registry,
            ended,
            on_mismatch: config.replay.on_mismatch,
            waiters: config.replay.waiters,
            wait: config.replay.wait,
            limits: config.limits,
            retention: config.retention,
            mode: config.mode.as_str(),
            loopback_names_only: matches!(config.mode, Mode::Demo { by_name: false }),
            passthrough: Passthrough::new(&config.passthrough, upstreams, metrics.clone()),
            bypass_check: config.bypass_check.clone(),
            probes: config.probes.clone(),
        }
    }

    /// Counts an execution that has ended: once for each that was claimed under these rules.
    pub(super) fn count(&self, execution: &Execution) {
        if let (State::Settled(outcome), Some(ended)) = (&execution.state, self.ended.get(&execution.action)) {
            ended.ended(outcome);
        }
    }
}
