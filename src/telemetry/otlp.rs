//! Spans as OTLP has them: `ExportTraceServiceRequest` in protobuf, written by hand
//! (<https://github.com/open-telemetry/opentelemetry-proto>, version 1).
//!
//! Four kinds of fields are all that is needed. The SDK and its exporter were rejected: ARCHITECTURE.md says why. The
//! tests read what is written here with OpenTelemetry's own messages.

use std::time::{Duration, Instant, SystemTime};

use super::{Kind, Spans, Step};
use crate::trace::Context;

/// `Status.code`
const ERROR: u64 = 2;
/// `Span.flags`: whether the parent is in another process is known; and it is.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// An export of these requests' spans. `resource` is who says it.
pub(super) fn request(resource: &[(String, String)], requests: &[Spans]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 * requests.len());
    message(&mut out, 1, |out| {
        message(out, 1, |out| {
            for (key, value) in resource {
                text_attribute(out, 1, key, value);
            }
        });
        message(out, 2, |out| {
            message(out, 1, |out| {
                bytes(out, 1, b"openexec");
                bytes(out, 2, crate::VERSION.as_bytes());
            });
            for spans in requests {
                message(out, 2, |out| server(out, spans));
                for step in &spans.steps {
                    message(out, 2, |out| below(out, spans, step));
                }
            }
        });
    });
    out
}

fn server(out: &mut Vec<u8>, spans: &Spans) {
    ids(out, &spans.context, spans.context.span_id, spans.parent);
    let took = spans.ended.unwrap_or(spans.started).saturating_duration_since(spans.started);
    named(out, &spans.name, Kind::Server, spans.wall, took);
    text_attribute(out, 9, "http.request.method", &spans.method);
    text_attribute(out, 9, "http.route", &spans.route);
    if spans.status > 0 {
        number_attribute(out, 9, "http.response.status_code", spans.status.into());
    }
    if let Some(verdict) = &spans.verdict {
        text_attribute(out, 9, "openexec.verdict", verdict.verdict);
        flag_attribute(out, 9, "openexec.replayed", verdict.verdict == "replayed");
        let optional = [
            ("openexec.action", verdict.action.as_deref()),
            ("openexec.execution_id", verdict.execution_id.as_deref()),
            ("openexec.reason", Some(verdict.reason).filter(|reason| !reason.is_empty())),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                text_attribute(out, 9, key, value);
            }
        }
    }
    // Without a verdict or a status it ended in a defect, or broke off.
    if spans.status >= 500 || (spans.status == 0 && spans.verdict.is_none()) {
        status(out, "");
    }
    let remote = if spans.parent.is_some() { IS_REMOTE } else { 0 };
    fixed32(out, 16, u32::from(spans.context.flags) | KNOWS_REMOTE | remote);
}

fn below(out: &mut Vec<u8>, spans: &Spans, step: &Step) {
    ids(out, &spans.context, step.span_id, Some(spans.context.span_id));
    let started = spans.wall + since(spans.started, step.started);
    named(out, step.name, step.kind, started, step.took);
    if let Some(status) = step.status {
        number_attribute(out, 9, "http.response.status_code", status.into());
    }
    if let Some(why) = step.failed {
        status(out, why);
    }
    fixed32(out, 16, u32::from(spans.context.flags) | KNOWS_REMOTE);
}

fn since(earlier: Instant, later: Instant) -> Duration {
    later.saturating_duration_since(earlier)
}

fn ids(out: &mut Vec<u8>, trace: &Context, span_id: u64, parent: Option<u64>) {
    bytes(out, 1, &trace.trace_id.to_be_bytes());
    bytes(out, 2, &span_id.to_be_bytes());
    if let Some(parent) = parent {
        bytes(out, 4, &parent.to_be_bytes());
    }
}

fn named(out: &mut Vec<u8>, name: &str, kind: Kind, started: SystemTime, took: Duration) {
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    bytes(out, 5, name.as_bytes());
    number(out, 6, kind as u64);
    fixed64(out, 7, nanos(started));
    fixed64(out, 8, nanos(started + took));
}

/// `Span.status`
fn status(out: &mut Vec<u8>, why: &str) {
    message(out, 15, |out| {
        if !why.is_empty() {
            bytes(out, 2, why.as_bytes());
        }
        number(out, 3, ERROR);
    });
}

/// A `KeyValue` whose `AnyValue` has the given field.
fn attribute(out: &mut Vec<u8>, field: u32, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    message(out, field, |out| {
        bytes(out, 1, key.as_bytes());
        message(out, 2, value);
    });
}

fn text_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    attribute(out, field, key, |out| bytes(out, 1, value.as_bytes()));
}

fn flag_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: bool) {
    attribute(out, field, key, |out| number(out, 2, value.into()));
}

fn number_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: u64) {
    attribute(out, field, key, |out| number(out, 3, value));
}

// The wire format: <https://protobuf.dev/programming-guides/encoding/>.

fn tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    varint(out, u64::from(field << 3 | wire_type));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, 0);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    tag(out, field, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, field, &inner);
}
