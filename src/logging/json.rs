//! One event, one line of JSON: `timestamp`, `level`, `target`, then the event's own fields.
//!
//! `tracing_subscriber`'s own format does the same through a tree of values, which cost a fifth of all executions.

use std::fmt;

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::begin(Utc::now(), event.metadata());
        event.record(&mut line);
        line.0.push_str("}\n");
        writer.write_str(&line.0)
    }
}

/// Gathered here, since the writer costs a call for each piece; and in pieces, since `write!` costs several times as
/// much. There are sixty of them in a line.
struct Line(String);

/// Most lines are shorter.
const LINE_BYTES: usize = 512;

impl Line {
    fn begin(now: DateTime<Utc>, metadata: &Metadata<'_>) -> Self {
        let mut line = Line(String::with_capacity(LINE_BYTES));
        for piece in [r#"{"timestamp":""#, &timestamp::print(now), r#"","level":""#, metadata.level().as_str()] {
            line.0.push_str(piece);
        }
        line.0.push_str(r#"","target":"#);
        line.string(metadata.target());
        line
    }

    fn name(&mut self, field: &Field) {
        for piece in [",\"", field.name(), "\":"] {
            self.0.push_str(piece);
        }
    }

    /// RFC 8259, section 7.
    fn string(&mut self, text: &str) {
        self.0.push('"');
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            self.0.push_str(&rest[..at]);
            match rest.as_bytes()[at] {
                special @ (b'"' | b'\\') => self.0.extend(['\\', char::from(special)]),
                control => self.0.push_str(&format!("\\u{control:04x}")),
            }
            rest = &rest[at + 1..];
        }
        self.0.push_str(rest);
        self.0.push('"');
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.string(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.0.push_str(&value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        self.0.push_str(&value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.0.push_str(if value { "true" } else { "false" });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        self.string(&format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_string_is_json() {
        for text in ["", "plain", "a\"b\\c", "line\nbreak\tand \u{1}", "Zoë 😀 \u{7f}"] {
            let mut line = Line(String::new());
            line.string(text);
            assert_eq!(serde_json::from_str::<String>(&line.0).unwrap(), text);
        }
    }
}
