//! What was executed, for ever. LIFECYCLE: the states that a row passes through.
//!
//! ```text
//! none ──claim──▶ INTENT ──record──▶ DONE | NOT_EXECUTED | UNKNOWN
//!   └──claim of a pure action──▶ DONE
//! INTENT left by an earlier process ──start-up──▶ UNKNOWN
//! UNKNOWN ──resolve (recovery, an operator), or record (the execution's own late answer)──▶ DONE | NOT_EXECUTED
//! ```
//!
//! A claim is durable when [`Ledger::claim`] returns it, and only then may anything be dispatched. It is unique by
//! `(tenant, nonce)` and by `(tenant, approval_id)`, both checked in the claim's own
//! transaction. Every later change is a compare-and-set on (id, claim token, state).

mod anchor;
mod cache;
pub mod care;
mod columns;
pub mod fence;
mod lease;
mod memory;
mod open;
mod postgres;
mod sqlite;

pub use anchor::Anchor;
pub use cache::Cached;
pub use lease::Lease;
pub use memory::Memory;
pub use open::{Opening, Reached, open, preview};
pub use postgres::{Refused, Unusable};
pub use sqlite::{OpenError, OpenFile, Sqlite};

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::approval::ActionHash;
use uuid::Uuid;

/// Where executions are remembered.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The execution that this nonce belongs to.
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError>;

    /// Stores a new execution durably, in state INTENT or, for a pure action, DONE.
    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError>;

    /// Settles a claim durably. What failed may be tried again. An outcome that is known settles an unknown one too.
    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError>;

    /// Settles an execution whose outcome is unknown; `by` says who knows.
    ///
    /// # Errors
    /// [`LedgerError::NotOurs`]: there is none with this id whose outcome is unknown.
    async fn resolve(&self, id: &str, outcome: &Outcome, by: &str) -> Result<Arc<Execution>, LedgerError>;

    /// The execution with this id, with everything that is known of it.
    async fn find(&self, id: &str) -> Result<Option<Record>, LedgerError>;

    /// Executions, the newest first. Without their payloads and results: those may be large.
    async fn list(&self, filter: &Filter) -> Result<Vec<Record>, LedgerError>;

    /// Executions whose outcome is unknown and whose policy is not an operator's, the oldest first, behind this row.
    async fn recoverable(&self, after: i64, limit: usize) -> Result<Vec<Recoverable>, LedgerError>;

    /// Remembers a refused request. Of its tenant the newest `kept` stay. Nobody waits for it, and it may be lost: with the
    /// process, or where there is no room.
    fn deny(&self, denied: Denied, kept: usize);

    /// Refused requests, the newest first, each with its place.
    async fn denials(&self, filter: &DenialFilter) -> Result<Vec<(i64, Denied)>, LedgerError>;

    /// Forgets a few of the results, and of the executions, that are older than this: so few that nobody waits for it.
    /// What is not settled stays, and so does the newest execution, by which the anchor knows the ledger.
    async fn retain(&self, horizon: &Horizon) -> Result<Forgotten, LedgerError>;

    /// Takes the turn to find out about an unknown outcome; `None`: another replica has it, or the outcome is known.
    async fn take_turn(&self, _id: &str) -> Result<Option<Turn>, LedgerError> {
        Ok(Some(Turn::default()))
    }

    /// Gives the turn back.
    async fn end_turn(&self, _id: &str, _turn: Turn) {}

    /// Whether other processes use it too: then an INTENT may be running there.
    fn is_shared(&self) -> bool {
        false
    }

    /// Executions whose outcome is unknown.
    async fn count_unknown(&self) -> Result<usize, LedgerError>;

    /// The finished execution of this nonce, if that can be told without asking the disk.
    fn cached(&self, _tenant: &str, _nonce: &str) -> Option<Arc<Execution>> {
        None
    }

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
    /// When that was issued: the fence may have risen since it was compared.
    pub issued_at: Option<DateTime<Utc>>,
    /// The name of the key that verified it.
    pub key_id: Option<String>,
    /// Who asked for it, where callers are configured.
    pub caller: Option<Arc<str>>,
    /// What its recovery needs, for an execution that is dispatched.
    pub dispatched: Option<Dispatched>,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
}

/// What was sent where, for whoever must find out what came of it. The idempotency key is the execution's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// The canonical payload; forgotten when the outcome is known.
    pub payload: Option<String>,
    /// Method, path, body and upstream. If the action's has changed since, only an operator decides.
    pub route: String,
    /// Who finds out.
    pub policy: RecoveryPolicy,
}

/// Who finds out what came of an execution whose outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryPolicy {
    /// An operator.
    #[default]
    Operator,
    /// We do, by dispatching it again: the upstream knows the key.
    Idempotent,
    /// We do, by asking the upstream for the key.
    Probe,
}

impl RecoveryPolicy {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            RecoveryPolicy::Operator => "operator",
            RecoveryPolicy::Idempotent => "idempotent",
            RecoveryPolicy::Probe => "probe",
        }
    }

    /// The policy of this word; an unknown word is an operator's.
    fn parse(word: &str) -> Self {
        match word {
            "idempotent" => RecoveryPolicy::Idempotent,
            "probe" => RecoveryPolicy::Probe,
            _ => RecoveryPolicy::Operator,
        }
    }
}

/// A result with its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The upstream's HTTP status; `None` when no upstream said it.
    pub upstream_status: Option<u16>,
    /// The upstream's headers that the client gets.
    pub headers: Vec<(String, String)>,
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

impl Outcome {
    /// The word in the ledger.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Done(_) => "DONE",
            Outcome::NotExecuted { .. } => "NOT_EXECUTED",
            Outcome::Unknown => "UNKNOWN",
        }
    }
}

/// A state as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Claimed; running now, or left by a process that died.
    Intent,
    /// DONE, and its result is no longer kept.
    Expired {
        /// The result's receipt.
        receipt: String,
    },
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
    /// The name of the key that verified its approval: a retired one is told of its own executions only.
    pub key_id: Option<String>,
    /// How far it got.
    pub state: State,
}

impl State {
    /// The word in the ledger.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Intent => "INTENT",
            State::Expired { .. } => "DONE",
            State::Settled(outcome) => outcome.as_str(),
        }
    }

    /// Every word that [`State::as_str`] knows.
    pub const WORDS: [&'static str; 4] = ["INTENT", "DONE", "NOT_EXECUTED", "UNKNOWN"];
}

/// An execution with everything that is known of it, for operators and recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the ledger.
    pub seq: i64,
    /// What its client is told. [`Ledger::list`] leaves the result empty.
    pub execution: Execution,
    /// Whose it is; empty in demo mode.
    pub tenant: String,
    /// The client's name for it.
    pub nonce: String,
    /// The approval that it consumed.
    pub approval_id: Option<String>,
    /// Who asked for it, where callers are configured.
    pub caller: Option<String>,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
    /// When its outcome was stored.
    pub settled_at: Option<DateTime<Utc>>,
    /// Who settled it, when that was neither the execution itself nor a start.
    pub settled_by: Option<String>,
    /// What was dispatched, if anything was.
    pub dispatched: Option<Dispatched>,
}

/// An execution that recovery may find out about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recoverable {
    /// Its place in the ledger.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// The action's name.
    pub action: String,
}

/// Which executions, and how many.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In this state: one of [`State::WORDS`].
    pub state: Option<&'static str>,
    /// Older than the one with this id: none, if it is forgotten by now.
    pub before: Option<String>,
    /// At most this many.
    pub limit: usize,
}

/// An authentic request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// When.
    pub denied_at: DateTime<Utc>,
    /// Whose it was; empty in demo mode.
    pub tenant: Arc<str>,
    /// The refusal's code.
    pub reason: String,
    /// What was asked for, as the client called it.
    pub action: String,
    /// What an approval of it names.
    pub action_hash: String,
    /// The client's name for it.
    pub nonce: String,
    /// The approval that it carried.
    pub approval_id: Option<String>,
    /// The name of the key that verified it.
    pub key_id: Option<String>,
    /// Who sent it, where callers are configured.
    pub caller: Option<Arc<str>>,
}

/// Which refused requests, and how many.
#[derive(Clone, Debug, Default)]
pub struct DenialFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Older than the one at this place.
    pub before: Option<i64>,
    /// At most this many.
    pub limit: usize,
}

/// What is old enough to be forgotten: settled before these times.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// Results; their executions stay, with their receipts.
    pub results: Option<DateTime<Utc>>,
    /// Executions. With one its nonce and the use of its approval are forgotten, so the fence is raised to this time and
    /// `skew`: no approval that it could have used counts again, whatever the clock says later.
    pub executions: Option<DateTime<Utc>>,
    /// How far clocks may be apart.
    pub skew: TimeDelta,
}

impl Horizon {
    /// What the fence must be before executions are forgotten.
    fn fence(&self) -> Option<DateTime<Utc>> {
        self.executions.map(|before| fence::whole_micros(before + self.skew))
    }
}

/// What [`Ledger::retain`] forgot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Results.
    pub results: usize,
    /// Executions.
    pub executions: usize,
    /// Whose they were: tenant and nonce.
    pub nonces: Vec<(String, String)>,
    /// There is more of it.
    pub more: bool,
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
    /// The nonce is new, but the fence has risen above the approval: whether it was used is not known.
    BehindFence,
}

/// The turn to find out about an unknown outcome, among replicas. Within one process there is another one.
#[derive(Debug, Default)]
pub struct Turn {
    /// Others take the turn when it is over.
    pub lease: Option<Arc<Lease>>,
    replica: Option<Uuid>,
}

/// Proof that an execution was claimed durably. Only a ledger makes one.
#[derive(Debug)]
pub struct Claim {
    intent: Arc<Execution>,
    /// Its place in the ledger.
    seq: i64,
    token: i64,
    /// Of the process that claimed it, where others use the ledger too.
    lease: Option<Arc<Lease>>,
    /// Whether an outcome may be recorded although that was not acknowledged.
    is_doubtful: AtomicBool,
    /// Its tenant and nonce, where answers are cached.
    cached_as: Option<(Arc<str>, String)>,
}

impl Claim {
    fn new(intent: Arc<Execution>, seq: i64, token: i64) -> Self {
        Claim { intent, seq, token, lease: None, is_doubtful: AtomicBool::new(false), cached_as: None }
    }

    fn under_lease(intent: Arc<Execution>, seq: i64, token: i64, lease: Arc<Lease>) -> Self {
        Claim { lease: Some(lease), ..Claim::new(intent, seq, token) }
    }

    /// What is dispatched must end before it does; `None`: there is nobody else.
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        self.lease.as_ref()
    }

    /// The execution with its outcome.
    fn settled(&self, outcome: Outcome) -> Arc<Execution> {
        Arc::new(Execution { state: State::Settled(outcome), ..Execution::clone(&self.intent) })
    }

    /// For the ledgers alone: outside of them a claim is one of a kind.
    fn again(&self) -> Self {
        Claim::new(self.intent.clone(), self.seq, self.token)
    }
}

/// What happens when nobody knows any more what the ledger's file holds. It should not return.
pub type OnFatal = Arc<dyn Fn(&dyn std::fmt::Display) + Send + Sync>;

/// Why the ledger did not do it. Nothing was stored, unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No room is left.
    #[error("the ledger is full")]
    Full,
    /// It cannot be written or read.
    #[error("the ledger cannot be reached")]
    Unavailable,
    /// Whether it was stored is not known. Nothing was dispatched, and what was stored is withdrawn, if it can be.
    #[error("the ledger did not say whether it was stored")]
    Doubtful,
    /// It is closed: the server stops.
    #[error("the ledger is closed")]
    Closed,
    /// Somebody else settled the claim.
    #[error("the claim was settled by another")]
    NotOurs,
}

#[cfg(test)]
mod conformance;
