//! The admin listener: what probes and Prometheus ask; with a token, what was executed, and a page that shows it.

mod denials;
mod drained;
mod executions;
mod narrow;
mod page;
mod probes;
mod session;
mod status;
mod token;

pub use session::Sessions;
pub use token::AdminTokens;
use token::Role;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use openexec_protocol::refusal::{Code, Refusal};
use pingora::http::Method;
use pingora::protocols::http::ServerSession;
use serde_json::Value;

use crate::config::Config;
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
    /// The one in use. It says who may ask for more than probes and metrics, and how long a body may take.
    pub config: Arc<Current<Config>>,
    /// Of the status page.
    pub sessions: Sessions,
    /// When the process began to serve.
    pub started_at: DateTime<Utc>,
    /// For all bodies.
    pub memory: Arc<Permits>,
    /// For the service's probes that are asked now.
    pub probing: Arc<Permits>,
    /// For whoever waits until nothing runs.
    pub waiting: Arc<Permits>,
    /// For lists that look through much.
    pub searching: Arc<Permits>,
}

/// How many of the service's probes may run at once.
pub const PROBES_AT_ONCE: usize = probes::MOST_PROBES;
/// How many may wait at once for nothing to run.
pub const WAITING_AT_ONCE: usize = drained::MOST_WAITING;

/// How many lists may look through much at once: they share the ledger's connections with everything else.
pub const SEARCHES_AT_ONCE: usize = narrow::MOST_SEARCHES;

const TEXT: &str = "text/plain; charset=utf-8";

#[async_trait]
impl Service for Admin {
    async fn serve(&self, session: &mut ServerSession, _: &Peer) {
        if page::is_for_a_worker(session) {
            return page::end_worker(session).await;
        }
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
            "/" => page::serve(session).await,
            path if path.starts_with(page::PATH) => page::serve(session).await,
            "/session" => self.session(session).await,
            path if path == "/executions" || path.starts_with("/executions/") => {
                let answer = self.executions(session).await;
                respond_json(session, answer).await;
            }
            "/denials" => {
                let answer = self.denials(session).await;
                respond_json(session, answer).await;
            }
            "/status" => {
                let answer = self.status(session.req_header());
                respond_json(session, answer).await;
            }
            _ => respond::refusal(session, &no_such_path()).await,
        }
    }
}

impl Admin {
    /// Whether anybody may ask for more than probes and metrics.
    fn has_tokens(&self) -> bool {
        self.config.get().admin_tokens.any()
    }

    /// For whoever may read executions: there is nothing to describe to others.
    async fn openapi(&self, session: &mut ServerSession) {
        let header = session.req_header();
        let allowed = match header.method {
            _ if !self.has_tokens() => Err(no_such_path()),
            Method::GET | Method::HEAD => self.require(Role::Reader, header),
            _ => Err(respond::method_not_allowed("GET, HEAD")),
        };
        match allowed {
            Ok(()) => respond::document(session, 200, "application/json", openapi::ADMIN.as_str()).await,
            Err(refusal) => respond::refusal(session, &refusal).await,
        }
    }
}

fn no_such_path() -> Refusal {
    Refusal::new(Code::NotFound, "No such path")
}

async fn respond_json(session: &mut ServerSession, answer: Result<Value, Refusal>) {
    match answer {
        Ok(document) => respond::document(session, 200, "application/json", document.to_string()).await,
        Err(refusal) => {
            if !session.is_body_done() {
                session.set_keepalive(None);
            }
            respond::refusal(session, &refusal).await;
        }
    }
}
