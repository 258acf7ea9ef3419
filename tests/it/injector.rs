//! The admission webhook, as an API server asks it: the real binary, over TLS.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openexec::inject::settings::Sidecar;
use openexec::injector::settings::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::{must_have_the_documented_fields, must_please_prometheus};
use crate::inject::{pod, settings_text};
use crate::listen::Offer;
use crate::network::Authority;
use crate::support::{Client, PATIENCE, Process, free, metric, tool};

pub struct Injector {
    process: Process,
    authority: Authority,
    directory: TempDir,
}

fn command(path: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
    command.env_clear().arg("injector").arg("--settings").arg(path);
    command
}

impl Injector {
    pub fn start() -> Self {
        let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
        let (address, admin) = (free(), free());
        let path = directory.path().join("injector.yaml");
        let (certificate, key) = authority.issue("localhost", 10);
        std::fs::copy(certificate, directory.path().join("tls.pem")).unwrap();
        std::fs::copy(key, directory.path().join("tls.key")).unwrap();
        let text = settings_text()
            .replace(
                "listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}",
                &format!("listen: {address}\nadmin: {{listen: {admin}}}"),
            )
            .replace("tls.pem", directory.path().join("tls.pem").to_str().unwrap())
            .replace("tls.key", directory.path().join("tls.key").to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        let mut command = command(&path);
        let process = Process::start_at(command.env("OPENEXEC_ADMIN_LISTEN", admin), address.parse().unwrap());
        Injector { process, authority, directory }
    }

    fn settings(&self) -> PathBuf {
        self.directory.path().join("injector.yaml")
    }

    pub fn admin(&self) -> SocketAddr {
        self.process.admin
    }

    fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// The status and the body of an answer.
    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        self.send(&format!(
            "POST {path}?timeout=10s HTTP/1.1\r\nHost: openexec-injector.openexec.svc\r\nContent-Type: application/json\r\n\
             Accept: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn send(&self, request: &str) -> (u16, Value) {
        let mut stream = Offer::new(&self.authority).connect(self.address());
        // It may have answered, and closed its side, before the end.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    /// The response to a pod that is created.
    pub fn review(&self, path: &str, pod: &Value) -> Value {
        let (status, document) = self.post(path, &review(pod).to_string());
        assert_eq!(
            (status, &document["apiVersion"], &document["kind"]),
            (200, &json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(document["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        document["response"].clone()
    }

    fn must_inject(&self, path: &str, pod: &Value) -> (Value, Value) {
        let response = self.review(path, pod);
        assert!(response["allowed"] == true && response["patchType"] == "JSONPatch", "{response}");
        (patched(pod, &response), response)
    }

    fn count(&self, outcome: &str, reason: &str) -> f64 {
        metric(
            self.process.admin,
            &format!("openexec_injector_reviews_total{{outcome=\"{outcome}\",reason=\"{reason}\"}}"),
        )
    }

    /// An innocent pod still gets its gate.
    fn must_be_well(&self) {
        self.must_inject("/inject", &pod(&json!({})));
    }
}

/// As an API server of 1.29 and later sends it.
fn review(pod: &Value) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "payments",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["system:serviceaccounts"]},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

fn patched(pod: &Value, response: &Value) -> Value {
    let Some(patch) = response["patch"].as_str() else { return pod.clone() };
    let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

/// Pods as controllers make them, and one that nobody made.
fn pods() -> Vec<(&'static str, Value)> {
    let owned = |kind: &str, version: &str, name: &str| {
        let mut pod = pod(&json!({}));
        let owner = json!([{"apiVersion": version, "kind": kind, "name": name, "uid": "d9607e19-f88f-11e6-a518-42010a800195", "controller": true, "blockOwnerDeletion": true}]);
        pod["metadata"] = json!({"generateName": format!("{name}-"), "creationTimestamp": null, "labels": {"app": name}, "ownerReferences": owner});
        pod["spec"]["serviceAccountName"] = "default".into();
        pod["spec"]["volumes"] =
            json!([{"name": "kube-api-access-x", "projected": {"sources": [], "defaultMode": 420}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "kube-api-access-x", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
        pod
    };
    let deployment = owned("ReplicaSet", "apps/v1", "mail-6f7d9");
    let mut stateful = owned("StatefulSet", "apps/v1", "ledger");
    stateful["metadata"]["name"] = "ledger-0".into();
    stateful["spec"]["terminationGracePeriodSeconds"] = 10.into();
    let mut job = owned("Job", "batch/v1", "settle");
    job["spec"]["restartPolicy"] = "OnFailure".into();
    job["spec"]["containers"][0].as_object_mut().unwrap().remove("ports");
    let mut redirected = owned("ReplicaSet", "apps/v1", "legacy");
    redirected["metadata"]["annotations"] = json!({"config.openexec.dev/traffic": "redirect"});
    let mut classic = pod(&json!({"config.openexec.dev/sidecar": "container"}));
    classic["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}});
    vec![("deployment", deployment), ("stateful", stateful), ("job", job), ("redirect", redirected), ("bare", classic)]
}

#[test]
fn every_kind_of_pod_comes_back_with_a_gate_and_a_second_review_changes_nothing() {
    let injector = Injector::start();
    let mut files = Vec::new();
    for (name, pod) in pods() {
        for path in ["/inject", "/inject/enforced"] {
            let (once, _) = injector.must_inject(path, &pod);
            assert!(once.pointer("/metadata/annotations/openexec.dev~1status").is_some());
            let again = injector.review(path, &once);
            assert!(
                again["allowed"] == true && again.get("patch").is_none() && again.get("patchType").is_none(),
                "{again}"
            );
            let file = injector.directory.path().join(format!("{name}.json"));
            let mut named = once.clone();
            named["metadata"]["name"] = name.into();
            std::fs::write(&file, named.to_string()).unwrap();
            files.push(file);
        }
    }
    let mut command = Command::new(tool("kubernetes/bin/kubernetes-validate"));
    let output = command.arg("--strict").args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    assert_eq!((injector.count("injected", ""), injector.count("unchanged", "")), (10.0, 10.0));
    must_please_prometheus(&Client::connect(injector.process.admin).get("/metrics"));
    assert_eq!(metric(injector.process.admin, "openexec_injector_local_ledgers_total"), 0.0);
    let (_, response) = injector.must_inject("/inject/enforced", &pod(&json!({"openexec.dev/ledger": "local"})));
    assert!(response["warnings"][0].as_str().unwrap().contains("executed again"), "{response}");
    assert_eq!(metric(injector.process.admin, "openexec_injector_local_ledgers_total"), 1.0);
}

#[test]
fn what_is_left_alone_and_what_is_refused_is_counted_by_reason() {
    let injector = Injector::start();
    let mut mirror = pod(&json!({"kubernetes.io/config.mirror": "1"}));
    mirror["spec"]["hostNetwork"] = true.into();
    let mut out = pod(&json!({}));
    out["metadata"]["labels"]["openexec.dev/inject"] = "disabled".into();
    for (path, pod, reason) in [
        ("/inject", &mirror, "mirror_pod"),
        ("/inject/enforced", &mirror, "mirror_pod"),
        ("/inject", &out, "opted_out"),
    ] {
        let before = injector.count("skipped", reason);
        let response = injector.review(path, pod);
        assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
        assert_eq!(injector.count("skipped", reason), before + 1.0);
    }
    injector.must_inject("/inject/enforced", &out);
    // Nobody should ask about these: they stay as they are.
    for (pointer, value) in [
        ("/request/operation", json!("UPDATE")),
        ("/request/kind/kind", json!("Deployment")),
        ("/request/kind/group", json!("apps")),
        ("/request/subResource", json!("ephemeralcontainers")),
    ] {
        let mut review = review(&pod(&json!({})));
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        review.pointer_mut(parent).unwrap()[name] = value;
        let (status, document) = injector.post("/inject", &review.to_string());
        assert_eq!(
            (status, &document["response"]["allowed"], document["response"].get("patch")),
            (200, &json!(true), None),
            "{pointer}"
        );
    }
    assert_eq!(injector.count("skipped", "not_a_pod_creation"), 4.0);
    let mut net = pod(&json!({}));
    net["spec"]["hostNetwork"] = true.into();
    for (path, pod, reason, words) in [
        ("/inject", &net, "host_network", "hostNetwork"),
        ("/inject/enforced", &pod(&json!({"config.openexec.dev/mode": "demo"})), "demo_enforced", "enforced"),
        (
            "/inject",
            &pod(&json!({"config.openexec.dev/mod": "demo"})),
            "annotations",
            "config.openexec.dev/mod is unknown",
        ),
        ("/inject", &json!({"spec": 1}), "not_a_pod", "this is no pod"),
    ] {
        let response = injector.review(path, pod);
        assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)), "{reason}");
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("openexec: ") && message.contains(words), "{message}");
        assert_eq!(injector.count("refused", reason), 1.0);
        injector.must_be_well();
    }
}

#[test]
fn what_is_no_review_is_an_error_and_the_next_one_is_answered() {
    let injector = Injector::start();
    let good = review(&pod(&json!({})));
    let mut old = good.clone();
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let mut empty = good.clone();
    empty.as_object_mut().unwrap().remove("request");
    let mut another = good.clone();
    another["kind"] = "TokenReview".into();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, words) in [
        (old.to_string(), "only AdmissionReview of admission.k8s.io/v1"),
        (another.to_string(), "only AdmissionReview of admission.k8s.io/v1"),
        (empty.to_string(), "has no request"),
        ("{".to_owned(), "no AdmissionReview"),
        (deep, "no AdmissionReview"),
        ("null".to_owned(), "no AdmissionReview"),
    ] {
        let (status, problem) = injector.post("/inject", &body);
        assert!(status == 422 && problem["detail"].as_str().unwrap().contains(words), "{status} {problem}");
        injector.must_be_well();
    }
    assert_eq!(injector.count("failed", "malformed"), 6.0);
    let huge = format!(
        "POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n\"{}",
        5 << 20,
        "x".repeat(1_000)
    );
    assert_eq!(injector.send(&huge).0, 413);
    assert_eq!(injector.post("/other", &good.to_string()).0, 404);
    assert_eq!(injector.send("GET /inject HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").0, 405);
    let text = good.to_string();
    let untyped = format!(
        "POST /inject HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    assert_eq!(injector.send(&untyped).0, 415);
    injector.must_be_well();
    // Without TLS there is nothing, and the admin listener injects nothing.
    let mut plain = Client::connect(injector.address());
    assert!(plain.send("POST /inject HTTP/1.1\r\nHost: x\r\n\r\n").is_none());
    let mut admin = Client::connect(injector.process.admin);
    assert_eq!(admin.get("/livez").text(), "ok\n");
    admin.post("/inject", &text).unwrap().must_be(405, "method_not_allowed", "");
    injector.must_be_well();
}

#[test]
fn settings_and_certificate_are_read_again_and_a_mistake_changes_nothing() {
    let mut injector = Injector::start();
    let text = std::fs::read_to_string(injector.settings()).unwrap();
    let until = |injector: &Injector, result: &str, count: f64| {
        let line = format!("openexec_config_reloads_total{{result=\"{result}\"}}");
        let deadline = Instant::now() + PATIENCE;
        while metric(injector.process.admin, &line) != count {
            assert!(Instant::now() < deadline, "{line}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    std::fs::write(injector.settings(), text.replace("config_map: openexec", "config_map: [openexec]")).unwrap();
    until(&injector, "refused", 1.0);
    injector.must_be_well();
    std::fs::write(injector.settings(), text.replace("config_map: openexec", "config_map: another")).unwrap();
    until(&injector, "applied", 1.0);
    let (pod, _) = injector.must_inject("/inject", &pod(&json!({})));
    assert!(pod.to_string().contains("\"name\":\"another\""));
    let renewed = Authority::new();
    let (certificate, key) = renewed.issue("localhost", 10);
    std::fs::copy(certificate, injector.directory.path().join("tls.pem")).unwrap();
    std::fs::copy(key, injector.directory.path().join("tls.key")).unwrap();
    until(&injector, "applied", 2.0);
    injector.authority = renewed;
    injector.must_be_well();
    // Other addresses need another process.
    std::fs::write(injector.settings(), text.replace("listen: ", "listen: 127.0.0.1:1 # ")).unwrap();
    until(&injector, "refused", 2.0);
    injector.must_be_well();
}

#[test]
fn it_stops_when_nobody_asks_it_any_more() {
    let injector = Injector::start();
    injector.process.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while Client::connect(injector.process.admin).get("/readyz").status == 200 {
        assert!(Instant::now() < deadline);
    }
    // An API server that has not heard of it yet is answered.
    injector.must_be_well();
    injector.process.signal("TERM");
    let (code, said) = injector.process.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"outcome\":\"injected\"") && said.contains("\"namespace\":\"payments\""), "{said}");
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let reviews: Vec<Value> = lines.filter(|line| line["target"] == "openexec::review").collect();
    reviews.iter().for_each(must_have_the_documented_fields);
    assert!(!said.contains("registry.example/app"), "nothing of the pod but its name");
}

#[test]
fn what_is_wrong_with_the_settings_is_listed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("injector.yaml");
    for (text, problems) in [
        ("", vec!["sidecar.image is missing"]),
        ("sidecar: {}", vec!["\"image\""]),
        (
            "listen: here\nsidecar: {image: x, ports: {gate: 1, admin: 1}, user: 0, drain_wait: 1500ms}",
            vec![
                ":1: listen must be an IP address and a port",
                ":2: sidecar.ports.admin must be another one",
                ":2: sidecar.user must not be root",
                ":2: sidecar.drain_wait must be whole seconds",
                "tls is missing",
            ],
        ),
        (
            "sidecar: {image: x, colour: red, mode: shield}",
            vec!["sidecar.colour is unknown", "sidecar.mode must be one of: demo, clawshield"],
        ),
        ("tls: {certificate: /nowhere, key: /nowhere}\nsidecar: {image: x}", vec!["tls: /nowhere"]),
    ] {
        std::fs::write(&path, text).unwrap();
        let output = command(&path).arg("--check").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        for problem in problems {
            assert!(said.contains(problem), "{problem:?} is not in {said}");
        }
    }
    let injector = Injector::start();
    assert!(command(&injector.settings()).arg("--check").output().unwrap().status.success());
    let second = command(&injector.settings()).output().unwrap();
    assert_eq!(second.status.code(), Some(69), "{}", String::from_utf8_lossy(&second.stderr));
}

#[test]
fn the_example_settings_are_the_defaults() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = Settings::load_sidecar(&root.join("config/injector.yaml")).unwrap();
    assert_eq!(format!("{example:?}"), format!("{:?}", Sidecar::of(&example.image)));
    let printed = Command::new(env!("CARGO_BIN_EXE_openexec")).args(["schema", "injector"]).output().unwrap();
    let kept = std::fs::read_to_string(root.join("config/injector.schema.json")).unwrap();
    assert!(
        String::from_utf8(printed.stdout).unwrap() == kept,
        "openexec schema injector > config/injector.schema.json"
    );
}
