//! Sends spans to the collector, from a task of its own: in batches, each at most a few times, and never waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::otlp;
use super::queue::Queue;
use crate::config::telemetry::TracesConfig;
use crate::current::Current;
use crate::metrics::Metrics;
use crate::upstream::{Upstream, body_of};

/// How long a span waits for others.
const PERIOD: Duration = Duration::from_secs(1);
/// Of a batch, where the collector says, or seems to say, "later".
const TRIES: u32 = 3;
/// Between two tries: twice as long each time, until one works.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For what is left at the end.
const LAST_EXPORT: Duration = Duration::from_secs(1);
/// Of the collector's answer, which nobody needs.
const ANSWER_BYTES: usize = 64 << 10;

/// Sent with each export.
type Headers = Arc<Current<Vec<(HeaderName, HeaderValue)>>>;

/// The task that exports.
pub struct Exporter {
    task: JoinHandle<()>,
    closing: watch::Sender<bool>,
    queue: Arc<Queue>,
    headers: Headers,
}

impl Exporter {
    pub(super) fn start(config: TracesConfig, queue: Arc<Queue>, metrics: &Metrics) -> Self {
        tracing::info!(collector = config.endpoint, "traces are exported");
        let headers = Current::new(config.headers);
        let (closing, closed) = watch::channel(false);
        let collector = Collector {
            upstream: Upstream::start(config.collector, metrics),
            path: config.path,
            headers: headers.clone(),
            timeout: config.timeout,
            resource: config.resource,
        };
        let sending = Sending { queue: queue.clone(), collector, closed, pause: FIRST_PAUSE, works: true };
        Exporter { task: tokio::spawn(sending.run()), closing, queue, headers }
    }

    /// Sends these headers from now on.
    pub fn set_headers(&self, headers: Vec<(HeaderName, HeaderValue)>) {
        self.headers.set(headers);
    }

    /// Exports what is left, for at most [`LAST_EXPORT`].
    pub async fn stop(mut self) {
        let _ = self.closing.send(true);
        if timeout(LAST_EXPORT, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the traces of the last requests could not be exported in time");
        }
        self.queue.counts.dropped.inc_by(self.queue.spans() as u64);
    }
}

struct Sending {
    queue: Arc<Queue>,
    collector: Collector,
    closed: watch::Receiver<bool>,
    pause: Duration,
    works: bool,
}

impl Sending {
    async fn run(mut self) {
        while !*self.closed.borrow() {
            self.rest(PERIOD, Some(&self.queue.full)).await;
            self.export_all().await;
        }
        // What came while the rest was sent.
        self.export_all().await;
    }

    async fn export_all(&mut self) {
        loop {
            let batch = self.queue.take();
            if batch.is_empty() {
                return;
            }
            let spans = batch.iter().map(|spans| spans.count() as u64).sum();
            let body = Bytes::from(otlp::request(&self.collector.resource, &batch));
            drop(batch);
            if self.export(body).await {
                self.queue.counts.exported.inc_by(spans);
            } else {
                self.queue.counts.failed.inc_by(spans);
            }
        }
    }

    /// Whether the collector has it.
    async fn export(&mut self, body: Bytes) -> bool {
        for _ in 0..TRIES {
            let outcome = self.collector.send(body.clone()).await;
            self.tell(&outcome);
            match outcome {
                Ok(()) => return true,
                // At the end each batch has one try.
                Err(failure) if !failure.is_passing || *self.closed.borrow() => return false,
                Err(_) => {
                    self.rest(self.pause, None).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        false
    }

    /// A line when it begins to fail, and one when it works again.
    fn tell(&mut self, outcome: &Result<(), Failure>) {
        match outcome {
            Ok(()) => {
                self.pause = FIRST_PAUSE;
                if !self.works {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(failure) if self.works => tracing::warn!(why = %failure.why, "the collector does not take traces"),
            Err(_) => {}
        }
        self.works = outcome.is_ok();
    }

    /// Ends early at the stop.
    async fn rest(&self, pause: Duration, rings: Option<&Notify>) {
        let mut closed = self.closed.clone();
        let rung = async {
            match rings {
                Some(rings) => rings.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = rung => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
    }
}

struct Collector {
    upstream: Arc<Upstream>,
    path: String,
    headers: Headers,
    timeout: Duration,
    resource: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Failure {
    why: String,
    /// The same request may work later (OTLP, "Retryable Response Codes").
    is_passing: bool,
}

impl Failure {
    fn passing(why: impl ToString) -> Self {
        Failure { why: why.to_string(), is_passing: true }
    }
}

impl Collector {
    async fn send(&self, body: Bytes) -> Result<(), Failure> {
        let started = Instant::now();
        let sent = timeout(self.timeout, self.exchange(body)).await;
        sent.unwrap_or_else(|_| Err(Failure::passing(format!("no answer in {:?}", started.elapsed()))))
    }

    async fn exchange(&self, body: Bytes) -> Result<(), Failure> {
        let connection = self.upstream.connect().await.map_err(Failure::passing)?;
        let length = body.len();
        let mut request = Request::new(body_of(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.parse().map_err(|_| Failure { why: "its path".into(), is_passing: false })?;
        let headers = request.headers_mut();
        for (name, value) in &*self.headers.get() {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(header::HOST, connection.authority().clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(crate::USER_AGENT));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(header::CONTENT_LENGTH, length.into());
        let mut response = connection.send(request).await.map_err(Failure::passing)?;
        let status = response.head.status;
        let mut left = ANSWER_BYTES;
        loop {
            match response.next().await {
                None => {
                    response.done();
                    break;
                }
                // The status is known, and the connection is not used again.
                Some(Err(_)) => break,
                Some(Ok(piece)) if piece.len() > left => break,
                Some(Ok(piece)) => left -= piece.len(),
            }
        }
        if status.is_success() {
            return Ok(());
        }
        let is_passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        Err(Failure { why: format!("status {}", status.as_u16()), is_passing })
    }
}
