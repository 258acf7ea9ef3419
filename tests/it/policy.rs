//! The chart's ValidatingAdmissionPolicy: its expressions, on pods that must pass and pods that must not.

mod bad;
mod pods;

use std::path::Path;
use std::process::Command;

use openexec::inject::{Namespace, Outcome};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::bad::{BAD, BAD_REDIRECTED, Change, EPHEMERAL, IMAGES, ONE, REDIRECT};
use self::pods::{IMAGE, app, classic, gate, list, pod, redirected, remove};
use crate::cli::{run, text};
use crate::inject;
use crate::support::tool;

/// The chart, as Helm renders it.
fn render(helm: &str, kubernetes: &str, values: &[&str]) -> String {
    let mut command = Command::new(tool(helm));
    command.args(["template", "gates", "helm/openexec", "--namespace", "openexec", "--kube-version", kubernetes]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let (repository, digest) = IMAGE.split_once('@').unwrap();
    let image = [format!("image.repository={repository}"), format!("image.digest={digest}")];
    for value in image.iter().map(String::as_str).chain(values.iter().copied()) {
        command.args(["--set", value]);
    }
    let output = run(&mut command, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

struct Policy {
    directory: TempDir,
}

impl Policy {
    fn of(rendered: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("policy.yaml"), rendered).unwrap();
        Policy { directory }
    }

    /// What it says of each request: the messages of the rules that deny it, or nothing where it does not apply.
    fn judge(&self, requests: &[Value]) -> Vec<Option<Vec<String>>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/policy/evaluate.py");
        let mut command = Command::new(tool("kubernetes").join("bin/python"));
        command.arg(script).arg(self.directory.path().join("policy.yaml"));
        let output = run(&mut command, &json!(requests).to_string());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn must_deny(&self, request: &Value, message: &str) {
        let denied = self.judge(std::slice::from_ref(request)).remove(0).expect("it applies");
        assert!(denied.len() == 1 && denied[0].contains(message), "{denied:?}");
    }

    #[track_caller]
    fn must_allow(&self, request: &Value) {
        assert_eq!(self.judge(std::slice::from_ref(request)), [Some(Vec::new())]);
    }
}

fn create(pod: &Value) -> Value {
    let somebody = json!({"username": "ada", "groups": ["system:authenticated"]});
    json!({"request": {"operation": "CREATE", "userInfo": somebody}, "object": pod, "oldObject": null})
}

fn update(old: &Value, pod: &Value) -> Value {
    let mut request = create(pod);
    request["request"]["operation"] = json!("UPDATE");
    request["oldObject"] = old.clone();
    request
}

#[test]
fn injected_pods_pass() {
    let policy = Policy::of(&render("helm3", "1.30.0", &[]));
    let mut without_much = pod();
    for member in ["volumes", "securityContext"] {
        remove(&mut without_much["spec"], member);
    }
    remove(&mut without_much["metadata"], "annotations");
    let mut opted_out = pod();
    opted_out["metadata"]["labels"]["openexec.dev/inject"] = json!("disabled");
    let mut harmless = pod();
    app(&mut harmless)["securityContext"]["capabilities"]["add"] = json!(["NET_BIND_SERVICE"]);
    app(&mut harmless)["securityContext"]["privileged"] = json!(false);
    gate(&mut harmless)["ports"][0]["hostPort"] = json!(5000);
    gate(&mut harmless)["envFrom"] = json!([]);
    let pods = [pod(), classic(), redirected(), without_much, opted_out, harmless];
    let requests: Vec<_> = pods.iter().map(create).collect();
    assert_eq!(policy.judge(&requests), vec![Some(Vec::new()); pods.len()]);
}

/// Whatever a pod's annotations ask for.
#[test]
fn what_the_injector_makes_passes() {
    let policy =
        Policy::of(&render("helm4", "1.33.0", &[&format!("injector.sidecar.image={}", inject::settings().image)]));
    let annotations = [
        json!({}),
        json!({"config.openexec.dev/sidecar": "container"}),
        json!({"config.openexec.dev/traffic": "redirect", "config.openexec.dev/allow-inbound-ports": "9090, 9091"}),
        json!({"config.openexec.dev/traffic": "redirect", "config.openexec.dev/upstream-scheme": "https"}),
        json!({"config.openexec.dev/traffic": "redirect", "config.openexec.dev/sidecar": "container"}),
        json!({"config.openexec.dev/upstream-socket": "/run/openexec/app.sock"}),
        json!({"config.openexec.dev/admin-secret": "mine", "config.openexec.dev/approval-form": "hmac"}),
        json!({"openexec.dev/ledger": "local", "config.openexec.dev/gate-port": "7000"}),
    ];
    let requests: Vec<_> = annotations.iter().map(|asked| create(&injected(&inject::pod(asked)))).collect();
    assert_eq!(policy.judge(&requests), vec![Some(Vec::new()); annotations.len()]);
}

fn injected(pod: &Value) -> Value {
    match openexec::inject::inject(pod, &inject::settings(), Namespace::Enforced).unwrap() {
        Outcome::Injected(injected) => injected.pod,
        Outcome::Skipped(skip) => panic!("skipped: {skip:?}"),
    }
}

#[test]
fn a_pod_with_a_way_past_the_sidecar_is_denied_by_the_rule_against_it() {
    let policy = Policy::of(&render("helm4", "1.33.0", &[]));
    let changed = |mut pod: Value, change: &Change| {
        change(&mut pod);
        create(&pod)
    };
    let bad = BAD.iter().map(|(name, rule, change)| (String::from(*name), *rule, changed(pod(), change)));
    let redirected = BAD_REDIRECTED
        .iter()
        .map(|(name, change)| (format!("a redirect {name}"), REDIRECT, changed(redirected(), change)));
    // One of them as a container; the two that are about init containers are not.
    let of_classic = BAD
        .iter()
        .filter(|(name, ..)| !name.contains("init container") && !name.starts_with("two"))
        .filter(|(_, rule, _)| *rule != ONE)
        .map(|(name, rule, change)| (format!("{name} (container)"), *rule, changed(classic(), change)));
    let cases: Vec<_> = bad.chain(redirected).chain(of_classic).collect();
    assert!(cases.len() > 100, "{}", cases.len());
    let requests: Vec<_> = cases.iter().map(|(_, _, request)| request.clone()).collect();
    for ((name, rule, _), denied) in cases.iter().zip(policy.judge(&requests)) {
        let denied = denied.expect("it applies");
        assert!(denied.len() == 1 && denied[0].contains(rule), "{name}: {denied:?}");
    }
    policy.must_allow(&create(&pod()));
}

/// Everything that the expressions read may be missing, except what the API server refuses pods without.
#[test]
fn an_expression_errs_for_no_pod_that_lacks_something() {
    fn without_each(value: &Value, all: &Value, path: &mut Vec<String>, found: &mut Vec<Value>) {
        let members: Vec<String> = match value {
            Value::Object(members) => members.keys().cloned().collect(),
            Value::Array(items) => (0..items.len()).map(|n| n.to_string()).collect(),
            _ => return,
        };
        for member in members {
            path.push(member.clone());
            // A pod has these of everything: the API server sees to it before.
            if !["name", "mountPath", "type", "fieldPath", "containers", "spec", "metadata"].contains(&member.as_str())
            {
                let mut less = all.clone();
                let above =
                    less.pointer_mut(&path[..path.len() - 1].iter().fold(String::new(), |at, one| at + "/" + one));
                match above.unwrap() {
                    Value::Object(members) => drop(members.remove(&member)),
                    Value::Array(items) => drop(items.remove(member.parse().unwrap())),
                    _ => unreachable!(),
                }
                found.push(create(&less));
            }
            let below = if let Value::Array(items) = value {
                &items[member.parse::<usize>().unwrap()]
            } else {
                &value[&member]
            };
            without_each(below, all, path, found);
            path.pop();
        }
    }
    let policy = Policy::of(&render("helm3", "1.33.0", &[]));
    let mut requests = Vec::new();
    without_each(&redirected(), &redirected(), &mut Vec::new(), &mut requests);
    assert!(requests.len() > 80, "{}", requests.len());
    for (request, denied) in requests.iter().zip(policy.judge(&requests)) {
        let denied = denied.expect("it applies");
        assert!(denied.iter().all(|message| !message.starts_with("error")), "{denied:?}: {request}");
    }
}

#[test]
fn a_running_pod_cannot_be_changed_into_one_with_a_way_past() {
    let policy = Policy::of(&render("helm3", "1.30.0", &[]));
    let mut other_image = pod();
    gate(&mut other_image)["image"] = json!("registry.example/mine:1");
    policy.must_deny(&update(&pod(), &other_image), IMAGES);
    let mut debugged = pod();
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "image": "busybox"}]);
    policy.must_deny(&update(&pod(), &debugged), EPHEMERAL);
    let mut released = pod();
    app(&mut released)["image"] = json!("mail:2");
    policy.must_allow(&update(&pod(), &released));
    // From before the namespace was enforced: its finalizers can be taken away, and nothing else be changed.
    let mut before = pod();
    list(&mut before, "initContainers").pop();
    let mut let_go = before.clone();
    let_go["metadata"]["labels"]["app"] = json!("other");
    assert_eq!(policy.judge(&[update(&before, &let_go)]), [None]);
    app(&mut let_go)["image"] = json!("mail:2");
    policy.must_deny(&update(&before, &let_go), ONE);
}

#[test]
fn only_a_kubelet_makes_a_pod_that_is_let_through_as_a_mirror() {
    let policy = Policy::of(&render("helm3", "1.30.0", &[]));
    let mut mirror = pod();
    list(&mut mirror, "initContainers").pop();
    let mut by_kubelet = create(&mirror);
    by_kubelet["request"]["userInfo"]["groups"] = json!(["system:nodes", "system:authenticated"]);
    policy.must_deny(&by_kubelet, ONE);
    by_kubelet["object"]["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("0123");
    assert_eq!(policy.judge(std::slice::from_ref(&by_kubelet)), [None]);
    by_kubelet["request"]["userInfo"]["groups"] = json!(["system:authenticated"]);
    policy.must_deny(&by_kubelet, ONE);
    remove(&mut by_kubelet["request"]["userInfo"], "groups");
    policy.must_deny(&by_kubelet, ONE);
    policy.must_allow(&create(&pod()));
}

#[test]
fn what_the_values_allow_is_allowed_and_no_more() {
    let debugged = Policy::of(&render("helm3", "1.30.0", &["injector.policy.allowEphemeralContainers=true"]));
    let mut pod_in = pod();
    pod_in["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "image": "busybox"}]);
    debugged.must_allow(&create(&pod_in));
    let ephemeral = "an ephemeral container in this namespace";
    for change in [
        json!({"name": "openexec"}),
        json!({"name": "x", "securityContext": {"privileged": true}}),
        json!({"name": "x", "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}),
    ] {
        pod_in["spec"]["ephemeralContainers"][0] = change;
        debugged.must_deny(&create(&pod_in), ephemeral);
    }

    let other = Policy::of(&render(
        "helm3",
        "1.30.0",
        &["injector.sidecar.image=registry.example/other:1", "injector.sidecar.user=1234"],
    ));
    let mut pod_in = pod();
    gate(&mut pod_in)["image"] = json!("registry.example/other:1");
    gate(&mut pod_in)["securityContext"]["runAsUser"] = json!(1234);
    other.must_allow(&create(&pod_in));
    gate(&mut pod_in)["image"] = json!(IMAGE);
    other.must_deny(&create(&pod_in), "must be registry.example/other:1, and is registry.example/openexec@");
}

/// Where it applies, and that its word counts.
#[test]
fn the_policy_is_bound_to_enforced_namespaces() {
    let read = |rendered: &str| -> Vec<Value> {
        let script = "import json, sys, yaml; json.dump([d for d in yaml.safe_load_all(sys.stdin) if d], sys.stdout)";
        let output = run(Command::new(tool("kubernetes").join("bin/python")).args(["-c", script]), rendered);
        let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let is_policy = |document: &Value| document["kind"].as_str().unwrap().starts_with("ValidatingAdmissionPolicy");
        documents.into_iter().filter(is_policy).collect()
    };
    for (helm, kubernetes, api) in [
        ("helm3", "1.29.0", "v1beta1"),
        ("helm4", "1.29.4-eks", "v1beta1"),
        ("helm3", "1.30.0-rc.1", "v1"),
        ("helm4", "1.33.0", "v1"),
    ] {
        let documents = read(&render(helm, kubernetes, &["injector.webhook.excludedNamespaces={repairs}"]));
        let [policy, binding] = &documents[..] else { panic!("{documents:?}") };
        for document in [policy, binding] {
            assert_eq!(document["apiVersion"], json!(format!("admissionregistration.k8s.io/{api}")), "{kubernetes}");
        }
        assert_eq!(policy["spec"]["failurePolicy"], json!("Fail"));
        assert_eq!(
            policy["spec"]["matchConstraints"]["resourceRules"],
            json!([{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["pods", "pods/ephemeralcontainers"], "scope": "Namespaced",
            }])
        );
        assert_eq!(
            (&binding["spec"]["policyName"], &binding["spec"]["validationActions"]),
            (&policy["metadata"]["name"], &json!(["Deny", "Audit"]))
        );
        assert_eq!(
            binding["spec"]["matchResources"]["namespaceSelector"],
            json!({
                "matchLabels": {"openexec.dev/inject": "enforced"},
                "matchExpressions": [{
                    "key": "kubernetes.io/metadata.name", "operator": "NotIn",
                    "values": ["kube-system", "openexec", "repairs"],
                }],
            })
        );
    }
    assert!(read(&render("helm3", "1.30.0", &["injector.policy.enabled=false"])).is_empty());
}
