//! A wait for the gate to have nothing to do, for a service that must outlive what was begun: in a pod it hears of the
//! pod's end at once, while the gate still executes. Its `preStop` hook asks here.

use std::time::Duration;

use openexec_protocol::refusal::{Code, Refusal};
use pingora::protocols::http::ServerSession;
use tokio::time::{sleep, timeout};

use super::{Admin, TEXT};
use crate::execute::respond;

/// Who waits at once. It takes a connection of the few that there are.
pub(super) const MOST_WAITING: usize = 16;
/// Until whoever sends requests has heard that this pod is ending.
const SETTLE: Duration = Duration::from_secs(5);
/// The whole wait, by default and at most.
const WAIT: Duration = Duration::from_secs(40);
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
const POLL: Duration = Duration::from_millis(50);

impl Admin {
    /// `/drained?settle=5&wait=40`, in seconds. It changes nothing: asking is harmless.
    pub(super) async fn drained(&self, session: &mut ServerSession) {
        let Some((settle, wait)) = times(session.req_header().uri.query().unwrap_or_default()) else {
            let refusal = Refusal::new(Code::InvalidRequest, "settle and wait are whole seconds, up to 3600");
            return respond::refusal(session, &refusal).await;
        };
        let Some(_permit) = self.waiting.take() else {
            let refusal = Refusal::new(Code::Overloaded, "Too many wait already").with_retry_after(1);
            return respond::refusal(session, &refusal).await;
        };
        let drained = async {
            sleep(settle).await;
            while self.gate.in_flight().taken() > 0 {
                sleep(POLL).await;
            }
        };
        match timeout(wait, drained).await {
            Ok(()) => respond::document(session, 200, TEXT, "ok\n").await,
            Err(_) => respond::document(session, 503, TEXT, "executions are still running\n").await,
        }
    }
}

fn times(query: &str) -> Option<(Duration, Duration)> {
    let (mut settle, mut wait) = (SETTLE, WAIT);
    for (name, value) in
        query.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=')).map(Option::unwrap_or_default)
    {
        let time = Duration::from_secs(value.parse().ok()?);
        match name {
            "settle" => settle = time,
            "wait" => wait = time,
            _ => return None,
        }
    }
    (settle <= LONGEST_WAIT && wait <= LONGEST_WAIT).then_some((settle, wait))
}
