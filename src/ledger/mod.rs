//! What was executed, for ever. LIFECYCLE: the states that a row passes through.
//!
//! ```text
//! none ──claim──▶ INTENT ──record──▶ DONE | NOT_EXECUTED | UNKNOWN
//!   └──claim of a pure action──▶ DONE
//! INTENT left by an earlier process ──start-up──▶ UNKNOWN
//! ```
//!
//! A claim is durable when [`Ledger::claim`] returns it, and only then may anything be dispatched. It is unique by
//! `(tenant, nonce)` and by `(tenant, approval_id)`, both checked in the claim's own
//! transaction. Every later change is a compare-and-set on (id, claim token, state).

mod anchor;
mod cache;
pub mod fence;
mod memory;
mod open;
mod sqlite;

pub use anchor::Anchor;
pub use cache::Cached;
pub use memory::Memory;
pub use open::{Opening, open};
pub use sqlite::{OpenError, OpenFile, Sqlite};

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use openexec_protocol::approval::ActionHash;

/// Where executions are remembered.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The execution that this nonce belongs to.
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError>;

    /// Stores a new execution durably, in state INTENT or, for a pure action, DONE.
    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError>;

    /// Settles a claim durably. What failed may be tried again.
    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError>;

    /// Approvals issued before this time cannot be known to be unused.
    fn fence(&self) -> Option<DateTime<Utc>>;

    /// Why nothing can be stored at the moment, for the readiness probe.
    fn trouble(&self) -> Option<&'static str>;

    /// Ends a clean run: nothing is stored afterwards.
    async fn close(&self);
}

/// What a claim stores.
#[derive(Clone, Debug)]
pub struct NewExecution {
    /// The execution's id, new.
    pub id: String,
    /// Whose it is; empty in demo mode.
    pub tenant: Arc<str>,
    /// The client's name for it.
    pub nonce: String,
    /// The action's name.
    pub action: String,
    /// What an approval of it names.
    pub action_hash: ActionHash,
    /// The approval that it consumes.
    pub approval_id: Option<String>,
    /// The canonical payload, kept where a recovery may need it.
    pub payload: Option<String>,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
}

/// A result with its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The result text.
    pub result: String,
    /// Its receipt.
    pub receipt: String,
}

/// How a dispatch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole answer was read.
    Done(Done),
    /// It is certain that nothing happened.
    NotExecuted {
        /// The HTTP status of the answer.
        status: u16,
    },
    /// It may have happened.
    Unknown,
}

/// A state as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Claimed; running now, or left by a process that died.
    Intent,
    /// As [`Outcome`].
    Settled(Outcome),
}

/// An execution as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Its id.
    pub id: String,
    /// The action's name.
    pub action: String,
    /// What an approval of it names.
    pub action_hash: String,
    /// How far it got.
    pub state: State,
}

/// What came of a claim.
#[derive(Debug)]
pub enum Claimed {
    /// It is ours, durably.
    New(Claim, Arc<Execution>),
    /// The nonce belongs to this execution already.
    Known(Arc<Execution>),
    /// The nonce is new, but another execution consumed the approval.
    ApprovalUsed,
}

/// Proof that an execution was claimed durably. Only a ledger makes one.
#[derive(Debug)]
pub struct Claim {
    id: String,
    token: i64,
}

impl Claim {
    /// For the ledgers alone: outside of them a claim is one of a kind.
    fn again(&self) -> Self {
        Claim { id: self.id.clone(), token: self.token }
    }
}

/// What happens when nobody knows any more what the ledger's file holds. It should not return.
pub type OnFatal = Arc<dyn Fn(&dyn std::fmt::Display) + Send + Sync>;

/// Why the ledger did not do it. Nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No room is left.
    #[error("the ledger is full")]
    Full,
    /// It cannot be written or read.
    #[error("the ledger cannot be reached")]
    Unavailable,
    /// It is closed: the server stops.
    #[error("the ledger is closed")]
    Closed,
    /// Somebody else settled the claim.
    #[error("the claim was settled by another")]
    NotOurs,
}

#[cfg(test)]
mod conformance;
