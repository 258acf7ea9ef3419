//! Logs: text on a terminal, JSON otherwise; on standard error.

mod json;

use std::fs::File;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use self::json::JsonLines;
use crate::config::env::{self, Environment};

/// One line an execution, and what an operator can do something about.
const DEFAULT_FILTER: &str = "info";
/// How long a line may wait to be written.
const PERIOD: Duration = Duration::from_millis(50);
/// Lines that nobody takes are dropped behind this: a full pipe must not hold up executions, nor fill the memory.
const MAX_BYTES: usize = 4 << 20;

/// How long the end waits for whoever takes the lines.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Lines that are not written yet.
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// The first of them is there.
static GATHERING: Condvar = Condvar::new();
/// Held by whoever writes, so that lines stay in order.
static OUTPUT: Mutex<Output> = Mutex::new(Output { file: None, spare: Vec::new() });
static FLUSHER: OnceLock<()> = OnceLock::new();

struct Output {
    file: Option<File>,
    /// Changes places with [`LINES`], whose room would else grow anew each time, under its lock.
    spare: Vec<u8>,
}

/// Starts logging. Lines are gathered, and written by a thread of their own, which the first of them wakes.
/// (`tracing-appender` wakes its thread for each line, which cost a tenth of all executions.)
pub fn start(environment: &impl Environment) {
    let filter = environment.get(env::LOG).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    // Below "error" Pingora prints headers and bodies.
    let filter = filter.add_directive("pingora_core=error".parse().expect("a directive"));
    let text = match environment.get(env::LOG_FORMAT).as_deref() {
        Some("text") => true,
        Some("json") => false,
        _ => io::stderr().is_terminal(),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Gathered);
    let started = if text {
        subscriber.with_ansi(io::stderr().is_terminal()).try_init()
    } else {
        subscriber.event_format(JsonLines).try_init()
    };
    if started.is_ok() {
        OUTPUT.lock().file = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
        FLUSHER.get_or_init(|| {
            // Without it nothing is logged before the end, which is no reason not to serve.
            let _ = std::thread::Builder::new().name("log".to_owned()).spawn(|| {
                loop {
                    GATHERING.wait_while(&mut LINES.lock(), |lines| lines.is_empty());
                    std::thread::sleep(PERIOD);
                    write_gathered();
                }
            });
        });
    }
}

/// Writes what is left, unless nobody takes it: a full pipe must not keep the process from ending either.
pub fn flush() {
    let (done, written) = mpsc::channel();
    let _ = std::thread::Builder::new().spawn(move || {
        write_gathered();
        done.send(())
    });
    let _ = written.recv_timeout(LAST_WRITE);
}

fn write_gathered() {
    let Output { file, spare: lines } = &mut *OUTPUT.lock();
    std::mem::swap(lines, &mut *LINES.lock());
    // Not through the standard library's handle: its lock would be held as long as nobody takes the lines, against
    // every other message of the process.
    if let Some(file) = file
        && !lines.is_empty()
    {
        let _ = file.write_all(lines);
    }
    lines.clear();
}

struct Gathered;

impl<'w> MakeWriter<'w> for Gathered {
    type Writer = Gathered;

    fn make_writer(&'w self) -> Gathered {
        Gathered
    }
}

/// `tracing_subscriber` writes each line whole, in one call.
impl Write for Gathered {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = LINES.lock();
        if lines.is_empty() {
            GATHERING.notify_one();
        }
        if lines.len() + line.len() <= MAX_BYTES {
            lines.extend_from_slice(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
