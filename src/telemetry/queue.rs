//! Spans that wait to be exported: so many, and no more.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Spans;
use crate::metrics::TraceSpans;

/// Spans of one export. OpenTelemetry's own default.
pub(super) const BATCH: usize = 512;

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    most: usize,
    /// Rings when there is a whole batch.
    pub(super) full: Notify,
    pub(super) counts: TraceSpans,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Spans>,
    spans: usize,
}

impl Queue {
    pub(super) fn new(most: usize, counts: TraceSpans) -> Self {
        Queue { waiting: Mutex::default(), most, full: Notify::new(), counts }
    }

    /// Takes a request's spans, or counts them as dropped.
    pub(super) fn push(&self, spans: Spans) {
        let count = spans.count();
        let mut waiting = self.waiting.lock();
        if waiting.spans + count > self.most {
            drop(waiting);
            self.counts.dropped.inc_by(count as u64);
            return;
        }
        waiting.spans += count;
        waiting.requests.push(spans);
        let is_batch = waiting.spans >= BATCH && waiting.spans - count < BATCH;
        drop(waiting);
        if is_batch {
            self.full.notify_one();
        }
    }

    /// The oldest ones, about a batch of them; none when nothing waits.
    pub(super) fn take(&self) -> Vec<Spans> {
        let mut waiting = self.waiting.lock();
        let mut spans = 0;
        let is_full = |request: &Spans| {
            let is_full = spans >= BATCH;
            spans += request.count();
            is_full
        };
        let end = waiting.requests.iter().position(is_full).unwrap_or(waiting.requests.len());
        let rest = waiting.requests.split_off(end);
        let batch = std::mem::replace(&mut waiting.requests, rest);
        waiting.spans = waiting.requests.iter().map(Spans::count).sum();
        batch
    }

    /// How many wait.
    pub(super) fn spans(&self) -> usize {
        self.waiting.lock().spans
    }
}
