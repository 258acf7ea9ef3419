//! A request's body: of the right kind, not too large, not too slow, and not too much of it from everybody together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openexec_protocol::refusal::{Code, Refusal};
use pingora::ErrorType;
use pingora::http::{RequestHeader, Version};
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use crate::listen::{Permit, Permits};

/// What a body may be.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// A whole body, with its share of the memory that all bodies have.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    _share: Permit,
}

/// Reads the body to its end.
pub(crate) async fn read(session: &mut ServerSession, bounds: Bounds, memory: &Arc<Permits>) -> Result<Body, Refusal> {
    let header = session.req_header();
    must_be_json(header)?;
    let announced = content_length(header);
    if announced.is_some_and(|length| length > bounds.bytes) {
        return Err(too_large(bounds));
    }
    if expects_continue(header) {
        // Pingora takes a response before the body's end, even this one, for the connection's last.
        let keepalive = session.get_keepalive();
        session.write_continue_response().await.map_err(|_| unreadable())?;
        session.set_keepalive(keepalive);
    }
    let share = memory.take_many(0).ok_or_else(too_many)?;
    let collected = timeout(bounds.time, collect(session, bounds, announced, &share)).await;
    Ok(Body { bytes: collected.map_err(|_| too_slow())??, _share: share })
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

/// HTTP/1.0 knows no such thing (RFC 9110, section 10.1.1).
fn expects_continue(header: &RequestHeader) -> bool {
    header.version == Version::HTTP_11
        && header.headers.get("expect").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Takes memory as the bytes arrive: what is only announced must not keep others out.
async fn collect(
    session: &mut ServerSession,
    bounds: Bounds,
    announced: Option<usize>,
    share: &Permit,
) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(part)) => {
                if whole.len() + part.len() > bounds.bytes {
                    return Err(too_large(bounds));
                }
                if !share.grow(part.len()) {
                    return Err(too_many());
                }
                if whole.is_empty() && announced == Some(part.len()) {
                    return Ok(part);
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

fn too_many() -> Refusal {
    Refusal::new(Code::Overloaded, "Too many bodies are being read at once").with_retry_after(1)
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
