//! What an injection changed in the app's own containers. It is kept in the pod, in an annotation, so that another
//! injection begins with what was there before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::annotations::{self, STATUS, Wanted};
use super::app::{self, PROBES};
use super::settings::{Kind, Mode, Traffic};
use super::{GATE, REDIRECT, Refused, VOLUMES, pod};

/// See the module.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Status {
    version: String,
    mode: Mode,
    sidecar: Kind,
    traffic: Traffic,
    /// `shared`, `local`, or `memory`.
    ledger: String,
    /// Probes as they were, by container and kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) probes: BTreeMap<String, Value>,
    /// Names of ports that lead to the gate now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<Led>,
    /// Containers whose `preStop` waits for the gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) waiting: Vec<String>,
    /// The pod's time to end, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grace: Option<Value>,
}

/// A port of an app's container that has the gate's number.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Led {
    pub(super) container: String,
    pub(super) name: String,
    /// The number that it had; absent: it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
}

impl Status {
    pub(super) fn new(wanted: &Wanted) -> Self {
        let ledger = match wanted.sidecar.mode {
            Mode::Demo => "memory",
            Mode::ClawShield if wanted.local_ledger => "local",
            Mode::ClawShield => "shared",
        };
        Status {
            version: crate::VERSION.to_owned(),
            mode: wanted.sidecar.mode,
            sidecar: wanted.sidecar.sidecar,
            traffic: wanted.sidecar.traffic,
            ledger: ledger.to_owned(),
            probes: BTreeMap::new(),
            ports: Vec::new(),
            waiting: Vec::new(),
            grace: None,
        }
    }

    pub(super) fn write(&self, pod: &mut Value) {
        let text = serde_json::to_string(self).expect("its keys are texts");
        let metadata = pod::member(pod, "metadata");
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Default::default()));
        annotations[STATUS] = text.into();
    }
}

/// The pod without what an injection made of it. An annotation alone is nobody's: it is taken off.
///
/// # Errors
/// Something has a name of the gate's, and no injection gave it.
pub(super) fn original(injected: &Value) -> Result<Value, Refused> {
    pod::must_be_one(injected)?;
    let ours = |container: &&Value| [GATE, REDIRECT].contains(&pod::name(container));
    let containers = || pod::list(injected, pod::CONTAINERS).iter().chain(pod::list(injected, pod::INIT_CONTAINERS));
    let has_gate = containers().any(|container| ours(&container));
    let status = annotations::annotation(injected, STATUS).and_then(|text| serde_json::from_str::<Status>(text).ok());
    let mut restored = injected.clone();
    forget_status(&mut restored);
    let Some(status) = status.filter(|_| has_gate) else {
        // A mount of a volume that is not there yet would be one of the gate's, its keys or its ledger.
        let mounts = containers().flat_map(|container| container["volumeMounts"].as_array()).flatten();
        let volumes = pod::list(injected, "volumes").iter().chain(mounts);
        let volumes = volumes.filter(|volume| pod::name(volume).starts_with(VOLUMES));
        return match containers().filter(ours).chain(volumes).next() {
            Some(taken) => Err(Refused::ReservedName(pod::name(taken).to_owned())),
            None => Ok(restored),
        };
    };
    for list in [pod::CONTAINERS, pod::INIT_CONTAINERS] {
        take(pod::member(&mut restored, "spec"), list, |container| ours(&container));
        if !pod::list(&restored, list).is_empty() {
            pod::list_mut(&mut restored, list).iter_mut().for_each(|container| give_back(container, &status));
        }
    }
    take_volumes(pod::member(&mut restored, "spec"), "volumes");
    let spec = pod::member(&mut restored, "spec");
    match status.grace {
        Some(grace) => spec.insert("terminationGracePeriodSeconds".to_owned(), grace),
        None => spec.remove("terminationGracePeriodSeconds"),
    };
    Ok(restored)
}

fn forget_status(pod: &mut Value) {
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    if annotations.remove(STATUS).is_some() && annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// Probes, ports, the wait at the end, and mounts.
fn give_back(container: &mut Value, status: &Status) {
    let name = pod::name(container).to_owned();
    for (field, kind) in PROBES {
        if let Some(probe) = status.probes.get(&format!("{name}/{kind}"))
            && app::is_ours(&container[field])
        {
            container[field] = probe.clone();
        }
    }
    for led in status.ports.iter().filter(|led| led.container == name) {
        let Some(container) = container.as_object_mut() else { return };
        let Some(number) = led.port else {
            take(container, "ports", |port| pod::name(port) == led.name);
            continue;
        };
        let ports = container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
        ports.filter(|port| pod::name(port) == led.name).for_each(|port| port["containerPort"] = number.into());
    }
    let Some(container) = container.as_object_mut() else { return };
    if status.waiting.contains(&name)
        && let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut)
    {
        lifecycle.remove("preStop");
        if lifecycle.is_empty() {
            container.remove("lifecycle");
        }
    }
    take_volumes(container, "volumeMounts");
}

fn take_volumes(object: &mut Map<String, Value>, list: &str) {
    take(object, list, |volume| pod::name(volume).starts_with(VOLUMES));
}

/// Takes these off a list, and the list itself when nothing else was in it.
fn take(object: &mut Map<String, Value>, list: &str, these: impl Fn(&Value) -> bool) {
    let Some(all) = object.get_mut(list).and_then(Value::as_array_mut) else { return };
    let before = all.len();
    all.retain(|one| !these(one));
    if all.is_empty() && before > 0 {
        object.remove(list);
    }
}
