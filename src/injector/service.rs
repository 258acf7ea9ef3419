//! What the two listeners answer.

use std::sync::Arc;

use async_trait::async_trait;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::http::Method;
use pingora::protocols::http::ServerSession;

use super::review::{self, NOT_A_POD, Verdict};
use crate::config::Limits;
use crate::current::Current;
use crate::execute::intake::{self, Bounds};
use crate::execute::{early, respond};
use crate::inject::settings::Sidecar;
use crate::inject::{Namespace, Refused, Skip};
use crate::listen::{Peer, Permits, Service};
use crate::metrics::{Bounded, Metrics};
use crate::shutdown::Phase;

const TEXT: &str = "text/plain; charset=utf-8";
/// A body that is no review of a pod.
const FAILED: (&str, &str) = ("failed", "malformed");

/// Where the API server asks.
pub(super) struct Webhook {
    pub(super) sidecar: Arc<Current<Sidecar>>,
    pub(super) limits: Arc<Current<Limits>>,
    pub(super) memory: Arc<Permits>,
    pub(super) metrics: Arc<Metrics>,
}

/// Where probes and Prometheus ask.
pub(super) struct Admin {
    pub(super) phase: Arc<Phase>,
    pub(super) metrics: Arc<Metrics>,
}

/// Every series, at zero.
pub(crate) fn announce(metrics: &Metrics) {
    let skipped = Skip::ALL.map(Skip::as_str).into_iter().chain([NOT_A_POD]).map(|reason| ("skipped", reason));
    let refused = Refused::REASONS.into_iter().map(|reason| ("refused", reason));
    let others = [("injected", ""), ("unchanged", ""), FAILED];
    for (outcome, reason) in others.into_iter().chain(skipped).chain(refused) {
        metrics.review(outcome, reason);
    }
    metrics.local_ledgers();
}

#[async_trait]
impl Service for Webhook {
    async fn serve(&self, session: &mut ServerSession, _: &Peer) {
        let header = session.req_header();
        let namespace = match header.uri.path() {
            "/inject" => Namespace::Enabled,
            "/inject/enforced" => Namespace::Enforced,
            _ => return early::refuse(session, &Refusal::new(Code::NotFound, "No such path")).await,
        };
        if header.method != Method::POST {
            return early::refuse(session, &respond::method_not_allowed("POST")).await;
        }
        let limits = self.limits.get();
        let bounds = Bounds { bytes: limits.body_bytes, time: limits.body_time };
        let body = match intake::read(session, bounds, &self.memory).await {
            Ok(body) => body,
            Err(refusal) => return early::refuse(session, &refusal).await,
        };
        match review::answer(&body.bytes, &self.sidecar.get(), namespace) {
            Ok(answer) => {
                self.note(&answer);
                respond::document(session, 200, "application/json", answer.document.to_string()).await;
            }
            Err(why) => {
                self.metrics.review(FAILED.0, FAILED.1).inc();
                early::refuse(session, &Refusal::new(Code::InvalidRequest, why)).await;
            }
        }
    }
}

impl Webhook {
    fn note(&self, answer: &review::Answer) {
        let (outcome, reason) = answer.verdict.words();
        self.metrics.review(outcome, reason).inc();
        if answer.verdict == (Verdict::Injected { local_ledger: true }) {
            self.metrics.local_ledgers().inc();
        }
        let (namespace, pod) = &answer.pod;
        tracing::info!(target: "openexec::review", %namespace, %pod, outcome, reason);
    }
}

#[async_trait]
impl Service for Admin {
    async fn serve(&self, session: &mut ServerSession, _: &Peer) {
        let header = session.req_header();
        if header.method != Method::GET && header.method != Method::HEAD {
            return respond::refusal(session, &respond::method_not_allowed("GET, HEAD")).await;
        }
        match header.uri.path() {
            "/livez" => respond::document(session, 200, TEXT, "ok\n").await,
            "/readyz" if self.phase.is_stopping() => respond::document(session, 503, TEXT, "shutting_down\n").await,
            "/readyz" => respond::document(session, 200, TEXT, "ok\n").await,
            "/metrics" => {
                let nothing = || Permits::new(0);
                let bounded = Bounded { connections: nothing(), in_flight: nothing(), buffered_bytes: nothing() };
                let metrics = self.metrics.render(&bounded);
                respond::document(session, 200, "text/plain; version=0.0.4; charset=utf-8", metrics).await;
            }
            _ => respond::refusal(session, &Refusal::new(Code::NotFound, "No such path")).await,
        }
    }
}
