//! The one place where outcomes become HTTP.

use std::sync::Arc;

use bytes::Bytes;
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::http::{Method, ResponseHeader};
use pingora::protocols::http::ServerSession;

use crate::ledger::{Done, Execution, Outcome, State};
use crate::listen::{Permit, Permits};

/// A stored result on its way to a client.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The execution.
    pub id: String,
    /// Whether it was stored before this request came.
    pub replayed: bool,
    /// The HTTP status.
    pub status: u16,
    upstream_status: Option<u16>,
    headers: Vec<(String, String)>,
    receipt: String,
    body: Bytes,
    /// Given back when it is written.
    memory: Option<Arc<Permit>>,
}

impl Answer {
    pub(super) fn of(execution: &Execution, done: &Done, replayed: bool) -> Self {
        let Done { upstream_status, headers, result, receipt } = done;
        let (id, action) = (&execution.id, CanonicalText::string(&execution.action));
        let action = action.as_str();
        let body = [
            r#"{"id":""#,
            id,
            r#"","action":"#,
            action,
            r#","result":"#,
            result,
            r#","approved":true,"receipt":""#,
            receipt,
            r#""}"#,
        ];
        Answer {
            id: id.clone(),
            replayed,
            status: upstream_status.map_or(200, client_status),
            upstream_status: *upstream_status,
            headers: headers.clone(),
            receipt: receipt.clone(),
            body: body.concat().into(),
            memory: None,
        }
    }

    /// With the memory that it was read into.
    pub(super) fn holding(self, memory: Arc<Permit>) -> Self {
        Answer { memory: Some(memory), ..self }
    }

    /// With its share of the memory for all bodies, for as long as its client takes to read it.
    ///
    /// # Errors
    /// There is none left. It was stored before, so asking again harms nobody; a first answer is never held back.
    pub(super) fn within(self, memory: &Arc<Permits>) -> Result<Self, Refusal> {
        if !self.replayed {
            return Ok(self);
        }
        let too_many =
            || Refusal::new(Code::Overloaded, "Too many answers are being written at once").with_retry_after(1);
        let share = memory.take_many(self.body.len()).ok_or_else(too_many)?;
        Ok(self.holding(Arc::new(share)))
    }

    /// What the request that executed it is told.
    pub(super) fn fresh(execution: &Execution) -> Result<Self, Refusal> {
        match &execution.state {
            State::Settled(Outcome::Done(done)) => Ok(Answer::of(execution, done, false)),
            State::Settled(Outcome::NotExecuted { status }) => Err(not_executed(execution, *status)),
            State::Expired { receipt } => Err(result_expired(execution, receipt)),
            State::Intent | State::Settled(Outcome::Unknown) => Err(outcome_unknown(execution, 504)),
        }
    }
}

/// The upstream's status, except where it could not carry this body, or would send the client elsewhere.
fn client_status(upstream_status: u16) -> u16 {
    match upstream_status {
        204 | 205 | 300..=399 => 200,
        status => status,
    }
}

pub(super) fn not_executed(execution: &Execution, status: u16) -> Refusal {
    let detail = "It is certain that the action was not executed; its nonce and approval stay used";
    Refusal::new(Code::NotExecuted, detail).with_status(status).with_execution(&execution.id)
}

pub(super) fn result_expired(execution: &Execution, receipt: &str) -> Refusal {
    let detail = "The action was executed; its result is no longer kept";
    let refusal = Refusal::new(Code::ResultExpired, detail).with_execution(&execution.id);
    Refusal { receipt: Some(receipt.to_owned()), ..refusal }
}

pub(super) fn outcome_unknown(execution: &Execution, status: u16) -> Refusal {
    let detail = "The action was dispatched, and whether it happened cannot be known: look for the execution id where \
                  the action has its effects, and do not send it again under another nonce before that";
    Refusal::new(Code::OutcomeUnknown, detail).with_status(status).with_execution(&execution.id)
}

/// Sends a result.
pub async fn answer(session: &mut ServerSession, answer: Answer) {
    let replayed = if answer.replayed { "true" } else { "false" };
    let upstream_status = answer.upstream_status.map(|status| status.to_string());
    let mut headers = vec![
        ("Content-Type", "application/json"),
        ("OpenExec-Execution-Id", &answer.id),
        ("OpenExec-Receipt", &answer.receipt),
        ("OpenExec-Replayed", replayed),
    ];
    if let Some(status) = &upstream_status {
        headers.push(("OpenExec-Upstream-Status", status));
    }
    write(session, answer.status, &headers, &answer.headers, answer.body, false).await;
    drop(answer.memory);
}

/// Sends a refusal. The connection stays usable unless the request on it was not read to its end.
pub async fn refusal(session: &mut ServerSession, refusal: &Refusal) {
    let retry_after = refusal.retry_after.map(|seconds| seconds.to_string());
    let mut headers = vec![("Content-Type", PROBLEM)];
    if let Some(seconds) = &retry_after {
        headers.push(("Retry-After", seconds));
    }
    if let Some(id) = &refusal.execution_id {
        headers.push(("OpenExec-Execution-Id", id));
    }
    if refusal.code == Code::CallerUnauthenticated {
        headers.push(("WWW-Authenticate", "Bearer"));
    }
    if let Some(allow) = refusal.allow {
        headers.push(("Allow", allow));
    }
    send(session, refusal.status, &headers, problem(refusal).into()).await;
}

/// Sends a refusal where the header could not be read.
pub async fn to_unread(session: &mut ServerSession, refusal: &Refusal) {
    write(session, refusal.status, &[("Content-Type", PROBLEM)], &[], problem(refusal).into(), false).await;
}

/// Another method than these.
pub fn method_not_allowed(allow: &'static str) -> Refusal {
    Refusal { allow: Some(allow), ..Refusal::new(Code::MethodNotAllowed, format!("Only {allow} here")) }
}

/// Sends a document.
pub async fn document(session: &mut ServerSession, status: u16, content_type: &str, body: impl Into<Bytes>) {
    send(session, status, &[("Content-Type", content_type), ("Cache-Control", "no-store")], body.into()).await;
}

/// Sends a document with headers of its own.
pub async fn document_with(
    session: &mut ServerSession,
    content_type: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) {
    let usual = [("Content-Type", content_type), ("Cache-Control", "no-store")];
    send(session, 200, &[&usual, headers].concat(), body.into()).await;
}

const PROBLEM: &str = "application/problem+json";

/// A client that is gone, or does not read, gets nothing: what was decided is decided all the same.
async fn send(session: &mut ServerSession, status: u16, headers: &[(&'static str, &str)], body: Bytes) {
    let to_head = session.req_header().method == Method::HEAD;
    write(session, status, headers, &[], body, to_head).await;
}

/// `headers` are ours; `passed_on` are an upstream's, which the configuration names.
async fn write(
    session: &mut ServerSession,
    status: u16,
    headers: &[(&'static str, &str)],
    passed_on: &[(String, String)],
    body: Bytes,
    to_head: bool,
) {
    let header = ResponseHeader::build(status, Some(headers.len() + 4)).and_then(|mut header| {
        for (name, value) in headers {
            header.insert_header(*name, *value)?;
        }
        for (name, value) in passed_on {
            header.append_header(name.clone(), value)?;
        }
        header.insert_header("Content-Length", body.len())?;
        Ok(header)
    });
    let header = header.expect("statuses and header values are ours");
    if session.write_response_header(Box::new(header)).await.is_err() || to_head {
        return;
    }
    let _ = session.write_response_body(body, true).await;
}

/// A refusal as bytes, for a connection on which no request could be read.
pub fn raw(refusal: &Refusal) -> Vec<u8> {
    let body = problem(refusal);
    let retry_after = refusal.retry_after.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
    let (status, title, length) = (refusal.status, refusal.code.title(), body.len());
    format!(
        "HTTP/1.1 {status} {title}\r\nContent-Type: {PROBLEM}\r\nContent-Length: {length}\r\n{retry_after}\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// RFC 9457. `detail` is where a 0.2.0 client looks.
fn problem(refusal: &Refusal) -> String {
    let mut problem = serde_json::json!({
        "type": format!("urn:openexec:refusal:{}", refusal.code),
        "title": refusal.code.title(),
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code.as_str(),
    });
    if let Some(id) = &refusal.execution_id {
        problem["execution_id"] = id.as_str().into();
    }
    if let Some(receipt) = &refusal.receipt {
        problem["receipt"] = receipt.as_str().into();
    }
    if let Some(seconds) = refusal.retry_after {
        problem["retry_after"] = seconds.into();
    }
    problem.to_string()
}
