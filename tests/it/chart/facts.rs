//! What must be true of what is rendered, beyond the schemas.

use std::collections::BTreeSet;

use openexec::config::env;
use serde_json::{Value, json};

use super::certificate::decoded;
use super::{CASES, RENDERED, Rendered, find, items, name, objects, render, repository, template, workloads};

/// All containers of a pod.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    items(&pod["spec"]["initContainers"]).chain(items(&pod["spec"]["containers"]))
}

#[test]
fn the_webhooks_are_asked_about_new_pods_of_labelled_namespaces_and_nothing_else() {
    for it in RENDERED.iter().filter(|it| it.case == "own" || it.case == "demo") {
        let (ca, excluded, seconds, full) = match it.case {
            "own" => (
                Some("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"),
                json!([]),
                10,
                "gate-openexec",
            ),
            _ => (None, json!(["kube-node-lease"]), 3, "gate"),
        };
        let mut excluded = excluded.as_array().unwrap().clone();
        excluded.splice(0..0, [json!("kube-system"), json!("gates")]);
        let webhook = |label: &str, path: &str| {
            json!({
                "name": format!("{label}.inject.openexec.dev"),
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Fail",
                "matchPolicy": "Equivalent",
                "reinvocationPolicy": "IfNeeded",
                "sideEffects": "None",
                "timeoutSeconds": seconds,
                "clientConfig": {"service": {
                    "name": format!("{full}-injector"), "namespace": "gates", "port": 443, "path": path,
                }},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                    "scope": "Namespaced",
                }],
                "namespaceSelector": {"matchExpressions": [
                    {"key": "openexec.dev/inject", "operator": "In", "values": [label]},
                    {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded},
                ]},
            })
        };
        let mut enabled = webhook("enabled", "/inject");
        enabled["objectSelector"] =
            json!({"matchExpressions": [{"key": "openexec.dev/inject", "operator": "NotIn", "values": ["disabled"]}]});
        let mut found = find(&it.objects, "MutatingWebhookConfiguration", "")["webhooks"].clone();
        for webhook in found.as_array_mut().unwrap() {
            let bundle = decoded(&webhook["clientConfig"].as_object_mut().unwrap().remove("caBundle").unwrap());
            assert!(ca.is_none_or(|ca| bundle == ca.as_bytes()), "{}", it.case);
        }
        assert_eq!(found, json!([enabled, webhook("enforced", "/inject/enforced")]), "{}", it.case);
    }
    // cert-manager puts in whom to believe.
    let rendered = render("rendered", &[]);
    let certificate = find(&rendered, "Certificate", "");
    let configuration = find(&rendered, "MutatingWebhookConfiguration", "");
    let from = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    assert_eq!(from, &json!(format!("gates/{}", name(certificate))));
    assert!(items(&configuration["webhooks"]).all(|webhook| webhook["clientConfig"].get("caBundle").is_none()));
    assert_eq!(certificate["spec"]["dnsNames"][0], "gate-openexec-injector.gates.svc");
}

/// Not where many may read it, and not where a process's environment is shown.
#[test]
fn no_secret_is_in_a_config_map_or_a_variable() {
    let mut generated = 0;
    for it in RENDERED.iter() {
        let secrets: Vec<_> = it
            .objects
            .iter()
            .filter(|object| object["kind"] == "Secret")
            .flat_map(|object| object["data"].as_object().unwrap())
            .filter(|(key, _)| !matches!(key.as_str(), "ca.crt" | "tls.crt"))
            .map(|(_, value)| (value.as_str().unwrap().to_owned(), String::from_utf8(decoded(value)).unwrap()))
            .collect();
        generated += secrets.len();
        for object in it.objects.iter().filter(|object| object["kind"] != "Secret") {
            let text = object.to_string();
            for (encoded, plain) in &secrets {
                assert!(!text.contains(encoded) && !text.contains(plain), "{}: {}", it.case, name(object));
            }
        }
        for (workload, pod) in workloads(&it.objects) {
            for variable in containers(pod).flat_map(|container| items(&container["env"])) {
                let is_secret = env::SECRETS.iter().any(|secret| variable["name"] == *secret);
                let is_file = variable["value"].as_str().is_some_and(|value| value.starts_with("sqlite:///"));
                assert!(!is_secret || is_file, "{}: {variable}", name(workload));
                assert!(variable["valueFrom"].get("secretKeyRef").is_none(), "{}: {variable}", name(workload));
            }
        }
    }
    assert!(generated >= 3 * 2 * 3, "there were some to look for: {generated}");
}

/// The pod standard `restricted`, and beyond it: no token, nothing writable, no variable for each Service.
#[test]
fn pods_may_do_nothing_that_they_do_not_need() {
    for it in RENDERED.iter() {
        for (workload, pod) in workloads(&it.objects) {
            let (what, spec) = (name(workload), &pod["spec"]);
            assert_eq!(
                (&spec["automountServiceAccountToken"], &spec["enableServiceLinks"]),
                (&json!(false), &json!(false)),
                "{what}"
            );
            assert_eq!(spec["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}), "{what}");
            for member in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(spec.get(member).is_none(), "{what}: {member}");
            }
            for container in containers(pod) {
                let allowed = json!({
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
                    "capabilities": {"drop": ["ALL"]},
                });
                assert_eq!(container["securityContext"], allowed, "{what}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{what}");
                let writable = items(&container["volumeMounts"]).filter(|mount| mount["readOnly"] != true);
                let writable: Vec<_> = writable.map(|mount| mount["mountPath"].as_str().unwrap()).collect();
                let is_file_ledger = workload["kind"] == "StatefulSet";
                assert_eq!(writable, if is_file_ledger { vec!["/var/lib/openexec"] } else { vec![] }, "{what}");
            }
        }
        for account in it.objects.iter().filter(|object| object["kind"] == "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false, "{}", name(account));
        }
        let rights = it.objects.iter().filter(|object| object["kind"].as_str().unwrap().contains("Role")).count();
        assert_eq!(rights, 0, "nothing asks the API server for anything: {}", it.case);
    }
}

/// Whatever one object names is there, or is one that the values say the operator has.
#[test]
fn what_one_object_names_another_is() {
    for it in RENDERED.iter() {
        let told: String = CASES
            .iter()
            .find(|(case, _)| *case == it.case)
            .unwrap()
            .1
            .iter()
            .map(|file| std::fs::read_to_string(repository(file)).unwrap())
            .collect();
        let is_there = |kind: &str, wanted: &Value| {
            let wanted = wanted.as_str().unwrap();
            it.objects.iter().any(|object| object["kind"] == kind && name(object) == wanted)
        };
        for (workload, pod) in workloads(&it.objects) {
            volumes_are_mounted(it, workload, pod, &|kind, wanted| {
                // The certificate's Secret is cert-manager's to make.
                let issued = it
                    .objects
                    .iter()
                    .any(|object| object["kind"] == "Certificate" && object["spec"]["secretName"] == *wanted);
                is_there(kind, wanted) || kind == "Secret" && (issued || told.contains(wanted.as_str().unwrap()))
            });
            let account = &pod["spec"]["serviceAccountName"];
            assert!(account.is_null() || account == "default" || is_there("ServiceAccount", account), "{account}");
            let labels = &workload["spec"]["selector"]["matchLabels"];
            assert!(labels.is_null() || selects(labels, pod), "{}", name(workload));
            for constraint in items(&pod["spec"]["topologySpreadConstraints"]) {
                assert!(selects(&constraint["labelSelector"]["matchLabels"], pod), "{constraint}");
            }
        }
        for object in &it.objects {
            let spec = &object["spec"];
            let (selector, ports): (_, Vec<_>) = match object["kind"].as_str().unwrap() {
                "Service" => (&spec["selector"], items(&spec["ports"]).map(|port| &port["targetPort"]).collect()),
                "PodDisruptionBudget" => (&spec["selector"]["matchLabels"], vec![]),
                "NetworkPolicy" => {
                    let rules = items(&spec["ingress"]).flat_map(|rule| items(&rule["ports"]));
                    (&spec["podSelector"]["matchLabels"], rules.map(|port| &port["port"]).collect())
                }
                "PodMonitor" if name(object).ends_with("-sidecars") => continue,
                "PodMonitor" => {
                    let endpoints = items(&spec["podMetricsEndpoints"]).map(|endpoint| &endpoint["port"]);
                    (&spec["selector"]["matchLabels"], endpoints.collect())
                }
                "ServiceMonitor" => {
                    let labels = &spec["selector"]["matchLabels"];
                    let services = it
                        .objects
                        .iter()
                        .filter(|it| it["kind"] == "Service" && is_within(labels, &it["metadata"]["labels"]));
                    let services: Vec<_> = services.collect();
                    assert_eq!(services.len(), 1, "{}", name(object));
                    assert!(
                        items(&services[0]["spec"]["ports"]).any(|port| port["name"] == spec["endpoints"][0]["port"])
                    );
                    continue;
                }
                _ => continue,
            };
            let selected: Vec<_> = workloads(&it.objects).filter(|(_, pod)| selects(selector, pod)).collect();
            assert_eq!(selected.len(), 1, "{}: {} selects one kind of pods", it.case, name(object));
            for port in ports {
                let is_it = |known: &Value| known["name"] == *port || known["containerPort"] == *port;
                let known = containers(selected[0].1).flat_map(|container| items(&container["ports"])).any(is_it);
                assert!(known, "{}: {} names {port}", it.case, name(object));
            }
        }
    }
}

fn selects(labels: &Value, pod: &Value) -> bool {
    is_within(labels, &pod["metadata"]["labels"])
}

fn is_within(wanted: &Value, labels: &Value) -> bool {
    wanted.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
}

fn volumes_are_mounted(it: &Rendered, workload: &Value, pod: &Value, is_there: &dyn Fn(&str, &Value) -> bool) {
    let claims = items(&workload["spec"]["volumeClaimTemplates"]).map(name);
    let volumes: BTreeSet<_> =
        items(&pod["spec"]["volumes"]).map(|volume| volume["name"].as_str().unwrap()).chain(claims).collect();
    let mounted = containers(pod).flat_map(|container| items(&container["volumeMounts"]));
    let mounted: BTreeSet<_> = mounted.map(|mount| mount["name"].as_str().unwrap()).collect();
    assert_eq!(volumes, mounted, "{}: {}", it.case, name(workload));
    for volume in items(&pod["spec"]["volumes"]) {
        let there = match (&volume["configMap"]["name"], &volume["secret"]["secretName"]) {
            (Value::Null, secret) => is_there("Secret", secret),
            (map, _) => is_there("ConfigMap", map),
        };
        assert!(there, "{}: {volume}", it.case);
    }
}

#[test]
fn a_new_configuration_makes_new_pods_and_nothing_else_does() {
    let pods = |case: &str, set: &str| -> Vec<Value> {
        let objects = render(case, &["--set", set]);
        workloads(&objects).map(|(_, pod)| pod.clone()).collect()
    };
    for (case, same, other) in [
        ("gateway", "gateway.service.port=81", "gateway.config.limits.in_flight=9"),
        ("injector", "injector.webhook.timeoutSeconds=9", "injector.sidecar.tenant=orders"),
    ] {
        let before = pods(case, "serviceAccount.create=true");
        assert_eq!(before.len(), 1);
        assert_eq!(pods(case, same), before, "{case}: nothing that pods have");
        let (mut after, mut before) = (pods(case, other), before);
        let checksum = |pod: &mut Value| {
            let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
            let name = annotations.keys().find(|name| name.starts_with("checksum/")).unwrap().clone();
            annotations.remove(&name).unwrap()
        };
        assert_ne!(checksum(&mut after[0]), checksum(&mut before[0]), "{case}");
        assert_eq!(after, before, "{case}: and it is the checksum that changed");
    }
    // Another version of the chart restarts no pod: its labels are not the pods'.
    for (_, pod) in RENDERED.iter().flat_map(|it| workloads(&it.objects)) {
        assert!(pod["metadata"]["labels"].get("helm.sh/chart").is_none());
    }
}

/// The gateway's openexec.yaml.
fn openexec_yaml(objects: &[Value], suffix: &str) -> Value {
    serde_saphyr::from_str(find(objects, "ConfigMap", suffix)["data"]["openexec.yaml"].as_str().unwrap()).unwrap()
}

#[test]
fn a_ledger_is_made_at_the_first_install_and_not_by_servers_where_a_hook_makes_it() {
    let create = |case: &str, more: &[&str]| openexec_yaml(&render(case, more), "-gateway")["ledger"]["create"].clone();
    assert_eq!(create("gateway", &[]), true);
    assert_eq!(create("gateway", &["--is-upgrade"]), false, "a volume that comes up empty stops the start");
    assert_eq!(create("gateway", &["--is-upgrade", "--set", "ledger.sqlite.create=always"]), true);
    assert_eq!(create("rendered", &[]), false, "never");
    assert_eq!(create("shared", &[]), false);
    let shared = render("shared", &[]);
    assert_eq!(openexec_yaml(&shared, "-migrate")["ledger"]["create"], true);
    // The hook's server is reached as the gateway reaches it.
    assert_eq!(
        openexec_yaml(&shared, "-migrate")["ledger"]["lease"],
        openexec_yaml(&shared, "-gateway")["ledger"]["lease"]
    );
    assert_eq!(create("shared", &["--set", "ledger.postgresql.migrate.enabled=false"]), true);
}

/// What was there before the release's own objects: what a hook names must not be one of them.
#[test]
fn the_migration_needs_nothing_that_is_installed_after_it() {
    let shared = render("shared", &[]);
    let is_hook = |object: &&Value| object["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade";
    let hooks: Vec<_> = shared.iter().filter(is_hook).collect();
    let job = hooks.iter().find(|object| object["kind"] == "Job").unwrap();
    let spec = &job["spec"]["template"]["spec"];
    assert!(spec.get("serviceAccountName").is_none(), "the chart's own account is not there yet");
    let maps: Vec<_> = items(&spec["volumes"]).filter_map(|volume| volume["configMap"]["name"].as_str()).collect();
    assert!(!maps.is_empty() && maps.iter().all(|map| hooks.iter().any(|hook| name(hook) == *map)), "{maps:?}");
    let weight = |object: &Value| {
        object["metadata"]["annotations"]["helm.sh/hook-weight"].as_str().map(|it| it.parse::<i32>().unwrap())
    };
    for hook in hooks.iter().filter(|hook| hook["kind"] != "Job") {
        assert!(weight(hook) < Some(weight(job).unwrap_or(0)), "{}", name(hook));
    }
    let secrets: Vec<_> =
        items(&spec["volumes"]).filter_map(|volume| volume["secret"]["secretName"].as_str()).collect();
    assert_eq!(secrets, ["openexec-db-owner", "mail", "tenants"], "the owner's, not the servers'");
}

/// In a rule, nobody in particular is everybody.
#[test]
fn a_network_policy_that_names_nobody_lets_nobody_in() {
    let closed = render("gateway", &["--set-json", "gateway.networkPolicy.clients=[]"]);
    assert_eq!(find(&closed, "NetworkPolicy", "-gateway")["spec"]["ingress"], json!([]));
    for it in RENDERED.iter() {
        for rule in
            it.objects.iter().filter(|it| it["kind"] == "NetworkPolicy").flat_map(|it| items(&it["spec"]["ingress"]))
        {
            assert!(items(&rule["from"]).count() > 0 && items(&rule["ports"]).count() == 1, "{rule}");
        }
        let injector = it.objects.iter().find(|it| it["kind"] == "NetworkPolicy" && name(it).ends_with("-injector"));
        if let Some(injector) = injector {
            assert_eq!(
                (&injector["spec"]["egress"], &injector["spec"]["policyTypes"]),
                (&json!([]), &json!(["Ingress", "Egress"]))
            );
        }
    }
}

/// A drain takes one pod at a time, where there is another one.
#[test]
fn what_has_replicas_is_spread_and_kept_available_and_what_has_one_does_not_block_a_drain() {
    let budgets = |case: &str| -> Vec<String> {
        let objects = render(case, &[]);
        let budgets = objects.iter().filter(|object| object["kind"] == "PodDisruptionBudget");
        budgets.map(|budget| name(budget).to_owned()).collect()
    };
    assert_eq!(budgets("injector"), ["gate-openexec-injector"]);
    assert_eq!(budgets("gateway"), [""; 0]);
    assert_eq!(budgets("shared"), ["gate-openexec-gateway"]);
    assert_eq!(budgets("demo"), [""; 0]);
    let injector = render("injector", &[]);
    let deployment = find(&injector, "Deployment", "-injector");
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(items(&deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]).count(), 2);
    let shared = render("shared", &[]);
    let gateway = find(&shared, "Deployment", "-gateway");
    assert!(gateway["spec"].get("replicas").is_none(), "the autoscaler's");
    let autoscaler = find(&shared, "HorizontalPodAutoscaler", "");
    assert_eq!(autoscaler["spec"]["scaleTargetRef"]["name"], name(gateway));
    // A stop has the time that it takes.
    for it in RENDERED.iter().filter(|it| it.case == "shared") {
        let shutdown = &openexec_yaml(&it.objects, "-gateway")["shutdown"];
        assert_eq!(shutdown, &json!({"delay": "10s", "timeout": "60s"}));
        let (_, pod) = workloads(&it.objects).find(|(workload, _)| workload["kind"] == "Deployment").unwrap();
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 85);
    }
    let file = render("gateway", &[]);
    let retention = &find(&file, "StatefulSet", "")["spec"]["persistentVolumeClaimRetentionPolicy"];
    assert_eq!(retention, &json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
}

#[test]
fn the_settings_of_the_injector_say_what_the_values_say() {
    let settings = |objects: &[Value]| -> Value {
        let text = find(objects, "ConfigMap", "-injector")["data"]["injector.yaml"].as_str().unwrap().to_owned();
        serde_saphyr::from_str(&text).unwrap()
    };
    let image = "registry.example/openexec@sha256:1f8b3a7d0c5e4b6f9a2d8c7e6b5a4f3d2c1b0a9f8e7d6c5b4a3f2e1d0c9b8a7f";
    let defaults = json!({
        "listen": "0.0.0.0:8443",
        "admin": {"listen": "0.0.0.0:5001"},
        "tls": {"certificate": "/etc/openexec/tls/tls.crt", "key": "/etc/openexec/tls/tls.key"},
        "sidecar": {
            "image": image, "image_pull_policy": "IfNotPresent", "mode": "clawshield", "sidecar": "native",
            "traffic": "localhost", "ports": {"gate": 5000, "admin": 5001}, "listen_host": "0.0.0.0", "user": 65532,
            "log_level": "info",
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
            "config_map": "openexec", "ledger_secret": "openexec-ledger", "ledger_password": false,
            "keys_secret": "openexec-keys", "admin_secret": "openexec-admin", "approval_form": "ed25519",
            "drain_wait": "40s",
        },
    });
    assert_eq!(settings(&render("injector", &[])), defaults);
    let mut demo = defaults;
    demo["listen"] = json!("[::]:8443");
    demo["admin"]["listen"] = json!("[::]:5001");
    let sidecar = demo["sidecar"].as_object_mut().unwrap();
    for absent in ["config_map", "ledger_secret", "keys_secret", "admin_secret"] {
        sidecar.remove(absent);
    }
    for (member, value) in [
        ("image", "openexec:0.3.0"),
        ("mode", "demo"),
        ("sidecar", "container"),
        ("traffic", "redirect"),
        ("listen_host", "[::]"),
    ] {
        sidecar.insert(member.to_owned(), json!(value));
    }
    sidecar.insert("user".to_owned(), json!(1_000_650_000));
    let rendered = render("demo", &[]);
    assert_eq!(settings(&rendered), demo);
    let claim = &find(&rendered, "StatefulSet", "")["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], json!(2_147_483_648_u32));
}

#[test]
fn other_objects_are_rendered_with_the_release_in_them() {
    let objects = objects(&template("helm3", "shared", &[]).unwrap());
    assert_eq!(find(&objects, "ConfigMap", "gate-mine")["data"], json!({"a": "b"}));
    assert_eq!(find(&objects, "ConfigMap", "text")["metadata"]["namespace"], "gates");
}
