//! An answer that comes before the request's end: its client may still be sending.

use openexec_protocol::refusal::{Code, Refusal};
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::respond;
use crate::listen::{LINGER_BYTES, LINGER_TIME};

/// Bytes of an unread body that are thrown away so that its connection can be used again.
const SMALL: usize = 64 << 10;

/// Refuses a request whose body may not have been read.
pub(crate) async fn refuse(session: &mut ServerSession, refusal: &Refusal) {
    let broken = matches!(refusal.code, Code::BadHttp | Code::RequestTimeout);
    let unread = broken || !drain_small(session).await;
    if unread {
        session.set_keepalive(None);
    }
    respond::refusal(session, refusal).await;
    if unread {
        linger(session).await;
    }
}

/// Reads a small rest of a body away, so that the connection can be used again.
async fn drain_small(session: &mut ServerSession) -> bool {
    if session.is_body_done() {
        return true;
    }
    let headers = &session.req_header().headers;
    let length = headers.get("content-length").and_then(|length| length.to_str().ok());
    let is_small = length.and_then(|digits| digits.parse().ok()).is_some_and(|length: usize| length <= SMALL);
    is_small && !headers.contains_key("expect") && session.drain_request_body().await.is_ok()
}

/// Reads on for a while: a client that is still sending would get a reset instead of the answer.
pub(crate) async fn linger(session: &mut ServerSession) {
    let reading = async {
        let mut left = LINGER_BYTES;
        while let Ok(Some(part)) = session.read_request_body().await {
            left = left.saturating_sub(part.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = timeout(LINGER_TIME, reading).await;
}
