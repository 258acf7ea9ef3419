//! Doing it.

pub mod builtin;
mod result;
mod schema;
pub mod upstream;

use openexec_protocol::refusal::{Code, Refusal};

/// Bytes of memory that every dispatch has for its answer before anything is claimed. So an answer of this size is kept
/// whatever else is going on, and as many executions as may be in flight can run within `limits.buffered_bytes`.
///
/// What is larger takes memory as it arrives. Where there is none, it is not held but hashed, as what is over
/// `kept_bytes`: the action happened, that is known, and a description that stays the same is better than an outcome that
/// nobody knows. To take all of `kept_bytes` beforehand was rejected: 256 executions could run then, not 1 024.
pub const RESERVED_BYTES: usize = 64 << 10;

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
