//! `memory:`, for demonstrations and tests. It forgets everything at the end of the process.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::{
    Claim, Claimed, DenialFilter, Denied, Dispatched, Done, Execution, Filter, Forgotten, Horizon, Ledger, LedgerError,
    NewExecution, Outcome, Record, Recoverable, RecoveryPolicy, State,
};

/// Bytes that a row costs beside its texts.
const ROW_OVERHEAD: usize = 256;
/// Refused requests that are remembered of each tenant.
const MOST_DENIALS: usize = 1_000;

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
    /// In the order in which they were claimed.
    #[expect(clippy::vec_box, reason = "everybody waits while more room is made: pointers are moved faster than rows")]
    rows: Vec<Box<Row>>,
    nonces: Index,
    approvals: Index,
    /// Rows whose outcome is not known, by execution id.
    open: HashMap<String, usize>,
    /// The oldest first.
    denials: VecDeque<(i64, Denied)>,
}

struct Row {
    execution: Arc<Execution>,
    token: i64,
    tenant: Arc<str>,
    nonce: String,
    approval_id: Option<String>,
    caller: Option<Arc<str>>,
    claimed_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
    settled_by: Option<String>,
    dispatched: Option<Dispatched>,
}

/// Where the rows are that have a name, by its hash. That is kept: growing would else read all the names again, while
/// everybody waits.
#[derive(Default)]
struct Index {
    hasher: RandomState,
    places: HashTable<(u64, usize)>,
}

impl Index {
    fn hash(&self, tenant: &str, name: &str) -> u64 {
        self.hasher.hash_one((tenant, name))
    }

    fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let found = self.places.find(hash, |(of, at)| *of == hash && is_it(*at));
        found.map(|(_, at)| *at)
    }

    fn insert(&mut self, hash: u64, at: usize) {
        self.places.insert_unique(hash, (hash, at), |(hash, _)| *hash);
    }
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
        self.rows.lock().settle(&claim.intent.id, outcome.clone(), None, |row| row.token == claim.token)
    }

    async fn resolve(&self, id: &str, outcome: &Outcome, by: &str) -> Result<Arc<Execution>, LedgerError> {
        let is_unknown = |row: &Row| row.execution.state == State::Settled(Outcome::Unknown);
        self.rows.lock().settle(id, outcome.clone(), Some(by), is_unknown)
    }

    async fn find(&self, id: &str) -> Result<Option<Record>, LedgerError> {
        let rows = self.rows.lock();
        Ok(rows.position(id).map(|at| rows.record(at, true)))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        Ok(self.rows.lock().list(filter))
    }

    async fn recoverable(&self, after: i64, limit: usize) -> Result<Vec<Recoverable>, LedgerError> {
        Ok(self.rows.lock().recoverable(after, limit))
    }

    fn deny(&self, denied: Denied, kept: usize) {
        self.rows.lock().deny(denied, kept.min(MOST_DENIALS));
    }

    async fn denials(&self, filter: &DenialFilter) -> Result<Vec<(i64, Denied)>, LedgerError> {
        let rows = self.rows.lock();
        let wanted = |(seq, denied): &&(i64, Denied)| {
            filter.before.is_none_or(|before| *seq < before)
                && filter.tenant.as_deref().is_none_or(|tenant| *denied.tenant == *tenant)
        };
        Ok(rows.denials.iter().rev().filter(wanted).take(filter.limit).cloned().collect())
    }

    /// Results only: what is left of an execution is little.
    async fn retain(&self, horizon: &Horizon) -> Result<Forgotten, LedgerError> {
        Ok(horizon.results.map(|before| self.rows.lock().expire(before)).unwrap_or_default())
    }

    async fn count_unknown(&self) -> Result<usize, LedgerError> {
        Ok(self.rows.lock().unknown().len())
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

/// What a result costs, until it is forgotten.
fn bytes(done: &Done) -> usize {
    done.result.len() + done.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

impl Rows {
    fn find(&self, tenant: &str, nonce: &str) -> Option<Arc<Execution>> {
        self.find_hashed(self.nonces.hash(tenant, nonce), tenant, nonce)
    }

    fn find_hashed(&self, hash: u64, tenant: &str, nonce: &str) -> Option<Arc<Execution>> {
        let rows = &self.rows;
        let at = self.nonces.find(hash, |at| *rows[at].tenant == *tenant && rows[at].nonce == nonce)?;
        Some(rows[at].execution.clone())
    }

    fn claim(&mut self, new: NewExecution, result: Option<Done>, max_bytes: usize) -> Result<Claimed, LedgerError> {
        if self.closed {
            return Err(LedgerError::Closed);
        }
        let nonce_hash = self.nonces.hash(&new.tenant, &new.nonce);
        if let Some(known) = self.find_hashed(nonce_hash, &new.tenant, &new.nonce) {
            return Ok(Claimed::Known(known));
        }
        let (rows, approval_id) = (&self.rows, &new.approval_id);
        let approval_hash = approval_id.as_deref().map(|id| self.approvals.hash(&new.tenant, id));
        let is_of = |at: usize| rows[at].tenant == new.tenant && rows[at].approval_id == *approval_id;
        if approval_hash.is_some_and(|hash| self.approvals.find(hash, is_of).is_some()) {
            return Ok(Claimed::ApprovalUsed);
        }
        let dispatched = new.dispatched.as_ref();
        let payload_bytes = dispatched.map_or(0, |d| d.route.len() + d.payload.as_ref().map_or(0, String::len));
        let result_bytes = result.as_ref().map_or(0, bytes);
        let bytes = ROW_OVERHEAD + new.nonce.len() + new.action.len() + payload_bytes + result_bytes;
        if self.bytes + bytes > max_bytes {
            return Err(LedgerError::Full);
        }
        self.bytes += bytes;
        self.tokens += 1;
        self.nonces.insert(nonce_hash, self.rows.len());
        if let Some(hash) = approval_hash {
            self.approvals.insert(hash, self.rows.len());
        }
        let settled_at = result.as_ref().map(|_| new.claimed_at);
        let state = match result {
            Some(done) => State::Settled(Outcome::Done(done)),
            None => {
                self.open.insert(new.id.clone(), self.rows.len());
                State::Intent
            }
        };
        let execution = Arc::new(Execution {
            id: new.id,
            action: new.action,
            action_hash: new.action_hash.as_str().to_owned(),
            key_id: new.key_id,
            state,
        });
        self.rows.push(Box::new(Row {
            execution: execution.clone(),
            token: self.tokens,
            tenant: new.tenant,
            nonce: new.nonce,
            approval_id: new.approval_id,
            caller: new.caller,
            claimed_at: new.claimed_at,
            settled_at,
            settled_by: None,
            dispatched: new.dispatched,
        }));
        let claim = Claim::new(execution.clone(), self.rows.len() as i64, self.tokens);
        Ok(Claimed::New(claim, execution))
    }

    /// Settles an open row that the caller may settle.
    fn settle(
        &mut self,
        id: &str,
        outcome: Outcome,
        by: Option<&str>,
        may: impl FnOnce(&Row) -> bool,
    ) -> Result<Arc<Execution>, LedgerError> {
        if self.closed {
            return Err(LedgerError::Closed);
        }
        let at = *self.open.get(id).ok_or(LedgerError::NotOurs)?;
        let row = &mut self.rows[at];
        let to_unknown = outcome == Outcome::Unknown;
        if !may(row) || (to_unknown && row.execution.state != State::Intent) {
            return Err(LedgerError::NotOurs);
        }
        if let Outcome::Done(done) = &outcome {
            self.bytes += bytes(done); // beyond the bound rather than lost: it has happened
        }
        row.execution = Arc::new(Execution { state: State::Settled(outcome), ..Execution::clone(&row.execution) });
        row.settled_at = Some(Utc::now());
        row.settled_by = by.map(str::to_owned);
        let execution = row.execution.clone();
        if !to_unknown {
            if let Some(payload) = row.dispatched.as_mut().and_then(|dispatched| dispatched.payload.take()) {
                self.bytes -= payload.len();
            }
            self.open.remove(id);
        }
        Ok(execution)
    }

    fn deny(&mut self, denied: Denied, kept: usize) {
        let is_same = |(_, other): &&(i64, Denied)| other.tenant == denied.tenant;
        if self.denials.iter().filter(is_same).count() >= kept
            && let Some(oldest) = self.denials.iter().position(|other| is_same(&other))
        {
            self.denials.remove(oldest);
        }
        let seq = self.denials.back().map_or(0, |(seq, _)| *seq) + 1;
        self.denials.push_back((seq, denied));
    }

    fn expire(&mut self, before: DateTime<Utc>) -> Forgotten {
        let mut forgotten = Forgotten::default();
        for row in self.rows.iter_mut().take_while(|row| row.claimed_at < before) {
            let State::Settled(Outcome::Done(done)) = &row.execution.state else { continue };
            if row.settled_at.is_none_or(|settled_at| settled_at >= before) {
                continue;
            }
            self.bytes -= bytes(done);
            let state = State::Expired { receipt: done.receipt.clone() };
            row.execution = Arc::new(Execution { state, ..Execution::clone(&row.execution) });
            forgotten.results += 1;
            forgotten.nonces.push((row.tenant.to_string(), row.nonce.clone()));
        }
        forgotten
    }

    fn record(&self, at: usize, with_texts: bool) -> Record {
        let row = &self.rows[at];
        let mut execution = Execution::clone(&row.execution);
        let mut dispatched = row.dispatched.clone();
        if !with_texts {
            if let State::Settled(Outcome::Done(done)) = &mut execution.state {
                done.result.clear();
            }
            if let Some(dispatched) = &mut dispatched {
                dispatched.payload = None;
            }
        }
        Record {
            seq: at as i64 + 1,
            execution,
            tenant: row.tenant.to_string(),
            nonce: row.nonce.clone(),
            approval_id: row.approval_id.clone(),
            caller: row.caller.as_deref().map(str::to_owned),
            claimed_at: row.claimed_at,
            settled_at: row.settled_at,
            settled_by: row.settled_by.clone(),
            dispatched,
        }
    }

    /// Slow, and asked for by people only.
    fn position(&self, id: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.execution.id == id)
    }

    fn list(&self, filter: &Filter) -> Vec<Record> {
        let end = filter.before.as_deref().map_or(self.rows.len(), |id| self.position(id).unwrap_or(0));
        let wanted = |at: &usize| filter.state.is_none_or(|state| self.rows[*at].execution.state.as_str() == state);
        (0..end).rev().filter(wanted).take(filter.limit).map(|at| self.record(at, false)).collect()
    }

    fn unknown(&self) -> Vec<usize> {
        let is_unknown = |at: &usize| self.rows[*at].execution.state == State::Settled(Outcome::Unknown);
        let mut found: Vec<usize> = self.open.values().copied().filter(is_unknown).collect();
        found.sort_unstable();
        found
    }

    fn recoverable(&self, after: i64, limit: usize) -> Vec<Recoverable> {
        let is_ours = |at: &usize| {
            let dispatched = self.rows[*at].dispatched.as_ref();
            *at as i64 + 1 > after && dispatched.is_some_and(|d| d.policy != RecoveryPolicy::Operator)
        };
        let found = self.unknown().into_iter().filter(is_ours).take(limit);
        let described = found.map(|at| {
            let execution = &self.rows[at].execution;
            Recoverable { seq: at as i64 + 1, id: execution.id.clone(), action: execution.action.clone() }
        });
        described.collect()
    }
}
