//! What the gate reads and keeps in a pod.

use serde_json::{Value, json};

use super::annotations::{SOCKETS, Wanted};
use super::app::{App, Place};
use super::pod::{self, CONTAINERS};
use super::settings::Mode;

/// Where it finds things.
pub(super) const CONFIG: &str = "/etc/openexec/config";
pub(super) const LEDGER: &str = "/etc/openexec/ledger";
pub(super) const KEYS: &str = "/etc/openexec/keys";
pub(super) const ADMIN: &str = "/etc/openexec/admin";
pub(super) const DATA: &str = "/var/lib/openexec";

/// Whoever runs as the gate's user reads them; nobody else has them mounted.
const READABLE: u32 = 0o444;

/// Where Kubernetes puts the pod's token for its API: nothing of ours needs it, and what is mounted already stays.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Each volume with its place.
fn volumes(wanted: &Wanted, app: &App) -> Vec<(&'static str, &'static str, Value)> {
    let sidecar = &wanted.sidecar;
    let secret = |name: &str, items: Option<Vec<&str>>| {
        let mut secret = json!({"secretName": name, "defaultMode": READABLE});
        if let Some(items) = items {
            secret["items"] = items.iter().map(|key| json!({"key": key, "path": key})).collect();
        }
        json!({"secret": secret})
    };
    let mut volumes = vec![("openexec-no-token", TOKEN, json!({"emptyDir": {"sizeLimit": "1Mi"}}))];
    if let Some(name) = &sidecar.config_map {
        volumes.push(("openexec-config", CONFIG, json!({"configMap": {"name": name, "defaultMode": READABLE}})));
    }
    match (sidecar.mode, wanted.local_ledger, &sidecar.ledger_secret) {
        (Mode::ClawShield, true, _) => volumes.push(("openexec-data", DATA, json!({"emptyDir": {}}))),
        (Mode::ClawShield, false, Some(name)) => {
            let items = if sidecar.ledger_password { vec!["url", "password"] } else { vec!["url"] };
            volumes.push(("openexec-ledger", LEDGER, secret(name, Some(items))));
        }
        _ => {}
    }
    if let (Mode::ClawShield, Some(name)) = (sidecar.mode, &sidecar.keys_secret) {
        volumes.push(("openexec-keys", KEYS, secret(name, None)));
    }
    if let Some(name) = &sidecar.admin_secret {
        volumes.push(("openexec-admin", ADMIN, secret(name, Some(vec!["token"]))));
    }
    if matches!(app.place, Some(Place::Socket(_))) {
        volumes.push((SHARED, SOCKETS, json!({"emptyDir": {}})));
    }
    volumes
}

/// The directory of the app's socket.
const SHARED: &str = "openexec-app";

pub(super) fn mounts(wanted: &Wanted, app: &App) -> Vec<Value> {
    let writable = ["openexec-data", SHARED];
    let mount = |(name, place, _): (&str, &str, Value)| match writable.contains(&name) {
        true => json!({"name": name, "mountPath": place}),
        false => json!({"name": name, "mountPath": place, "readOnly": true}),
    };
    volumes(wanted, app).into_iter().map(mount).collect()
}

pub(super) fn no_token_mount() -> Value {
    json!({"name": "openexec-no-token", "mountPath": TOKEN, "readOnly": true})
}

pub(super) fn add(pod: &mut Value, wanted: &Wanted, app: &App) {
    for (name, _, source) in volumes(wanted, app) {
        let mut volume = source;
        volume["name"] = name.into();
        pod::list_mut(pod, "volumes").push(volume);
    }
    if matches!(app.place, Some(Place::Socket(_))) {
        let apps = pod::list_mut(pod, CONTAINERS).iter_mut().find(|container| pod::name(container) == app.container);
        if let Some(container) = apps.and_then(Value::as_object_mut) {
            pod::entry(container, "volumeMounts").push(json!({"name": SHARED, "mountPath": SOCKETS}));
        }
    }
}
