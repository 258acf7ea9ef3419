//! Every metric there is, with its help text. Base units, closed label sets.

pub mod reference;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use openexec_protocol::approval::Key;
use openexec_protocol::refusal::Code;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};

use crate::config::certificates::Certificate;
use crate::ledger::Outcome;
use crate::listen::Permits;

/// What the server counts.
pub struct Metrics {
    registry: Registry,
    executed: IntCounter,
    replayed: IntCounter,
    /// In the order of [`Code::all`].
    refused: Vec<IntCounter>,
    /// By action, and in the order of [`OUTCOMES`].
    executions: IntCounterVec,
    tenant_requests: IntCounterVec,
    tenant_in_flight: [IntGaugeVec; 2],
    approvals: IntCounterVec,
    /// What is taken, and the most that there may be: see [`Bounded`].
    in_flight: [IntGauge; 2],
    connections: [IntGauge; 2],
    buffered_bytes: [IntGauge; 2],
    ledger_commits: IntCounter,
    ledger_failures: IntCounter,
    ledger_database: IntGauge,
    ledger_wal: IntGauge,
    ledger_disk_free: IntGauge,
    ledger_local: IntGauge,
    bypass: IntGauge,
    reviews: IntCounterVec,
    local_ledgers: IntCounterVec,
    denials_dropped: IntCounter,
    results_forgotten: IntCounter,
    executions_forgotten: IntCounter,
    ledger_batch: Histogram,
    ledger_commit_time: Histogram,
    enforcement_time: Histogram,
    ledger_time: Histogram,
    upstream_time: Histogram,
    unknown: IntGauge,
    /// In the order of [`RecoveryResult`].
    recoveries: [IntCounter; 3],
    upstream_connections: IntCounterVec,
    upstream_addresses: IntGaugeVec,
    upstream_unresolved: IntCounterVec,
    passed: IntCounterVec,
    trace_spans: TraceSpans,
    /// Applied, and refused.
    reloads: [IntCounter; 2],
    handshakes_failed: IntCounter,
    unauthenticated: IntCounter,
    certificates: GaugeVec,
    keys: GaugeVec,
    reload_good: IntGauge,
    reload_time: Gauge,
}

/// What an attempt to find out about an unknown outcome came to.
#[derive(Clone, Copy, Debug)]
pub enum RecoveryResult {
    /// It is known now.
    Settled,
    /// Not yet.
    AskAgain,
    /// It will not be found out this way.
    Operator,
}

/// What is counted of one action.
pub struct ActionMetrics {
    /// In the order of [`OUTCOMES`].
    ended: [IntCounter; 3],
}

impl ActionMetrics {
    /// An execution ended. What is found out later about an unknown one is a recovery.
    pub fn ended(&self, outcome: &Outcome) {
        let at = match outcome {
            Outcome::Done(_) => 0,
            Outcome::NotExecuted { .. } => 1,
            Outcome::Unknown => 2,
        };
        self.ended[at].inc();
    }
}

/// What is counted of one tenant.
pub struct TenantMetrics {
    /// Executed, replayed, refused.
    requests: [IntCounter; 3],
    in_flight: [IntGauge; 2],
}

impl TenantMetrics {
    /// A request of this tenant was answered.
    pub fn executed(&self, replayed: bool) {
        self.requests[usize::from(replayed)].inc();
    }

    /// A request of this tenant was refused.
    pub fn refused(&self) {
        self.requests[2].inc();
    }

    /// What is taken of its executions at once.
    pub fn observe(&self, in_flight: &Permits) {
        set(&self.in_flight, in_flight);
    }
}

/// What is counted of one upstream.
pub struct UpstreamMetrics {
    /// Connections that were made.
    pub opened: IntCounter,
    /// Connections that were used again.
    pub reused: IntCounter,
    /// Connections that could not be made.
    pub failed: IntCounter,
    /// Look-ups of names that failed.
    pub unresolved: IntCounter,
    /// Addresses that are known.
    pub addresses: IntGauge,
    /// Those of them that work.
    pub healthy: IntGauge,
}

/// What became of spans.
#[derive(Clone)]
pub struct TraceSpans {
    /// The collector has them.
    pub exported: IntCounter,
    /// Too many waited already.
    pub dropped: IntCounter,
    /// The collector did not take them.
    pub failed: IntCounter,
}

/// Where an execution spent its time: "is it you or my service?"
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Reading, checking, answering.
    pub enforcement: Duration,
    /// Waiting for the ledger.
    pub ledger: Duration,
    /// Waiting for what does the action.
    pub upstream: Duration,
}

/// What has a limit. It is looked at when the metrics are asked for.
pub struct Bounded {
    /// Clients' connections.
    pub connections: Arc<Permits>,
    /// Executions that run.
    pub in_flight: Arc<Permits>,
    /// Bytes of bodies.
    pub buffered_bytes: Arc<Permits>,
}

/// What an execution comes to, when it is settled for the first time.
const OUTCOMES: [&str; 3] = ["done", "not_executed", "unknown"];
/// Classes of a status that was passed on.
const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "broken"];

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All at zero, every label value present: an alert on a counter that does not exist yet never fires.
    pub fn new() -> Self {
        let registry = Registry::new();
        let verdicts = register(
            &registry,
            IntCounterVec::new(
                Opts::new("openexec_verdicts_total", "Requests, by verdict and, for refusals, reason"),
                &["verdict", "reason"],
            ),
        );
        let seconds = |name: &str, help: &str| {
            let buckets = exponential_buckets(0.000_01, 4.0, 12).expect("a positive start, a factor above one");
            register(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let bounded = |name: &str, help: &str, limit: &str| [gauge(name, help), gauge(&format!("{name}_limit"), limit)];
        let info = Opts::new("openexec_build_info", "Always 1; the labels say which build this is");
        register(&registry, IntGaugeVec::new(info, &["version"])).with_label_values(&[crate::VERSION]).set(1);
        let recoveries = register(
            &registry,
            IntCounterVec::new(
                Opts::new("openexec_recoveries_total", "Attempts to find out about unknown outcomes, by result"),
                &["result"],
            ),
        );
        let reloads = register(
            &registry,
            IntCounterVec::new(
                Opts::new("openexec_config_reloads_total", "Configurations that were read while running, by result"),
                &["result"],
            ),
        );
        let trace_spans = register(
            &registry,
            IntCounterVec::new(
                Opts::new("openexec_trace_spans_total", "Spans of traces, by what became of them"),
                &["result"],
            ),
        );
        Metrics {
            trace_spans: TraceSpans {
                exported: trace_spans.with_label_values(&["exported"]),
                dropped: trace_spans.with_label_values(&["dropped"]),
                failed: trace_spans.with_label_values(&["failed"]),
            },
            reloads: ["applied", "refused"].map(|result| reloads.with_label_values(&[result])),
            reload_good: register(
                &registry,
                IntGauge::new(
                    "openexec_config_last_reload_successful",
                    "Whether the configuration that was read last is the one in use",
                ),
            ),
            reload_time: register(
                &registry,
                Gauge::new(
                    "openexec_config_last_reload_success_timestamp_seconds",
                    "When the configuration in use was read",
                ),
            ),
            handshakes_failed: register(
                &registry,
                IntCounter::new("openexec_tls_handshake_failures_total", "Clients that got no further than TLS"),
            ),
            unauthenticated: register(
                &registry,
                IntCounter::new(
                    "openexec_admin_unauthenticated_total",
                    "Requests and log-ins on the admin listener with a token that is wrong",
                ),
            ),
            certificates: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "openexec_certificate_expiry_timestamp_seconds",
                        "When a certificate ends that the configuration names, the first of a chain",
                    ),
                    &["of", "name"],
                ),
            ),
            keys: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "openexec_key_not_after_timestamp_seconds",
                        "When a key retires, by tenant and by the key's name; for keys with a not_after",
                    ),
                    &["tenant", "key"],
                ),
            ),
            executions: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("openexec_executions_total", "Executions that ended here, by action and outcome"),
                    &["action", "outcome"],
                ),
            ),
            executed: verdicts.with_label_values(&["executed", ""]),
            replayed: verdicts.with_label_values(&["replayed", ""]),
            refused: Code::all().map(|code| verdicts.with_label_values(&["refused", code.as_str()])).collect(),
            tenant_requests: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("openexec_tenant_requests_total", "Authentic requests, by tenant and verdict"),
                    &["tenant", "verdict"],
                ),
            ),
            tenant_in_flight: [
                ("openexec_tenant_in_flight_executions", "Executions that run now, by tenant"),
                ("openexec_tenant_in_flight_executions_limit", "Executions that may run at once, by tenant"),
            ]
            .map(|(name, help)| register(&registry, IntGaugeVec::new(Opts::new(name, help), &["tenant"]))),
            approvals: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("openexec_approvals_total", "Authentic approvals, by tenant and by the key's name"),
                    &["tenant", "key"],
                ),
            ),
            in_flight: bounded(
                "openexec_in_flight_executions",
                "Executions that run now",
                "Executions that may run at once: limits.in_flight",
            ),
            connections: bounded(
                "openexec_connections",
                "Clients' connections that are open",
                "Connections that there may be: limits.connections, or what file descriptors allow",
            ),
            buffered_bytes: bounded(
                "openexec_buffered_bytes",
                "Memory that requests' and answers' bodies take now",
                "Memory that they may take together: limits.buffered_bytes",
            ),
            ledger_commits: register(
                &registry,
                IntCounter::new("openexec_ledger_commits_total", "Durable commits of the ledger"),
            ),
            ledger_failures: register(
                &registry,
                IntCounter::new("openexec_ledger_commit_failures_total", "Commits that the ledger could not make"),
            ),
            ledger_database: gauge(
                "openexec_ledger_database_bytes",
                "The ledger's file, without what is still in its WAL; 0 for memory:",
            ),
            ledger_wal: gauge("openexec_ledger_wal_bytes", "The ledger's WAL; 0 for memory:"),
            ledger_disk_free: gauge(
                "openexec_ledger_disk_free_bytes",
                "What is free on the ledger's file system (see ledger.min_free_bytes); 0 for memory:",
            ),
            ledger_local: gauge(
                "openexec_ledger_local",
                "Whether the ledger is gone with this process or its pod: memory:, or ledger.fence: always on a file",
            ),
            bypass: gauge(
                "openexec_bypass_found",
                "Whether the service behind the gate answered past it, at the last look: see bypass_check",
            ),
            reviews: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "openexec_injector_reviews_total",
                        "Pods that an injector was asked about, by what became of it",
                    ),
                    &["outcome", "reason"],
                ),
            ),
            local_ledgers: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("openexec_injector_local_ledgers_total", "Pods that got a ledger which dies with them"),
                    &[],
                ),
            ),
            denials_dropped: register(
                &registry,
                IntCounter::new(
                    "openexec_denials_dropped_total",
                    "Authentic requests that were refused, and not remembered: too many at once, or no room",
                ),
            ),
            results_forgotten: register(
                &registry,
                IntCounter::new(
                    "openexec_ledger_results_forgotten_total",
                    "Results that were older than retention.results",
                ),
            ),
            executions_forgotten: register(
                &registry,
                IntCounter::new(
                    "openexec_ledger_executions_forgotten_total",
                    "Executions that were older than retention.tombstones",
                ),
            ),
            ledger_batch: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new("openexec_ledger_batch_size", "Rows that share one commit")
                        .buckets(exponential_buckets(1.0, 2.0, 11).expect("a positive start, a factor above one")),
                ),
            ),
            ledger_commit_time: seconds("openexec_ledger_commit_seconds", "Time of a commit, its statements included"),
            enforcement_time: seconds("openexec_enforcement_seconds", "Time of an execution in the gate itself"),
            ledger_time: seconds("openexec_ledger_seconds", "Time that an execution waits for the ledger"),
            upstream_time: seconds("openexec_upstream_seconds", "Time that an execution waits for its action"),
            unknown: register(
                &registry,
                IntGauge::new("openexec_unknown_executions", "Executions whose outcome is unknown, at the last look"),
            ),
            recoveries: ["settled", "ask_again", "operator"].map(|result| recoveries.with_label_values(&[result])),
            upstream_connections: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("openexec_upstream_connections_total", "Connections to upstreams, by how they were had"),
                    &["upstream", "how"],
                ),
            ),
            upstream_addresses: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("openexec_upstream_addresses", "Addresses of upstreams: all, and the healthy ones"),
                    &["upstream", "which"],
                ),
            ),
            upstream_unresolved: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("openexec_upstream_lookup_failures_total", "Look-ups of upstreams' names that failed"),
                    &["upstream"],
                ),
            ),
            passed: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "openexec_passthrough_requests_total",
                        "Requests that were let through, by class of status",
                    ),
                    &["upstream", "status"],
                ),
            ),
            registry,
        }
    }

    /// An action was executed.
    pub fn executed(&self, timings: Timings) {
        self.executed.inc();
        self.enforcement_time.observe(timings.enforcement.as_secs_f64());
        self.ledger_time.observe(timings.ledger.as_secs_f64());
        if !timings.upstream.is_zero() {
            self.upstream_time.observe(timings.upstream.as_secs_f64());
        }
    }

    /// A configuration was read: at the start, or while running.
    pub fn configured(&self, applied: bool, reload: bool) {
        if reload {
            self.reloads[usize::from(!applied)].inc();
        }
        self.reload_good.set(i64::from(applied));
        if applied {
            self.reload_time.set(seconds_of(Utc::now()));
        }
    }

    /// Whether the configuration that was read last is the one in use, and when that one was read.
    pub fn configuration(&self) -> (bool, DateTime<Utc>) {
        let read = DateTime::from_timestamp_millis((self.reload_time.get() * 1e3) as i64).unwrap_or_default();
        (self.reload_good.get() == 1, read)
    }

    /// The certificates of a configuration: those of the one before are no longer there.
    pub fn certificates<'c>(&self, certificates: impl IntoIterator<Item = &'c Certificate>) {
        self.certificates.reset();
        for Certificate { of, name, not_after } in certificates {
            self.certificates.with_label_values(&[of, &**name]).set(seconds_of(*not_after));
        }
    }

    /// The keys of a configuration: those of the one before are no longer there.
    pub fn keys<'k>(&self, keys: impl IntoIterator<Item = (&'k str, &'k Key)>) {
        self.keys.reset();
        for (tenant, key) in keys {
            if let (Some(id), Some(not_after)) = (&key.id, key.not_after) {
                self.keys.with_label_values(&[tenant, &**id]).set(seconds_of(not_after));
            }
        }
    }

    /// Of the action with this name.
    pub fn action(&self, name: &str) -> ActionMetrics {
        ActionMetrics { ended: OUTCOMES.map(|outcome| self.executions.with_label_values(&[name, outcome])) }
    }

    /// Somebody has a token that is not one of the admin listener's.
    pub fn unauthenticated(&self) {
        self.unauthenticated.inc();
    }

    /// Whether the ledger dies with this process or its pod.
    pub fn ledger_local(&self, local: bool) {
        self.ledger_local.set(i64::from(local));
    }

    /// Whether there is a way past the gate.
    pub fn bypass(&self, found: bool) {
        self.bypass.set(i64::from(found));
    }

    /// An injector was asked about a pod.
    pub fn review(&self, outcome: &str, reason: &str) -> IntCounter {
        self.reviews.with_label_values(&[outcome, reason])
    }

    /// An injector gave a pod a ledger of its own.
    pub fn local_ledgers(&self) -> IntCounter {
        self.local_ledgers.with_label_values::<&str>(&[])
    }

    /// For whoever exports traces.
    pub fn trace_spans(&self) -> TraceSpans {
        self.trace_spans.clone()
    }

    /// A client's TLS handshake failed.
    pub fn tls_handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// Executions whose outcome is unknown now.
    pub fn unknown_executions(&self, count: usize) {
        self.unknown.set(count as i64);
    }

    /// An attempt to find out about one.
    pub fn recovery(&self, result: RecoveryResult) {
        self.recoveries[result as usize].inc();
    }

    /// Of the tenant with this configured name; empty for demo mode's.
    pub fn tenant(&self, id: &str) -> TenantMetrics {
        TenantMetrics {
            requests: ["executed", "replayed", "refused"]
                .map(|verdict| self.tenant_requests.with_label_values(&[id, verdict])),
            in_flight: self.tenant_in_flight.each_ref().map(|gauge| gauge.with_label_values(&[id])),
        }
    }

    /// Of the tenant's key with this configured name; empty for the environment's.
    pub fn approvals(&self, tenant: &str, key: &str) -> IntCounter {
        self.approvals.with_label_values(&[tenant, key])
    }

    /// The tenant is configured no more.
    pub fn forget_tenant(&self, id: &str) {
        for verdict in ["executed", "replayed", "refused"] {
            let _ = self.tenant_requests.remove_label_values(&[id, verdict]);
        }
        for gauge in &self.tenant_in_flight {
            let _ = gauge.remove_label_values(&[id]);
        }
    }

    /// The tenant's key is configured no more.
    pub fn forget_key(&self, tenant: &str, key: &str) {
        let _ = self.approvals.remove_label_values(&[tenant, key]);
    }

    /// Of the upstream with this configured name.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        let connections = |how: &str| self.upstream_connections.with_label_values(&[name, how]);
        let addresses = |which: &str| self.upstream_addresses.with_label_values(&[name, which]);
        UpstreamMetrics {
            opened: connections("opened"),
            reused: connections("reused"),
            failed: connections("failed"),
            unresolved: self.upstream_unresolved.with_label_values(&[name]),
            addresses: addresses("all"),
            healthy: addresses("healthy"),
        }
    }

    /// A request was let through and got this status; 0: its connection broke.
    pub fn passed(&self, upstream: &str, status: u16) {
        let class = match status {
            0 => "broken",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.passed.with_label_values(&[upstream, class]).inc();
    }

    /// Requests may be let through to the upstream with this configured name.
    pub fn passthrough(&self, upstream: &str) {
        for class in CLASSES {
            self.passed.with_label_values(&[upstream, class]);
        }
    }

    /// A stored answer was given.
    pub fn replayed(&self) {
        self.replayed.inc();
    }

    /// A request was refused.
    pub fn refused(&self, code: Code) {
        self.refused[code.index()].inc();
    }

    /// The ledger committed this many rows.
    pub fn ledger_committed(&self, rows: usize, time: Duration) {
        self.ledger_commits.inc();
        self.ledger_batch.observe(rows as f64);
        self.ledger_commit_time.observe(time.as_secs_f64());
    }

    /// Denials that are not remembered.
    pub fn denials_dropped(&self, count: u64) {
        self.denials_dropped.inc_by(count);
    }

    /// What was old enough.
    pub fn forgotten(&self, results: usize, executions: usize) {
        self.results_forgotten.inc_by(results as u64);
        self.executions_forgotten.inc_by(executions as u64);
    }

    /// How large the ledger's files are.
    pub fn ledger_files(&self, database: u64, wal: u64) {
        self.ledger_database.set(i64::try_from(database).unwrap_or(i64::MAX));
        self.ledger_wal.set(i64::try_from(wal).unwrap_or(i64::MAX));
    }

    /// What is free on the ledger's file system.
    pub fn ledger_disk(&self, free: u64) {
        self.ledger_disk_free.set(i64::try_from(free).unwrap_or(i64::MAX));
    }

    /// The ledger could not commit.
    pub fn ledger_failed(&self) {
        self.ledger_failures.inc();
    }

    /// The exposition format.
    pub fn render(&self, bounded: &Bounded) -> Vec<u8> {
        set(&self.in_flight, &bounded.in_flight);
        set(&self.connections, &bounded.connections);
        set(&self.buffered_bytes, &bounded.buffered_bytes);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("a Vec takes any text");
        text
    }
}

fn seconds_of(moment: DateTime<Utc>) -> f64 {
    moment.timestamp_millis() as f64 / 1e3
}

fn set([taken, limit]: &[IntGauge; 2], permits: &Permits) {
    taken.set(i64::try_from(permits.taken()).unwrap_or(i64::MAX));
    limit.set(i64::try_from(permits.max()).unwrap_or(i64::MAX));
}

fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("names, labels and buckets are constants of this file");
    registry.register(Box::new(metric.clone())).expect("every name is registered once");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_there_from_the_start() {
        let permits = Permits::new(7);
        let bounded =
            Bounded { connections: permits.clone(), in_flight: permits.clone(), buffered_bytes: permits.clone() };
        let _taken = permits.take_many(3);
        let text = String::from_utf8(Metrics::new().render(&bounded)).unwrap();
        for code in Code::all() {
            assert!(text.contains(&format!("openexec_verdicts_total{{reason=\"{code}\",verdict=\"refused\"}} 0")));
        }
        assert!(text.contains("openexec_buffered_bytes 3\n") && text.contains("openexec_buffered_bytes_limit 7\n"));
    }
}
