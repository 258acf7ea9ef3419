//! Traces for an OpenTelemetry collector. Without one there is nothing of this: no task, no queue, and a request's
//! [`Trace`] holds only what its client said.
//!
//! A request gathers its spans itself, in one box, and leaves them in a bounded [`queue`] when it ends; one task
//! ([`export`]) sends them away. Nobody waits for that task.

mod export;
mod otlp;
mod queue;

pub use export::Exporter;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use openexec_protocol::refusal::Refusal;
use uuid::Uuid;

use self::queue::Queue;
use crate::config::telemetry::{Sampler, TracesConfig};
use crate::execute::respond::Answer;
use crate::metrics::Metrics;
use crate::registry::Ended;
use crate::trace::{self, Context, SAMPLED};

/// Begins traces.
pub struct Tracer {
    sampler: Sampler,
    queue: Arc<Queue>,
}

impl Tracer {
    /// With the task that exports what it records.
    pub fn start(config: TracesConfig, metrics: &Metrics) -> (Tracer, Exporter) {
        let queue = Arc::new(Queue::new(config.queue_spans, metrics.trace_spans()));
        let tracer = Tracer { sampler: config.sampler, queue: queue.clone() };
        (tracer, Exporter::start(config, queue, metrics))
    }

    /// The trace of a request that was read just now.
    pub fn begin(&self, headers: &HeaderMap, method: &str, route: &str) -> Trace {
        let parent = Context::of(headers);
        let trace_id = parent.map_or_else(|| Uuid::new_v4().as_u128(), |parent| parent.trace_id);
        let is_sampled = self.sampler.samples(parent, trace_id);
        let others = parent.map_or(0, |parent| parent.flags & !SAMPLED);
        let flags = if is_sampled { others | SAMPLED } else { others };
        // A state belongs to a parent that is valid (section 3.3).
        let state = parent.and_then(|_| trace::state_of(headers));
        let context = Context { trace_id, span_id: trace::new_span_id(), flags };
        let recording = is_sampled.then(|| Recording {
            queue: self.queue.clone(),
            spans: Some(Box::new(Spans {
                context,
                parent: parent.map(|parent| parent.span_id),
                name: format!("{method} {route}"),
                method: method.to_owned(),
                route: route.to_owned(),
                wall: SystemTime::now(),
                started: Instant::now(),
                ended: None,
                status: 0,
                verdict: None,
                steps: Vec::with_capacity(4),
            })),
        });
        Trace { context: Some(context), state, recording }
    }
}

/// The trace of one request.
#[derive(Default)]
pub struct Trace {
    /// Whose child the next span is.
    context: Option<Context>,
    state: Option<String>,
    recording: Option<Recording>,
}

impl Trace {
    /// Of a request that nobody records.
    pub fn unrecorded(headers: &HeaderMap) -> Self {
        Trace { context: Context::of(headers), state: None, recording: None }
    }

    /// The span of a request to a service, for its `traceparent`.
    pub fn onward(&self) -> Context {
        Context::child_of(self.context)
    }

    /// The `tracestate` that goes with it.
    pub fn state(&self) -> Option<String> {
        self.state.clone()
    }

    /// Whether the request's spans are gathered.
    pub fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Something that the request waited for, and that is over now.
    pub fn step(&mut self, name: &'static str, started: Instant, took: Duration) {
        if let Some(spans) = self.spans() {
            let span_id = trace::new_span_id();
            spans.steps.push(Step { span_id, name, kind: Kind::Internal, started, took, status: None, failed: None });
        }
    }

    /// A request to a service is over, whose span [`Trace::onward`] named.
    pub fn dispatched(&mut self, span: Context, started: Instant, took: Duration, ended: &Ended) {
        let status = match ended {
            Ended::Answered { status, .. } => *status,
            Ended::NotExecuted { .. } | Ended::Unknown => None,
        };
        let failed = match ended {
            Ended::Answered { .. } => status.filter(|status| *status >= 400).map(|_| ""),
            Ended::NotExecuted { .. } => Some("not_executed"),
            Ended::Unknown => Some("outcome_unknown"),
        };
        self.called(span, started, took, status, failed);
    }

    /// A request to a service is over: with this status, or for this reason without one that counts.
    pub fn called(
        &mut self,
        span: Context,
        started: Instant,
        took: Duration,
        status: Option<u16>,
        failed: Option<&'static str>,
    ) {
        if let Some(spans) = self.spans() {
            let (span_id, kind) = (span.span_id, Kind::Client);
            spans.steps.push(Step { span_id, name: "upstream", kind, started, took, status, failed });
        }
    }

    /// What came of it. `action`: a registered one's name.
    pub fn verdict(&mut self, action: Option<&str>, outcome: &Result<Answer, Refusal>) {
        if let Some(spans) = self.spans() {
            let action = action.map(str::to_owned);
            spans.verdict = Some(match outcome {
                Ok(Answer { id, replayed, .. }) => {
                    let verdict = if *replayed { "replayed" } else { "executed" };
                    Verdict { action, execution_id: Some(id.clone()), verdict, reason: "" }
                }
                Err(refusal) => Verdict::refused(action, refusal),
            });
        }
    }

    /// It was refused before an action could be known.
    pub fn refused(&mut self, refusal: &Refusal) {
        if let Some(spans) = self.spans() {
            spans.verdict = Some(Verdict::refused(None, refusal));
            spans.status = refusal.status;
        }
    }

    /// The client is answered with this status.
    pub fn answered(&mut self, status: u16) {
        if let Some(spans) = self.spans() {
            spans.status = status;
        }
    }

    fn spans(&mut self) -> Option<&mut Spans> {
        self.recording.as_mut()?.spans.as_deref_mut()
    }
}

/// Leaves its spans to the exporter when it ends, however that comes about: a client that leaves ends it too.
struct Recording {
    queue: Arc<Queue>,
    /// Until the end.
    spans: Option<Box<Spans>>,
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(mut spans) = self.spans.take() {
            spans.ended = Some(Instant::now());
            self.queue.push(*spans);
        }
    }
}

/// A request's span, and those below it. Nothing of a payload, a result, a header or a secret is in here.
struct Spans {
    context: Context,
    parent: Option<u64>,
    name: String,
    method: String,
    /// A path that the configuration or this program names, never the client's own spelling.
    route: String,
    wall: SystemTime,
    started: Instant,
    ended: Option<Instant>,
    /// 0: nobody was answered.
    status: u16,
    verdict: Option<Verdict>,
    steps: Vec<Step>,
}

struct Verdict {
    action: Option<String>,
    execution_id: Option<String>,
    verdict: &'static str,
    reason: &'static str,
}

impl Verdict {
    fn refused(action: Option<String>, refusal: &Refusal) -> Self {
        let execution_id = refusal.execution_id.clone();
        Verdict { action, execution_id, verdict: "refused", reason: refusal.code.as_str() }
    }
}

struct Step {
    span_id: u64,
    name: &'static str,
    kind: Kind,
    started: Instant,
    took: Duration,
    status: Option<u16>,
    /// It went wrong, and how where a status does not say it.
    failed: Option<&'static str>,
}

/// As OTLP numbers them.
#[derive(Clone, Copy)]
enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

impl Spans {
    fn count(&self) -> usize {
        1 + self.steps.len()
    }
}
