//! The JSON schema of the configuration file, made from its types.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw;

/// As `openexec schema` prints it.
pub fn text() -> String {
    print::<raw::File>("The configuration of OpenExec")
}

/// Another file's.
pub(crate) fn print<T: JsonSchema>(title: &str) -> String {
    let mut schema = schema::<T>();
    schema["title"] = title.into();
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}

/// Every member that is unknown, or of the wrong kind. Their values are not repeated: they may be secrets.
pub(super) fn misfits<T: JsonSchema>(file: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&schema::<T>()).expect("the schema of our own types is one");
    validator.iter_errors(file).flat_map(|error| explain(&error)).collect()
}

fn explain(error: &ValidationError<'_>) -> Vec<String> {
    let member = member(error.instance_path());
    let dot = if member.is_empty() { "" } else { "." };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| format!("{member}{dot}{name} is unknown")).collect()
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            // The form that fits down to the deepest place was meant. One whose very kind is another one was not.
            let depth = |problem: &ValidationError<'_>| match problem.kind() {
                ValidationErrorKind::Type { .. } => problem.instance_path().into_iter().count(),
                _ => problem.instance_path().into_iter().count() + 1,
            };
            let fits = |problems: &&Vec<ValidationError<'_>>| problems.iter().map(depth).min();
            let words: Vec<&str> = context.iter().flatten().filter_map(word).collect();
            match context.iter().max_by_key(fits) {
                _ if !words.is_empty() => vec![format!("{member} must be one of: {}", words.join(", "))],
                Some(meant) if fits(&meant) > Some(depth(error) - 1) => meant.iter().flat_map(explain).collect(),
                _ => vec![format!("{member} is of the wrong kind")],
            }
        }
        ValidationErrorKind::Pattern { .. } => vec![format!("{member} must be a time, such as 500ms, 30s or 1h 30m")],
        _ if member.is_empty() => vec![error.masked().to_string()],
        _ => vec![format!("{member}: {}", error.masked())],
    }
}

/// The one that was expected.
fn word<'e>(error: &'e ValidationError<'_>) -> Option<&'e str> {
    match error.kind() {
        ValidationErrorKind::Constant { expected_value } => expected_value.as_str(),
        _ => None,
    }
}

/// As problems spell it: `upstreams.mail.addresses[0]`.
fn member(location: &Location) -> String {
    let mut member = String::new();
    for segment in location {
        match segment {
            LocationSegment::Index(index) => member.push_str(&format!("[{index}]")),
            LocationSegment::Property(name) => {
                if !member.is_empty() {
                    member.push('.');
                }
                member.push_str(&name);
            }
        }
    }
    member
}

fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}
