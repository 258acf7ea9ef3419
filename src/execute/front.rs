//! The main listener's paths.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use futures_util::FutureExt;
use openexec_protocol::receipt;
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::timestamp;
use pingora::http::{Method, RequestHeader};
use pingora::protocols::http::ServerSession;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::caller::Caller;
use super::intake::{self, Body, Bounds};
use super::{Gate, Report, Rules, early, respond};
use crate::VERSION;
use crate::beside::beside;
use crate::listen::{Peer, Service};
use crate::metrics::Metrics;
use crate::openapi;

/// The paths that are answered here, whatever is let through.
pub const PATHS: [&str; 7] = ["/execute", "/receipts/verify", "/", "/health", "/ready", "/version", "/openapi.json"];

/// Those that need no caller: nothing is done there, and probes have none.
const OPEN: [&str; 5] = ["/", "/health", "/ready", "/version", "/openapi.json"];

/// Answers the main listener's requests.
pub struct Front {
    gate: Arc<Gate>,
}

impl Front {
    /// In front of this gate.
    pub fn new(gate: Arc<Gate>) -> Self {
        Front { gate }
    }
}

#[async_trait]
impl Service for Front {
    async fn serve(&self, session: &mut ServerSession, peer: &Peer) {
        let rules = self.gate.rules();
        if rules.loopback_names_only && !is_for_loopback(session.req_header()) {
            let detail = "The Host is not a loopback name, and demo mode by default answers to no other";
            return self.refuse(session, Refusal::new(Code::MisdirectedHost, detail)).await;
        }
        let header = session.req_header();
        let (is_post, is_get) =
            (header.method == Method::POST, header.method == Method::GET || header.method == Method::HEAD);
        let caller = match header.uri.path() {
            path if OPEN.contains(&path) => None,
            _ => match identify(session, &rules, peer) {
                Ok(caller) => caller,
                Err(refusal) => return self.refuse(session, refusal).await,
            },
        };
        match header.uri.path() {
            "/execute" if is_post => self.execute(session, rules, peer).await,
            "/receipts/verify" if is_post => self.verify_receipt(session, &rules).await,
            "/execute" | "/receipts/verify" => self.refuse(session, respond::method_not_allowed("POST")).await,
            "/" if is_get => document(session, 200, identity()).await,
            "/health" if is_get => document(session, 200, json!({"status": "healthy", "mode": rules.mode})).await,
            "/ready" if is_get => self.ready(session).await,
            "/version" if is_get => document(session, 200, version()).await,
            "/openapi.json" if is_get => {
                respond::document(session, 200, "application/json", openapi::CLIENTS.as_str()).await;
            }
            "/" | "/health" | "/ready" | "/version" | "/openapi.json" => {
                self.refuse(session, respond::method_not_allowed("GET, HEAD")).await
            }
            _ => self.pass(session, &rules, caller).await,
        }
    }
}

impl Front {
    async fn refuse(&self, session: &mut ServerSession, refusal: Refusal) {
        refuse(session, &self.gate.metrics, refusal).await;
    }

    async fn execute(&self, session: &mut ServerSession, mut rules: Arc<Rules>, peer: &Peer) {
        let mut trace = self.gate.trace(&session.req_header().headers, "POST", "/execute");
        let bounds = Bounds { bytes: rules.limits.body_bytes, time: rules.limits.body_time };
        let body = match intake::read(session, bounds, &self.gate.memory).await {
            Ok(body) => body,
            Err(refusal) => {
                trace.refused(&refusal);
                return self.refuse(session, refusal).await;
            }
        };
        // The body may have taken its time: a key or a caller that was revoked meanwhile does not count any more.
        self.gate.renew(&mut rules);
        let caller = match identify(session, &rules, peer) {
            Ok(caller) => caller,
            Err(refusal) => {
                trace.refused(&refusal);
                return self.refuse(session, refusal).await;
            }
        };
        let report = {
            // Pinned here: `catch_unwind` would move all of it, which is thousands of bytes, several times.
            let executed = pin!(self.gate.execute(rules, body.bytes.clone(), caller, &mut trace));
            AssertUnwindSafe(executed).catch_unwind().await
        };
        let Ok(report) = report else {
            let id = Uuid::new_v4();
            tracing::error!(%id, "a request ended in a panic");
            self.gate.metrics.refused(Code::InternalError);
            let refusal = super::run::internal_error(id);
            trace.refused(&refusal);
            return respond::refusal(session, &refusal).await;
        };
        log(&report);
        match report.outcome {
            Ok(answer) => {
                trace.answered(answer.status);
                respond::answer(session, answer).await;
            }
            Err(refusal) => {
                trace.answered(refusal.status);
                respond::refusal(session, &refusal).await;
            }
        }
    }

    /// Not ours: the service's, if the allow-list says so.
    async fn pass(&self, session: &mut ServerSession, rules: &Rules, caller: Option<Arc<Caller>>) {
        let passed = match rules.passthrough.find(session.req_header()) {
            Ok(_) if self.gate.phase.is_draining() => {
                Err(Refusal::new(Code::ShuttingDown, "The server is stopping").with_retry_after(1))
            }
            Ok(passed) => {
                let header = session.req_header();
                let mut trace = self.gate.trace(&header.headers, header.method.as_str(), passed.route());
                rules.passthrough.pass(session, passed, caller.is_some(), &mut trace).await
            }
            Err(refusal) => Err(refusal),
        };
        match passed {
            Ok(true) => {}
            Ok(false) => early::linger(session).await,
            Err(refusal) => self.refuse(session, refusal).await,
        }
    }

    async fn verify_receipt(&self, session: &mut ServerSession, rules: &Rules) {
        #[derive(Deserialize)]
        struct Claim {
            exec_id: String,
            result: String,
            receipt: String,
        }
        let Some(body) = self.body(session, rules, rules.limits.receipt_body_bytes).await else { return };
        let text = body.bytes.clone();
        let verified = beside(text.len(), move || {
            // serde takes an array for an object: its members in their order.
            let is_object = text.trim_ascii_start().starts_with(b"{");
            match serde_json::from_slice::<Claim>(&text) {
                Ok(claim) if is_object => Ok(receipt::verify(&claim.exec_id, &claim.result, &claim.receipt)),
                // serde_json's own text can repeat what was sent.
                other => Err(other.err().map_or((1, 1), |error| (error.line(), error.column()))),
            }
        });
        match verified.await {
            Ok(valid) => document(session, 200, json!({"valid": valid})).await,
            Err((line, column)) => {
                let detail = format!(
                    "The body must be an object with the strings `exec_id`, `result` and `receipt` (see line {line}, \
                     column {column})"
                );
                self.refuse(session, Refusal::new(Code::InvalidRequest, detail)).await;
            }
        }
    }

    async fn ready(&self, session: &mut ServerSession) {
        let reasons = self.gate.troubles();
        if reasons.is_empty() {
            document(session, 200, json!({"ready": true})).await;
        } else {
            document(session, 503, json!({"ready": false, "reasons": reasons})).await;
        }
    }

    /// The whole body; `None` when the client was told already why not.
    async fn body(&self, session: &mut ServerSession, rules: &Rules, bytes: usize) -> Option<Body> {
        let bounds = Bounds { bytes, time: rules.limits.body_time };
        match intake::read(session, bounds, &self.gate.memory).await {
            Ok(body) => Some(body),
            Err(refusal) => {
                self.refuse(session, refusal).await;
                None
            }
        }
    }
}

/// Who sends it. A line for each stranger, but for so many in a second only: anybody can be one.
fn identify(session: &ServerSession, rules: &Rules, peer: &Peer) -> Result<Option<Arc<Caller>>, Refusal> {
    let (headers, certificate) = (&session.req_header().headers, peer.certificate.as_ref());
    rules.callers.identify(headers, certificate).inspect_err(|_| {
        if rules.callers.may_tell_of_a_stranger() {
            let shown = match (headers.contains_key("authorization"), certificate) {
                (true, _) => "authorization",
                (false, Some(_)) => "certificate",
                (false, None) => "nothing",
            };
            let peer = peer.address.map(|address| address.to_string()).unwrap_or_default();
            tracing::warn!(target: "openexec::caller", peer, shown, reason = Code::CallerUnauthenticated.as_str());
        }
    })
}

/// Counted, too.
async fn refuse(session: &mut ServerSession, metrics: &Metrics, refusal: Refusal) {
    metrics.refused(refusal.code);
    early::refuse(session, &refusal).await;
}

async fn document(session: &mut ServerSession, status: u16, document: Value) {
    respond::document(session, status, "application/json", document.to_string()).await;
}

fn identity() -> Value {
    json!({"service": "OpenExec", "status": "running", "version": VERSION})
}

fn version() -> Value {
    json!({"version": VERSION, "timestamp": timestamp::print(Utc::now())})
}

/// `localhost` or a loopback address, with any port.
fn is_for_loopback(header: &RequestHeader) -> bool {
    let Some(host) = header.headers.get("host").and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// One line an execution. Tenant, caller and action are names of the configuration; nothing of the client's is printed.
fn log(report: &Report) {
    let (verdict, reason, id) = match &report.outcome {
        Ok(answer) => (if answer.replayed { "replayed" } else { "executed" }, "", answer.id.as_str()),
        Err(refusal) => ("refused", refusal.code.as_str(), refusal.execution_id.as_deref().unwrap_or("")),
    };
    let micros = |duration: std::time::Duration| duration.as_micros() as u64;
    tracing::info!(
        target: "openexec::execution",
        id,
        action = report.action.as_deref().unwrap_or(""),
        tenant = report.tenant.as_deref().unwrap_or(""),
        caller = report.caller.as_deref().unwrap_or(""),
        verdict,
        reason,
        enforcement_us = micros(report.timings.enforcement),
        ledger_us = micros(report.timings.ledger),
        upstream_us = micros(report.timings.upstream),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_few_names() {
        let is_loopback = |host: &str| {
            let mut header = RequestHeader::build("GET", b"/", None).unwrap();
            header.insert_header("Host", host).unwrap();
            is_for_loopback(&header)
        };
        for host in ["localhost", "LOCALHOST:5000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:5000",
            "[::2]:1",
            "localhost:x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
