//! An action that an upstream does: one request, made of the canonical bytes, sent once; its answer read whole.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, Request, header, response};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::refusal::{Code, Refusal};
use tokio::time::timeout;

use super::InvalidPayload;
use super::result::{self, Collected};
use crate::clock::Clock;
use crate::config::action::{BodyForm, Forward, Recovery};
use crate::ledger::{Lease, Record, RecoveryPolicy};
use crate::listen::Permit;
use crate::registry::{Dispatch, Effect, Ended, Ready, Recovered};
use crate::trace::Context;
use crate::upstream::{Body, Connection, Upstream, body_of};

/// An action of the configuration, with the upstream that does it.
pub struct Forwarded {
    /// What is sent, and what becomes of the answer.
    pub config: Arc<Forward>,
    /// Where it is sent.
    pub upstream: Arc<Upstream>,
    /// For the windows of recoveries.
    pub clock: Arc<dyn Clock>,
}

/// The status of an execution of which not a byte was sent.
const NOT_SENT: u16 = 409;
/// How much later than it is over a process that runs notices at most that the time is over.
const LATE: Duration = Duration::from_millis(200);
/// For what has come already.
const LAST_LOOK: Duration = Duration::from_millis(200);
/// As far as two clocks may be apart.
const CLOCKS_APART: TimeDelta = TimeDelta::minutes(1);

/// Whether the answer to a repetition says nothing about the execution: it is still running, or somebody else refused.
fn says_nothing(status: u16) -> bool {
    matches!(status, 300..=399 | 401 | 403 | 408 | 409 | 425 | 429 | 500..)
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const EXECUTION_ID: HeaderName = HeaderName::from_static("openexec-execution-id");
const TENANT: HeaderName = HeaderName::from_static("openexec-tenant");
const APPROVAL_ID: HeaderName = HeaderName::from_static("openexec-approval-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

#[async_trait]
impl Effect for Forwarded {
    fn check(&self, payload: &CanonicalText) -> Result<(), InvalidPayload> {
        match &self.config.schema {
            None => Ok(()),
            Some(schema) => super::schema::check(schema, payload),
        }
    }

    fn route(&self) -> (String, RecoveryPolicy) {
        (self.config.route.clone(), self.config.recovery.policy())
    }

    async fn prepare(&self) -> Result<Ready, Refusal> {
        let connection = self.upstream.connect().await.map_err(|_| {
            let detail = "The action's service cannot be reached; nothing was sent or stored";
            Refusal::new(Code::UpstreamUnreachable, detail).with_retry_after(1)
        })?;
        let config = self.config.clone();
        Ok(Box::new(move |dispatch| async move { send(&config, connection, &dispatch).await }.boxed()))
    }

    async fn recover(&self, record: &Record, memory: Arc<Permit>, lease: Option<Arc<Lease>>) -> Recovered {
        let Some(dispatched) = &record.dispatched else { return Recovered::Operator };
        let (route, policy) = self.route();
        // Another route could do another thing, or know nothing of the key; so could a service that promised less then.
        if dispatched.route != route || dispatched.policy != policy {
            return Recovered::Operator;
        }
        // A clock that was set back says nothing about windows.
        if self.age(record) < -CLOCKS_APART {
            return Recovered::AskAgain;
        }
        match &self.config.recovery {
            Recovery::Operator => Recovered::Operator,
            Recovery::Idempotent { window } => self.send_again(record, *window, memory, lease).await,
            Recovery::Probe { path, settle, window } => {
                if self.age(record) >= delta(*window) {
                    return Recovered::Operator;
                }
                // From when nobody worked on it any more: the claim itself may have taken long.
                let ended = record.claimed_at + delta(self.config.timeout);
                let ended = record.settled_at.map_or(ended, |unknown_since| ended.max(unknown_since));
                self.ask(record, path, ended + delta(*settle), &memory).await
            }
        }
    }
}

impl Forwarded {
    fn age(&self, record: &Record) -> TimeDelta {
        self.clock.now() - record.claimed_at
    }

    async fn send_again(
        &self,
        record: &Record,
        window: Duration,
        memory: Arc<Permit>,
        lease: Option<Arc<Lease>>,
    ) -> Recovered {
        let payload = record.dispatched.as_ref().and_then(|dispatched| dispatched.payload.as_deref());
        let no_limits = Limits { depth: usize::MAX, nodes: usize::MAX };
        let Some(Ok(payload)) = payload.map(|text| CanonicalText::parse(text.as_bytes(), no_limits)) else {
            return Recovered::Operator;
        };
        let connection = self.upstream.connect().await;
        // A repetition that could end behind the window might meet an upstream that has forgotten the key.
        if self.age(record) + delta(self.config.timeout) >= delta(window) {
            return Recovered::Operator;
        }
        let Ok(connection) = connection else { return Recovered::AskAgain };
        let dispatch = Dispatch {
            execution_id: record.execution.id.clone(),
            tenant: record.tenant.as_str().into(),
            approval_id: record.approval_id.clone(),
            action: record.execution.action.clone(),
            payload,
            trace: Context::child_of(None),
            tracestate: None,
            memory,
            lease,
        };
        match send(&self.config, connection, &dispatch).await {
            Ended::Answered { status: Some(status), .. } if says_nothing(status) => Recovered::AskAgain,
            answered @ Ended::Answered { .. } => Recovered::Settled(answered),
            // That nothing happened this time says nothing about the first.
            Ended::NotExecuted { .. } | Ended::Unknown => Recovered::AskAgain,
        }
    }

    async fn ask(&self, record: &Record, path: &str, settled_by: DateTime<Utc>, memory: &Permit) -> Recovered {
        let Ok(connection) = self.upstream.connect().await else { return Recovered::AskAgain };
        let mut request = Request::new(body_of(Bytes::new()));
        *request.method_mut() = Method::GET;
        let Ok(uri) = path.replace("{key}", &record.execution.id).parse() else { return Recovered::Operator };
        *request.uri_mut() = uri;
        let id = &record.execution.id;
        if common_headers(&self.config, &connection, id, &record.tenant, request.headers_mut()).is_none() {
            return Recovered::Operator;
        }
        let asked_at = self.clock.now();
        let answered = timeout(self.config.timeout, async {
            let response = connection.send(request).await.ok()?;
            result::collect(response, self.config.read_bytes, self.config.kept_bytes, memory).await
        });
        match answered.await {
            Ok(Some(collected)) if collected.head.status == 200 => {
                Recovered::Settled(answered_by(&self.config, collected, memory).await)
            }
            Ok(Some(collected)) if collected.head.status == 404 && asked_at >= settled_by => {
                Recovered::Settled(Ended::NotExecuted { status: NOT_SENT })
            }
            _ => Recovered::AskAgain,
        }
    }
}

/// What comes of a request.
enum Came {
    NotExecuted { status: u16 },
    Whole(Collected),
}

/// Sends the request and reads the answer, in the action's time.
async fn send(config: &Forward, connection: Connection, dispatch: &Dispatch) -> Ended {
    let Some(request) = request(config, &connection, dispatch) else {
        tracing::error!(execution_id = %dispatch.execution_id, "the request could not be built: nothing was sent");
        return Ended::NotExecuted { status: NOT_SENT };
    };
    let watch = connection.watch();
    // The last thing before the first byte: this process may have been stopped for long on its way here.
    if dispatch.lease.as_ref().is_some_and(|lease| !lease.lasts_for(config.timeout)) {
        tracing::warn!(execution_id = %dispatch.execution_id, "the lease could end before the answer: nothing was sent");
        return Ended::NotExecuted { status: NOT_SENT };
    }
    let started = Instant::now();
    let mut exchange = pin!(async {
        let response = connection.send(request).await.map_err(|error| {
            tracing::warn!(execution_id = %dispatch.execution_id, sent = watch.sent(), %error, "no answer");
        })?;
        if config.not_executed_on.contains(&response.head.status.as_u16()) {
            return Ok(Came::NotExecuted { status: response.head.status.as_u16() });
        }
        match result::collect(response, config.read_bytes, config.kept_bytes, &dispatch.memory).await {
            Some(collected) => Ok(Came::Whole(collected)),
            None => {
                tracing::warn!(execution_id = %dispatch.execution_id, "the answer ended early or is malformed");
                Err(())
            }
        }
    });
    let mut answered = timeout(config.timeout, &mut exchange).await;
    // It was stopped itself while the time went by: what came meanwhile is there, and only not read yet.
    if answered.is_err() && started.elapsed() > config.timeout + LATE {
        answered = timeout(LAST_LOOK, &mut exchange).await;
    }
    match answered {
        Ok(Ok(Came::NotExecuted { status })) => Ended::NotExecuted { status },
        // Whole in time, however long it takes to read.
        Ok(Ok(Came::Whole(collected))) => answered_by(config, collected, &dispatch.memory).await,
        // Not a byte was given to the transport.
        Ok(Err(())) if !watch.sent() => Ended::NotExecuted { status: NOT_SENT },
        Ok(Err(())) => Ended::Unknown,
        Err(_) => {
            watch.failed();
            tracing::warn!(execution_id = %dispatch.execution_id, timeout = ?config.timeout, "no answer in time");
            if watch.sent() { Ended::Unknown } else { Ended::NotExecuted { status: NOT_SENT } }
        }
    }
}

/// The request that was approved. `None`: a value that no header can have.
fn request(config: &Forward, connection: &Connection, dispatch: &Dispatch) -> Option<Request<Body>> {
    let payload = &dispatch.payload;
    let body = match config.body {
        BodyForm::Payload => Bytes::from(payload.as_str().to_owned()),
        BodyForm::Request => {
            let action = CanonicalText::string(&dispatch.action);
            Bytes::from(format!(r#"{{"action":{},"payload":{}}}"#, action.as_str(), payload.as_str()))
        }
    };
    let length = body.len();
    let mut request = Request::new(body_of(body));
    *request.method_mut() = config.method.clone();
    *request.uri_mut() = config.path.parse().ok()?;
    let headers = request.headers_mut();
    headers.reserve(12 + config.headers.len());
    common_headers(config, connection, &dispatch.execution_id, &dispatch.tenant, headers)?;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(TRACEPARENT, value(&dispatch.trace.to_string())?);
    if let Some(state) = &dispatch.tracestate {
        headers.insert(TRACESTATE, value(state)?);
    }
    if let Some(approval_id) = &dispatch.approval_id {
        headers.insert(APPROVAL_ID, value(approval_id)?);
    }
    Some(request)
}

fn common_headers(
    config: &Forward,
    connection: &Connection,
    execution_id: &str,
    tenant: &str,
    headers: &mut http::HeaderMap,
) -> Option<()> {
    for (name, value) in &config.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers.insert(header::HOST, connection.authority().clone());
    headers.insert(header::USER_AGENT, HeaderValue::from_static(crate::USER_AGENT));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let id = value(execution_id)?;
    headers.insert(IDEMPOTENCY_KEY, id.clone());
    headers.insert(EXECUTION_ID, id);
    if !tenant.is_empty() {
        headers.insert(TENANT, value(tenant)?);
    }
    Some(())
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

async fn answered_by(config: &Forward, collected: Collected, memory: &Permit) -> Ended {
    let status = Some(collected.head.status.as_u16());
    let headers = passed_on(config, &collected.head);
    Ended::Answered { status, headers, result: result::text(collected, config.kept_bytes, memory).await }
}

/// Bytes of passed-on headers, all together: they are stored with the result.
const PASSED_ON_BYTES: usize = 8 << 10;

fn passed_on(config: &Forward, head: &response::Parts) -> Vec<(String, String)> {
    let mut left = PASSED_ON_BYTES;
    let mut headers = Vec::new();
    for name in &config.response_headers {
        for value in head.headers.get_all(name) {
            let Ok(value) = value.to_str() else { continue };
            let size = name.as_str().len() + value.len();
            if size <= left {
                left -= size;
                headers.push((name.as_str().to_owned(), value.to_owned()));
            }
        }
    }
    headers
}

/// Durations of the configuration are at most a day, or so long that they mean "always".
fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
