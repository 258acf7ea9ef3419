//! What Helm finds with `lookup`: asked of a server that knows the one Secret that it is given and answers nothing else.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::{Value, json};

use super::certificate::{decoded, is_believed};
use super::{HELMS, find, helm, items, objects, render};

/// The kinds of the cases here, by their group: Helm asks which there are.
const KINDS: [(&str, &[&str]); 5] = [
    ("v1", &["ConfigMap", "Secret", "Service", "ServiceAccount"]),
    ("apps/v1", &["Deployment", "StatefulSet"]),
    ("policy/v1", &["PodDisruptionBudget"]),
    ("networking.k8s.io/v1", &["NetworkPolicy"]),
    (
        "admissionregistration.k8s.io/v1",
        &["MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"],
    ),
];

/// Where a server listens that has these Secrets of the release. It lives as long as the process.
fn api_server(secrets: &[Value]) -> String {
    let mut answers = HashMap::from([
        ("/version".to_owned(), json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})),
        ("/api".to_owned(), json!({"kind": "APIVersions", "versions": ["v1"]})),
    ]);
    let mut groups = Vec::new();
    for (group, kinds) in KINDS {
        let resources: Vec<_> = kinds
            .iter()
            .map(|kind| {
                let plural = kind.strip_suffix('y').map_or(format!("{kind}s"), |stem| format!("{stem}ies"));
                let is_namespaced = group != "admissionregistration.k8s.io/v1";
                json!({"name": plural.to_lowercase(), "kind": kind, "namespaced": is_namespaced, "verbs": ["get"]})
            })
            .collect();
        let list = json!({"kind": "APIResourceList", "groupVersion": group, "resources": resources});
        if let Some((name, version)) = group.split_once('/') {
            let version = json!({"groupVersion": group, "version": version});
            groups.push(json!({"name": name, "versions": [version], "preferredVersion": version}));
            answers.insert(format!("/apis/{group}"), list);
        } else {
            answers.insert(format!("/api/{group}"), list);
        }
    }
    answers.insert("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}));
    for secret in secrets {
        let mut secret = secret.clone();
        // By which Helm knows its own.
        for (annotation, value) in [("release-name", "gate"), ("release-namespace", "gates")] {
            secret["metadata"]["annotations"][format!("meta.helm.sh/{annotation}")] = json!(value);
        }
        answers.insert(format!("/api/v1/namespaces/gates/secrets/{}", super::name(&secret)), secret);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = Arc::new(answers);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answers = answers.clone();
            std::thread::spawn(move || serve(stream, &answers));
        }
    });
    format!("http://{address}")
}

fn serve(mut stream: TcpStream, answers: &HashMap<String, Value>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let path = request.split([' ', '?']).nth(1).unwrap_or_default();
        let (status, body) = match answers.get(path) {
            Some(answer) => ("200 OK", answer.clone()),
            None => {
                ("404 Not Found", json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}))
            }
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// Rendered where these Secrets are there.
fn beside(secrets: &[Value], version: &str, case: &str, more: &[&str]) -> Vec<Value> {
    let mut command = helm(version, &["template", "gate"], case);
    command.env("HELM_KUBEAPISERVER", api_server(secrets)).args(["--dry-run=server", "--disable-openapi-validation"]);
    let output = command.args(more).output().unwrap();
    assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8(output.stdout).unwrap())
}

fn bundles(objects: &[Value]) -> Vec<Vec<u8>> {
    let configuration = find(objects, "MutatingWebhookConfiguration", "");
    items(&configuration["webhooks"]).map(|webhook| decoded(&webhook["clientConfig"]["caBundle"])).collect()
}

#[test]
fn generated_secrets_are_kept_over_upgrades() {
    let before = render("gateway", &[]);
    let [token, key] = ["-admin", "-keys"].map(|name| find(&before, "Secret", name).clone());
    for version in HELMS {
        let after = beside(&[token.clone(), key.clone()], version, "gateway", &["--is-upgrade"]);
        assert_eq!(find(&after, "Secret", "-admin")["data"], token["data"], "{version}");
        assert_eq!(find(&after, "Secret", "-keys")["data"], key["data"], "{version}");
        // What is not there is made.
        let after = beside(std::slice::from_ref(&token), version, "gateway", &["--is-upgrade"]);
        assert_eq!(find(&after, "Secret", "-admin")["data"], token["data"], "{version}");
        assert_ne!(find(&after, "Secret", "-keys")["data"], key["data"], "{version}");
    }
}

#[test]
fn the_generated_authority_is_kept_over_upgrades_until_another_is_asked_for() {
    let before = render("injector", &[]);
    let old = find(&before, "Secret", "-injector-tls").clone();
    let host = "gate-openexec-injector.gates.svc";
    for version in HELMS {
        let after = beside(std::slice::from_ref(&old), version, "injector", &["--is-upgrade"]);
        assert_eq!(find(&after, "Secret", "-injector-tls")["data"], old["data"], "{version}");
        assert_eq!(bundles(&after), bundles(&before), "{version}");

        // Until the injectors have the new certificate, the old one counts too.
        let more = ["--is-upgrade", "--set", "injector.tls.generation=2"];
        let rotated = beside(std::slice::from_ref(&old), version, "injector", &more);
        let new = find(&rotated, "Secret", "-injector-tls").clone();
        assert_ne!(new["data"]["tls.crt"], old["data"]["tls.crt"], "{version}");
        for bundle in bundles(&rotated) {
            assert!(is_believed(&bundle, &old, host) && is_believed(&bundle, &new, host), "{version}");
        }
        let next = beside(std::slice::from_ref(&new), version, "injector", &more);
        assert_eq!(find(&next, "Secret", "-injector-tls")["data"], new["data"], "{version}");
        for bundle in bundles(&next) {
            assert!(!is_believed(&bundle, &old, host) && is_believed(&bundle, &new, host), "{version}");
        }
    }
}
