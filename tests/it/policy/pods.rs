//! Pods as they are after the injector.

use serde_json::{Value, json};

pub const IMAGE: &str =
    "registry.example/openexec@sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// A pod as it is after the injector, in the API server's words.
pub fn pod() -> Value {
    let token =
        json!({"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "mail", "namespace": "payments", "labels": {"app": "mail"},
            "annotations": {"openexec.dev/status": "injected"},
        },
        "spec": {
            "initContainers": [
                {"name": "migrate", "image": "mail:1", "volumeMounts": [token]},
                {
                    "name": "openexec", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always",
                    "args": ["serve"],
                    "env": [
                        {"name": "OPENEXEC_MODE", "value": "clawshield"},
                        {"name": "OPENEXEC_LISTEN", "value": "0.0.0.0:5000"},
                        {"name": "OPENEXEC_POD_IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                        {"name": "OPENEXEC_UPSTREAM", "value": "http://127.0.0.1:8080"},
                        {"name": "CLAWSHIELD_PUBLIC_KEY_FILE", "value": "/etc/openexec/keys/public-key.pem"},
                    ],
                    "ports": [{"name": "http", "containerPort": 5000, "protocol": "TCP"}],
                    "volumeMounts": [
                        {"name": "openexec-config", "mountPath": "/etc/openexec/config", "readOnly": true},
                        {"name": "openexec-keys", "mountPath": "/etc/openexec/keys", "readOnly": true},
                        token,
                    ],
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "readOnlyRootFilesystem": true,
                        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "startupProbe": {"httpGet": {"path": "/readyz", "port": 5001, "scheme": "HTTP"}},
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 5001, "scheme": "HTTP"}},
                    "livenessProbe": {"httpGet": {"path": "/livez", "port": 5001, "scheme": "HTTP"}},
                },
            ],
            "containers": [
                {
                    "name": "app", "image": "mail:1", "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "volumeMounts": [token], "securityContext": {"capabilities": {"drop": ["ALL"]}},
                },
                {"name": "shipper", "image": "shipper:1", "env": [{"name": "LD_PRELOAD", "value": "of its own"}]},
            ],
            "volumes": [
                {"name": "openexec-config", "configMap": {"name": "openexec"}},
                {"name": "openexec-keys", "secret": {"secretName": "openexec-keys"}},
                {"name": "token", "projected": {"sources": []}},
            ],
            "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]},
            "serviceAccountName": "default", "restartPolicy": "Always", "hostNetwork": false,
        },
    })
}

pub fn list<'p>(pod: &'p mut Value, of: &str) -> &'p mut Vec<Value> {
    pod["spec"][of].as_array_mut().unwrap()
}

pub fn named<'p>(pod: &'p mut Value, name: &str) -> &'p mut Value {
    let spec = pod["spec"].as_object_mut().unwrap();
    let lists = spec.iter_mut().filter(|(key, _)| key.ends_with("ontainers"));
    let mut all = lists.flat_map(|(_, list)| list.as_array_mut().unwrap());
    all.find(|container| container["name"] == name).unwrap()
}

pub fn gate(pod: &mut Value) -> &mut Value {
    named(pod, "openexec")
}

pub fn app(pod: &mut Value) -> &mut Value {
    named(pod, "app")
}

pub fn remove(value: &mut Value, member: &str) -> Value {
    value.as_object_mut().unwrap().remove(member).unwrap()
}

/// The sidecar is a container like others.
pub fn classic() -> Value {
    let mut pod = pod();
    let mut sidecar = list(&mut pod, "initContainers").pop().unwrap();
    remove(&mut sidecar, "restartPolicy");
    list(&mut pod, "containers").insert(0, sidecar);
    pod
}

pub fn redirected() -> Value {
    let mut pod = pod();
    let init = json!({
        "name": "openexec-redirect", "image": IMAGE,
        "args": ["redirect", "--apply", "--app-port=8080", "--gate-port=5000", "--admin-port=5001", "--allow-port=9090"],
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "securityContext": {
            "runAsUser": 0, "runAsNonRoot": false, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    list(&mut pod, "initContainers").insert(0, init);
    pod
}

pub fn redirect(pod: &mut Value) -> &mut Value {
    named(pod, "openexec-redirect")
}
