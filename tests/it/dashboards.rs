//! What is seen of a running gate: the dashboard, the rules and the runbooks, on a real Prometheus.

mod load;
mod model;
mod prometheus;
mod rules;
mod runbooks;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::admin::must_please_prometheus;
use crate::injector::Injector;
use crate::support::Client;
use load::Gate;
use prometheus::{PATIENCE, Prometheus};

/// Where nothing happens while all is well: these are there, and zero.
const QUIET: [&str; 13] = [
    "Ways past the gate",
    "Local ledgers",
    "Old configurations",
    "Error budgets: errors {{namespace}}",
    "Error budgets: latency {{namespace}}",
    "Commits: failed",
    "Forgotten: results",
    "Forgotten: executions",
    "Dropped denials: dropped",
    "Let through: {{upstream}} look-up failed",
    "Traces: {{result}}",
    "Taken of each limit: in flight",
    "Taken of tenants' limits: {{tenant}}",
];

/// What goes wrong here, and so waits to fire: what the rules name is what real gates and a real injector have.
const WRONG: [&str; 5] = [
    "OpenExecOutcomeUnknown",
    "OpenExecAdminTokenWrong",
    // The injector's, in ten days.
    "OpenExecCertificateEnds",
    "OpenExecInjectorRefuses",
    "OpenExecLocalLedgerInjected",
];
const WELL: [&str; 7] = [
    "OpenExecBypassFound",
    "OpenExecLedgerLocal",
    "OpenExecLedgerFails",
    "OpenExecReloadFailed",
    "OpenExecKeyEnds",
    "OpenExecErrorBudgetBurns",
    "OpenExecInjectorAway",
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// What Grafana makes of an expression, where its data source says that Prometheus scrapes each second.
fn filled_in(expression: &str, namespace: &str, pod: &str) -> String {
    expression.replace("$namespace", namespace).replace("$pod", pod).replace("$__rate_interval", "20s")
}

/// Whether the expression gives a finite number, and one above zero unless the panel is a quiet one.
fn has_data(name: &str, numbers: &[f64]) -> bool {
    let least = if QUIET.contains(&name) { f64::NEG_INFINITY } else { 0.0 };
    numbers.iter().any(|number| number.is_finite() && *number > least)
}

#[test]
fn every_expression_of_the_dashboard_has_data() {
    let (gate, injector) = (Gate::start(), Injector::start());
    let targets = [
        (gate.admin(), r#"{namespace: shop, pod: gate-0}"#),
        (injector.admin(), r#"{namespace: openexec, pod: injector-0}"#),
    ];
    let labelled = Prometheus::start(&targets);
    // As outside of Kubernetes.
    let bare = Prometheus::start(&targets.map(|(admin, _)| (admin, "{}")));
    let dashboard: Value = serde_json::from_str(&read("helm/openexec/dashboards/openexec.json")).unwrap();
    let targets = model::targets(&dashboard);
    gate.under_load(&injector, || {
        let deadline = Instant::now() + PATIENCE;
        let mut left: Vec<_> = targets
            .iter()
            .flat_map(|(name, expression)| {
                let all = filled_in(expression, ".*", ".*");
                let chosen = filled_in(expression, "(shop|elsewhere)", "gate-0");
                [(name, &bare, all.clone()), (name, &labelled, all), (name, &labelled, chosen)]
            })
            .collect();
        while !left.is_empty() {
            left.retain(|(name, prometheus, expression)| !has_data(name, &prometheus.query(expression)));
            let names: Vec<_> = left.iter().map(|(name, _, expression)| (name, expression)).collect();
            assert!(names.is_empty() || Instant::now() < deadline, "without data: {names:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        for (name, value) in [("namespace", "shop"), ("pod", "gate-0")] {
            let query = model::variable(&dashboard, name).replace("$namespace", "shop");
            assert!(labelled.label_values(&query).contains(&value.to_owned()), "{query}");
            assert_eq!(bare.label_values(&query.replace("=~\"shop\"", "=~\".*\"")), [""; 0]);
        }
        // Of a gate that nobody has chosen there is nothing: the choice counts.
        let other =
            labelled.query(&filled_in("openexec_build_info{namespace=~\"$namespace\", pod=~\"$pod\"}", ".*", "x"));
        assert!(other.is_empty(), "{other:?}");
        labelled.must_evaluate_all_rules(deadline);
        while let Some(alert) = WRONG.iter().find(|alert| !labelled.alerts().contains(**alert)) {
            assert!(Instant::now() < deadline, "{alert} is not seen");
            std::thread::sleep(Duration::from_millis(200));
        }
        let seen = labelled.alerts();
        assert!(WELL.iter().all(|alert| !seen.contains(*alert)), "{seen:?}");
        for admin in [gate.admin(), injector.admin()] {
            must_please_prometheus(&Client::connect(admin).get("/metrics"));
        }
    });
}
