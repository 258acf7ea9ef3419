//! Whom requests are executed for. What one tenant uses up is its own: no other has less for it.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use openexec_protocol::refusal::{Code, Refusal};
use prometheus::IntCounter;

use crate::config::{self, Rate};
use crate::listen::{Permit, Permits};
use crate::metrics::{Metrics, TenantMetrics};

/// A tenant with what it may use, and what it has used.
pub(super) struct Tenant {
    id: Arc<str>,
    allowed: Option<HashSet<String>>,
    /// Executions that run; it keeps to them over a reload.
    in_flight: Arc<Permits>,
    rate: Option<Limiter>,
    /// For its denials, so that nobody can flood the ledger with them.
    traces: Limiter,
    metrics: TenantMetrics,
    /// Of its keys, by their names; the environment's have none.
    approvals: HashMap<String, IntCounter>,
}

/// Denials that are remembered: of each tenant, and of each caller that asked for what is not its tenant's.
pub(super) const TRACES: Rate =
    Rate { per_second: NonZeroU32::new(10).expect("not 0"), burst: NonZeroU32::new(100).expect("not 0") };

#[derive(Clone)]
pub(super) struct Limiter {
    rate: Rate,
    limiter: Arc<DefaultDirectRateLimiter>,
}

impl Limiter {
    pub(super) fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Limiter { rate, limiter: Arc::new(RateLimiter::direct(quota)) }
    }

    pub(super) fn takes_one(&self) -> bool {
        self.limiter.check().is_ok()
    }
}

impl Tenant {
    /// Demo mode's: the reserved empty one. None that can be configured is spelled so.
    pub(super) fn demo(in_flight: usize, metrics: TenantMetrics) -> Self {
        Tenant {
            id: "".into(),
            allowed: None,
            in_flight: Permits::new(in_flight),
            rate: None,
            traces: Limiter::new(TRACES),
            metrics,
            approvals: HashMap::new(),
        }
    }

    /// What runs, and what was used of its rate, goes on counting after a reload.
    pub(super) fn new(config: &config::Tenant, previous: Option<&Tenant>, metrics: &Metrics) -> Self {
        let id = config.verifier.tenant_id.as_str();
        let in_flight = previous.map_or_else(|| Permits::new(config.in_flight), |previous| previous.in_flight.clone());
        in_flight.resize(config.in_flight);
        let kept = |rate: Rate| previous.and_then(|previous| previous.rate.clone()).filter(|kept| kept.rate == rate);
        let keys = config.verifier.keys.iter().map(|key| key.id.clone().unwrap_or_default());
        Tenant {
            id: id.into(),
            allowed: config.allowed_actions.clone(),
            in_flight,
            rate: config.rate.map(|rate| kept(rate).unwrap_or_else(|| Limiter::new(rate))),
            traces: previous.map_or_else(|| Limiter::new(TRACES), |previous| previous.traces.clone()),
            metrics: metrics.tenant(id),
            approvals: keys.map(|key| (key.clone(), metrics.approvals(id, &key))).collect(),
        }
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whether the action is on this tenant's own allow-list.
    pub(super) fn allows(&self, action: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(action))
    }

    /// Counts a request against the tenant's rate.
    pub(super) fn within_rate(&self) -> Result<(), Refusal> {
        let Some(Limiter { limiter, .. }) = &self.rate else { return Ok(()) };
        limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            Refusal::new(Code::RateLimited, "More requests than this tenant may make").with_retry_after(seconds)
        })
    }

    /// For its denials.
    pub(super) fn traces(&self) -> &Limiter {
        &self.traces
    }

    /// One of its executions at once, if one is left.
    pub(super) fn take(&self) -> Option<Permit> {
        self.in_flight.take()
    }

    /// An approval that the key with this name verified.
    pub(super) fn count_approval(&self, key: Option<&str>) {
        if let Some(counter) = self.approvals.get(key.unwrap_or_default()) {
            counter.inc();
        }
    }

    pub(super) fn metrics(&self) -> &TenantMetrics {
        &self.metrics
    }

    /// Lets the metrics see what is taken now.
    pub(super) fn observe(&self) {
        self.metrics.observe(&self.in_flight);
    }
}
