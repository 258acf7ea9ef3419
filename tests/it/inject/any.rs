//! Pods of every shape that is near the one that matters: twice is once, and the app keeps what is its own.

use std::collections::HashSet;

use openexec::inject::{Namespace, Outcome, inject};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::settings;

fn any_port() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![json!(8080), json!("8080"), json!(9090), json!("http"), json!("metrics"), json!("absent")]),
        select(vec![json!(0), json!(-1), json!(5000), json!(70_000), json!(1.5), json!(null), json!({})]),
    ]
}

fn question() -> impl Strategy<Value = Value> {
    let path = select(vec!["/", "", "healthz?a=b#c", "/probes/app/liveness", "/drained?wait=40", "/é %zz\"\n{$(A)}"]);
    let header =
        select(vec![json!([]), json!([{"name": "Host", "value": "h"}]), json!([{"name": "a b"}, 1]), json!(1)]);
    prop_oneof![
        (path, any_port(), header, option::of(select(vec!["", "node.example"])), select(vec!["HTTP", "HTTPS"]))
            .prop_map(|(path, port, headers, host, scheme)| {
                json!({"httpGet": {"path": path, "port": port, "httpHeaders": headers, "host": host, "scheme": scheme}})
            }),
        any_port().prop_map(|port| json!({"tcpSocket": {"port": port}})),
        select(vec![
            json!({"grpc": {"port": 1}}),
            json!({"exec": {"command": ["x"]}}),
            json!({}),
            json!(null),
            json!(7)
        ]),
    ]
}

fn probe() -> impl Strategy<Value = Value> {
    (question(), select(vec![json!(null), json!(0), json!(3), json!(-1), json!(u64::MAX)])).prop_map(
        |(mut probe, time)| {
            if let Some(probe) = probe.as_object_mut() {
                probe.insert("timeoutSeconds".to_owned(), time);
                probe.insert("unknown".to_owned(), json!({"a/b~c": [null, 1e300]}));
            }
            probe
        },
    )
}

fn port() -> impl Strategy<Value = Value> {
    let name = select(vec![None, Some("http"), Some("metrics"), Some("openexec")]);
    let number = select(vec![json!(8080), json!(9090), json!(5000), json!(70_000), json!("http")]);
    (name, number, option::of(select(vec!["TCP", "UDP"]))).prop_map(|(name, number, protocol)| {
        let mut port = json!({"containerPort": number, "hostIP": "x"});
        for (member, value) in [("name", name), ("protocol", protocol)] {
            if let Some(value) = value {
                port[member] = value.into();
            }
        }
        port
    })
}

fn container(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let members = vec((select(vec!["livenessProbe", "readinessProbe", "startupProbe"]), probe()), 0..3);
    let hooks = option::of(vec((select(vec!["postStart", "preStop"]), question()), 0..2));
    let mounts = option::of(vec(select(vec!["data", "openexec-keys", "openexec-app"]), 0..2));
    let policy = select(vec![None, Some("Always"), Some("OnFailure")]);
    (select(names), option::of(vec(port(), 0..3)), members, hooks, mounts, policy).prop_map(
        |(name, ports, members, hooks, mounts, policy)| {
            let mut container =
                json!({"name": name, "image": "x", "a/b~c": [1, "$(A)", {"d": null}], "large": u64::MAX});
            for (member, probe) in members {
                container[member] = probe;
            }
            if let Some(ports) = ports {
                container["ports"] = ports.into();
            }
            if let Some(hooks) = hooks {
                container["lifecycle"] =
                    hooks.into_iter().map(|(hook, ask)| (hook.to_owned(), ask)).collect::<Map<_, _>>().into();
            }
            if let Some(mounts) = mounts {
                let mounts = mounts.into_iter().map(|name| json!({"name": name, "mountPath": "/x", "subPath": "y"}));
                container["volumeMounts"] = mounts.collect();
            }
            if let Some(policy) = policy {
                container["restartPolicy"] = policy.into();
            }
            container
        },
    )
}

fn annotations() -> impl Strategy<Value = Value> {
    let wanted = select(vec![
        ("config.openexec.dev/upstream-port", "8080"),
        ("config.openexec.dev/upstream-port", "http"),
        ("config.openexec.dev/upstream-socket", "/run/openexec/app.sock"),
        ("config.openexec.dev/traffic", "redirect"),
        ("config.openexec.dev/sidecar", "container"),
        ("config.openexec.dev/gate-port", "15000"),
        ("config.openexec.dev/mode", "demo"),
        ("config.openexec.dev/container", "app"),
        ("config.openexec.dev/allow-inbound-ports", "9090"),
        ("config.openexec.dev/admin-secret", "admin"),
        ("openexec.dev/ledger", "local"),
        ("openexec.dev/status", "{}"),
        ("a/b~c", "\u{7f}~1"),
    ]);
    vec(wanted, 0..4).prop_map(|all| {
        all.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>().into()
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let spec = (
        vec(container(&["app", "app", "helper", "openexec"]), 1..3),
        option::of(vec(container(&["migrate", "mesh", "openexec-redirect"]), 0..2)),
        option::of(vec(select(vec!["data", "cache", "openexec-data"]), 0..2)),
        select(vec![json!(null), json!(0), json!(-3), json!(60), json!(i64::MAX), json!(u64::MAX), json!("60")]),
    );
    (annotations(), spec).prop_map(|(annotations, (mut containers, mut inits, volumes, grace))| {
        // Kubernetes takes no two of one name.
        let mut names = HashSet::new();
        for list in [Some(&mut containers), inits.as_mut()].into_iter().flatten() {
            list.retain(|container| names.insert(container["name"].to_string()));
        }
        let mut pod = json!({
            "metadata": {"annotations": annotations, "creationTimestamp": null, "labels": {"a/b~c": "1.10"}},
            "spec": {"containers": containers, "unknown": [1.5, {"~": "/"}]},
        });
        if let Some(inits) = inits {
            pod["spec"]["initContainers"] = inits.into();
        }
        if let Some(volumes) = volumes {
            pod["spec"]["volumes"] = volumes.into_iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
        }
        if !grace.is_null() {
            pod["spec"]["terminationGracePeriodSeconds"] = grace;
        }
        pod
    })
}

fn is_ours(container: &&Value) -> bool {
    container["name"] == "openexec" || container["name"] == "openexec-redirect"
}

/// What an injection is not about.
fn others(mut container: Value) -> Value {
    let members = container.as_object_mut().unwrap();
    for member in ["livenessProbe", "readinessProbe", "startupProbe", "ports", "lifecycle", "volumeMounts"] {
        members.remove(member);
    }
    container
}

fn check(pod: &Value, namespace: Namespace) -> Result<(), TestCaseError> {
    let Ok(Outcome::Injected(injected)) = inject(pod, &settings(), namespace) else { return Ok(()) };
    let once = injected.pod;
    let Ok(Outcome::Injected(again)) = inject(&once, &settings(), namespace) else {
        return Err(TestCaseError::fail(format!("refused the second time: {once}")));
    };
    prop_assert_eq!(&again.pod, &once);
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &json_patch::diff(pod, &once)).unwrap();
    prop_assert_eq!(&patched, &once, "the patch leads to it");
    for list in ["containers", "initContainers"] {
        let of = |pod: &Value| -> Vec<Value> {
            let all = pod["spec"][list].as_array().into_iter().flatten();
            all.filter(|container| !is_ours(container)).cloned().map(others).collect()
        };
        prop_assert_eq!(of(pod), of(&once), "every container is there, in its order, with all that is its own");
    }
    let gates = ["containers", "initContainers"].map(|list| once["spec"][list].as_array().cloned().unwrap_or_default());
    prop_assert_eq!(gates.iter().flatten().filter(|container| container["name"] == "openexec").count(), 1);
    for container in gates.iter().flatten() {
        let names: Vec<_> =
            container["ports"].as_array().into_iter().flatten().filter_map(|port| port["name"].as_str()).collect();
        prop_assert!(names.iter().filter(|name| **name == "openexec").count() <= 1, "{:?}", names);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn injected_twice_is_injected_once_and_the_app_keeps_what_is_its_own(pod in pod(), enforced: bool) {
        check(&pod, if enforced { Namespace::Enforced } else { Namespace::Enabled })?;
    }
}
