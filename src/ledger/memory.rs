//! `memory:`, for demonstrations and tests. It forgets everything at the end of the process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::{Claim, Claimed, Done, Execution, Ledger, LedgerError, NewExecution, Outcome, State};

/// Bytes that a row costs beside its texts.
const ROW_OVERHEAD: usize = 256;

/// A bounded ledger in memory: full means no.
pub struct Memory {
    max_bytes: usize,
    fence: Option<DateTime<Utc>>,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    closed: bool,
    bytes: usize,
    tokens: i64,
    nonces: HashMap<Arc<str>, HashMap<String, Arc<Execution>>>,
    approvals: HashSet<(Arc<str>, String)>,
    /// Claims that are not settled, by execution id.
    open: HashMap<String, OpenClaim>,
}

struct OpenClaim {
    token: i64,
    tenant: Arc<str>,
    nonce: String,
}

impl Memory {
    /// Room for `max_bytes` of rows.
    pub fn new(max_bytes: usize, fence: Option<DateTime<Utc>>) -> Self {
        Memory { max_bytes, fence, rows: Mutex::default() }
    }
}

#[async_trait]
impl Ledger for Memory {
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError> {
        Ok(self.rows.lock().find(tenant, nonce))
    }

    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
        self.rows.lock().claim(new, result, self.max_bytes)
    }

    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError> {
        self.rows.lock().record(claim, outcome.clone())
    }

    fn fence(&self) -> Option<DateTime<Utc>> {
        self.fence
    }

    fn trouble(&self) -> Option<&'static str> {
        (self.rows.lock().bytes >= self.max_bytes).then_some("ledger_full")
    }

    async fn close(&self) {
        self.rows.lock().closed = true;
    }
}

impl Rows {
    fn find(&self, tenant: &str, nonce: &str) -> Option<Arc<Execution>> {
        self.nonces.get(tenant)?.get(nonce).cloned()
    }

    fn claim(&mut self, new: NewExecution, result: Option<Done>, max_bytes: usize) -> Result<Claimed, LedgerError> {
        if self.closed {
            return Err(LedgerError::Closed);
        }
        if let Some(known) = self.find(&new.tenant, &new.nonce) {
            return Ok(Claimed::Known(known));
        }
        let approval = new.approval_id.map(|id| (new.tenant.clone(), id));
        if approval.as_ref().is_some_and(|approval| self.approvals.contains(approval)) {
            return Ok(Claimed::ApprovalUsed);
        }
        let result_bytes = result.as_ref().map_or(0, |done| done.result.len());
        let bytes = ROW_OVERHEAD + new.nonce.len() + new.action.len() + result_bytes;
        if self.bytes + bytes > max_bytes {
            return Err(LedgerError::Full);
        }
        self.bytes += bytes;
        self.approvals.extend(approval);
        self.tokens += 1;
        let claim = Claim { id: new.id.clone(), token: self.tokens };
        let state = match result {
            Some(done) => State::Settled(Outcome::Done(done)),
            None => {
                let open = OpenClaim { token: claim.token, tenant: new.tenant.clone(), nonce: new.nonce.clone() };
                self.open.insert(claim.id.clone(), open);
                State::Intent
            }
        };
        let execution = Arc::new(Execution {
            id: new.id,
            action: new.action,
            action_hash: new.action_hash.as_str().to_owned(),
            state,
        });
        self.nonces.entry(new.tenant).or_default().insert(new.nonce, execution.clone());
        Ok(Claimed::New(claim, execution))
    }

    fn record(&mut self, claim: &Claim, outcome: Outcome) -> Result<Arc<Execution>, LedgerError> {
        if self.closed {
            return Err(LedgerError::Closed);
        }
        let open = self.open.get(&claim.id).filter(|open| open.token == claim.token).ok_or(LedgerError::NotOurs)?;
        let row = self
            .nonces
            .get_mut(&open.tenant)
            .and_then(|nonces| nonces.get_mut(&open.nonce))
            .expect("an open claim has a row");
        if let Outcome::Done(done) = &outcome {
            self.bytes += done.result.len(); // beyond the bound rather than lost: it has happened
        }
        *row = Arc::new(Execution { state: State::Settled(outcome), ..Execution::clone(row) });
        let row = row.clone();
        self.open.remove(&claim.id);
        Ok(row)
    }
}
