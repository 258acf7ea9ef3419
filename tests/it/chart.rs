//! The Helm chart, rendered by Helm 3 and Helm 4, and held against Kubernetes' schemas, against checkov, and, where that can
//! be done here, against what runs. There is no API server here: what one would do with these objects is not tested.

mod certificate;
mod facts;
mod kept;
mod refusals;
mod running;
mod told;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::support::tool;

/// Files of values; each set of them is one way to use the chart.
const CASES: [(&str, &[&str]); 6] = [
    ("injector", &["tests/chart/values/injector.yaml"]),
    ("gateway", &["tests/chart/values/gateway.yaml"]),
    ("shared", &["helm/openexec/values-ha.yaml", "tests/chart/values/shared.yaml"]),
    ("demo", &["tests/chart/values/demo.yaml"]),
    ("rendered", &["tests/chart/values/rendered.yaml"]),
    ("own", &["tests/chart/values/own.yaml"]),
];
const HELMS: [&str; 2] = ["helm3", "helm4"];
/// The oldest that the chart admits, one in the middle, and the newest whose schemas there are.
const KUBERNETES: [&str; 3] = ["1.29", "1.33", "1.37"];
/// Kinds of other projects, whose schemas the validator has not. Nothing else may be left out.
const FOREIGN: [(&str, &str); 4] = [
    ("cert-manager.io/v1", "Certificate"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
];

/// What checkov may find in one case only: the check, the case, and why.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("CKV_K8S_43", "demo", "a tag instead of a digest is there to be asked for by name, as this case does")];

/// What Helm makes of a case.
struct Rendered {
    case: &'static str,
    helm: &'static str,
    kubernetes: &'static str,
    text: String,
    objects: Vec<Value>,
}

/// Every case by every Helm for every Kubernetes.
static RENDERED: LazyLock<Vec<Rendered>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (case, _) in CASES {
        for helm in HELMS {
            for kubernetes in KUBERNETES {
                let text = template(helm, case, &["--kube-version", kubernetes]).unwrap();
                all.push(Rendered { case, helm, kubernetes, objects: objects(&text), text });
            }
        }
    }
    all
});

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Helm on the chart with the case's values, as a release `gate` in a namespace `gates`.
fn helm(helm: &str, command: &[&str], case: &str) -> Command {
    let (_, files) = CASES.iter().find(|(name, _)| *name == case).unwrap();
    let mut helm = Command::new(tool(helm));
    // Nothing of whoever runs the tests.
    helm.env_clear().env("HOME", "/nonexistent").args(command).arg(repository("helm/openexec"));
    helm.args(["--namespace", "gates"]);
    for file in *files {
        helm.arg("--values").arg(repository(file));
    }
    helm
}

/// The text, or what Helm said instead.
fn template(version: &str, case: &str, more: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } = helm(version, &["template", "gate"], case).args(more).output().unwrap();
    if status.success() { Ok(String::from_utf8(stdout).unwrap()) } else { Err(String::from_utf8(stderr).unwrap()) }
}

/// The objects of a text, without those that are nothing. A key that is there twice is an error.
fn objects(text: &str) -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

/// By Helm 4, for the newest Kubernetes.
fn render(case: &str, more: &[&str]) -> Vec<Value> {
    objects(&template("helm4", case, more).unwrap())
}

/// The one of this kind whose name ends so.
fn find<'a>(objects: &'a [Value], kind: &str, suffix: &str) -> &'a Value {
    let is_it = |object: &&Value| object["kind"] == kind && name(object).ends_with(suffix);
    let found: Vec<_> = objects.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{kind} {suffix}");
    found[0]
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// Objects that make pods: each with the template of its pods.
fn workloads(objects: &[Value]) -> impl Iterator<Item = (&Value, &Value)> {
    objects.iter().filter(|object| object["spec"]["template"].is_object()).map(|it| (it, &it["spec"]["template"]))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[test]
fn both_versions_of_helm_have_nothing_to_complain_of() {
    for version in HELMS {
        for (case, _) in CASES {
            let Output { status, stdout, stderr } = helm(version, &["lint", "--strict"], case).output().unwrap();
            let said = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
            assert!(
                status.success() && said.contains("1 chart(s) linted, 0 chart(s) failed"),
                "{version} {case}: {said}"
            );
            assert!(!said.contains("[WARNING]"), "{version} {case}: {said}");
        }
    }
}

/// The same but for what is made at random.
#[test]
fn both_versions_of_helm_render_the_same() {
    for (case, _) in CASES {
        for kubernetes in KUBERNETES {
            let mut of_each = RENDERED.iter().filter(|it| it.case == case && it.kubernetes == kubernetes).map(|it| {
                let mut objects = it.objects.clone();
                for object in &mut objects {
                    without_chance(object);
                }
                objects.sort_by_key(|object| (object["kind"].to_string(), name(object).to_owned()));
                objects
            });
            let (old, new) = (of_each.next().unwrap(), of_each.next().unwrap());
            assert_eq!(old, new, "{case}, {kubernetes}");
            assert!(of_each.next().is_none() && !old.is_empty());
        }
    }
}

fn without_chance(object: &mut Value) {
    if object["kind"] == "Secret" {
        for (_, value) in object["data"].as_object_mut().unwrap() {
            *value = json!("");
        }
    }
    for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
        webhook["clientConfig"]["caBundle"] = json!("");
    }
}

/// The files of a directory of its own, one for each rendering that is wanted; and how many objects are in them.
fn written(wanted: impl Fn(&Rendered) -> bool) -> (tempfile::TempDir, usize) {
    // checkov passes over what begins with a dot.
    let directory = tempfile::Builder::new().prefix("chart").tempdir().unwrap();
    let mut count = 0;
    for it in RENDERED.iter().filter(|it| wanted(it)) {
        std::fs::write(directory.path().join(format!("{}-{}.yaml", it.case, it.helm)), &it.text).unwrap();
        count += it.objects.len();
    }
    (directory, count)
}

/// The objects that the chart's README gives as examples.
fn examples() -> String {
    let readme = std::fs::read_to_string(repository("helm/openexec/README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let examples: Vec<_> = blocks.filter(|block| block.starts_with("apiVersion:")).collect();
    assert!(!examples.is_empty());
    examples.join("---\n")
}

/// Whether all objects of these files are as they must be, and what is said of each.
fn validate(files: &[PathBuf], kubernetes: &str) -> (bool, String) {
    let mut command = Command::new(tool("kubernetes/bin/kubernetes-validate"));
    let output = command.args(["--strict", "-k", kubernetes]).args(files).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), said)
}

/// Of one Helm: the other renders the same.
#[test]
fn every_object_fits_the_schema_of_its_kubernetes_version() {
    for kubernetes in KUBERNETES {
        let (directory, mut count) = written(|it| it.helm == "helm4" && it.kubernetes == kubernetes);
        std::fs::write(directory.path().join("examples.yaml"), examples()).unwrap();
        count += objects(&examples()).len();
        let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let (is_good, said) = validate(&files, kubernetes);
        assert!(is_good, "{said}");
        let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
        let left_out = said.lines().filter_map(|line| line.split_once("Couldn't find schema for kind "));
        let left_out: Vec<_> = left_out.map(|(_, kind)| kind).collect();
        assert_eq!(passed + left_out.len(), count, "{said}");
        for kind in left_out {
            let is_foreign =
                |(api, foreign): &(&str, &str)| kind.starts_with(&format!("{foreign} with api version {api} "));
            assert!(FOREIGN.iter().any(is_foreign), "no schema for {kind}");
        }
        // A member that does not exist is not passed over.
        let wrong = directory.path().join("wrong.yaml");
        std::fs::write(&wrong, "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: 1}\n").unwrap();
        let (is_good, said) = validate(&[wrong], kubernetes);
        assert!(!is_good && said.contains("port"), "{said}");
    }
}

/// Of tests/tools/checkov.yaml every exception has its reason. Once for all, since it takes seconds to begin.
#[test]
fn checkov_finds_nothing_that_has_no_reason() {
    let (directory, _) = written(|it| it.helm == "helm4" && it.kubernetes == "1.37");
    let careless = "apiVersion: v1\nkind: Pod\nmetadata: {name: careless, namespace: gates}\n\
                    spec: {hostNetwork: true, containers: [{name: a, image: a}]}\n";
    std::fs::write(directory.path().join("careless.yaml"), careless).unwrap();
    let mut command = Command::new(tool("kubernetes/bin/checkov"));
    command.arg("--directory").arg(directory.path()).arg("--config-file").arg(repository("tests/tools/checkov.yaml"));
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let failed = items(&report["results"]["failed_checks"]);
    let failed = failed.map(|it| {
        let text = |member: &str| it[member].as_str().unwrap();
        (text("check_id"), text("file_path").trim_matches('/'), format!("{} of {}", it["check_name"], it["resource"]))
    });
    let (careless, ours): (Vec<_>, Vec<_>) = failed.partition(|(_, file, _)| *file == "careless.yaml");
    for (check, file, what) in ours {
        let is_known = |(known, case, _): &(&str, &str, &str)| *known == check && file == format!("{case}-helm4.yaml");
        assert!(EXCEPTIONS.iter().any(is_known), "{check} in {file}: {what}");
    }
    assert!(careless.iter().any(|(check, _, _)| *check == "CKV_K8S_19"), "it finds what there is: {careless:#?}");
    let files: BTreeSet<_> =
        items(&report["results"]["passed_checks"]).map(|it| it["file_path"].as_str().unwrap()).collect();
    assert_eq!(files.len(), CASES.len() + 1, "{files:?}");
}
