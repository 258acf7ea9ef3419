//! The services behind the gate: addresses, connections, health. Nothing here sends a request twice: a connection is
//! handed out, used by its owner, and comes back or does not.

mod connection;
mod endpoint;
mod health;
mod resolve;
mod stream;
pub mod tls;

pub use connection::{Body, Connection, Response, body_of, stream_body};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use self::endpoint::Endpoint;
use crate::config::upstream::{Balance, UpstreamConfig};
use crate::metrics::{Metrics, UpstreamMetrics};

/// A service with one or more addresses.
pub struct Upstream {
    config: UpstreamConfig,
    /// `None` until its names were looked up once.
    endpoints: watch::Sender<Option<Arc<[Arc<Endpoint>]>>>,
    turn: AtomicUsize,
    resolve_now: Arc<Notify>,
    metrics: UpstreamMetrics,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

/// No connection could be made: nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("no connection to the upstream could be made")]
pub struct Unreachable;

impl Upstream {
    /// Starts to resolve its names and to watch its health. Ends with the last reference.
    pub fn start(config: UpstreamConfig, metrics: &Metrics) -> Arc<Self> {
        let metrics = metrics.upstream(&config.name);
        let (endpoints, _) = watch::channel(None);
        let upstream = Arc::new(Upstream {
            config,
            endpoints,
            turn: AtomicUsize::new(0),
            resolve_now: Arc::default(),
            metrics,
            tasks: parking_lot::Mutex::default(),
        });
        let tasks = [
            tokio::spawn(resolve::keep_resolving(Arc::downgrade(&upstream), upstream.resolve_now.clone())),
            tokio::spawn(health::keep_watching(Arc::downgrade(&upstream))),
        ];
        upstream.tasks.lock().extend(tasks);
        upstream
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// A connection to one of its addresses: one that waits to be used again, or a new one. Addresses are tried one
    /// after the other, healthy ones first; nothing is sent, so nobody is harmed by that.
    ///
    /// # Errors
    /// None of them could be reached within the connect timeout.
    pub async fn connect(&self) -> Result<Connection, Unreachable> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let candidates = self.candidates(deadline).await;
        for (at, endpoint) in candidates.iter().enumerate() {
            if let Some(connection) = endpoint.reuse(self.config.idle_timeout) {
                self.metrics.reused.inc();
                return Ok(connection);
            }
            // One that swallows packets must not use up the time of the others.
            let share = deadline.saturating_duration_since(Instant::now()) / (candidates.len() - at) as u32;
            match timeout(share, endpoint.open(&self.config)).await {
                Ok(Ok(connection)) => {
                    self.metrics.opened.inc();
                    return Ok(connection);
                }
                failed => {
                    self.metrics.failed.inc();
                    endpoint.failed(&self.config.passive);
                    // Names may have moved: look again, for whoever comes next.
                    self.resolve_now.notify_one();
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "timed out".to_owned(),
                    };
                    tracing::warn!(upstream = self.name(), address = %endpoint.address, why, "no connection");
                    if Instant::now() >= deadline {
                        break;
                    }
                }
            }
        }
        Err(Unreachable)
    }

    /// In the order in which they are tried. Before the first look-up of its names has ended, that is waited for.
    async fn candidates(&self, deadline: Instant) -> Vec<Arc<Endpoint>> {
        let mut seen = self.endpoints.subscribe();
        let known = timeout_at(deadline, seen.wait_for(Option::is_some)).await;
        let Ok(Ok(known)) = known else { return Vec::new() };
        let mut endpoints = known.as_deref().unwrap_or_default().to_vec();
        drop(known);
        if endpoints.is_empty() {
            self.resolve_now.notify_one();
        }
        if endpoints.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % endpoints.len();
            endpoints.rotate_left(turn);
            let now = std::time::Instant::now();
            // Stable sorts: the turn decides among equals. By keys that are looked at once: others change them now.
            if self.config.balance == Balance::LeastRequests {
                endpoints.sort_by_cached_key(|endpoint| endpoint.requests());
            }
            endpoints.sort_by_cached_key(|endpoint| !endpoint.is_healthy(now));
        }
        endpoints
    }

    /// Those that are known now.
    fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        self.endpoints.borrow().clone().unwrap_or_default()
    }

    fn publish_health(&self) {
        let now = std::time::Instant::now();
        let endpoints = self.endpoints();
        let healthy = endpoints.iter().filter(|endpoint| endpoint.is_healthy(now)).count();
        self.metrics.healthy.set(healthy as i64);
        self.metrics.addresses.set(endpoints.len() as i64);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}
