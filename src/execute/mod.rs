//! The order in which a request is let through. It is written once, here; the steps are files beside this one, and do
//! not know each other.
//!
//! ```text
//! front → intake → parse → authenticate → flight (one leads, duplicates wait)
//!       → authorise → dispatch (pure) → claim + record in one commit
//!       → authorise → connect → claim (INTENT) → dispatch (effect) → record → respond
//! ```
//!
//! Whatever refuses behind `flight` looks the nonce up before it says so: a stored answer beats the refusal. Only
//! "overloaded" is said at once.

mod authenticate;
mod authorise;
mod claim;
pub mod dispatch;
mod finish;
mod flight;
pub mod front;
pub(crate) mod intake;
mod passthrough;
mod record;
mod recovery;
mod replay;
pub mod respond;
mod rules;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use openexec_protocol::receipt::ResultText;
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;

use parking_lot::Mutex;
use tokio::sync::{Notify, SetOnce};
use tokio::time::timeout_at;
use uuid::Uuid;

pub use self::rules::Rules;

use self::finish::Finish;
use self::flight::{Boarding, Flights, Lead, Verdict};
use self::respond::Answer;
use crate::clock::Clock;
use crate::current::Current;
use crate::ledger::{Claimed, Execution, Ledger, LedgerError, Outcome, State};
use crate::listen::{Permit, Permits};
use crate::metrics::{Metrics, Timings};
use crate::registry::{Dispatch, Effect, Ended, Handler};
use crate::shutdown::Phase;
use crate::telemetry::{Trace, Tracer};

/// Everything that a decision depends on.
pub struct Gate {
    rules: Arc<Current<Rules>>,
    clock: Arc<dyn Clock>,
    ledger: SetOnce<Arc<dyn Ledger>>,
    /// Until then requests wait for a ledger that is not there yet.
    hold_until: Option<Instant>,
    flights: Flights,
    in_flight: Arc<Permits>,
    /// For all bodies: requests and answers.
    memory: Arc<Permits>,
    metrics: Arc<Metrics>,
    /// `None`: nobody asked for traces.
    tracer: Option<Tracer>,
    phase: Arc<Phase>,
    /// Rings when an outcome is unknown.
    unknown: Notify,
    /// Unknown outcomes that somebody is settling now: recovery or an operator, not both.
    settling: Mutex<HashSet<String>>,
}

/// What came of one request, for the answer, the log and the metrics.
pub struct Report {
    /// The answer, or the reason for a no.
    pub outcome: Result<Answer, Refusal>,
    /// The action's name, once it is known to be a registered one.
    pub action: Option<String>,
    /// Where the time went.
    pub timings: Timings,
}

impl Gate {
    /// With so much memory for bodies, and without a ledger: until [`Gate::set_ledger`] everything authentic waits, as
    /// long as `hold_until` is not over, and is a 503 then.
    pub fn new(
        rules: Rules,
        memory: Arc<Permits>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        tracer: Option<Tracer>,
        phase: Arc<Phase>,
        hold_until: Option<Instant>,
    ) -> Arc<Self> {
        Arc::new(Gate {
            in_flight: Permits::new(rules.limits.in_flight),
            rules: Current::new(rules),
            memory,
            clock,
            ledger: SetOnce::new(),
            hold_until,
            flights: Flights::default(),
            metrics,
            tracer,
            phase,
            unknown: Notify::new(),
            settling: Mutex::default(),
        })
    }

    /// Judges every request that comes from now on by these rules.
    pub fn set_rules(&self, rules: Rules) {
        self.in_flight.resize(rules.limits.in_flight);
        self.rules.set(rules);
        // What no route or no key allowed before may be found out now.
        self.unknown.notify_one();
    }

    /// What requests are judged by now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.get()
    }

    /// Opens the gate.
    pub fn set_ledger(&self, ledger: Arc<dyn Ledger>) {
        let first = self.ledger.set(ledger).is_ok();
        debug_assert!(first, "a gate has one ledger");
    }

    /// The ledger, once it is there.
    pub fn ledger(&self) -> Option<&Arc<dyn Ledger>> {
        self.ledger.get()
    }

    /// Executions that run now.
    pub fn in_flight(&self) -> &Arc<Permits> {
        &self.in_flight
    }

    /// The variable without which nothing can be approved.
    pub fn not_configured(&self) -> Option<&'static str> {
        self.rules().authenticator.missing()
    }

    /// Why this server is of no use now; empty when it is.
    pub fn troubles(&self) -> Vec<&'static str> {
        let ledger = match self.ledger() {
            None if self.hold_until.is_some() => Some("ledger_waiting"),
            None => Some("ledger_checking"),
            Some(ledger) => ledger.trouble(),
        };
        let stopping = self.phase.is_stopping().then_some("shutting_down");
        let unconfigured = self.not_configured().map(|_| "not_configured");
        [stopping, unconfigured, ledger].into_iter().flatten().collect()
    }

    /// The trace of a request that was read just now.
    fn trace(&self, headers: &HeaderMap, method: &str, route: &str) -> Trace {
        match &self.tracer {
            None => Trace::unrecorded(headers),
            Some(tracer) => tracer.begin(headers, method, route),
        }
    }

    /// Decides about one body by these rules, and executes what it asks for.
    pub async fn execute(self: &Arc<Self>, rules: Arc<Rules>, body: Bytes, trace: &mut Trace) -> Report {
        let started = Instant::now();
        let mut timings = Timings::default();
        let mut action = None;
        let outcome = self.decide(rules, body, trace, &mut action, &mut timings).await;
        let outcome = outcome.and_then(|answer| answer.within(&self.memory));
        trace.verdict(action.as_deref(), &outcome);
        timings.enforcement = started.elapsed().saturating_sub(timings.ledger + timings.upstream);
        match &outcome {
            Ok(answer) if answer.replayed => self.metrics.replayed(),
            Ok(_) => self.metrics.executed(timings),
            Err(refusal) => self.metrics.refused(refusal.code),
        }
        Report { outcome, action, timings }
    }

    async fn decide(
        self: &Arc<Self>,
        rules: Arc<Rules>,
        body: Bytes,
        trace: &mut Trace,
        action: &mut Option<String>,
        timings: &mut Timings,
    ) -> Result<Answer, Refusal> {
        let request = Request::parse(&body, rules.limits.json)
            .map_err(|error| Refusal::new(Code::InvalidRequest, error.to_string()))?;
        let handler = rules.registry.get(request.action()).cloned();
        if handler.is_some() {
            *action = Some(request.action().to_owned());
        }
        let authenticated = match rules.authenticator.authenticate(&request) {
            Ok(authenticated) => authenticated,
            Err(_) if handler.is_none() => return Err(dispatch::unknown_action(request.action())),
            Err(refusal) => return Err(refusal),
        };
        match self.flights.board(authenticated.tenant(), request.nonce(), &body, rules.waiters) {
            Boarding::Full => Err(flight::in_flight()),
            Boarding::Follow(follower) => match follower.verdict(&body, rules.wait).await {
                Verdict::Stored(execution) => replay::answer(&execution, &request, rules.on_mismatch),
                Verdict::Refused(refusal) => Err(refusal),
            },
            Boarding::Lead(lead) => {
                let Some(permit) = self.in_flight.take() else {
                    let refusal = Refusal::new(Code::Overloaded, "Too many executions at once").with_retry_after(1);
                    return Err(lead.refuse(refusal));
                };
                let run = Run { gate: self.clone(), rules, request, authenticated, lead, permit };
                let (outcome, spent) = match handler {
                    Some(Handler::Effect(effect)) => run.detached(effect, trace).await,
                    Some(Handler::Pure(pure)) => run.pure(pure, trace).await,
                    None => run.unknown(trace).await,
                };
                *timings = spent;
                outcome
            }
        }
    }
}

/// What a request waits for, as its trace calls it.
const CONNECT: &str = "upstream.connect";
const CLAIM: &str = "ledger.claim";
const LOOK_UP: &str = "ledger.look_up";
const RECORD: &str = "ledger.record";

/// A defect, with the id under which the log has more.
fn internal_error(id: Uuid) -> Refusal {
    Refusal::new(Code::InternalError, format!("A defect of this server; its log has more about {id}"))
}

/// One execution on its way: it holds the nonce's flight and a permit, and ends whether or not its client listens.
struct Run {
    gate: Arc<Gate>,
    rules: Arc<Rules>,
    request: Request,
    authenticated: authenticate::Authenticated,
    lead: Lead,
    permit: Permit,
}

impl Run {
    /// No such action; but one that was removed must not make a client do it again elsewhere.
    async fn unknown(self, trace: &mut Trace) -> (Result<Answer, Refusal>, Timings) {
        let mut timings = Timings::default();
        let refusal = dispatch::unknown_action(self.request.action());
        let outcome = self.stored_or(refusal, &mut timings, trace).await;
        (outcome, timings)
    }

    /// An action without effects: computed first, then claimed and recorded in one commit.
    async fn pure(self, compute: crate::registry::Pure, trace: &mut Trace) -> (Result<Answer, Refusal>, Timings) {
        let mut timings = Timings::default();
        let prepared = self.gate.ledger_or_refusal().await.and_then(|ledger| {
            let approved = self.authorise(ledger.fence())?;
            let result = compute(self.request.payload()).map_err(Refusal::from)?;
            let id = claim::new_id();
            let done = record::done(&id, None, Vec::new(), ResultText::from(&result));
            Ok((ledger, claim::new_execution(id, &approved, self.gate.clock.now()), done))
        });
        let (ledger, new, done) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return (self.stored_or(refusal, &mut timings, trace).await, timings),
        };
        let asked = Instant::now();
        let claimed = ledger.claim(new, Some(done)).await;
        timings.ledger = asked.elapsed();
        trace.step(CLAIM, asked, timings.ledger);
        let outcome = match claimed {
            Ok(Claimed::New(_, execution)) => {
                let answer = Answer::fresh(&execution);
                self.lead.settle(execution);
                answer
            }
            other => self.not_claimed(other),
        };
        (outcome, timings)
    }

    /// An action with effects: it ends whether or not the client waits for it.
    async fn detached(self, effect: Arc<dyn Effect>, trace: &mut Trace) -> (Result<Answer, Refusal>, Timings) {
        let mut taken = std::mem::take(trace);
        let action = taken.is_recorded().then(|| self.request.action().to_owned());
        let work = async move {
            let (outcome, timings) = self.effect(effect, &mut taken).await;
            // Nobody else says it where the client has left.
            taken.verdict(action.as_deref(), &outcome);
            (outcome, timings, taken)
        };
        match AssertUnwindSafe(Finish::new(work)).catch_unwind().await {
            Ok((outcome, timings, taken)) => {
                *trace = taken;
                (outcome, timings)
            }
            Err(_) => {
                let id = Uuid::new_v4();
                tracing::error!(%id, "an execution ended in a panic");
                (Err(internal_error(id)), Timings::default())
            }
        }
    }

    async fn effect(self, effect: Arc<dyn Effect>, trace: &mut Trace) -> (Result<Answer, Refusal>, Timings) {
        let mut timings = Timings::default();
        let prepared = self.gate.ledger_or_refusal().await.and_then(|ledger| {
            let approved = self.authorise(ledger.fence())?;
            effect.check(self.request.payload())?;
            let new = claim::new_execution(claim::new_id(), &approved, self.gate.clock.now());
            Ok((ledger, claim::dispatched(new, &approved, &*effect)))
        });
        if let Some(ledger) = self.gate.ledger()
            && let Some(known) = ledger.cached(self.authenticated.tenant(), self.request.nonce())
        {
            return (self.not_claimed(Ok(Claimed::Known(known))), timings);
        }
        let Some(memory) = self.gate.memory.take_many(dispatch::RESERVED_BYTES).map(Arc::new) else {
            let full = Refusal::new(Code::Overloaded, "Too many bodies are held at once").with_retry_after(1);
            return (Err(self.lead.refuse(full)), timings);
        };
        let prepared = match prepared {
            // Connected before anything is claimed: what cannot be reached costs nothing.
            Ok((ledger, new)) => {
                let asked = Instant::now();
                let ready = effect.prepare().await;
                timings.upstream = asked.elapsed();
                trace.step(CONNECT, asked, timings.upstream);
                ready.map(|ready| (ledger, new, ready))
            }
            Err(refusal) => Err(refusal),
        };
        let (ledger, new, ready) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return (self.stored_or(refusal, &mut timings, trace).await, timings),
        };
        let asked = Instant::now();
        let claimed = ledger.claim(new, None).await;
        timings.ledger = asked.elapsed();
        trace.step(CLAIM, asked, timings.ledger);
        let (claim, intent) = match claimed {
            Ok(Claimed::New(claim, intent)) => (claim, intent),
            other => return (self.not_claimed(other), timings),
        };
        let span = trace.onward();
        let dispatch = Dispatch {
            execution_id: intent.id.clone(),
            tenant: self.authenticated.tenant().clone(),
            approval_id: self.authenticated.approval().map(|approval| approval.approval_id().to_owned()),
            action: intent.action.clone(),
            payload: self.request.payload().clone(),
            trace: span,
            tracestate: trace.state(),
            memory: memory.clone(),
        };
        let dispatched = Instant::now();
        // A panic there must not keep the outcome from being recorded.
        let ended = AssertUnwindSafe(async { ready(dispatch).await }).catch_unwind().await.unwrap_or(Ended::Unknown);
        let took = dispatched.elapsed();
        timings.upstream += took;
        trace.dispatched(span, dispatched, took, &ended);
        let asked = Instant::now();
        let outcome = record::outcome(&intent.id, ended);
        let execution = record::settle(ledger, claim, outcome, &intent, (self.permit, memory.clone())).await;
        let took = asked.elapsed();
        timings.ledger += took;
        trace.step(RECORD, asked, took);
        if execution.state == State::Settled(Outcome::Unknown) {
            self.gate.unknown.notify_one();
        }
        let answer = Answer::fresh(&execution).map(|answer| answer.holding(memory));
        self.lead.settle(execution);
        (answer, timings)
    }

    fn authorise(&self, fence: Option<chrono::DateTime<chrono::Utc>>) -> Result<authorise::Approved<'_>, Refusal> {
        if self.gate.phase.is_draining() {
            return Err(Refusal::new(Code::ShuttingDown, "The server is stopping").with_retry_after(1));
        }
        authorise::authorise(&self.authenticated, &self.request, &self.rules.policy, self.gate.clock.now(), fence)
    }

    /// The stored answer of this nonce if there is one, else the refusal.
    async fn stored_or(self, refusal: Refusal, timings: &mut Timings, trace: &mut Trace) -> Result<Answer, Refusal> {
        let ledger = match self.gate.ledger_or_refusal().await {
            Ok(ledger) => ledger,
            Err(unavailable) => return Err(self.lead.refuse(unavailable)),
        };
        let asked = Instant::now();
        let found = ledger.look_up(self.authenticated.tenant(), self.request.nonce()).await;
        timings.ledger = asked.elapsed();
        trace.step(LOOK_UP, asked, timings.ledger);
        match found {
            Ok(Some(execution)) => {
                let answer = replay::answer(&execution, &self.request, self.rules.on_mismatch);
                self.lead.settle(execution);
                answer
            }
            Ok(None) => Err(self.lead.refuse(refusal)),
            Err(error) => Err(self.lead.refuse(claim::unavailable(error))),
        }
    }

    fn not_claimed(self, claimed: Result<Claimed, LedgerError>) -> Result<Answer, Refusal> {
        match claimed {
            Ok(Claimed::Known(execution)) => {
                let answer = replay::answer(&execution, &self.request, self.rules.on_mismatch);
                self.lead.settle(execution);
                answer
            }
            Ok(Claimed::New(..) | Claimed::ApprovalUsed) => Err(self.lead.refuse(claim::already_used())),
            Err(error) => Err(self.lead.refuse(claim::unavailable(error))),
        }
    }
}

/// Why an unknown outcome was not settled.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A recovery is about to find out.
    #[error("a recovery is trying to find out now")]
    Recovering,
    /// There is none with this id whose outcome is unknown.
    #[error("its outcome is not unknown")]
    NotUnknown,
    /// The ledger did not do it.
    #[error(transparent)]
    Ledger(LedgerError),
}

/// See [`Gate::settle_alone`].
struct Settling<'g> {
    gate: &'g Gate,
    id: String,
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.gate.settling.lock().remove(&self.id);
    }
}

impl Gate {
    /// Settles an unknown outcome; `by` says who knows.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, id: &str, ended: Ended, by: &str) -> Result<Arc<Execution>, ResolveError> {
        let ledger = self.ledger().ok_or(ResolveError::Ledger(LedgerError::Unavailable))?;
        let _settling = self.settle_alone(id).ok_or(ResolveError::Recovering)?;
        let settled = ledger.resolve(id, &record::outcome(id, ended), by).await;
        self.unknown.notify_one();
        settled.map_err(|error| match error {
            LedgerError::NotOurs => ResolveError::NotUnknown,
            error => ResolveError::Ledger(error),
        })
    }

    /// Keeps everybody else from settling this one: what an operator says must not be overtaken by a recovery's
    /// dispatch, nor the other way round.
    fn settle_alone(&self, id: &str) -> Option<Settling<'_>> {
        self.settling.lock().insert(id.to_owned()).then(|| Settling { gate: self, id: id.to_owned() })
    }

    /// Finds out about unknown outcomes, for as long as it is polled.
    pub async fn recover(self: Arc<Self>) {
        recovery::run(self).await;
    }

    async fn ledger_or_refusal(&self) -> Result<Arc<dyn Ledger>, Refusal> {
        if let Some(ledger) = self.ledger() {
            return Ok(ledger.clone());
        }
        let unavailable = || claim::unavailable(LedgerError::Unavailable);
        let held = timeout_at(self.hold_until.ok_or_else(unavailable)?.into(), self.ledger.wait());
        held.await.cloned().map_err(|_| unavailable())
    }
}
