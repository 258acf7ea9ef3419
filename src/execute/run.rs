//! One execution that leads its nonce's flight, from authorisation to its end. The order before that is `mod.rs`'s.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use openexec_protocol::receipt::ResultText;
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::Request;
use uuid::Uuid;

use super::authenticate::Authenticated;
use super::caller::Caller;
use super::dispatch::InvalidPayload;
use super::finish::Finish;
use super::flight::Lead;
use super::respond::Answer;
use super::{Gate, Rules, authorise, claim, dispatch, elsewhere, record, replay};
use crate::beside::beside;
use crate::ledger::{Claimed, Execution, Ledger, LedgerError, Outcome, State};
use crate::listen::Permit;
use crate::metrics::Timings;
use crate::registry::{Dispatch, Effect, Ended};
use crate::telemetry::Trace;

/// What a request waits for, as its trace calls it.
const CONNECT: &str = "upstream.connect";
const CLAIM: &str = "ledger.claim";
const LOOK_UP: &str = "ledger.look_up";
const RECORD: &str = "ledger.record";

/// A defect, with the id under which the log has more.
pub(super) fn internal_error(id: Uuid) -> Refusal {
    Refusal::new(Code::InternalError, format!("A defect of this server; its log has more about {id}"))
}

/// One execution on its way: it holds the nonce's flight and a permit, and ends whether or not its client listens.
pub(super) struct Run {
    pub(super) gate: Arc<Gate>,
    pub(super) rules: Arc<Rules>,
    pub(super) request: Arc<Request>,
    pub(super) authenticated: Arc<Authenticated>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) lead: Lead,
    /// The tenant's, and everybody's.
    pub(super) permits: (Permit, Permit),
}

impl Run {
    /// No such action; but one that was removed must not make a client do it again elsewhere.
    pub(super) async fn unknown(self, trace: &mut Trace) -> (Result<Answer, Refusal>, Timings) {
        let mut timings = Timings::default();
        let refusal = dispatch::unknown_action(self.request.action());
        let outcome = self.stored_or(refusal, &mut timings, trace).await;
        (outcome, timings)
    }

    /// An action without effects: computed first, then claimed and recorded in one commit.
    pub(super) async fn pure(
        self,
        compute: crate::registry::Pure,
        trace: &mut Trace,
    ) -> (Result<Answer, Refusal>, Timings) {
        let mut timings = Timings::default();
        let prepared = async {
            let ledger = self.gate.ledger_or_refusal().await?;
            let approved = self.authorise(ledger.fence())?;
            let (id, request) = (claim::new_id(), self.request.clone());
            let new = claim::new_execution(id.clone(), &approved, self.caller.as_deref(), self.gate.clock.now());
            let done = beside(request.payload().as_str().len(), move || {
                let result = compute(request.payload())?;
                Ok::<_, InvalidPayload>(record::done(&id, None, Vec::new(), ResultText::from(&result)))
            });
            Ok((ledger, new, done.await.map_err(Refusal::from)?))
        }
        .await;
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
                self.rules.count(&execution);
                let answer = Answer::fresh(&execution);
                self.lead.settle(execution);
                answer
            }
            other => self.not_claimed(&*ledger, other).await,
        };
        (outcome, timings)
    }

    /// An action with effects: it ends whether or not the client waits for it.
    pub(super) async fn detached(
        self,
        effect: Arc<dyn Effect>,
        trace: &mut Trace,
    ) -> (Result<Answer, Refusal>, Timings) {
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
        let prepared = async {
            let ledger = self.gate.ledger_or_refusal().await?;
            let approved = self.authorise(ledger.fence())?;
            let (checking, request) = (effect.clone(), self.request.clone());
            beside(request.payload().as_str().len(), move || checking.check(request.payload())).await?;
            let new = claim::new_execution(claim::new_id(), &approved, self.caller.as_deref(), self.gate.clock.now());
            Ok::<_, Refusal>((ledger, claim::dispatched(new, &approved, &*effect)))
        }
        .await;
        if let Some(ledger) = self.gate.ledger().cloned()
            && let Some(known) = ledger.cached(self.authenticated.tenant().id(), self.request.nonce())
        {
            return (self.replay(&*ledger, known).await, timings);
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
            other => return (self.not_claimed(&*ledger, other).await, timings),
        };
        let span = trace.onward();
        let dispatch = Dispatch {
            execution_id: intent.id.clone(),
            tenant: self.authenticated.tenant().id().clone(),
            approval_id: self.authenticated.approval().map(|approval| approval.approval_id().to_owned()),
            action: intent.action.clone(),
            payload: self.request.payload().clone(),
            trace: span,
            tracestate: trace.state(),
            memory: memory.clone(),
            lease: claim.lease().cloned(),
        };
        let dispatched = Instant::now();
        // A panic there must not keep the outcome from being recorded.
        let ended = AssertUnwindSafe(async { ready(dispatch).await }).catch_unwind().await.unwrap_or(Ended::Unknown);
        let took = dispatched.elapsed();
        timings.upstream += took;
        trace.dispatched(span, dispatched, took, &ended);
        let asked = Instant::now();
        let outcome = record::outcome(&intent.id, ended).await;
        let execution = record::settle(ledger, claim, outcome, &intent, (self.permits, memory.clone())).await;
        self.rules.count(&execution);
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
        let found = ledger.look_up(self.authenticated.tenant().id(), self.request.nonce()).await;
        timings.ledger = asked.elapsed();
        trace.step(LOOK_UP, asked, timings.ledger);
        match found {
            Ok(Some(execution)) => self.replay(&*ledger, execution).await,
            Ok(None) => Err(self.lead.refuse(refusal)),
            Err(error) => Err(self.lead.refuse(claim::unavailable(error))),
        }
    }

    async fn not_claimed(self, ledger: &dyn Ledger, claimed: Result<Claimed, LedgerError>) -> Result<Answer, Refusal> {
        match claimed {
            Ok(Claimed::Known(execution)) => self.replay(ledger, execution).await,
            Ok(Claimed::New(..) | Claimed::ApprovalUsed) => Err(self.lead.refuse(claim::already_used())),
            Ok(Claimed::BehindFence) => Err(self.lead.refuse(authorise::behind_fence())),
            Err(error) => Err(self.lead.refuse(claim::unavailable(error))),
        }
    }

    /// What is stored; what still runs, at another replica, is waited for.
    async fn replay(self, ledger: &dyn Ledger, execution: Arc<Execution>) -> Result<Answer, Refusal> {
        let Run { gate, rules, request, authenticated, lead, permits, .. } = self;
        let answer = |execution: &Execution| replay::answer(execution, &request, &authenticated, rules.on_mismatch);
        let runs = execution.state == State::Intent && ledger.is_shared();
        let execution = match answer(&execution) {
            Err(refusal) if runs && refusal.code == Code::OutcomeUnknown => {
                // It does nothing but wait.
                drop(permits);
                let tenant = authenticated.tenant().id();
                match elsewhere::settled(ledger, &gate.waiting, tenant, request.nonce(), rules.wait).await {
                    Ok(settled) => settled,
                    Err(refusal) => return Err(lead.refuse(refusal)),
                }
            }
            _ => execution,
        };
        let answer = answer(&execution);
        lead.settle(execution);
        answer
    }
}
