//! The rules: what Prometheus says of them, and that each alert was seen to fire and to be calm.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{read, repository};
use crate::support::tool;

const FILES: [&str; 3] = ["gate", "slo", "injector"];
/// Each with the rules of the file that it names.
const TESTS: [&str; 4] = ["gate", "traffic", "slo", "injector"];

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn promtool(arguments: &[&str]) {
    let output =
        Command::new(tool("promtool")).args(arguments).current_dir(repository("tests/chart")).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{said}");
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every rule of every file.
pub fn all() -> Vec<Value> {
    let files = FILES.map(|name| yaml(&format!("helm/openexec/rules/{name}.yaml")));
    let groups = files.iter().flat_map(|file| items(&file["groups"]));
    groups.flat_map(|group| items(&group["rules"])).cloned().collect()
}

/// Alerts, each with its severity.
pub fn alerts() -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let alert = |rule: Value| Some((text(&rule["alert"])?, text(&rule["labels"]["severity"])?, rule));
    all().into_iter().filter_map(alert).collect()
}

#[test]
fn alerts_fire_for_what_is_wrong_and_for_nothing_else() {
    for name in TESTS {
        promtool(&["test", "rules", &format!("{name}.test.yaml")]);
    }
}

#[test]
fn prometheus_finds_nothing_wrong_with_the_rules() {
    for name in FILES {
        promtool(&["check", "rules", "--lint-fatal", &format!("../../helm/openexec/rules/{name}.yaml")]);
    }
}

/// `alertname="..."` and the like in the text of labels.
fn label(labels: &str, name: &str) -> Option<String> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// Names of series in an expression; those that rules record, by what they are made of.
fn series(expression: &str, found: &mut BTreeSet<String>) {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    for word in expression.split(|letter| !is_part(letter)) {
        if word.starts_with("openexec:") {
            let rule = all().into_iter().find(|rule| rule["record"] == word);
            series(rule.unwrap_or_else(|| panic!("{word} is not recorded"))["expr"].as_str().unwrap(), found);
        } else if word.starts_with("openexec_") || word.starts_with("kube_") {
            found.insert(word.to_owned());
        }
    }
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_could_and_does_not() {
    let (mut fire, mut calm) = (BTreeSet::new(), BTreeSet::new());
    for name in TESTS {
        for case in items(&yaml(&format!("tests/chart/{name}.test.yaml"))["tests"]) {
            let given: BTreeSet<_> = items(&case["input_series"])
                .map(|series| series["series"].as_str().unwrap().split('{').next().unwrap().to_owned())
                .collect();
            for test in items(&case["promql_expr_test"]) {
                let mut fired = BTreeSet::new();
                for sample in items(&test["exp_samples"]) {
                    let labels = sample["labels"].as_str().unwrap();
                    if let (Some(name), Some(severity)) = (label(labels, "alertname"), label(labels, "severity")) {
                        fired.insert((name, severity));
                    }
                }
                // One that asks for all that fires, and not only for a count of some.
                let asks_for_all = test["expr"].as_str().unwrap().contains("ALERTS{alertstate=\"firing\"");
                for (name, severity, rule) in alerts() {
                    let mut needed = BTreeSet::new();
                    series(rule["expr"].as_str().unwrap(), &mut needed);
                    let alert = (name, severity);
                    if asks_for_all && !fired.contains(&alert) && needed.is_subset(&given) {
                        calm.insert(alert);
                    }
                }
                fire.extend(fired);
            }
        }
    }
    let every: BTreeSet<_> = alerts().into_iter().map(|(name, severity, _)| (name, severity)).collect();
    assert_eq!(fire, every, "left: those that are seen to fire");
    assert_eq!(calm, every, "left: those that are seen not to");
}
