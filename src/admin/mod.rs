//! The admin listener: what probes and Prometheus ask; with a token, what was executed.

mod denials;
mod drained;
mod executions;
mod probes;
mod token;

pub use token::AdminTokens;
use token::Role;

use std::sync::Arc;

use async_trait::async_trait;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::http::Method;
use pingora::protocols::http::ServerSession;

use crate::config::Limits;
use crate::current::Current;
use crate::execute::{Gate, respond};
use crate::listen::{Peer, Permits, Service};
use crate::metrics::{Bounded, Metrics};
use crate::openapi;

/// Answers the admin listener's requests.
pub struct Admin {
    /// Whose readiness is asked for.
    pub gate: Arc<Gate>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What has a limit.
    pub bounded: Bounded,
    /// Who may ask for more than probes and metrics.
    pub tokens: Arc<Current<AdminTokens>>,
    /// For a body.
    pub limits: Arc<Current<Limits>>,
    /// For all bodies.
    pub memory: Arc<Permits>,
    /// For the service's probes that are asked now.
    pub probing: Arc<Permits>,
    /// For whoever waits until nothing runs.
    pub waiting: Arc<Permits>,
}

/// How many of the service's probes may run at once.
pub const PROBES_AT_ONCE: usize = probes::MOST_PROBES;
/// How many may wait at once for nothing to run.
pub const WAITING_AT_ONCE: usize = drained::MOST_WAITING;

const TEXT: &str = "text/plain; charset=utf-8";

#[async_trait]
impl Service for Admin {
    async fn serve(&self, session: &mut ServerSession, _: &Peer) {
        let header = session.req_header();
        let is_get = header.method == Method::GET || header.method == Method::HEAD;
        match header.uri.path() {
            "/metrics" | "/livez" | "/readyz" | "/drained" if !is_get => {
                respond::refusal(session, &respond::method_not_allowed("GET, HEAD")).await;
            }
            "/metrics" => {
                self.gate.observe_tenants();
                let metrics = self.metrics.render(&self.bounded);
                respond::document(session, 200, "text/plain; version=0.0.4; charset=utf-8", metrics).await;
            }
            "/livez" => respond::document(session, 200, TEXT, "ok\n").await,
            "/readyz" => match self.gate.troubles() {
                reasons if reasons.is_empty() => respond::document(session, 200, TEXT, "ok\n").await,
                reasons => respond::document(session, 503, TEXT, reasons.join("\n") + "\n").await,
            },
            "/drained" => self.drained(session).await,
            path if path.starts_with(probes::PATH) => self.app_probe(session).await,
            "/openapi.json" => self.openapi(session).await,
            path if path == "/executions" || path == "/denials" || path.starts_with("/executions/") => {
                self.executions(session).await
            }
            _ => respond::refusal(session, &Refusal::new(Code::NotFound, "No such path")).await,
        }
    }
}

impl Admin {
    /// For whoever may read executions: there is nothing to describe to others.
    async fn openapi(&self, session: &mut ServerSession) {
        let (tokens, header) = (self.tokens.get(), session.req_header());
        let allowed = match header.method {
            _ if !tokens.any() => Err(Refusal::new(Code::NotFound, "No such path")),
            Method::GET | Method::HEAD => tokens.require(Role::Reader, &header.headers),
            _ => Err(respond::method_not_allowed("GET, HEAD")),
        };
        match allowed {
            Ok(()) => respond::document(session, 200, "application/json", openapi::ADMIN.as_str()).await,
            Err(refusal) => respond::refusal(session, &refusal).await,
        }
    }
}
