//! What the chart makes of its values, run by the real binary: each container's command, variables and files, in directories
//! of the test instead of a pod's. Variables of the image are there too, as they would be.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::certificate::{connect, decoded};
use super::{CASES, find, items, name, objects, render, repository, template};
use crate::database::Postgres;
use crate::network::Authority;
use crate::support::{Approval, Client, Process, approved, free, request};

/// What Secrets of the operator hold, by the Secret and the key.
type Secrets<'a> = HashMap<(&'a str, &'a str), String>;

/// The files and the variables of the first container of a workload.
struct Container {
    root: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Container {
    fn new(objects: &[Value], workload: &Value, secrets: &Secrets<'_>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        std::fs::create_dir_all(root.path().join("var/lib/openexec")).unwrap();
        for mount in items(&container["volumeMounts"]) {
            let directory = root.path().join(mount["mountPath"].as_str().unwrap().trim_start_matches('/'));
            std::fs::create_dir_all(&directory).unwrap();
            let Some(volume) = items(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]) else { continue };
            for (file, bytes) in content(objects, volume, secrets) {
                let text = elsewhere(&String::from_utf8(bytes).unwrap(), root.path());
                std::fs::write(directory.join(file), text).unwrap();
            }
        }
        let mut environment = image_environment();
        let mut known: Vec<(String, String)> = Vec::new();
        for variable in items(&container["env"]) {
            let (name, value) = (variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or("192.0.2.7"));
            let mut value = value.to_owned();
            for (earlier, its) in &known {
                value = value.replace(&format!("$({earlier})"), its);
            }
            known.push((name.to_owned(), value.clone()));
            environment.push((name.to_owned(), elsewhere(&value, root.path())));
        }
        let arguments = items(&container["args"]).map(|it| elsewhere(it.as_str().unwrap(), root.path())).collect();
        Container { root, arguments, environment }
    }

    /// This command instead of the container's, if there is one. As in the image, the working directory is the ledger's.
    fn command(&self, arguments: Option<&[&str]>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.root.path().join("var/lib/openexec"));
        match arguments {
            Some(arguments) => command.args(arguments),
            None => command.args(&self.arguments),
        };
        command
    }

    fn run(&self, arguments: Option<&[&str]>) -> (Option<i32>, String) {
        let output = self.command(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code(), said)
    }

    /// The container's command, on addresses that are free.
    fn serve(&self) -> Process {
        Process::start(self.command(None).env("OPENEXEC_LISTEN", free()).env("OPENEXEC_ADMIN_LISTEN", free()))
    }
}

/// Paths of a pod, in the test's directory.
fn elsewhere(text: &str, root: &Path) -> String {
    let root = root.display();
    text.replace("/etc/openexec/", &format!("{root}/etc/openexec/"))
        .replace("/var/lib/openexec/", &format!("{root}/var/lib/openexec/"))
}

fn content(objects: &[Value], volume: &Value, secrets: &Secrets<'_>) -> Vec<(String, Vec<u8>)> {
    if let Some(map) = volume["configMap"]["name"].as_str() {
        let data = &find(objects, "ConfigMap", map)["data"];
        return data
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, text)| (key.clone(), text.as_str().unwrap().into()))
            .collect();
    }
    let secret = volume["secret"]["secretName"].as_str().unwrap();
    match objects.iter().find(|object| object["kind"] == "Secret" && name(object) == secret) {
        Some(made) => {
            made["data"].as_object().unwrap().iter().map(|(key, text)| (key.clone(), decoded(text))).collect()
        }
        None => secrets
            .iter()
            .filter(|((of, _), _)| *of == secret)
            .map(|((_, key), text)| ((*key).to_owned(), text.clone().into_bytes()))
            .collect(),
    }
}

/// `ENV` of the image's Dockerfile.
fn image_environment() -> Vec<(String, String)> {
    let dockerfile = std::fs::read_to_string(repository("packaging/image/Dockerfile")).unwrap().replace("\\\n", " ");
    let variables = dockerfile.lines().find_map(|line| line.strip_prefix("ENV ")).unwrap().split_whitespace();
    let variables: Vec<_> = variables.map(|pair| pair.split_once('=').unwrap()).collect();
    assert!(variables.iter().any(|(name, _)| *name == "OPENEXEC_LISTEN"), "{variables:?}");
    variables.into_iter().map(|(name, value)| (name.to_owned(), elsewhere(value, Path::new("")))).collect()
}

#[test]
fn the_gateway_of_the_least_values_executes_what_was_approved_with_the_generated_key() {
    let installed = render("gateway", &[]);
    let container = Container::new(&installed, find(&installed, "StatefulSet", "-gateway"), &HashMap::new());
    let key = String::from_utf8(decoded(&find(&installed, "Secret", "-keys")["data"]["secret-key"])).unwrap();
    let approval = Approval { secret: &key, ..Approval::default() };
    let body = approved("echo", &json!({}), "n", &approval);
    let gate = container.serve();
    let mut client = Client::connect(gate.address);
    let refused = request("echo", &json!({}), "m");
    client.execute(&refused).must_be(403, "approval_missing", "");
    let first = client.execute(&body).must_be_executed(false);
    let token = String::from_utf8(decoded(&find(&installed, "Secret", "-admin")["data"]["token"])).unwrap();
    let ask = |token: &str| {
        let head = format!("GET /executions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        Client::connect(gate.admin).send(head).unwrap().status
    };
    assert_eq!((ask("somebody-elses-token"), ask(&token)), (401, 200));
    gate.signal("TERM");
    assert_eq!(gate.end().0, Some(0));

    // After an upgrade it finds the ledger, and answers from it.
    let upgraded = render("gateway", &["--is-upgrade"]);
    let map = find(&upgraded, "ConfigMap", "-gateway")["data"]["openexec.yaml"].as_str().unwrap();
    let file = container.root.path().join("etc/openexec/config/openexec.yaml");
    std::fs::write(&file, elsewhere(map, container.root.path())).unwrap();
    let gate = container.serve();
    assert_eq!(Client::connect(gate.address).execute(&body).must_be_executed(true)["receipt"], first["receipt"]);
    drop(gate);

    // With a volume that came up empty it does not start, instead of executing once more.
    std::fs::remove_dir_all(container.root.path().join("var/lib/openexec")).unwrap();
    std::fs::create_dir(container.root.path().join("var/lib/openexec")).unwrap();
    let started = container.command(None);
    // A server that starts all the same would not end.
    let mut command = Command::new("timeout");
    command
        .arg("20")
        .arg(started.get_program())
        .args(started.get_args())
        .current_dir(started.get_current_dir().unwrap());
    command.env_clear().envs(container.environment.iter().map(|(name, value)| (name, value)));
    let output = command.env("OPENEXEC_LISTEN", free()).env("OPENEXEC_ADMIN_LISTEN", free()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("ledger.create"), "{said}");
}

/// All of its Secrets, with the URL of a new database.
fn operators_secrets(authority: &Authority, url: &str) -> Secrets<'static> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let (certificate, key) = authority.issue("gateway", 10);
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    HashMap::from([
        (("openexec-db", "url"), url.to_owned()),
        (("openexec-db", "password"), "unused".to_owned()),
        (("openexec-db-owner", "url"), url.to_owned()),
        (("openexec-db-owner", "password"), "unused".to_owned()),
        (("approvals", "public-key.pem"), public.to_owned()),
        (("operators", "token"), "a-token-of-an-operator".to_owned()),
        (("operators", "read-token"), "a-token-of-a-reader".to_owned()),
        (("gateway-tls", "tls.crt"), read(&certificate)),
        (("gateway-tls", "tls.key"), read(&key)),
        (("gateway-tls", "ca.crt"), read(&authority.path("ca.pem"))),
        (("mail", "token"), "a-token-of-the-service".to_owned()),
        (("tenants", "orders"), "a-secret-of-32-bytes-of-a-tenant".to_owned()),
    ])
}

#[test]
fn the_shared_gateways_configuration_is_good_and_its_hook_makes_the_tables() {
    let (authority, url) = (Authority::new(), Postgres::shared().new_database());
    let secrets = operators_secrets(&authority, &url);
    let shared = render("shared", &[]);
    let gateway = Container::new(&shared, find(&shared, "Deployment", "-gateway"), &secrets);
    let (code, said) = gateway.run(Some(&["validate"]));
    assert_eq!((code, said.as_str()), (Some(0), "The configuration is good: clawshield mode on 0.0.0.0:5000\n"));
    // Each file is one that it reads.
    let wrong = Container::new(&shared, find(&shared, "Deployment", "-gateway"), &HashMap::new());
    let (code, said) = wrong.run(Some(&["validate"]));
    assert_eq!(code, Some(78), "{said}");
    let files = ["keys/public-key.pem", "secrets/tenants/orders", "secrets/mail/token", "tls/ca.crt", "ledger/url"];
    for file in files.into_iter().chain(["admin/token", "admin/read-token"]) {
        assert!(said.contains(file), "{file}: {said}");
    }

    let (code, said) = gateway.run(Some(&["ledger", "check"]));
    assert!(code != Some(0) && said.contains("ledger migrate"), "there are no tables yet: {said}");
    let hook = Container::new(&shared, find(&shared, "Job", "-migrate"), &secrets);
    assert_eq!(hook.arguments, ["ledger", "migrate"]);
    let (code, said) = hook.run(None);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = gateway.run(Some(&["ledger", "check"]));
    assert!(code == Some(0) && said.contains("The ledger is good"), "{said}");
    let (code, said) = hook.run(None);
    assert_eq!(code, Some(0), "and before each upgrade: {said}");
}

#[test]
fn every_gateway_that_is_rendered_has_a_good_configuration() {
    let key = HashMap::from([(("approvals", "secret-key"), "a-shared-secret-of-32-bytes-or-so".to_owned())]);
    // As the README says.
    let readme = std::fs::read_to_string(repository("helm/openexec/README.md")).unwrap();
    let extract = readme.lines().find_map(|line| line.trim().strip_suffix("> openexec.yaml")).unwrap();
    assert!(extract.starts_with("sed "));
    for (case, says) in [
        ("gateway", "clawshield mode on 0.0.0.0:5000"),
        ("rendered", "clawshield mode on 0.0.0.0:5000"),
        ("demo", "demo mode on [::]:5000"),
    ] {
        let objects = render(case, &[]);
        let container = Container::new(&objects, find(&objects, "StatefulSet", "-gateway"), &key);
        let (code, said) = container.run(Some(&["validate"]));
        assert_eq!((code, said), (Some(0), format!("The configuration is good: {says}\n")), "{case}");
        let text = template("helm3", case, &["-s", "templates/gateway/configmap.yaml"]).unwrap();
        std::fs::write(container.root.path().join("rendered"), text).unwrap();
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &format!("{extract} < rendered")]).current_dir(container.root.path());
        let extracted: Value = serde_saphyr::from_slice(&shell.output().unwrap().stdout).unwrap();
        let map = find(&objects, "ConfigMap", "-gateway")["data"]["openexec.yaml"].as_str().unwrap();
        assert_eq!(extracted, serde_saphyr::from_str::<Value>(map).unwrap(), "{case}");
    }
}

/// The tenants of the configuration alone, without one of the environment.
#[test]
fn a_gateway_may_have_all_its_tenants_in_its_configuration() {
    let authority = Authority::new();
    let secrets = operators_secrets(&authority, "postgresql://openexec@localhost/openexec");
    let shared = render("shared", &["--set", "gateway.keys.source=none"]);
    let gateway = Container::new(&shared, find(&shared, "Deployment", "-gateway"), &secrets);
    assert!(!gateway.environment.iter().any(|(name, _)| name.starts_with("CLAWSHIELD_")));
    let (code, said) = gateway.run(Some(&["validate"]));
    assert_eq!((code, said.as_str()), (Some(0), "The configuration is good: clawshield mode on 0.0.0.0:5000\n"));
}

/// The webhook's server, as the chart would run it, asked as the API server would ask it: at the Service's name, by whom the
/// webhook's `caBundle` believes.
#[test]
fn the_injector_answers_the_webhooks_that_are_rendered() {
    let objects = render("injector", &[]);
    let container = Container::new(&objects, find(&objects, "Deployment", "-injector"), &HashMap::new());
    let (address, admin) = (free(), free());
    let file = container.root.path().join("etc/openexec/settings/injector.yaml");
    let settings = std::fs::read_to_string(&file).unwrap();
    let here = settings.replace("0.0.0.0:8443", &address).replace("0.0.0.0:5001", &admin);
    assert!(here.contains(&address) && here.contains(&admin));
    std::fs::write(&file, here).unwrap();
    let mut command = container.command(None);
    let injector = Process::start_at(command.env("OPENEXEC_ADMIN_LISTEN", &admin), address.parse().unwrap());
    let review = |object: &Value| {
        let request = json!({
            "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "shop",
            "object": object,
        });
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "annotations": {"config.openexec.dev/tenant": "payments"}},
        "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
    });
    let mut paths = Vec::new();
    for webhook in items(&find(&objects, "MutatingWebhookConfiguration", "")["webhooks"]) {
        let service = &webhook["clientConfig"]["service"];
        let text = |member: &str| service[member].as_str().unwrap();
        let host = format!("{}.{}.svc", text("name"), text("namespace"));
        let mut stream = connect(injector.address, &decoded(&webhook["clientConfig"]["caBundle"]), &host);
        let body = review(&pod);
        let head = format!("POST {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", text("path"));
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all((head + &more).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        let patch = String::from_utf8(decoded(&answer["response"]["patch"])).unwrap();
        let image = "registry.example/openexec@sha256:1f8b3a7d0c5e4b6f9a2d8c7e6b5a4f3d2c1b0a9f8e7d6c5b4a3f2e1d0c9b8a7f";
        assert!(patch.contains(image) && patch.contains("openexec-ledger"), "{patch}");
        paths.push(text("path").to_owned());
    }
    assert_eq!(paths, ["/inject", "/inject/enforced"]);
}

/// Of every case, by the program that reads them.
#[test]
fn every_injector_that_is_rendered_has_good_settings() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("injector", 10);
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let mut secrets = Secrets::new();
    for secret in ["webhook", "gate-openexec-injector-tls"] {
        secrets.insert((secret, "tls.crt"), read(&certificate));
        secrets.insert((secret, "tls.key"), read(&key));
    }
    let mut checked = 0;
    for (case, _) in CASES {
        let objects = render(case, &[]);
        let is_injector = |object: &&Value| object["kind"] == "Deployment" && name(object).ends_with("-injector");
        let Some(deployment) = objects.iter().find(is_injector) else { continue };
        let container = Container::new(&objects, deployment, &secrets);
        let arguments: Vec<_> = container.arguments.iter().map(String::as_str).chain(["--check"]).collect();
        let (code, said) = container.run(Some(&arguments));
        assert_eq!(code, Some(0), "{case}: {said}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

/// What the chart's README says that an application's namespace needs.
#[test]
fn the_configuration_of_the_readme_is_good() {
    let examples = objects(&super::examples());
    let text = find(&examples, "ConfigMap", "openexec")["data"]["openexec.yaml"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("openexec.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
    command.env_clear().env("OPENEXEC_UPSTREAM", "http://127.0.0.1:8080").env("OPENEXEC_MODE", "demo");
    let output = command.args(["validate", "--config"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
