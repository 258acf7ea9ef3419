//! The dashboard as JSON. That panels do not overlap, and that each expression can be read, is tested with the chart.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::read;
use crate::support::tool;

const PATH: &str = "helm/openexec/dashboards/openexec.json";

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    items(&dashboard["panels"]).filter(|panel| panel["type"] != "row")
}

/// The panel and the legend, and the expression, of each query.
pub fn targets(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in panels(dashboard) {
        for target in items(&panel["targets"]) {
            let (title, legend) = (panel["title"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
            let name = if panel["type"] == "stat" { title.to_owned() } else { format!("{title}: {legend}") };
            found.push((name, target["expr"].as_str().unwrap().to_owned()));
        }
    }
    found
}

/// What a variable asks for.
pub fn variable(dashboard: &Value, name: &str) -> String {
    let found = items(&dashboard["templating"]["list"]).find(|variable| variable["name"] == name);
    found.unwrap()["query"]["query"].as_str().unwrap().to_owned()
}

/// `make dashboard` writes it anew.
#[test]
fn the_dashboard_is_what_its_program_prints() {
    let output = Command::new(tool("python/bin/python"))
        .arg(super::repository("helm/openexec/dashboards/openexec.py"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap() == read(PATH), "make it anew: make dashboard");
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let dashboard: Value = serde_json::from_str(&read(PATH)).unwrap();
    let mut titles = BTreeSet::new();
    for panel in panels(&dashboard) {
        let has = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(has(&panel["title"]) && has(&panel["description"]) && has(&defaults["unit"]), "{panel}");
        assert!(titles.insert(panel["title"].as_str().unwrap()), "{} is there twice", panel["title"]);
        let mut references = BTreeSet::new();
        for target in items(&panel["targets"]) {
            assert!(references.insert(target["refId"].as_str().unwrap()), "{panel}");
            assert_eq!(target["datasource"]["uid"], "${datasource}");
        }
        assert_eq!((&panel["datasource"]["uid"], references.is_empty()), (&"${datasource}".into(), false), "{panel}");
        let mut last = f64::NEG_INFINITY;
        for (at, step) in items(&defaults["thresholds"]["steps"]).enumerate() {
            assert_eq!(at == 0, step["value"].is_null(), "the first step is the base of all: {panel}");
            let value = step["value"].as_f64().unwrap_or(f64::NEG_INFINITY);
            assert!(at == 0 || value > last, "{panel}");
            last = value;
        }
    }
    assert!(titles.len() > 30, "{titles:?}");
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&read(PATH)).unwrap();
    let asked: Vec<_> = targets(&dashboard).into_iter().map(|(_, expression)| expression).collect();
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
    };
    let asked = words(&asked.join(" "));
    let page = read("docs/metrics.md");
    let all = page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
    let missing: Vec<_> = all.filter(|metric| !asked.contains(*metric)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
