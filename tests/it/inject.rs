//! Pods as they are written, and as they come out with a gate. The files are in `tests/inject`: what comes out of each is
//! beside it, and is held against Kubernetes' own schemas.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use openexec::inject::settings::Sidecar;
use openexec::inject::{Injected, Namespace, Outcome, Refused, Skip, inject};
use serde_json::{Value, json};

use crate::support::{Setup, tool};

mod any;

/// Each as it is written, and what comes out.
const FILES: [(&str, &str); 4] = [
    ("deployment.yaml", "deployment.injected.yaml"),
    ("redirect.yaml", "redirect.injected.yaml"),
    ("jobs.yaml", "jobs.injected.yaml"),
    ("pods.json", "pods.injected.yaml"),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn filter(text: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
    command.env_clear().arg("inject").args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn injected(text: &str) -> (String, String) {
    let output = filter(text, &["--settings", path("settings.yaml").to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

pub fn settings_text() -> String {
    read("settings.yaml")
}

pub fn settings() -> Sidecar {
    let settings: Value = serde_saphyr::from_str(&read("settings.yaml")).unwrap();
    serde_json::from_value(settings["sidecar"].clone()).unwrap()
}

/// An ordinary app's.
pub fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": annotations, "labels": {"app": "app"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1", "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

fn give(pod: &Value) -> Result<Injected, Refused> {
    match inject(pod, &settings(), Namespace::Enabled)? {
        Outcome::Injected(injected) => Ok(*injected),
        Outcome::Skipped(skip) => panic!("skipped: {skip:?}"),
    }
}

/// The gate's container.
fn gate(pod: &Value) -> Value {
    let containers =
        ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().cloned().unwrap_or_default());
    let mut found = containers.into_iter().flatten().filter(|container| container["name"] == "openexec");
    let gate = found.next().expect("a gate");
    assert!(found.next().is_none(), "two gates");
    gate
}

fn variable(pod: &Value, name: &str) -> Option<String> {
    let gate = gate(pod);
    let mut found = gate["env"].as_array().unwrap().iter().filter(|variable| variable["name"] == name);
    let value = found.next().map(|variable| variable["value"].as_str().unwrap().to_owned());
    assert!(found.next().is_none(), "{name} twice");
    value
}

#[test]
fn manifests_come_out_as_they_are_kept_here() {
    for (written, kept) in FILES {
        let (text, _) = injected(&read(written));
        assert!(text == read(kept), "{written}: the difference is\n{}", difference(&text, &path(kept)));
    }
}

fn difference(text: &str, kept: &Path) -> String {
    let mut child =
        Command::new("diff").arg("-u").arg(kept).arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn what_came_out_comes_out_the_same_again() {
    for (_, kept) in FILES {
        let text = read(kept);
        assert!(injected(&text).0 == text, "{kept}");
    }
    // Whatever else there is, it is as it was: an app's own manifest comes out byte for byte where it opts out.
    let text = "# as it is\napiVersion:   v1\nkind: Pod\nmetadata: {labels: {openexec.dev/inject: disabled}}\nspec: {containers: [{name: x}]}";
    assert_eq!(injected(text).0, text);
    assert_eq!(injected("").0, "");
    let crd = "---\n# nothing\n---\napiVersion: x.example/v1\nkind: Deployment\nspec: {template: {spec: 0644}}\n...\n";
    assert_eq!(injected(crd).0, crd);
}

#[test]
fn kubernetes_would_take_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (_, kept) in FILES {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&read(kept)).unwrap();
        // It knows no lists.
        let objects = documents.into_iter().flat_map(|document| match document.get("items") {
            Some(items) => items.as_array().unwrap().clone(),
            None => vec![document],
        });
        for object in objects {
            files.push(directory.path().join(format!("{}.json", files.len())));
            std::fs::write(files.last().unwrap(), object.to_string()).unwrap();
        }
    }
    assert_eq!(files.len(), 9);
    let validate = |files: &[PathBuf], version: &str| {
        let mut command = Command::new(tool("kubernetes/bin/kubernetes-validate"));
        let output = command.args(["--strict", "-k", version]).args(files).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    for version in ["1.29", "1.37"] {
        let (is_good, said) = validate(&files, version);
        assert!(is_good && said.matches(" passed for ").count() == files.len(), "{said}");
    }
    // It looks.
    let bad = directory.path().join("bad.json");
    let text = std::fs::read_to_string(&files[1]).unwrap();
    std::fs::write(&bad, text.replace(r#""restartPolicy":"Always""#, r#""restartPolice":"Always""#)).unwrap();
    assert!(!validate(&[bad], "1.37").0);
}

#[test]
fn a_pod_that_cannot_have_a_gate_stops_everything() {
    let text = format!(
        "{}---\n{}\n---\n{}",
        read("deployment.yaml"),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "net"}, "spec": {"hostNetwork": true, "containers": [{}]}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "typo", "annotations": {}}, "spec": {"template":
            {"metadata": {"annotations": {"config.openexec.dev/upstram-port": "1", "config.openexec.dev/mode": "of\u{1b}f"}}, "spec": {"containers": [{}]}}}}),
    );
    let output = filter(&text, &["--settings", path("settings.yaml").to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(65), 0), "{said}");
    for line in [
        "openexec: Pod/net: hostNetwork",
        "openexec: Job/typo: config.openexec.dev/mode must be one of: demo, clawshield; config.openexec.dev/upstram-port is unknown",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    let broken = filter("a: b\n---\nkind: [Pod\n", &["--image", "x"]);
    assert_eq!(broken.status.code(), Some(65));
    assert!(
        String::from_utf8(broken.stderr).unwrap().contains("openexec: line 3: unclosed bracket '[' at line 3"),
        "its line in the file"
    );
    assert_eq!(filter("", &[]).status.code(), Some(2));
    assert_eq!(filter("", &["--image", "with space"]).status.code(), Some(2));
    assert_eq!(filter("", &["--settings", "/nowhere"]).status.code(), Some(78));
    let text = pod(&json!({"config.openexec.dev/ledger-secret": "shared"})).to_string();
    let output = filter(&text, &["--image", "registry.example/openexec:1"]);
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("secretName: shared"));
    let enforced = text.replace("\"app\":\"app\"", "\"openexec.dev/inject\":\"disabled\"");
    let output = filter(&enforced, &["--image", "registry.example/openexec:1", "--enforced"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("disabled does nothing here"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("name: openexec-admin"));
}

#[test]
fn the_gate_accepts_what_it_is_given() {
    let mut inputs: Vec<Value> =
        [json!({}), json!({"openexec.dev/ledger": "local"}), json!({"config.openexec.dev/mode": "demo"})]
            .iter()
            .map(pod)
            .collect();
    inputs
        .push(pod(&json!({"config.openexec.dev/approval-form": "hmac", "config.openexec.dev/admin-secret": "admin"})));
    inputs.push(pod(&json!({"config.openexec.dev/upstream-socket": "/run/openexec/app.sock"})));
    let probe = json!({"httpGet": {"path": "/$(A)?x=\"y\"", "port": "http", "httpHeaders": [{"name": "X-A", "value": "$$(B)"}]}});
    inputs[0]["spec"]["containers"][0]["livenessProbe"] = probe;
    let setup = Setup::demo();
    let root = setup.directory.path();
    let keys = root.join("keys");
    for directory in ["config", "ledger", "keys", "admin"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    let made = Command::new(env!("CARGO_BIN_EXE_openexec"))
        .args(["keys", "generate"])
        .arg(keys.join("pair"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::rename(keys.join("pair.pub.pem"), keys.join("public-key.pem")).unwrap();
    for (name, text) in [
        ("config/openexec.yaml", "actions: {mail.send: {upstream: app, path: /send}}\n"),
        ("ledger/url", "postgresql://gate@db.example/gate?sslmode=verify-full\n"),
        ("keys/secret-key", "a-secret-key-of-32-bytes-or-more-for-a-test\n"),
        ("admin/token", "a-token-of-16-characters-or-more\n"),
    ] {
        std::fs::write(root.join(name), text).unwrap();
    }
    for input in inputs {
        let pod = give(&input).unwrap().pod;
        let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
        command.env_clear().arg("validate").current_dir(root);
        for variable in gate(&pod)["env"].as_array().unwrap() {
            // As Kubernetes expands it; the pod's address is the kubelet's to know.
            let value =
                variable["value"].as_str().map_or("10.1.2.3,fd00::7".to_owned(), |value| value.replace("$$", "$"));
            let value = value.replace("/etc/openexec", root.to_str().unwrap());
            command.env(variable["name"].as_str().unwrap(), value);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{input}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_second_pass_begins_with_what_was_written() {
    let mut written = pod(&json!({"config.openexec.dev/upstream-port": "http"}));
    let app = &mut written["spec"]["containers"][0];
    app["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 3});
    app["lifecycle"] = json!({"postStart": {"httpGet": {"path": "/started", "port": "http"}}});
    let once = give(&written).unwrap().pod;
    assert_eq!(
        once["spec"]["containers"][0]["lifecycle"]["postStart"]["httpGet"]["port"], 8080,
        "its name is the gate's"
    );
    assert_eq!(give(&once).unwrap().pod, once);
    // Another webhook comes between: its container goes behind the gate too.
    let mut changed = once.clone();
    let other =
        json!({"name": "mesh", "image": "registry.example/mesh:1", "livenessProbe": {"tcpSocket": {"port": 15020}}});
    changed["spec"]["containers"].as_array_mut().unwrap().push(other.clone());
    changed["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "late", "image": "registry.example/late:1"}));
    changed["metadata"]["annotations"]["mesh.example/injected"] = "true".into();
    let twice = give(&changed).unwrap().pod;
    assert_eq!(twice["spec"]["containers"][1]["livenessProbe"]["httpGet"]["path"], "/probes/mesh/liveness");
    let probes: Value = serde_json::from_str(&variable(&twice, "OPENEXEC_APP_PROBES").unwrap()).unwrap();
    assert_eq!(probes["app/readiness"], json!({"address": "http://127.0.0.1:8080", "path": "/ready", "timeout": "1s"}));
    assert_eq!(probes["mesh/liveness"]["address"], "http://127.0.0.1:15020");
    assert_eq!(twice["spec"]["initContainers"][1]["name"], "openexec", "behind the other one");
    assert_eq!(give(&twice).unwrap().pod, twice);
    // The same as if everything had been there at once.
    let mut all = written.clone();
    all["spec"]["containers"].as_array_mut().unwrap().push(other);
    all["spec"]["initContainers"] = json!([{"name": "late", "image": "registry.example/late:1"}]);
    all["metadata"]["annotations"]["mesh.example/injected"] = "true".into();
    let mut at_once = give(&all).unwrap().pod;
    // The hook's port is a number since the first pass.
    assert_eq!(at_once["metadata"]["annotations"], twice["metadata"]["annotations"]);
    at_once["metadata"]["annotations"] = twice["metadata"]["annotations"].clone();
    assert_eq!(at_once, twice);
}

/// As Kubernetes of any version resolves a Service's named `targetPort`: before 1.33 in `containers` only.
fn target(pod: &Value, name: &str) -> Option<u64> {
    let containers = pod["spec"]["containers"].as_array().unwrap().iter();
    let mut ports = containers.flat_map(|container| container["ports"].as_array()).flatten();
    ports.find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64())
}

#[test]
fn a_service_finds_the_gate_by_the_names_that_the_apps_port_had() {
    let mut two = pod(&json!({}));
    two["spec"]["containers"][0]["ports"].as_array_mut().unwrap().push(json!({"name": "web", "containerPort": 8080}));
    let two = give(&two).unwrap();
    assert_eq!((target(&two.pod, "http"), target(&two.pod, "web")), (Some(5000), Some(5000)));
    assert_eq!(target(&two.pod, "openexec"), None, "one port is listed once for each name");
    for (ports, annotations) in [
        (json!([{"containerPort": 8080}]), json!({})),
        (json!([]), json!({"config.openexec.dev/upstream-port": "8080"})),
        (json!(null), json!({"config.openexec.dev/upstream-socket": "/run/openexec/app.sock"})),
    ] {
        let mut unnamed = pod(&annotations);
        unnamed["spec"]["containers"][0]["ports"] = ports;
        let injected = give(&unnamed).unwrap();
        assert_eq!(target(&injected.pod, "openexec"), Some(5000));
        let told = "a Service reaches the gate by targetPort: openexec";
        assert!(injected.warnings.iter().any(|warning| warning.contains(told)), "{:?}", injected.warnings);
    }
    // The gate may be somewhere else the next time, and what is not the app's is left alone.
    let mut beside = pod(&json!({"config.openexec.dev/upstream-port": "http"}));
    let others = json!([{"name": "metrics", "containerPort": 9090}, {"name": "http-udp", "containerPort": 8080, "protocol": "UDP"}]);
    beside["spec"]["containers"][0]["ports"].as_array_mut().unwrap().extend(others.as_array().unwrap().clone());
    let mut moved = give(&beside).unwrap().pod;
    moved["metadata"]["annotations"]["config.openexec.dev/gate-port"] = "15000".into();
    let moved = give(&moved).unwrap().pod;
    assert_eq!((target(&moved, "http"), target(&moved, "metrics")), (Some(15_000), Some(9_090)));
    assert_eq!(target(&moved, "http-udp"), Some(8_080));
}

#[test]
fn what_starts_before_the_gate_is_not_asked_through_it() {
    let mut written = pod(&json!({}));
    let mesh = json!({
        "name": "mesh", "image": "registry.example/mesh:1", "restartPolicy": "Always",
        "ports": [{"name": "http-mesh", "containerPort": 15021}],
        "startupProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}},
        "livenessProbe": {"tcpSocket": {"port": "http-mesh"}},
        "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}},
    });
    written["spec"]["initContainers"] = json!([mesh]);
    let injected = give(&written).unwrap();
    assert_eq!(injected.pod["spec"]["initContainers"][0], mesh, "the gate answers when it has started, and not before");
    assert_eq!(injected.pod["spec"]["initContainers"][1]["name"], "openexec");
    assert_eq!(variable(&injected.pod, "OPENEXEC_APP_PROBES"), None);
    assert!(injected.warnings.iter().any(|warning| warning.contains("port 15021 of mesh")), "{:?}", injected.warnings);
}

#[test]
fn no_two_listeners_have_one_port_and_nothing_but_the_gate_is_let_to_the_app() {
    let beside = |container: Value| {
        let mut pod = pod(&json!({"config.openexec.dev/upstream-port": "http"}));
        pod["spec"]["containers"].as_array_mut().unwrap().push(container);
        pod
    };
    let mut stays = pod(&json!({}));
    stays["spec"]["initContainers"] =
        json!([{"name": "mesh", "image": "x", "restartPolicy": "Always", "ports": [{"containerPort": 5000}]}]);
    let mut flask = pod(&json!({}));
    flask["spec"]["containers"][0]["ports"][0]["containerPort"] = 5000.into();
    for (pod, problem) in [
        (flask, "app has the port 5000, and so has the gate: choose another in config.openexec.dev/gate-port"),
        (pod(&json!({"config.openexec.dev/gate-port": "8080"})), "config.openexec.dev/gate-port"),
        (pod(&json!({"config.openexec.dev/admin-port": "8080"})), "config.openexec.dev/admin-port"),
        (pod(&json!({"config.openexec.dev/upstream-port": "5001"})), "config.openexec.dev/admin-port"),
        (beside(json!({"name": "other", "image": "x", "ports": [{"containerPort": 5001}]})), "other has the port 5001"),
        (stays, "mesh has the port 5000"),
        (
            pod(
                &json!({"config.openexec.dev/traffic": "redirect", "config.openexec.dev/allow-inbound-ports": "80,8080"}),
            ),
            "config.openexec.dev/allow-inbound-ports: 8080 is the app's",
        ),
    ] {
        let refused = give(&pod).unwrap_err();
        assert!(refused.reason() == "port" && refused.to_string().contains(problem), "{refused}");
    }
    // An init container that ends has given its port back, and one of another protocol is another one.
    let mut ended =
        beside(json!({"name": "other", "image": "x", "ports": [{"containerPort": 5000, "protocol": "UDP"}]}));
    ended["spec"]["initContainers"] = json!([{"name": "migrate", "image": "x", "ports": [{"containerPort": 5000}]}]);
    give(&ended).unwrap();
    let named = beside(json!({"name": "other", "image": "x", "ports": [{"containerPort": 81, "name": "openexec"}]}));
    assert_eq!(give(&named).unwrap_err().reason(), "reserved_name");
}

#[test]
fn probes_of_containers_beside_the_app_ask_those_and_the_gate_takes_what_kubernetes_takes() {
    let mut written = pod(&json!({"config.openexec.dev/upstream-socket": "/run/openexec/$(A).sock"}));
    written["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/", "port": 1}, "timeoutSeconds": 0});
    let headers = json!([{"name": "Connection", "value": "close"}, {"name": "X-A", "value": "1"}, {"name": "X-B"}]);
    let probe = json!({"httpGet": {"path": "/m", "port": 9090, "httpHeaders": headers}, "timeoutSeconds": 1_000_000});
    let exporter =
        json!({"name": "exporter", "image": "x", "livenessProbe": probe, "readinessProbe": {"tcpSocket": {"port": 0}}});
    written["spec"]["containers"].as_array_mut().unwrap().push(exporter);
    written["spec"]["terminationGracePeriodSeconds"] = i64::MAX.into();
    let injected = give(&written).unwrap().pod;
    let probes: Value =
        serde_json::from_str(&variable(&injected, "OPENEXEC_APP_PROBES").unwrap().replace("$$", "$")).unwrap();
    assert_eq!(
        probes,
        json!({
            "app/readiness": {"address": "unix:/run/openexec/$(A).sock", "path": "/", "timeout": "1s"},
            "exporter/liveness": {"address": "http://127.0.0.1:9090", "path": "/m", "timeout": "86400s", "headers": {"X-A": "1"}},
        })
    );
    assert_eq!(variable(&injected, "OPENEXEC_UPSTREAM").as_deref(), Some("unix:/run/openexec/$$(A).sock"));
    assert_eq!(injected["spec"]["terminationGracePeriodSeconds"], i64::MAX);
    written["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "run", "mountPath": "/run/openexec/"}]);
    assert_eq!(give(&written).unwrap_err().reason(), "reserved_name");
}

#[test]
fn hooks_keep_their_meaning_and_an_apps_own_is_never_taken_for_ours() {
    let mut written = pod(&json!({}));
    let own = json!({"httpGet": {"path": "/drained?wait=40", "port": "http"}});
    written["spec"]["containers"][0]["lifecycle"] = json!({"preStop": own});
    let once = give(&written).unwrap();
    let hook = &once.pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"];
    assert_eq!((&hook["port"], &hook["path"]), (&json!(8080), &json!("/drained?wait=40")));
    let told = "app: its preStop asks the app's port, which a kubelet does not reach";
    assert!(once.warnings.iter().any(|warning| warning.contains(told)), "{:?}", once.warnings);
    assert_eq!(give(&once.pod).unwrap().pod, once.pod);
}

#[test]
fn nobody_can_pretend_to_have_been_injected() {
    let claimed = give(&pod(&json!({}))).unwrap().pod;
    let status = claimed["metadata"]["annotations"]["openexec.dev/status"].as_str().unwrap();
    // A status without a gate is taken for nothing.
    let pretended = pod(&json!({"openexec.dev/status": status}));
    assert_eq!(give(&pretended).unwrap().pod, claimed);
    // A gate without a status, or with one that is none, is somebody else's container.
    for (list, name) in
        [("containers", "openexec"), ("initContainers", "openexec"), ("initContainers", "openexec-redirect")]
    {
        for annotations in [json!({}), json!({"openexec.dev/status": "injected"})] {
            let mut pretended = pod(&annotations);
            let fake = json!({"name": name, "image": "registry.example/fake:1"});
            match pretended["spec"][list].as_array_mut() {
                Some(containers) => containers.push(fake),
                None => pretended["spec"][list] = json!([fake]),
            }
            assert_eq!(give(&pretended).unwrap_err().reason(), "reserved_name", "{list} {name}");
        }
    }
    // One with a true status is replaced, whatever is in it.
    let mut fake = claimed.clone();
    fake["spec"]["initContainers"][0] =
        json!({"name": "openexec", "image": "registry.example/fake:1", "command": ["sleep"]});
    fake["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "openexec", "image": "registry.example/fake:1"}));
    assert_eq!(give(&fake).unwrap().pod, claimed);
    let mut volumes = pod(&json!({}));
    volumes["spec"]["volumes"] = json!([{"name": "openexec-keys", "emptyDir": {}}]);
    assert_eq!(give(&volumes).unwrap_err().reason(), "reserved_name");
    // Nor does anybody get at what is the gate's by naming its volume first.
    for list in ["containers", "initContainers"] {
        let mut mounts = pod(&json!({"openexec.dev/ledger": "local"}));
        let thief =
            json!({"name": "thief", "image": "x", "volumeMounts": [{"name": "openexec-data", "mountPath": "/x"}]});
        match mounts["spec"][list].as_array_mut() {
            Some(containers) => containers.push(thief),
            None => mounts["spec"][list] = json!([thief]),
        }
        assert_eq!(give(&mounts).unwrap_err().reason(), "reserved_name");
        mounts["metadata"]["annotations"]["openexec.dev/status"] = status.into();
        mounts["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "openexec"}));
        let given = give(&mounts).unwrap().pod;
        let all = given["spec"][list].as_array().unwrap();
        let thief = all.iter().find(|container| container["name"] == "thief").unwrap();
        assert_eq!(thief.get("volumeMounts"), None, "what a status seems to allow is taken off");
    }
}

#[test]
fn who_is_left_alone_and_who_is_refused() {
    let outcome = |pod: &Value, namespace| inject(pod, &settings(), namespace);
    let mirror = pod(&json!({"kubernetes.io/config.mirror": "abc"}));
    for namespace in [Namespace::Enabled, Namespace::Enforced] {
        assert!(matches!(outcome(&mirror, namespace), Ok(Outcome::Skipped(Skip::MirrorPod))));
    }
    let mut out = pod(&json!({}));
    out["metadata"]["labels"]["openexec.dev/inject"] = "disabled".into();
    assert!(matches!(outcome(&out, Namespace::Enabled), Ok(Outcome::Skipped(Skip::OptedOut))));
    let Ok(Outcome::Injected(injected)) = outcome(&out, Namespace::Enforced) else {
        panic!("opting out did something")
    };
    assert!(injected.warnings[0].contains("does nothing here"), "{:?}", injected.warnings);

    let demo = pod(&json!({"config.openexec.dev/mode": "demo"}));
    assert_eq!(outcome(&demo, Namespace::Enforced).unwrap_err().reason(), "demo_enforced");
    assert_eq!(variable(&give(&demo).unwrap().pod, "OPENEXEC_DB_URL").as_deref(), Some("memory:"));

    let alone = Sidecar { ledger_secret: None, ..settings() };
    let refused = inject(&pod(&json!({})), &alone, Namespace::Enabled).unwrap_err();
    assert!(
        refused.reason() == "no_shared_ledger" && refused.to_string().contains("openexec.dev/ledger: local"),
        "{refused}"
    );
    let local = inject(&pod(&json!({"openexec.dev/ledger": "local"})), &alone, Namespace::Enforced);
    let Ok(Outcome::Injected(local)) = local else { panic!("{local:?}") };
    assert!(local.local_ledger && local.warnings.iter().any(|warning| warning.contains("executed again")));
    assert_eq!(variable(&local.pod, "OPENEXEC_LEDGER_FENCE").as_deref(), Some("always"));
    assert!(!give(&pod(&json!({}))).unwrap().local_ledger);

    let mut job = pod(&json!({"config.openexec.dev/sidecar": "container"}));
    job["spec"]["restartPolicy"] = "Never".into();
    assert_eq!(give(&job).unwrap_err().reason(), "needs_native");

    let ports = |annotations: Value, ports: Value| {
        let mut pod = pod(&annotations);
        pod["spec"]["containers"][0]["ports"] = ports;
        give(&pod).map(|injected| variable(&injected.pod, "OPENEXEC_UPSTREAM"))
    };
    let two = json!([{"containerPort": 8080}, {"containerPort": 9090, "name": "metrics"}]);
    assert!(ports(json!({}), two.clone()).unwrap_err().to_string().contains("8080, 9090"));
    let chosen = ports(json!({"config.openexec.dev/upstream-port": "metrics"}), two.clone()).unwrap();
    assert_eq!(chosen.as_deref(), Some("http://127.0.0.1:9090"));
    let chosen = ports(json!({"config.openexec.dev/upstream-port": "7000"}), two).unwrap();
    assert_eq!(chosen.as_deref(), Some("http://127.0.0.1:7000"), "it need not be declared");
    assert_eq!(ports(json!({}), json!([])).unwrap(), None, "nothing listens");
    for annotations in [
        json!({"config.openexec.dev/upstream-port": "grpc"}),
        json!({"config.openexec.dev/container": "other"}),
        json!({"config.openexec.dev/traffic": "redirect", "config.openexec.dev/upstream-socket": "/run/openexec/a.sock"}),
    ] {
        assert_eq!(ports(annotations.clone(), json!([])).unwrap_err().reason(), "port", "{annotations}");
    }
    assert_eq!(ports(json!({"config.openexec.dev/traffic": "redirect"}), json!([])).unwrap_err().reason(), "port");
}

#[test]
fn every_mistake_in_an_annotation_is_said() {
    for (name, value, problem) in [
        ("mode", "off", "must be one of: demo, clawshield"),
        ("sidecar", "Native", "must be one of: native, container"),
        ("traffic", "", "must be one of: localhost, redirect"),
        ("approval-form", "rsa", "must be one of: ed25519, hmac"),
        ("gate-port", "0", "must be between 1 and 65535"),
        ("admin-port", "65536", "must be between 1 and 65535"),
        ("admin-port", "5000", "must be another one than"),
        ("allow-inbound-ports", "80,http", "must be between 1 and 65535"),
        ("upstream-socket", "/tmp/app.sock", "must be a file in /run/openexec"),
        ("upstream-socket", "/run/openexec/../x", "must be a file in /run/openexec"),
        ("upstream-scheme", "h2", "must be one of: http, https"),
        ("log-level", "info=loud", "must be a filter"),
        ("cpu-request", "-1", "must be a quantity"),
        ("memory-limit", "lots", "must be a quantity"),
        ("config-map", "Up/../per", "must be the name of an object"),
        ("ledger-secret", "", "must be the name of an object"),
        ("keys-secret", "-x", "must be the name of an object"),
        ("admin-secret", "x_y", "must be the name of an object"),
        ("tenant", "", "must not be empty"),
        ("drain-wait", "long", "must be a time"),
        ("drain-wait", "2h", "must be at most 1h"),
        ("drain-wait", "1500ms", "must be whole seconds"),
        ("image", "registry.example/own:1", "is unknown"),
    ] {
        let name = format!("config.openexec.dev/{name}");
        let refused = give(&pod(&json!({&name: value}))).unwrap_err();
        assert!(
            refused.reason() == "annotations" && refused.to_string().contains(&format!("{name} {problem}")),
            "{refused}"
        );
    }
    let both =
        json!({"config.openexec.dev/upstream-port": "1", "config.openexec.dev/upstream-socket": "/run/openexec/a"});
    assert!(give(&pod(&both)).unwrap_err().to_string().contains("cannot stand beside"));
    assert!(give(&pod(&json!({"openexec.dev/ledger": "own"}))).unwrap_err().to_string().contains("must be `local`"));
    give(&pod(&json!({}))).unwrap();
}

#[test]
fn what_is_no_pod_is_refused_whatever_it_is() {
    let mut bad = vec![json!(null), json!(3), json!("pod"), json!([]), json!({}), json!({"spec": {}})];
    for (pointer, value) in [
        ("/spec/containers", json!({})),
        ("/spec/containers", json!([])),
        ("/spec/containers", json!(["app"])),
        ("/spec/initContainers", json!("x")),
        ("/spec/volumes", json!([null])),
        ("/metadata/annotations", json!("x")),
        ("/metadata/labels", json!([])),
        ("/metadata", json!(1)),
    ] {
        let mut pod = pod(&json!({}));
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[name] = value;
        bad.push(pod);
    }
    for pod in bad {
        assert_eq!(give(&pod).unwrap_err().reason(), "not_a_pod", "{pod}");
    }
    // Members of other kinds than Kubernetes has: never a panic, and what cannot be read is left.
    for (name, value) in [
        ("ports", json!("x")),
        ("ports", json!([1, {"containerPort": "http"}, {"containerPort": 70000}])),
        ("livenessProbe", json!({"httpGet": 1})),
        ("livenessProbe", json!({"httpGet": {"port": "nowhere", "httpHeaders": [1]}})),
        ("readinessProbe", json!(7)),
        ("lifecycle", json!({"preStop": null, "postStart": {"httpGet": {"port": []}}})),
        ("env", json!(1)),
    ] {
        let mut pod = pod(&json!({}));
        pod["spec"]["containers"][0][name] = value.clone();
        let once = give(&pod).unwrap().pod;
        assert_eq!(give(&once).unwrap().pod, once, "{name}: {value}");
    }
}

#[test]
fn the_example_is_injected_and_its_configuration_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples/kubernetes/app.yaml");
    let settings = path("settings.yaml");
    let arguments = ["-f", example.to_str().unwrap(), "--settings", settings.to_str().unwrap(), "--enforced"];
    let output = filter("", &arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<_> = documents
        .iter()
        .enumerate()
        .map(|(index, document)| {
            let file = directory.path().join(format!("{index}.json"));
            std::fs::write(&file, document.to_string()).unwrap();
            file
        })
        .collect();
    let mut command = Command::new(tool("kubernetes/bin/kubernetes-validate"));
    let output = command.arg("--strict").args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let pod = &of("Deployment")["spec"]["template"];
    assert_eq!(variable(pod, "OPENEXEC_UPSTREAM").as_deref(), Some("http://127.0.0.1:8700"));
    // The Service's name leads to the gate.
    let port = json!({"name": of("Service")["spec"]["ports"][0]["targetPort"], "containerPort": 5000});
    assert_eq!(pod["spec"]["containers"][0]["ports"], json!([port]));
    let config = directory.path().join("openexec.yaml");
    std::fs::write(&config, of("ConfigMap")["data"]["openexec.yaml"].as_str().unwrap()).unwrap();
    let mut validate = Command::new(env!("CARGO_BIN_EXE_openexec"));
    validate.env_clear().arg("validate").arg("--config").arg(&config);
    for name in ["OPENEXEC_MODE", "OPENEXEC_LISTEN", "OPENEXEC_UPSTREAM", "OPENEXEC_APP_PROBES"] {
        validate.env(name, variable(pod, name).unwrap());
    }
    let output = validate.env("OPENEXEC_DB_URL", "postgresql://gate@localhost/gate").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
