//! Other requests to a service, by allow-list: streamed both ways, never an action, never sent twice.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderName, HeaderValue, Method, Request, header, response};
use openexec_protocol::refusal::{Code, Refusal};
use pingora::ErrorType;
use pingora::http::{RequestHeader, ResponseHeader, Version};
use pingora::protocols::http::ServerSession;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::action::PassRule;
use crate::headers;
use crate::metrics::Metrics;
use crate::path::Normal;
use crate::telemetry::Trace;
use crate::upstream::{Body, Connection, Response, Upstream, body_of, stream_body};

/// What is let through.
pub(super) struct Passthrough {
    rules: Vec<(PassRule, Arc<Upstream>)>,
    metrics: Arc<Metrics>,
}

/// A request that is let through, and how its target is spelled.
pub(super) struct Passed<'p> {
    rule: &'p PassRule,
    upstream: &'p Arc<Upstream>,
    target: String,
}

/// Why there is no answer to pass on.
enum Failure {
    /// To be said.
    Refused(Refusal),
    /// The client is gone, or has heard a part already: its connection ends.
    Broken,
}

impl Passed<'_> {
    /// The rule's path: what the configuration calls it, and not what the client does.
    pub(super) fn route(&self) -> &str {
        &self.rule.path
    }
}

impl Passthrough {
    pub(super) fn new(rules: &[PassRule], upstreams: &HashMap<String, Arc<Upstream>>, metrics: Arc<Metrics>) -> Self {
        rules.iter().for_each(|rule| metrics.passthrough(&rule.upstream));
        let upstream = |rule: &PassRule| upstreams.get(&rule.upstream).map(|upstream| (rule.clone(), upstream.clone()));
        Passthrough { rules: rules.iter().filter_map(upstream).collect(), metrics }
    }

    /// The rule that names this method and path.
    ///
    /// # Errors
    /// There is none, or the path has more than one reading.
    pub(super) fn find(&self, header: &RequestHeader) -> Result<Passed<'_>, Refusal> {
        let not_found = || Refusal::new(Code::NotFound, "No such path");
        if self.rules.is_empty() {
            return Err(not_found());
        }
        let Some(path) = Normal::parse(header.uri.path()) else {
            return Err(Refusal::new(Code::NotFound, "No such path: it has more than one reading"));
        };
        let names = |rule: &PassRule| rule.methods.contains(&header.method) && path.is_below(&rule.path);
        let (rule, upstream) = self.rules.iter().find(|(rule, _)| names(rule)).ok_or_else(not_found)?;
        if rule.action_paths.iter().any(|action| path.resembles(action)) {
            return Err(not_found());
        }
        if header.headers.contains_key(header::UPGRADE) || header.method == Method::CONNECT {
            return Err(Refusal::new(Code::BadHttp, "Bad HTTP framing: a connection is not upgraded here"));
        }
        let target = match header.uri.query() {
            Some(query) => format!("{}?{query}", path.as_str()),
            None => path.as_str().to_owned(),
        };
        Ok(Passed { rule, upstream, target })
    }

    /// Lets it through; whether the client's request was read to its end. What a caller shows us is not the service's.
    ///
    /// # Errors
    /// What the client is to be told. Its body may not have been read.
    pub(super) async fn pass(
        &self,
        session: &mut ServerSession,
        passed: Passed<'_>,
        with_caller: bool,
        trace: &mut Trace,
    ) -> Result<bool, Refusal> {
        let (span, started) = (trace.onward(), Instant::now());
        let traceparent = trace.is_recorded().then(|| span.to_string());
        let outcome = exchange(session, &passed, traceparent, with_caller).await;
        let took = started.elapsed();
        match &outcome {
            Ok((status, _)) => {
                trace.called(span, started, took, Some(*status), (*status >= 400).then_some(""));
                trace.answered(*status);
            }
            Err(Failure::Refused(refusal)) => {
                trace.called(span, started, took, None, Some(refusal.code.as_str()));
                trace.refused(refusal);
            }
            Err(Failure::Broken) => trace.called(span, started, took, None, Some("broken")),
        }
        let status = match &outcome {
            Ok((status, _)) => *status,
            Err(Failure::Refused(refusal)) => refusal.status,
            Err(Failure::Broken) => 0,
        };
        self.metrics.passed(passed.upstream.name(), status);
        tracing::info!(
            target: "openexec::passthrough",
            upstream = passed.upstream.name(),
            rule = %passed.rule.path,
            method = %session.req_header().method,
            status,
        );
        match outcome {
            Ok((_, is_whole)) => Ok(is_whole),
            Err(Failure::Refused(refusal)) => Err(refusal),
            Err(Failure::Broken) => {
                session.set_keepalive(None);
                // Before the end of the exchange writes an end to a body that has none.
                session.shutdown().await;
                Ok(true)
            }
        }
    }
}

/// Both ways; the status that was passed on, and whether the request was read to its end.
async fn exchange(
    session: &mut ServerSession,
    passed: &Passed<'_>,
    traceparent: Option<String>,
    with_caller: bool,
) -> Result<(u16, bool), Failure> {
    let has_body = !session.is_body_empty();
    if has_body && matches!(session.req_header().method, Method::GET | Method::HEAD) {
        // It would mean nothing (RFC 9110, section 9.3.1), and two servers could see two requests.
        return Err(Failure::Refused(Refusal::new(Code::BadHttp, "Bad HTTP framing: a body has no meaning here")));
    }
    let connection = passed.upstream.connect().await.map_err(|_| Failure::Refused(unreachable()))?;
    let watch = connection.watch();
    let (pieces, body) = if has_body {
        let (pieces, received) = mpsc::channel(1);
        (Some(pieces), stream_body(received))
    } else {
        (None, body_of(Bytes::new()))
    };
    // Until the answer is passed on: a body whose senders are gone breaks the connection, and with it the answer.
    let _unfinished = pieces.clone();
    let mut request = request(session.req_header(), &connection, &passed.target, body).ok_or_else(|| {
        Failure::Refused(Refusal::new(Code::BadHttp, "Bad HTTP framing: the target cannot be passed on"))
    })?;
    // A span of ours stands between, if anybody sees it.
    if let Some(traceparent) = traceparent.and_then(|text| HeaderValue::try_from(text).ok()) {
        request.headers_mut().insert("traceparent", traceparent);
    }
    if with_caller {
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    if has_body {
        expect_continue(session).await?;
    }
    let patience = passed.rule.timeout;
    let (answered, is_whole) = {
        let upload = pin!(upload(session, pieces, patience));
        let sending = pin!(connection.send(request));
        match select(upload, sending).await {
            // All of the request is there, or all that the service wants: now the answer has its time.
            Either::Left((Ok(is_whole), sending)) => (timeout(patience, sending).await, is_whole),
            Either::Left((Err(failure), _)) => return Err(failure),
            // Answered before its end.
            Either::Right((answered, _)) => (Ok(answered), !has_body),
        }
    };
    if !is_whole {
        session.set_keepalive(None);
    }
    match answered {
        Ok(Ok(response)) => Ok((download(session, response, patience).await?, is_whole)),
        Ok(Err(error)) => {
            tracing::warn!(upstream = passed.upstream.name(), sent = watch.sent(), %error, "no answer");
            Err(Failure::Refused(if watch.sent() { no_answer() } else { unreachable() }))
        }
        Err(_) => {
            watch.failed();
            Err(Failure::Refused(Refusal::new(Code::UpstreamTimeout, "The service did not answer in time")))
        }
    }
}

fn unreachable() -> Refusal {
    Refusal::new(Code::UpstreamUnreachable, "The service cannot be reached; nothing was sent").with_retry_after(1)
}

/// Something was sent: trying again could do it again.
fn no_answer() -> Refusal {
    Refusal::new(Code::UpstreamTimeout, "The service got the request and gave no answer that can be passed on")
}

/// Gives the client's body away piece by piece; whether to its end.
async fn upload(
    session: &mut ServerSession,
    pieces: Option<mpsc::Sender<io::Result<Bytes>>>,
    patience: Duration,
) -> Result<bool, Failure> {
    let Some(pieces) = pieces else { return Ok(true) };
    loop {
        match session.read_request_body().await {
            // In the middle of a chunk's framing. As a piece it would be the end.
            Ok(Some(piece)) if piece.is_empty() => {}
            Ok(Some(piece)) => match timeout(patience, pieces.send(Ok(piece))).await {
                Ok(Ok(())) => {}
                // The service wants no more: it has answered, or is gone.
                Ok(Err(_)) => return Ok(false),
                Err(_) => {
                    let detail = "The service did not take the request in time";
                    return Err(Failure::Refused(Refusal::new(Code::UpstreamTimeout, detail)));
                }
            },
            Ok(None) => {
                // Its end. A service that wants no more has no use for it.
                let _ = timeout(patience, pieces.send(Ok(Bytes::new()))).await;
                return Ok(true);
            }
            Err(error) => {
                let _ = pieces.try_send(Err(io::ErrorKind::UnexpectedEof.into()));
                let (code, detail) = if error.etype() == &ErrorType::ReadTimedout {
                    (Code::RequestTimeout, "The request's body took too long")
                } else {
                    (Code::BadHttp, "Bad HTTP framing: the request's body ends early or is malformed")
                };
                return Err(Failure::Refused(Refusal::new(code, detail)));
            }
        }
    }
}

async fn expect_continue(session: &mut ServerSession) -> Result<(), Failure> {
    let header = session.req_header();
    let expects = header.version == Version::HTTP_11 && header.headers.contains_key(header::EXPECT);
    if expects {
        // Pingora takes a response before the body's end, even this one, for the connection's last.
        let keepalive = session.get_keepalive();
        session.write_continue_response().await.map_err(|_| Failure::Broken)?;
        session.set_keepalive(keepalive);
    }
    Ok(())
}

/// The same request to somebody else: without what belongs to the client's connection, and without what could make the
/// service see another one.
fn request(client: &RequestHeader, connection: &Connection, target: &str, body: Body) -> Option<Request<Body>> {
    let mut request = Request::new(body);
    *request.method_mut() = client.method.clone();
    *request.uri_mut() = target.parse().ok()?;
    let headers = request.headers_mut();
    let nominated = nominated(&client.headers);
    for (name, value) in &client.headers {
        let name_text = name.as_str();
        let is_dropped = headers::is_framing(name_text)
            || headers::is_imitation(name_text)
            || headers::is_override(name_text)
            || nominated.contains(name);
        if !is_dropped {
            headers.append(name.clone(), value.clone());
        }
    }
    // A length that is known stays one; else the body is chunked.
    if !client.headers.contains_key(header::TRANSFER_ENCODING)
        && let Some(length) = client.headers.get(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, length.clone());
    }
    headers.insert(header::HOST, connection.authority().clone());
    Some(request)
}

/// Headers that `Connection` names: they end here (RFC 9110, section 7.6.1).
fn nominated(headers: &http::HeaderMap) -> Vec<HeaderName> {
    let listed = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

async fn download(session: &mut ServerSession, mut response: Response, patience: Duration) -> Result<u16, Failure> {
    let to_head = session.req_header().method == Method::HEAD;
    let is_new = session.req_header().version == Version::HTTP_11;
    let status = response.head.status.as_u16();
    let header = response_header(&response.head, is_new, to_head).ok_or_else(|| Failure::Refused(no_answer()))?;
    if !is_new {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(header)).await.map_err(|_| Failure::Broken)?;
    loop {
        match timeout(patience, response.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) if !piece.is_empty() => {
                session.write_response_body(piece, false).await.map_err(|_| Failure::Broken)?;
            }
            Ok(Some(Ok(_))) => {}
            // What was sent so far looks like the beginning of a body: it must not get an end.
            Ok(Some(Err(_))) | Err(_) => return Err(Failure::Broken),
        }
    }
    response.done();
    if !to_head {
        session.write_response_body(Bytes::new(), true).await.map_err(|_| Failure::Broken)?;
    }
    Ok(status)
}

fn response_header(head: &response::Parts, is_new: bool, to_head: bool) -> Option<ResponseHeader> {
    let status = head.status.as_u16();
    // No other final status is below 200; a connection is not upgraded.
    if status < 200 {
        return None;
    }
    let mut header = ResponseHeader::build(status, Some(head.headers.len() + 1)).ok()?;
    let nominated = nominated(&head.headers);
    for (name, value) in &head.headers {
        if !headers::is_framing(name.as_str()) && !headers::is_imitation(name.as_str()) && !nominated.contains(name) {
            header.append_header(name.clone(), value.clone()).ok()?;
        }
    }
    let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    match head.headers.get(header::CONTENT_LENGTH) {
        Some(length) if !is_chunked => header.insert_header(header::CONTENT_LENGTH, length.clone()).ok()?,
        _ if to_head || matches!(status, 204 | 304) || !is_new => {}
        _ => header.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")).ok()?,
    }
    Some(header)
}
