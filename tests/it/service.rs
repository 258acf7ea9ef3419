//! A service behind the gate, of which a test scripts every byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::PATIENCE;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What becomes of the connection after an answer.
pub enum After {
    Keep,
    Close,
    /// RST.
    Reset,
    /// Nothing more, and no end.
    Hold,
}

pub struct Service {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: Arc<AtomicBool>,
}

impl Service {
    pub fn start(script: impl Fn(&Seen, &mut TcpStream) -> After + Send + Sync + 'static) -> Self {
        Service::start_at("127.0.0.1:0", script)
    }

    pub fn start_at(address: &str, script: impl Fn(&Seen, &mut TcpStream) -> After + Send + Sync + 'static) -> Self {
        Service::on(TcpListener::bind(address).unwrap(), script)
    }

    pub fn on(listener: TcpListener, script: impl Fn(&Seen, &mut TcpStream) -> After + Send + Sync + 'static) -> Self {
        let service = Service {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            seen: Arc::default(),
            stopped: Arc::default(),
        };
        let (connections, seen, stopped) = (service.connections.clone(), service.seen.clone(), service.stopped.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                connections.fetch_add(1, Ordering::SeqCst);
                let (script, seen) = (script.clone(), seen.clone());
                std::thread::spawn(move || serve(stream, &*script, &seen));
            }
        });
        service
    }

    /// What was asked so far.
    pub fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap()
    }

    /// How often it was asked to do this.
    pub fn times(&self, what: &str) -> usize {
        self.seen().iter().filter(|seen| seen.asked() == what).count()
    }

    /// Waits until it was asked to do this.
    pub fn await_asked(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.times(what) == 0 {
            assert!(Instant::now() < deadline, "never asked to {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice");
        first.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The payload's `do`.
    pub fn asked(&self) -> String {
        self.json()["do"].as_str().unwrap_or_default().to_owned()
    }
}

fn serve(mut stream: TcpStream, script: &dyn Fn(&Seen, &mut TcpStream) -> After, seen: &Mutex<Vec<Seen>>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer) {
        seen.lock().unwrap().push(request.clone());
        match script(&request, &mut stream) {
            After::Keep => {}
            After::Close => return,
            After::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            After::Hold => {
                let _ = stream.set_read_timeout(None);
                let _ = stream.read(&mut [0]);
                return;
            }
        }
    }
}

/// A request with a length, or a chunked one as it came.
pub fn read(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        fill(stream, buffer)?;
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut seen = Seen { line, headers, body: Vec::new() };
    if seen.header("transfer-encoding").is_some() {
        while !buffer.ends_with(b"0\r\n\r\n") {
            fill(stream, buffer)?;
        }
        seen.body = std::mem::take(buffer);
        return Some(seen);
    }
    let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < length {
        fill(stream, buffer)?;
    }
    seen.body = buffer.drain(..length).collect();
    Some(seen)
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<()> {
    let mut part = [0; 16 << 10];
    let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&part[..count]);
    Some(())
}

/// A whole answer with a length.
pub fn answer(stream: &mut impl Write, status: &str, headers: &str, body: impl AsRef<[u8]>) -> After {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    write(stream, [head.as_bytes(), body].concat());
    After::Keep
}

/// A JSON answer.
pub fn json(stream: &mut impl Write, status: &str, body: &str) -> After {
    answer(stream, status, "Content-Type: application/json\r\n", body)
}

/// Bytes. Whether anybody reads them is not the service's business.
pub fn write(stream: &mut impl Write, bytes: impl AsRef<[u8]>) {
    let _ = stream.write_all(bytes.as_ref()).and_then(|()| stream.flush());
}
