//! Logs: text on a terminal, JSON otherwise; on standard error.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::config::env::{self, Environment};

/// One line an execution, and what an operator can do something about.
const DEFAULT_FILTER: &str = "info";

static WRITER: OnceLock<Mutex<Option<WorkerGuard>>> = OnceLock::new();

/// Starts logging. Lines are written by a thread of their own and dropped when nobody takes them: a full pipe must not
/// hold up executions.
pub fn start(environment: &impl Environment) {
    let filter = environment.get(env::LOG).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    // Below "error" Pingora prints headers and bodies.
    let filter = filter.add_directive("pingora_core=error".parse().expect("a directive"));
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let text = match environment.get(env::LOG_FORMAT).as_deref() {
        Some("text") => true,
        Some("json") => false,
        _ => io::stderr().is_terminal(),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = if text {
        subscriber.with_ansi(io::stderr().is_terminal()).try_init()
    } else {
        subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    if started.is_ok() {
        let _ = WRITER.set(Mutex::new(Some(guard)));
    }
}

/// Writes what is left. Nothing is logged afterwards.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        drop(writer.lock().take());
    }
}
