//! Each ledger against a model that is a list.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use arbitrary::{Arbitrary, Unstructured};
use chrono::{DateTime, TimeDelta, Utc};
use openexec::config::ledger::{FencePolicy, LedgerConfig, SqliteConfig};
use openexec::ledger::{
    self, Claim, Claimed, Dispatched, Done, Execution, Filter, Forgotten, Horizon, Ledger, LedgerError, Memory,
    NewExecution, Outcome, Record, Recoverable, RecoveryPolicy, State,
};
use openexec::metrics::Metrics;
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::request::action_hash;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::Seen;

/// What happens to a ledger, one after the other. Numbers are places in lists.
#[derive(Arbitrary, Debug)]
enum Step {
    Claim {
        tenant: u8,
        nonce: u8,
        approval: Option<u8>,
        does: Action,
    },
    /// By the execution itself.
    Record {
        execution: u8,
        outcome: Ending,
    },
    /// By an operator or recovery.
    Resolve {
        execution: u8,
        outcome: Ending,
        by: Text,
    },
    List {
        state: Option<u8>,
        before: Option<u8>,
        limit: u8,
    },
    Recoverable {
        after: u8,
        limit: u8,
    },
    /// Of the results before this execution.
    Forget {
        before: u8,
    },
    /// A clean stop, and a start.
    Restart,
    /// A start from what the files hold at this moment.
    Crash,
}

#[derive(Arbitrary, Debug)]
enum Action {
    Pure { result: Text },
    Effect { payload: Text, route: Text, policy: u8 },
}

#[derive(Arbitrary, Debug)]
enum Ending {
    Done { status: Option<u16>, header: Option<(Text, Text)>, result: Text },
    NotExecuted { status: u16 },
    Unknown,
}

/// One of [`TEXTS`]: free text would leave few bytes for steps.
#[derive(Arbitrary, Debug)]
struct Text(u8);

const TEXTS: [&str; 8] = ["{}", "", "{\"a\": 1}", "\u{e4}\u{1f600}\u{feff}", "\0", "'\"\\\r\n", "NULL", "DONE"];
const TENANTS: [&str; 3] = ["", "t", "u"];
const NONCES: [&str; 4] = ["a", "A", "\u{e4}\u{1f600}", "a "];
const APPROVALS: [&str; 3] = ["x", "y", "X"];
const POLICIES: [RecoveryPolicy; 3] = [RecoveryPolicy::Operator, RecoveryPolicy::Idempotent, RecoveryPolicy::Probe];
/// An open ledger costs more than a step.
const MOST_STEPS: usize = 40;

/// Takes the memory ledger, and SQLite with its cache or without, through the same steps.
///
/// Every answer is the model's: a nonce and an approval are claimed once in each tenant, states move as ARCHITECTURE.md's
/// table says, what was stored is found again byte by byte, after a restart and a crash too.
pub fn check(bytes: &[u8]) -> Seen {
    let mut rest = Unstructured::new(bytes);
    let steps = std::iter::from_fn(|| (!rest.is_empty()).then(|| Step::arbitrary(&mut rest).ok()).flatten());
    let steps: Vec<Step> = steps.take(MOST_STEPS).collect();
    let memory = LedgerConfig::Memory { max_bytes: 64 << 20, fence: FencePolicy::Auto };
    let mut seen = Run::new(Place::Memory(memory)).take(&steps);
    let cache_bytes = if steps.len().is_multiple_of(2) { 0 } else { 1 << 20 };
    seen.extend(Run::new(Place::sqlite(cache_bytes)).take(&steps));
    seen
}

/// Where a ledger is kept.
enum Place {
    Memory(LedgerConfig),
    Sqlite(TempDir, SqliteConfig),
}

impl Place {
    fn sqlite(cache_bytes: usize) -> Self {
        // In memory where there is such a place: what is synced there costs nothing.
        let shared_memory = PathBuf::from("/dev/shm");
        let parent = if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(parent).unwrap();
        let path = directory.path().join("ledger.db");
        let anchor = directory.path().join("ledger.db.anchor");
        let fence = FencePolicy::Auto;
        Place::Sqlite(directory, SqliteConfig { path, anchor, create: true, fence, cache_bytes, min_free_bytes: 0 })
    }

    fn open(&self) -> Arc<dyn Ledger> {
        static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new()));
        let config = match self {
            Place::Memory(config) => config,
            Place::Sqlite(_, config) => &LedgerConfig::Sqlite(config.clone()),
        };
        let opening = ledger::open(config).unwrap();
        opening.start(false, TimeDelta::seconds(30), METRICS.clone(), Arc::new(|error| panic!("{error}"))).unwrap()
    }

    /// What a machine finds that lost its process now: what was committed, and no lock.
    fn copy(&self) -> Option<Self> {
        let Place::Sqlite(_, config) = self else { return None };
        let copy = Place::sqlite(config.cache_bytes);
        let Place::Sqlite(directory, _) = &copy else { unreachable!("it was just made") };
        // The anchor first: it must not be ahead of the rows.
        for name in ["ledger.db.anchor", "ledger.db", "ledger.db-wal"] {
            std::fs::copy(config.path.with_file_name(name), directory.path().join(name)).unwrap();
        }
        Some(copy)
    }
}

/// A ledger with what it should hold.
struct Run {
    place: Place,
    ledger: Arc<dyn Ledger>,
    rows: Vec<Record>,
    claims: Vec<Claim>,
    ids: u64,
    seen: Seen,
}

impl Run {
    fn new(place: Place) -> Self {
        Run { ledger: place.open(), place, rows: Vec::new(), claims: Vec::new(), ids: 0, seen: Seen::new() }
    }

    fn take(mut self, steps: &[Step]) -> Seen {
        static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().unwrap());
        RUNTIME.block_on(async {
            for step in steps {
                self.step(step).await;
            }
            self.compare().await;
            self.ledger.close().await;
            let refused = self.ledger.claim(self.new_execution("t", "late", None, None), None).await;
            assert_eq!(refused.unwrap_err(), LedgerError::Closed);
        });
        self.seen
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Claim { tenant, nonce, approval, does } => {
                let (tenant, nonce) = (pick(&TENANTS, *tenant), pick(&NONCES, *nonce));
                self.claim(tenant, nonce, approval.map(|approval| *pick(&APPROVALS, approval)), does).await;
            }
            Step::Record { execution, outcome } => {
                let Some(at) = self.row(*execution) else { return };
                let outcome = outcome.outcome();
                let settled = self.ledger.record(&self.claims[at], &outcome).await;
                let state = &self.rows[at].execution.state;
                let may = *state == State::Intent || (is_unknown(state) && outcome != Outcome::Unknown);
                self.settled(at, outcome, None, may, settled).await;
            }
            Step::Resolve { execution, outcome, by } => {
                let Some(at) = self.row(*execution) else { return };
                let outcome = outcome.outcome();
                let settled = self.ledger.resolve(&self.rows[at].execution.id, &outcome, by.get()).await;
                let may = is_unknown(&self.rows[at].execution.state) && outcome != Outcome::Unknown;
                self.settled(at, outcome, Some(by.get()), may, settled).await;
            }
            Step::List { state, before, limit } => {
                let before = before.map(|before| match self.row(before) {
                    Some(at) if before < 128 => self.rows[at].execution.id.clone(),
                    _ => "nobody".to_owned(),
                });
                let state = state.map(|state| *pick(&State::WORDS, state));
                self.list(Filter { state, before, limit: (*limit).into() }).await;
            }
            Step::Recoverable { after, limit } => {
                let (after, limit) = (i64::from(*after) % (self.rows.len() as i64 + 1), usize::from(*limit));
                let ours = |row: &&Record| {
                    let policy = row.dispatched.as_ref().map(|dispatched| dispatched.policy);
                    row.seq > after && is_unknown(&row.execution.state) && policy != Some(RecoveryPolicy::Operator)
                };
                let described = |row: &Record| {
                    let Execution { id, action, .. } = row.execution.clone();
                    Recoverable { seq: row.seq, id, action }
                };
                let expected: Vec<_> = self.rows.iter().filter(ours).take(limit).map(described).collect();
                assert_eq!(self.ledger.recoverable(after, limit).await.unwrap(), expected);
            }
            Step::Forget { before } => {
                let before = claimed_at(u64::from(*before) % (self.ids + 2));
                let horizon = Horizon { results: Some(before), executions: None, skew: TimeDelta::zero() };
                let forgotten = self.ledger.retain(&horizon).await.unwrap();
                let mut nonces = Vec::new();
                for row in &mut self.rows {
                    let State::Settled(Outcome::Done(done)) = &row.execution.state else { continue };
                    // The others were settled by the clock of this machine.
                    if row.settled_at.is_some_and(|settled_at| settled_at < before) {
                        row.execution.state = State::Expired { receipt: done.receipt.clone() };
                        nonces.push((row.tenant.clone(), row.nonce.clone()));
                        self.seen.insert("a result that was forgotten");
                    }
                }
                assert_eq!(forgotten, Forgotten { results: nonces.len(), nonces, ..Forgotten::default() });
            }
            Step::Restart => self.restart(false).await,
            Step::Crash => self.restart(true).await,
        }
    }

    async fn claim(&mut self, tenant: &str, nonce: &str, approval: Option<&str>, does: &Action) {
        let (result, dispatched) = match does {
            Action::Pure { result } => {
                let result = result.get();
                let receipt = format!("receipt of {result}");
                (Some(Done { upstream_status: None, headers: Vec::new(), result: result.to_owned(), receipt }), None)
            }
            Action::Effect { payload, route, policy } => {
                let (payload, route) = (Some(payload.get().to_owned()), route.get().to_owned());
                (None, Some(Dispatched { payload, route, policy: *pick(&POLICIES, *policy) }))
            }
        };
        self.ids += 1;
        let new = self.new_execution(tenant, nonce, approval, dispatched);
        let claimed = self.ledger.claim(new.clone(), result.clone()).await.unwrap();
        let known = self.rows.iter().find(|row| row.tenant == tenant && row.nonce == nonce);
        let is_used =
            |row: &Record| row.tenant == tenant && approval.is_some() && row.approval_id.as_deref() == approval;
        match claimed {
            Claimed::Known(execution) => {
                assert_eq!(Some(&*execution), known.map(|row| &row.execution));
                self.seen.insert("a known nonce");
            }
            Claimed::ApprovalUsed => {
                assert!(known.is_none() && self.rows.iter().any(is_used));
                assert_eq!(self.ledger.look_up(tenant, nonce).await.unwrap(), None);
                assert_eq!(self.ledger.find(&new.id).await.unwrap(), None);
                self.seen.insert("a used approval");
            }
            Claimed::BehindFence => unreachable!("these approvals have no age"),
            Claimed::New(claim, execution) => {
                assert!(known.is_none() && !self.rows.iter().any(is_used));
                self.seen.insert(if result.is_some() { "a pure action" } else { "an effect" });
                let settled_at = result.is_some().then_some(new.claimed_at);
                let state = result.map_or(State::Intent, |done| State::Settled(Outcome::Done(done)));
                let action_hash = new.action_hash.as_str().to_owned();
                self.rows.push(Record {
                    seq: self.rows.len() as i64 + 1,
                    execution: Execution { id: new.id, action: new.action, action_hash, key_id: new.key_id, state },
                    tenant: tenant.to_owned(),
                    nonce: nonce.to_owned(),
                    approval_id: new.approval_id,
                    caller: new.caller.as_deref().map(str::to_owned),
                    claimed_at: new.claimed_at,
                    settled_at,
                    settled_by: None,
                    dispatched: new.dispatched,
                });
                self.claims.push(claim);
                assert_eq!(*execution, self.rows[self.rows.len() - 1].execution);
                self.compare_row(self.rows.len() - 1).await;
            }
        }
    }

    fn new_execution(
        &self,
        tenant: &str,
        nonce: &str,
        approval: Option<&str>,
        dispatched: Option<Dispatched>,
    ) -> NewExecution {
        NewExecution {
            id: format!("id-{}", self.ids),
            tenant: tenant.into(),
            nonce: nonce.to_owned(),
            action: "a".to_owned(),
            action_hash: action_hash("a", &CanonicalText::empty_object()),
            approval_id: approval.map(str::to_owned),
            issued_at: None,
            key_id: approval.map(|_| "key".to_owned()),
            caller: None,
            dispatched,
            claimed_at: claimed_at(self.ids),
        }
    }

    /// What came of settling an execution that might be settled, or might not.
    async fn settled(
        &mut self,
        at: usize,
        outcome: Outcome,
        by: Option<&str>,
        may: bool,
        settled: Result<Arc<Execution>, LedgerError>,
    ) {
        if may {
            let row = &mut self.rows[at];
            row.execution.state = State::Settled(outcome.clone());
            row.settled_by = by.map(str::to_owned);
            row.settled_at = None;
            if let (Some(dispatched), false) = (&mut row.dispatched, outcome == Outcome::Unknown) {
                dispatched.payload = None;
            }
            assert_eq!(*settled.unwrap(), row.execution);
            self.seen.insert(match (by, outcome) {
                (_, Outcome::Unknown) => "an unknown outcome",
                (None, _) => "a recorded outcome",
                (Some(_), _) => "a resolved outcome",
            });
        } else {
            assert_eq!(settled.unwrap_err(), LedgerError::NotOurs);
            self.seen.insert("settled by another");
        }
        self.compare_row(at).await;
    }

    async fn list(&mut self, filter: Filter) {
        // Behind one that is not there, there is nothing.
        let place = |id: &String| self.rows.iter().position(|row| row.execution.id == *id).unwrap_or(0);
        let end = filter.before.as_ref().map_or(self.rows.len(), place);
        let in_state = |row: &&Record| filter.state.is_none_or(|state| row.execution.state.as_str() == state);
        let rows = self.rows[..end].iter().rev();
        let expected: Vec<Record> = rows.filter(in_state).take(filter.limit).map(without_texts).collect();
        assert_eq!(self.ledger.list(&filter).await.unwrap(), expected);
    }

    async fn restart(&mut self, crashes: bool) {
        self.compare().await;
        let copy = if crashes { self.place.copy() } else { None };
        if let Place::Memory(_) = self.place {
            return; // it forgets, which is all that there is to say
        }
        self.ledger.close().await;
        // The lock goes with the last who holds the ledger.
        self.ledger = Arc::new(Memory::new(0, None));
        if let Some(copy) = copy {
            self.place = copy;
        }
        self.ledger = self.place.open();
        assert_eq!(self.ledger.fence(), None, "nothing was lost");
        for row in self.rows.iter_mut().filter(|row| row.execution.state == State::Intent) {
            row.execution.state = State::Settled(Outcome::Unknown);
            self.seen.insert("an execution that was left");
        }
        self.seen.insert(if crashes { "a crash" } else { "a restart" });
        self.compare().await;
    }

    /// Everything that is stored.
    async fn compare(&mut self) {
        for at in 0..self.rows.len() {
            self.compare_row(at).await;
        }
        self.list(Filter { limit: self.rows.len() + 1, ..Filter::default() }).await;
        let unknown = self.rows.iter().filter(|row| is_unknown(&row.execution.state)).count();
        assert_eq!(self.ledger.count_unknown().await.unwrap(), unknown);
        assert_eq!(self.ledger.trouble(), None);
    }

    async fn compare_row(&mut self, at: usize) {
        let row = &mut self.rows[at];
        let found = self.ledger.find(&row.execution.id).await.unwrap().unwrap();
        // By whose clock it was settled is the ledger's own business, once.
        assert_eq!(found.settled_at.is_some(), row.execution.state != State::Intent);
        row.settled_at = row.settled_at.or(found.settled_at);
        assert_eq!(&found, row);
        if let Some(cached) = self.ledger.cached(&row.tenant, &row.nonce) {
            assert_eq!((cached.state.as_str(), &*cached), ("DONE", &row.execution));
        }
        let looked_up = self.ledger.look_up(&row.tenant, &row.nonce).await.unwrap();
        assert_eq!(looked_up.as_deref(), Some(&row.execution));
    }

    fn row(&self, number: u8) -> Option<usize> {
        usize::from(number).checked_rem(self.rows.len())
    }
}

impl Ending {
    fn outcome(&self) -> Outcome {
        match self {
            Ending::Done { status, header, result } => Outcome::Done(Done {
                upstream_status: *status,
                headers: header.iter().map(|(name, value)| (name.get().to_owned(), value.get().to_owned())).collect(),
                result: result.get().to_owned(),
                receipt: format!("receipt of {}", result.get()),
            }),
            Ending::NotExecuted { status } => Outcome::NotExecuted { status: *status },
            Ending::Unknown => Outcome::Unknown,
        }
    }
}

impl Text {
    fn get(&self) -> &'static str {
        TEXTS[usize::from(self.0) % TEXTS.len()]
    }
}

/// In the order of the claims.
fn claimed_at(execution: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::microseconds(execution as i64)
}

fn without_texts(row: &Record) -> Record {
    let mut row = row.clone();
    if let State::Settled(Outcome::Done(done)) = &mut row.execution.state {
        done.result.clear();
    }
    if let Some(dispatched) = &mut row.dispatched {
        dispatched.payload = None;
    }
    row
}

fn is_unknown(state: &State) -> bool {
    *state == State::Settled(Outcome::Unknown)
}

fn pick<T>(all: &[T], number: u8) -> &T {
    &all[usize::from(number) % all.len()]
}
