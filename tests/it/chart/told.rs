//! What the chart tells: alerts, the dashboard, its README, its schema. Each must be true of what is there.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{RENDERED, find, items, name, render, repository};
use crate::support::tool;

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

fn promtool(arguments: &[&str], directory: &std::path::Path) -> String {
    let output = Command::new(tool("promtool")).args(arguments).current_dir(directory).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn the_rules_of_the_operator_are_rules_of_prometheus() {
    let mut of_injector = 0;
    for it in RENDERED.iter().filter(|it| matches!(it.case, "shared" | "demo" | "rendered")) {
        let rules = find(&it.objects, "PrometheusRule", "");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("rules.yaml"), rules["spec"].to_string()).unwrap();
        let said = promtool(&["check", "rules", "--lint-fatal", "rules.yaml"], directory.path());
        let count = items(&rules["spec"]["groups"]).flat_map(|group| items(&group["rules"])).count();
        assert!(said.contains(&format!("SUCCESS: {count} rules found")), "{said}");
        of_injector += items(&rules["spec"]["groups"]).filter(|group| group["name"] == "openexec-injector").count();
        for rule in items(&rules["spec"]["groups"]).flat_map(|group| items(&group["rules"])) {
            let has = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            if has(&rule["record"]) {
                continue;
            }
            let (annotations, labels) = (&rule["annotations"], &rule["labels"]);
            let all = [
                &rule["alert"],
                &rule["for"],
                &annotations["summary"],
                &annotations["description"],
                &annotations["runbook"],
                &labels["severity"],
            ];
            assert!(all.into_iter().all(has), "{rule}");
        }
    }
    assert_eq!(of_injector, 2 * 2 * 3, "where there is an injector");
}

/// Names of metrics in a text, without what Prometheus adds to those of histograms.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let names = words.filter(|word| word.starts_with("openexec_") || word.starts_with("kube_"));
    let plain =
        |name: &str| ["_bucket", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned();
    names.map(plain).collect()
}

#[test]
fn alerts_and_the_dashboard_ask_for_metrics_that_there_are() {
    /// Of kube-state-metrics, whose names are stable.
    const OTHERS: [&str; 2] = ["kube_pod_container_status_ready", "kube_pod_init_container_status_ready"];
    let output = Command::new(env!("CARGO_BIN_EXE_openexec")).args(["schema", "metrics"]).output().unwrap();
    let known = metrics(&String::from_utf8(output.stdout).unwrap());
    for path in ["rules/gate.yaml", "rules/slo.yaml", "rules/injector.yaml", "dashboards/openexec.json"] {
        let asked = metrics(&read(&format!("helm/openexec/{path}")));
        assert!(!asked.is_empty(), "{path}");
        for metric in asked {
            let is_known = known.contains(&metric) || OTHERS.contains(&metric.as_str());
            assert!(is_known, "{path} asks for {metric}");
        }
    }
}

#[test]
fn the_dashboard_is_one_and_is_given_to_grafana_as_it_stands() {
    let text = read("helm/openexec/dashboards/openexec.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let objects = render("rendered", &[]);
    let map = find(&objects, "ConfigMap", "-dashboards");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(serde_json::from_str::<Value>(map["data"]["openexec.json"].as_str().unwrap()).unwrap(), dashboard);
    let panels: Vec<_> = items(&dashboard["panels"]).collect();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let number = |panel: &Value, member: &str| panel["gridPos"][member].as_u64().unwrap();
    for (at, panel) in panels.iter().enumerate() {
        assert!(number(panel, "x") + number(panel, "w") <= 24, "{panel}");
        assert!(panel["type"] == "row" || items(&panel["targets"]).count() > 0, "{panel}");
        for other in &panels[..at] {
            let apart = |start, size| {
                number(panel, start) >= number(other, start) + number(other, size)
                    || number(other, start) >= number(panel, start) + number(panel, size)
            };
            assert!(apart("x", "w") || apart("y", "h"), "{} lies on {}", panel["title"], other["title"]);
        }
        // Each expression is one of Prometheus's own, once Grafana has put in its variables.
        for target in items(&panel["targets"]) {
            let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
            let rules =
                serde_json::json!({"groups": [{"name": "a", "rules": [{"record": "a:b", "expr": expression}]}]});
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("rules.yaml"), rules.to_string()).unwrap();
            promtool(&["check", "rules", "rules.yaml"], directory.path());
        }
    }
}

/// Paths of values, and whether each has one of its own: an empty map or a list has.
fn values() -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match value.as_object().filter(|map| !map.is_empty()) {
            Some(map) => map.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, found);
            }),
            None => found.push((path.to_owned(), value.clone())),
        }
    }
    let mut found = Vec::new();
    walk("", &serde_saphyr::from_str(&read("helm/openexec/values.yaml")).unwrap(), &mut found);
    found
}

/// Whole values in the table, that is: `gateway.resources` stands for what is below it.
#[test]
fn the_readme_lists_every_value_with_its_default() {
    let readme = read("helm/openexec/README.md");
    let mut rows: Vec<(String, Value)> = Vec::new();
    for line in readme.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let (path, default) = (cells.next().unwrap().trim_matches('`'), cells.next().unwrap().trim_matches('`'));
        assert!(cells.next().is_some_and(|text| !text.is_empty()), "{path} has no meaning");
        rows.push((path.to_owned(), serde_saphyr::from_str(default).unwrap_or_else(|error| panic!("{path}: {error}"))));
    }
    let whole: Value = serde_saphyr::from_str(&read("helm/openexec/values.yaml")).unwrap();
    for (path, default) in &rows {
        let found = path.split('.').try_fold(&whole, |value, key| value.get(key));
        assert_eq!(found, Some(default), "{path}");
    }
    let is_listed = |path: &str| rows.iter().any(|(row, _)| path == row || path.starts_with(&format!("{row}.")));
    let missing: Vec<_> = values().into_iter().map(|(path, _)| path).filter(|path| !is_listed(path)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

/// A value that the schema does not know would be refused, and one that it knows and nobody documents would be a secret.
#[test]
fn the_schema_knows_the_values_that_there_are_and_no_others() {
    let schema: Value = serde_json::from_str(&read("helm/openexec/values.schema.json")).unwrap();
    let resolve = |found: &'_ Value| match found["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap().clone(),
        None => found.clone(),
    };
    let mut known = BTreeSet::new();
    let mut open = Vec::new();
    let mut left = vec![(String::new(), schema.clone())];
    while let Some((path, found)) = left.pop() {
        let found = resolve(&found);
        // What the program's own schema describes.
        let is_ours = path != "gateway.config";
        if let Some(members) = found["properties"].as_object().filter(|_| is_ours) {
            assert_eq!(found["additionalProperties"], false, "{path} is closed");
            for (name, member) in members {
                left.push((if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, member.clone()));
            }
        } else {
            open.push(path.clone());
        }
        known.insert(path);
    }
    for (path, _) in values() {
        assert!(
            known.contains(&path) || open.iter().any(|open| path.starts_with(&format!("{open}."))),
            "{path} is not in the schema"
        );
    }
    let whole: Value = serde_saphyr::from_str(&read("helm/openexec/values.yaml")).unwrap();
    for path in known.iter().filter(|path| !path.is_empty() && *path != "global") {
        let has_it = path.split('.').try_fold(&whole, |value, key| value.get(key)).is_some();
        // Quantities have defaults where they should.
        assert!(has_it || path.ends_with(".limits.cpu"), "{path} is not in values.yaml");
    }
}

#[test]
fn the_chart_has_the_programs_version() {
    let chart: Value = serde_saphyr::from_str(&read("helm/openexec/Chart.yaml")).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// The notes name objects of the release; a command on one that is not there would be worse than none.
#[test]
fn the_notes_name_what_is_there() {
    for case in ["injector", "gateway", "shared", "demo", "rendered", "own"] {
        let objects = render(case, &[]);
        let mut command = super::helm("helm4", &["install", "gate"], case);
        let output = command.arg("--dry-run=client").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (_, notes) =
            said.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let mut named = 0;
        for word in notes.split_whitespace().map(|word| word.trim_end_matches([',', '.', ':'])) {
            let (kind, wanted) = word.split_once('/').unwrap_or(("", word));
            if !["deployment", "statefulset", "service"].contains(&kind) && !word.ends_with("-gates") {
                continue;
            }
            named += 1;
            let is_it = |object: &Value| {
                let found = object["kind"].as_str().unwrap().to_lowercase();
                name(object) == wanted && (kind.is_empty() || found == kind)
            };
            assert!(objects.iter().any(is_it), "{case}: {word}");
        }
        assert!(named > 0, "{case}: {notes}");
    }
}
