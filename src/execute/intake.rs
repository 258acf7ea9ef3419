//! A request's body: of the right kind, not too large, not too slow, and not too much of it from everybody together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openexec_protocol::refusal::{Code, Refusal};
use pingora::ErrorType;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use crate::listen::{Permit, Permits};

/// What a body may be.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// A whole body, with its share of the memory that all bodies have.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    _share: Permit,
}

/// Reads the body to its end.
pub(super) async fn read(session: &mut ServerSession, bounds: Bounds, memory: &Arc<Permits>) -> Result<Body, Refusal> {
    let header = session.req_header();
    must_be_json(header)?;
    let announced = content_length(header);
    if announced.is_some_and(|length| length > bounds.bytes) {
        return Err(too_large(bounds));
    }
    let share = memory
        .take_many(announced.unwrap_or(bounds.bytes))
        .ok_or_else(|| Refusal::new(Code::Overloaded, "Too many bodies are being read at once").with_retry_after(1))?;
    if expects_continue(header) && session.write_continue_response().await.is_err() {
        return Err(unreadable());
    }
    let bytes = timeout(bounds.time, collect(session, bounds, announced)).await.map_err(|_| too_slow())??;
    Ok(Body { bytes, _share: share })
}

/// A web page can send other types across origins without asking, so they are refused, and so is none at all.
fn must_be_json(header: &RequestHeader) -> Result<(), Refusal> {
    let unsupported = |detail| Err(Refusal::new(Code::UnsupportedMediaType, detail));
    let mut types = header.headers.get_all("content-type").iter();
    let essence = match (types.next().and_then(|value| value.to_str().ok()), types.next()) {
        (Some(value), None) => value.split(';').next().unwrap_or(value).trim(),
        _ => return unsupported("Content-Type must be application/json"),
    };
    if !essence.eq_ignore_ascii_case("application/json") {
        return unsupported("Content-Type must be application/json");
    }
    if header.headers.contains_key("content-encoding") {
        return unsupported("The body must not be encoded: Content-Encoding is not supported");
    }
    Ok(())
}

/// One that the listener has checked; none when the body is chunked.
fn content_length(header: &RequestHeader) -> Option<usize> {
    if header.headers.contains_key("transfer-encoding") {
        return None;
    }
    let Some(value) = header.headers.get("content-length") else { return Some(0) };
    Some(value.to_str().ok().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX))
}

fn expects_continue(header: &RequestHeader) -> bool {
    header.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

async fn collect(session: &mut ServerSession, bounds: Bounds, announced: Option<usize>) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(part)) if whole.is_empty() && announced == Some(part.len()) => return Ok(part),
            Ok(Some(part)) => {
                if whole.len() + part.len() > bounds.bytes {
                    return Err(too_large(bounds));
                }
                whole.extend_from_slice(&part);
            }
            Ok(None) if announced.is_none_or(|length| length == whole.len()) => return Ok(whole.freeze()),
            Ok(None) => return Err(unreadable()),
            Err(error) if error.etype() == &ErrorType::ReadTimedout => return Err(too_slow()),
            Err(_) => return Err(unreadable()),
        }
    }
}

fn too_large(bounds: Bounds) -> Refusal {
    Refusal::new(Code::BodyTooLarge, format!("The request's body is over {} bytes", bounds.bytes))
}

fn too_slow() -> Refusal {
    Refusal::new(Code::RequestTimeout, "The request's body took too long")
}

fn unreadable() -> Refusal {
    Refusal::new(Code::BadHttp, "Bad HTTP framing: the request's body ends early or is malformed")
}
