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
mod caller;
mod claim;
mod deny;
pub mod dispatch;
pub(crate) mod early;
mod elsewhere;
mod finish;
mod flight;
pub mod front;
pub(crate) mod intake;
mod passthrough;
mod record;
mod recovery;
mod replay;
mod resolve;
pub mod respond;
mod retention;
mod rules;
mod run;
mod tenant;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use openexec_protocol::approval::{Authentic, Denial};
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;
use parking_lot::Mutex;
use tokio::sync::{Notify, SetOnce};
use tokio::time::timeout_at;

pub use self::resolve::ResolveError;
pub use self::rules::Rules;

use self::authenticate::Authenticated;
use self::caller::Caller;
use self::flight::{Boarding, Flights, Verdict};
use self::respond::Answer;
use self::run::Run;
use crate::beside::beside;
use crate::bypass::Bypass;
use crate::clock::Clock;
use crate::current::Current;
use crate::ledger::{Ledger, LedgerError, State};
use crate::listen::Permits;
use crate::metrics::{Metrics, Timings};
use crate::registry::Handler;
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
    /// Requests that wait for other replicas.
    waiting: Arc<Permits>,
    /// For all bodies: requests and answers.
    memory: Arc<Permits>,
    metrics: Arc<Metrics>,
    /// `None`: nobody asked for traces.
    tracer: Option<Tracer>,
    phase: Arc<Phase>,
    bypass: Arc<Bypass>,
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
    /// Whose it was, once that is authentic.
    pub tenant: Option<Arc<str>>,
    /// Who sent it, where callers are configured.
    pub caller: Option<Arc<str>>,
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
        let bypass = Bypass::new(rules.bypass_check.clone());
        Arc::new(Gate {
            in_flight: Permits::new(rules.limits.in_flight),
            waiting: Permits::new(rules.limits.in_flight),
            rules: Current::new(rules),
            memory,
            clock,
            ledger: SetOnce::new(),
            hold_until,
            flights: Flights::default(),
            metrics,
            tracer,
            phase,
            bypass,
            unknown: Notify::new(),
            settling: Mutex::default(),
        })
    }

    /// Judges every request that comes from now on by these rules.
    pub fn set_rules(&self, rules: Rules) {
        self.rules().authenticator.forget_metrics_but_of(&rules.authenticator, &self.metrics);
        self.in_flight.resize(rules.limits.in_flight);
        self.waiting.resize(rules.limits.in_flight);
        self.bypass.set(rules.bypass_check.clone());
        self.rules.set(rules);
        self.unknown.notify_one();
    }

    /// What requests are judged by now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.get()
    }

    /// Those that are valid now, in the place of those that were.
    pub fn renew(&self, rules: &mut Arc<Rules>) {
        self.rules.renew(rules);
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

    /// What looks for ways past it.
    pub fn bypass(&self) -> &Arc<Bypass> {
        &self.bypass
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
        [stopping, unconfigured, ledger, self.bypass.trouble()].into_iter().flatten().collect()
    }

    /// The trace of a request that was read just now.
    fn trace(&self, headers: &HeaderMap, method: &str, route: &str) -> Trace {
        match &self.tracer {
            None => Trace::unrecorded(headers),
            Some(tracer) => tracer.begin(headers, method, route),
        }
    }

    /// Lets the metrics see what tenants have taken.
    pub fn observe_tenants(&self) {
        self.rules().authenticator.tenants().into_iter().for_each(tenant::Tenant::observe);
    }

    /// Decides about one body by these rules, and executes what it asks for.
    pub async fn execute(
        self: &Arc<Self>,
        rules: Arc<Rules>,
        body: Bytes,
        caller: Option<Arc<Caller>>,
        trace: &mut Trace,
    ) -> Report {
        let started = Instant::now();
        let mut said = Said { caller: caller.as_ref().map(|caller| caller.name().clone()), ..Said::default() };
        let outcome = self.decide(rules, body, caller, trace, &mut said).await;
        let outcome = outcome.and_then(|answer| answer.within(&self.memory));
        let Said { action, authenticated, caller, mut timings } = said;
        trace.verdict(action.as_deref(), &outcome);
        timings.enforcement = started.elapsed().saturating_sub(timings.ledger + timings.upstream);
        match &outcome {
            Ok(answer) if answer.replayed => self.metrics.replayed(),
            Ok(_) => self.metrics.executed(timings),
            Err(refusal) => self.metrics.refused(refusal.code),
        }
        let tenant = authenticated.as_ref().map(|authenticated| authenticated.tenant());
        if let Some(tenant) = tenant {
            match &outcome {
                Ok(answer) => tenant.metrics().executed(answer.replayed),
                Err(_) => tenant.metrics().refused(),
            }
        }
        Report { outcome, action, tenant: tenant.map(|tenant| tenant.id().clone()), caller, timings }
    }

    async fn decide(
        self: &Arc<Self>,
        rules: Arc<Rules>,
        body: Bytes,
        caller: Option<Arc<Caller>>,
        trace: &mut Trace,
        said: &mut Said,
    ) -> Result<Answer, Refusal> {
        let (text, limits) = (body.clone(), rules.limits.json);
        let parsed = beside(text.len(), move || Request::parse(&text, limits)).await;
        let request = parsed.map_err(|error| Refusal::new(Code::InvalidRequest, error.to_string()))?;
        let handler = rules.registry.get(request.action()).cloned();
        if handler.is_some() {
            said.action = Some(request.action().to_owned());
        }
        let authenticated = match rules.authenticator.authenticate(&request, self.clock.now()) {
            Ok(authenticated) => authenticated,
            Err(_) if handler.is_none() => return Err(dispatch::unknown_action(request.action())),
            Err(refusal) => return Err(refusal),
        };
        if let Some(approval) = authenticated.approval() {
            authenticated.tenant().count_approval(approval.key_id());
        }
        let (request, authenticated) = (Arc::new(request), Arc::new(authenticated));
        said.authenticated = Some(authenticated.clone());
        let admitted = Admitted {
            handler,
            request: request.clone(),
            authenticated: authenticated.clone(),
            caller: caller.clone(),
        };
        let kept = rules.retention.denials;
        let outcome = self.admit(rules, body, admitted, trace, &mut said.timings).await;
        if let Err(refusal) = &outcome {
            self.note_denial(kept, &request, &authenticated, caller.as_deref(), refusal);
        }
        outcome
    }

    async fn admit(
        self: &Arc<Self>,
        rules: Arc<Rules>,
        body: Bytes,
        admitted: Admitted,
        trace: &mut Trace,
        timings: &mut Timings,
    ) -> Result<Answer, Refusal> {
        let Admitted { handler, request, authenticated, caller } = admitted;
        let tenant = authenticated.tenant();
        if let Some(caller) = &caller {
            caller.may(tenant.id(), request.action())?;
        }
        tenant.within_rate()?;
        if authenticated.approval().is_some_and(Authentic::key_is_retired) {
            return self.retired(&rules, &request, &authenticated).await;
        }
        match self.flights.board(tenant.id(), request.nonce(), &body, rules.waiters) {
            Boarding::Full => Err(flight::in_flight()),
            Boarding::Follow(follower) => match follower.verdict(&body, rules.wait).await {
                Verdict::Stored(execution) => replay::answer(&execution, &request, &authenticated, rules.on_mismatch),
                Verdict::Refused(refusal) => Err(refusal),
            },
            Boarding::Lead(lead) => {
                let permits = tenant.take().and_then(|own| Some((own, self.in_flight.take()?)));
                let Some(permits) = permits else {
                    let refusal = Refusal::new(Code::Overloaded, "Too many executions at once").with_retry_after(1);
                    return Err(lead.refuse(refusal));
                };
                let run = Run { gate: self.clone(), rules, request, authenticated, caller, lead, permits };
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

impl Gate {
    /// A retired key boards no flight: it would meet those of other keys. It is told what is stored of its own.
    async fn retired(
        &self,
        rules: &Rules,
        request: &Request,
        authenticated: &Authenticated,
    ) -> Result<Answer, Refusal> {
        let ledger = self.ledger_or_refusal().await?;
        let found = ledger.look_up(authenticated.tenant().id(), request.nonce()).await.map_err(claim::unavailable)?;
        let Some(execution) = found else { return Err(Denial::Retired.into()) };
        let answer = replay::answer(&execution, request, authenticated, rules.on_mismatch);
        match answer {
            Err(refusal) if refusal.code == Code::OutcomeUnknown && execution.state == State::Intent => {
                Err(flight::in_flight())
            }
            answer => answer,
        }
    }
}

/// An authentic request, and who does what it asks for.
struct Admitted {
    handler: Option<Handler>,
    request: Arc<Request>,
    authenticated: Arc<Authenticated>,
    caller: Option<Arc<Caller>>,
}

/// What becomes known of a request on its way.
#[derive(Default)]
struct Said {
    action: Option<String>,
    authenticated: Option<Arc<Authenticated>>,
    caller: Option<Arc<str>>,
    timings: Timings,
}

impl Gate {
    /// Finds out about unknown outcomes, for as long as it is polled.
    pub async fn recover(self: Arc<Self>) {
        recovery::run(self).await;
    }

    /// Forgets what is old, for as long as it is polled.
    pub async fn retain(self: Arc<Self>) {
        retention::run(self).await;
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
