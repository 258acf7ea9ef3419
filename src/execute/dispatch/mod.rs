//! Doing it.

pub mod builtin;
mod result;
mod schema;
pub mod upstream;

use openexec_protocol::refusal::{Code, Refusal};

/// What a handler found wrong with a payload. It never repeats the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPayload(pub String);

impl From<InvalidPayload> for Refusal {
    fn from(invalid: InvalidPayload) -> Self {
        Refusal::new(Code::InvalidPayload, invalid.0)
    }
}

pub(super) fn unknown_action(name: &str) -> Refusal {
    Refusal::new(Code::UnknownAction, format!("Unknown action: {name}"))
}
