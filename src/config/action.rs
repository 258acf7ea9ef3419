//! `actions:` and `passthrough:`, checked.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::ledger::RecoveryPolicy;

/// How an action is executed.
#[derive(Clone, Debug)]
pub enum ActionConfig {
    /// By the built-in action of this name.
    Builtin(String),
    /// By an upstream.
    Forward(Arc<Forward>),
}

/// What is sent to an upstream, and what becomes of its answer.
#[derive(Debug)]
pub struct Forward {
    /// The upstream's name.
    pub upstream: String,
    /// With a body.
    pub method: Method,
    /// With its query, if it has one.
    pub path: String,
    /// What the body is.
    pub body: BodyForm,
    /// From the first byte to the last of the answer.
    pub timeout: Duration,
    /// Bytes of an answer that are read.
    pub read_bytes: usize,
    /// Bytes of a result that are kept.
    pub kept_bytes: usize,
    /// Who finds out about an unknown outcome.
    pub recovery: Recovery,
    /// Statuses that say that nothing happened.
    pub not_executed_on: Vec<u16>,
    /// Sent along; those from files cannot be printed.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers of the answer that the client gets.
    pub response_headers: Vec<HeaderName>,
    /// What the payload must be.
    pub schema: Option<jsonschema::Validator>,
    /// All of the above that decides what would happen, in words: what a recovery compares.
    pub route: String,
}

/// What the body is: canonical bytes, as they were approved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BodyForm {
    /// The payload.
    #[default]
    Payload,
    /// `{"action": ..., "payload": ...}`
    Request,
}

impl BodyForm {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            BodyForm::Payload => "payload",
            BodyForm::Request => "request",
        }
    }
}

/// Who finds out about an unknown outcome, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// An operator.
    Operator,
    /// We do, by sending it again with the same key.
    Idempotent {
        /// How long the upstream keeps keys.
        window: Duration,
    },
    /// We do, by asking for the key.
    Probe {
        /// With `{key}` where the key goes.
        path: String,
        /// After it 404 means that it will never happen.
        settle: Duration,
        /// How long it is worth asking.
        window: Duration,
    },
}

impl Recovery {
    /// The same, as the ledger keeps it.
    pub fn policy(&self) -> RecoveryPolicy {
        match self {
            Recovery::Operator => RecoveryPolicy::Operator,
            Recovery::Idempotent { .. } => RecoveryPolicy::Idempotent,
            Recovery::Probe { .. } => RecoveryPolicy::Probe,
        }
    }
}

/// Requests that are let through as they are.
#[derive(Clone, Debug)]
pub struct PassRule {
    /// To this upstream.
    pub upstream: String,
    /// With these methods.
    pub methods: Vec<Method>,
    /// To this path, and what is below it.
    pub path: String,
    /// To the response's header, and between two pieces of a body.
    pub timeout: Duration,
    /// Paths of the upstream's actions, which nobody reaches this way.
    pub action_paths: Vec<String>,
}
