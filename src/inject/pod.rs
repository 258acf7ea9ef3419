//! Ways through a pod's JSON.

use serde_json::{Map, Value};

use super::Refused;

/// The lists of containers that run beside each other, and the one of those before them.
pub(super) const CONTAINERS: &str = "containers";
pub(super) const INIT_CONTAINERS: &str = "initContainers";

/// One of the pod's lists; empty when it has none.
pub(super) fn list<'p>(pod: &'p Value, name: &str) -> &'p [Value] {
    pod["spec"][name].as_array().map_or(&[], Vec::as_slice)
}

/// One of the pod's lists, made where it is missing.
pub(super) fn list_mut<'p>(pod: &'p mut Value, name: &str) -> &'p mut Vec<Value> {
    entry(member(pod, "spec"), name)
}

/// A list of an object, made where it is missing.
pub(super) fn entry<'o>(object: &'o mut Map<String, Value>, name: &str) -> &'o mut Vec<Value> {
    let value = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it is one now")
}

/// An object of an object, made where it is missing.
pub(super) fn member<'v>(value: &'v mut Value, name: &str) -> &'v mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let object = value.as_object_mut().expect("it is one now");
    let found = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !found.is_object() {
        *found = Value::Object(Map::new());
    }
    found.as_object_mut().expect("it is one now")
}

pub(super) fn name(object: &Value) -> &str {
    object["name"].as_str().unwrap_or_default()
}

/// Init containers that stay are containers like those that come after them.
pub(super) fn stays(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// What everything here relies on.
pub(super) fn must_be_one(pod: &Value) -> Result<(), Refused> {
    let is_good = |name: &str, is_needed: bool| match &pod["spec"][name] {
        Value::Array(all) => all.iter().all(Value::is_object) && !(is_needed && all.is_empty()),
        Value::Null => !is_needed,
        _ => false,
    };
    if !pod["spec"].is_object() {
        return Err(Refused::NotAPod("it has no spec"));
    }
    if !is_good(CONTAINERS, true) || !is_good(INIT_CONTAINERS, false) || !is_good("volumes", false) {
        return Err(Refused::NotAPod("its containers and volumes are no lists of objects"));
    }
    let metadata = &pod["metadata"];
    let is_map = |value: &Value| value.is_null() || value.is_object();
    if !is_map(metadata) || !is_map(&metadata["annotations"]) || !is_map(&metadata["labels"]) {
        return Err(Refused::NotAPod("its metadata is no object"));
    }
    Ok(())
}
