//! The actions that can be executed. One action is one entry.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use openexec_protocol::canonical::CanonicalText;

use crate::execute::dispatch::{InvalidPayload, builtin};
use crate::ledger::Outcome;

/// Computes a result from a payload, without any effect: executing it twice would harm nobody.
pub type Pure = fn(&CanonicalText) -> Result<CanonicalText, InvalidPayload>;

/// How an action is executed.
#[derive(Clone)]
pub enum Handler {
    /// Built in and without effects: claimed and recorded in one commit.
    Pure(Pure),
    /// Changes the world: claimed durably first, recorded afterwards.
    Effect(Arc<dyn Effect>),
}

/// An action that changes the world.
#[async_trait]
pub trait Effect: Send + Sync {
    /// Does it, once. Called only with a durable claim; what it returns is recorded.
    async fn run(&self, dispatch: Dispatch) -> Outcome;
}

/// What is dispatched: exactly what was approved.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The execution, and the idempotency key.
    pub execution_id: String,
    /// The canonical bytes that were hashed.
    pub payload: CanonicalText,
}

/// Actions by name.
#[derive(Clone, Default)]
pub struct Registry {
    actions: HashMap<String, Handler>,
}

impl Registry {
    /// The built-in actions.
    pub fn builtin() -> Self {
        Registry::default().with("echo", Handler::Pure(builtin::echo)).with("add", Handler::Pure(builtin::add))
    }

    /// One action more.
    pub fn with(mut self, name: &str, handler: Handler) -> Self {
        self.actions.insert(name.to_owned(), handler);
        self
    }

    /// The action of this name.
    pub fn get(&self, name: &str) -> Option<&Handler> {
        self.actions.get(name)
    }
}
