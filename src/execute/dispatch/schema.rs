//! A payload against its action's JSON Schema.

use jsonschema::Validator;
use openexec_protocol::canonical::CanonicalText;

use super::InvalidPayload;

/// What is wrong, and where, without repeating a value of the payload's.
pub(super) fn check(schema: &Validator, payload: &CanonicalText) -> Result<(), InvalidPayload> {
    let value = serde_json::from_str(payload.as_str())
        .map_err(|_| InvalidPayload("a number of the payload is too large for the action's schema".to_owned()))?;
    schema.validate(&value).map_err(|error| {
        let pointer = error.instance_path().to_string();
        let place = if pointer.is_empty() { "the payload".to_owned() } else { format!("`{pointer}`") };
        let rule = error.schema_path().to_string();
        InvalidPayload(format!("{place} does not fit the action's schema (`{rule}`): {}", error.masked_with("it")))
    })
}
