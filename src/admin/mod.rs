//! The admin listener: what probes and Prometheus ask; with a token, what was executed.

mod executions;
mod token;

pub use token::AdminTokens;

use std::sync::Arc;

use async_trait::async_trait;
use openexec_protocol::refusal::{Code, Refusal};
use pingora::http::Method;
use pingora::protocols::http::ServerSession;

use crate::config::Limits;
use crate::current::Current;
use crate::execute::{Gate, respond};
use crate::listen::{Permits, Service};
use crate::metrics::Metrics;

/// Answers the admin listener's requests.
pub struct Admin {
    /// Whose readiness is asked for.
    pub gate: Arc<Gate>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who may ask for more than probes and metrics.
    pub tokens: Arc<Current<AdminTokens>>,
    /// For a body.
    pub limits: Arc<Current<Limits>>,
    /// For all bodies.
    pub memory: Arc<Permits>,
}

const TEXT: &str = "text/plain; charset=utf-8";

#[async_trait]
impl Service for Admin {
    async fn serve(&self, session: &mut ServerSession) {
        let header = session.req_header();
        let is_get = header.method == Method::GET || header.method == Method::HEAD;
        match header.uri.path() {
            "/metrics" | "/livez" | "/readyz" if !is_get => {
                respond::refusal(session, &respond::method_not_allowed("GET, HEAD")).await;
            }
            "/metrics" => {
                self.metrics.buffered(self.gate.buffered_bytes());
                respond::document(session, 200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.render())
                    .await;
            }
            "/livez" => respond::document(session, 200, TEXT, "ok\n").await,
            "/readyz" => match self.gate.troubles() {
                reasons if reasons.is_empty() => respond::document(session, 200, TEXT, "ok\n").await,
                reasons => respond::document(session, 503, TEXT, reasons.join("\n") + "\n").await,
            },
            path if path == "/executions" || path.starts_with("/executions/") => self.executions(session).await,
            _ => respond::refusal(session, &Refusal::new(Code::NotFound, "No such path")).await,
        }
    }
}
