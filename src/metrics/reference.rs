//! The metrics as a page for people: `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{MetricFamily, MetricType};

use super::Metrics;

/// These stand for names, of which the configuration says which there are.
const UPSTREAM: &str = "*name of an upstream*";

const ACTION: &str = "*name of an action*";
const PLACE: &str = "*its address or name*";
const TENANT: &str = "*name of a tenant*";
const KEY: &str = "*name of a key*";

/// The page, made of the metrics themselves.
pub fn page() -> String {
    let metrics = Metrics::new();
    metrics.upstream(UPSTREAM);
    metrics.passthrough(UPSTREAM);
    metrics.tenant(TENANT);
    metrics.action(ACTION);
    for of in ["injector", "ledger", "listener", "upstream"] {
        metrics.certificates.with_label_values(&[of, PLACE]);
    }
    metrics.keys.with_label_values(&[TENANT, KEY]);
    metrics.tenant("");
    metrics.approvals(TENANT, KEY);
    crate::injector::announce(&metrics);
    let sections: Vec<_> = metrics.registry.gather().iter().map(section).collect();
    format!(
        "# Metrics\n\n\
         `GET /metrics` on the admin listener, in Prometheus's text format. This page is made by `openexec schema \
         metrics`.\n\n\
         Every series is there from the start, at zero, so that an alert can be written before the first event.\n\
         A `_limit` is the most that the metric before it can be; it follows a reload. A histogram has the series\n\
         `_bucket`, `_sum` and `_count`.\n{}",
        sections.concat()
    )
}

fn section(family: &MetricFamily) -> String {
    let (name, help) = (family.name(), family.help());
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    };
    let base = name.strip_suffix("_total").or(name.strip_suffix("_limit")).unwrap_or(name);
    let unit = ["seconds", "bytes"].into_iter().find(|unit| base.ends_with(unit)).map(|unit| format!(", in {unit}"));
    let mut section = format!("\n## `{name}`\n\n{help}.\n\nA {kind}{}.\n", unit.unwrap_or_default());
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for label in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
        labels.entry(label.name()).or_default().insert(label.value());
    }
    if !labels.is_empty() {
        section.push_str("\n| label | values |\n|---|---|\n");
    }
    for (label, values) in labels {
        let values: Vec<_> = values.into_iter().map(spell).collect();
        section.push_str(&format!("| `{label}` | {} |\n", values.join(", ")));
    }
    section
}

fn spell(value: &str) -> String {
    match value {
        UPSTREAM | ACTION | PLACE | TENANT | KEY => value.to_owned(),
        "" => "empty".to_owned(),
        // The page must not change with each release.
        crate::VERSION => "*this version*".to_owned(),
        word => format!("`{word}`"),
    }
}
