//! The actions that can be executed. One action is one entry.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::receipt::ResultText;
use openexec_protocol::refusal::Refusal;

use crate::execute::dispatch::{InvalidPayload, builtin};
use crate::ledger::{Lease, Record, RecoveryPolicy};
use crate::listen::Permit;
use crate::trace::Context;

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
    /// Whether the payload is one that it can take.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    fn check(&self, _payload: &CanonicalText) -> Result<(), InvalidPayload> {
        Ok(())
    }

    /// Where it is sent, in words, and who finds out about an unknown outcome: kept with the claim.
    fn route(&self) -> (String, RecoveryPolicy) {
        (String::new(), RecoveryPolicy::Operator)
    }

    /// Obtains what the dispatch needs, before anything is claimed: so what cannot be reached costs nothing.
    ///
    /// # Errors
    /// Why it cannot be done now. Nothing was sent.
    async fn prepare(&self) -> Result<Ready, Refusal>;

    /// Tries to find out what came of an execution. `memory` is for what it reads; nothing may be sent that could still run
    /// when the lease is over.
    async fn recover(&self, _record: &Record, _memory: Arc<Permit>, _lease: Option<Arc<Lease>>) -> Recovered {
        Recovered::Operator
    }
}

/// Does it, once. Called only with a durable claim; what it returns is recorded.
pub type Ready = Box<dyn FnOnce(Dispatch) -> BoxFuture<'static, Ended> + Send>;

/// What is dispatched: exactly what was approved.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The execution, and the idempotency key.
    pub execution_id: String,
    /// Whose it is; empty in demo mode.
    pub tenant: Arc<str>,
    /// What it consumed.
    pub approval_id: Option<String>,
    /// The action's name.
    pub action: String,
    /// The canonical bytes that were hashed.
    pub payload: CanonicalText,
    /// The span of the dispatch, in the client's trace if it sent one.
    pub trace: Context,
    /// What goes with it.
    pub tracestate: Option<String>,
    /// For the answer: it grows with it.
    pub memory: Arc<Permit>,
    /// Nothing may be sent that could still run when it is over.
    pub lease: Option<Arc<Lease>>,
}

/// How a dispatch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A whole answer was read.
    Answered {
        /// The upstream's status, if an upstream said it.
        status: Option<u16>,
        /// Headers for the client.
        headers: Vec<(String, String)>,
        /// What it said.
        result: ResultText,
    },
    /// It is certain that nothing happened.
    NotExecuted {
        /// The HTTP status of the answer.
        status: u16,
    },
    /// It may have happened.
    Unknown,
}

/// What a recovery found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// What came of it: never [`Ended::Unknown`].
    Settled(Ended),
    /// Nothing yet.
    AskAgain,
    /// Nothing, and asking again will not help: an operator decides.
    Operator,
}

/// Actions by name.
#[derive(Clone, Default)]
pub struct Registry {
    actions: HashMap<String, Handler>,
}

impl Registry {
    /// The built-in actions.
    pub fn builtin() -> Self {
        let all = builtin::ALL.into_iter();
        all.fold(Registry::default(), |registry, (name, pure)| registry.with(name, Handler::Pure(pure)))
    }

    /// One action more.
    pub fn with(mut self, name: &str, handler: Handler) -> Self {
        self.actions.insert(name.to_owned(), handler);
        self
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.actions.keys().map(String::as_str)
    }

    /// The action of this name.
    pub fn get(&self, name: &str) -> Option<&Handler> {
        self.actions.get(name)
    }
}
