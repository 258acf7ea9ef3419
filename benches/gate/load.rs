//! A closed loop of connections, which take the next of the requests that were signed beforehand.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use openexec_protocol::approval::{self, HmacKey, Terms};
use openexec_protocol::canonical::Limits;
use openexec_protocol::request::Request;
use openexec_protocol::timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::process::Usage;

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const TENANT: &str = "tenant-001";

/// How nonces and approvals are named.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ids {
    /// By time, as RFC 9562 has them for keys of databases (UUIDs of version 7).
    Ordered,
    /// Without any order (UUIDs of version 4).
    Random,
}

impl Ids {
    pub(crate) fn next(self) -> String {
        match self {
            Ids::Ordered => Uuid::now_v7().to_string(),
            Ids::Random => Uuid::new_v4().to_string(),
        }
    }
}

/// Requests as bytes: every nonce and every approval is new.
pub(crate) struct Load {
    requests: Vec<Vec<u8>>,
}

/// Whoever let through a payload that was not approved, or nothing at all, would be measured for something else.
pub(crate) fn must_verify(address: &str) {
    let genuine = String::from_utf8(Load::mint(1, 1_024, Ids::Ordered).requests.remove(0)).unwrap();
    let forged = genuine.replace("\"qty\":3", "\"qty\":4");
    for (request, status) in [(forged, b"HTTP/1.1 403"), (genuine, b"HTTP/1.1 200")] {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, status, "{address}");
    }
}

/// One server in one round.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us: f64,
    pub(crate) commits_per_second: f64,
    pub(crate) batch: f64,
    requests: usize,
    seconds: f64,
}

impl Load {
    pub(crate) fn mint(count: usize, body_bytes: usize, ids: Ids) -> Self {
        let key = HmacKey::new(SECRET.as_bytes());
        // Within the allowed skew, and behind the fence of a server that started a moment ago.
        let issued_at = timestamp::print(Utc::now() + TimeDelta::seconds(29));
        Load { requests: (0..count).map(|_| request(&key, &issued_at, body_bytes, ids)).collect() }
    }

    pub(crate) fn run(self, address: &str, connections: usize) -> Measured {
        let count = self.requests.len();
        // Sent in the order in which they were named, as by clients that name them when they send them: with a share for
        // each connection the fast ones would be hundreds of names ahead of the slow ones.
        let requests = Arc::new(Mutex::new(self.requests.into_iter()));
        let address: Arc<str> = address.into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (seconds, mut latencies) = runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..connections {
                clients.push(TcpStream::connect(&*address).await.unwrap());
            }
            let started = Instant::now();
            let clients: Vec<_> =
                clients.into_iter().map(|stream| tokio::spawn(client(stream, requests.clone()))).collect();
            let mut latencies = Vec::with_capacity(count);
            for client in clients {
                latencies.extend(client.await.unwrap());
            }
            (started.elapsed().as_secs_f64(), latencies)
        });
        assert_eq!(latencies.len(), count);
        latencies.sort_by(f64::total_cmp);
        Measured {
            rate: count as f64 / seconds,
            p50_ms: latencies[count / 2] * 1e3,
            p99_ms: latencies[count * 99 / 100] * 1e3,
            cpu_us: 0.0,
            commits_per_second: 0.0,
            batch: 0.0,
            requests: count,
            seconds,
        }
    }
}

impl Measured {
    pub(crate) fn add_usage(&mut self, before: &Usage, after: &Usage) {
        let commits = after.commits - before.commits;
        self.cpu_us = (after.cpu_seconds - before.cpu_seconds) * 1e6 / self.requests as f64;
        self.commits_per_second = commits / self.seconds;
        self.batch = if commits > 0.0 { (after.rows - before.rows) / commits } else { 0.0 };
    }
}

fn request(key: &HmacKey, issued_at: &str, body_bytes: usize, ids: Ids) -> Vec<u8> {
    let nonce = ids.next();
    let fixed = 395;
    let note = "pay the invoice of the month, as agreed; ".repeat(30);
    let payload = format!(
        r#"{{"to":"GB33BUKB20201555555555","amount":1250.75,"currency":"EUR","lines":[{{"sku":"A-17","qty":3}}],"note":"{}"}}"#,
        &note[..body_bytes.saturating_sub(fixed + 115)]
    );
    let plain = format!(r#"{{"action":"echo","payload":{payload},"nonce":"{nonce}"}}"#);
    let parsed = Request::parse(plain.as_bytes(), Limits::default()).unwrap();
    let approval_id = ids.next();
    let terms = Terms { approval_id: &approval_id, tenant_id: TENANT, issued_at, kid: None };
    let artifact = approval::mint(key, parsed.action_hash(), &terms).unwrap().to_json();
    let body = format!(r#"{},"approval_artifact":{artifact}}}"#, &plain[..plain.len() - 1]);
    assert!(body.len().abs_diff(body_bytes) < 40, "{}", body.len());
    let head = format!(
        "POST /execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

async fn client(mut stream: TcpStream, requests: Arc<Mutex<impl Iterator<Item = Vec<u8>>>>) -> Vec<f64> {
    stream.set_nodelay(true).unwrap();
    let mut latencies = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Some(request) = requests.lock().unwrap().next() else { return latencies };
        let sent = Instant::now();
        stream.write_all(&request).await.unwrap();
        read_answer(&mut stream, &mut buffer).await;
        latencies.push(sent.elapsed().as_secs_f64());
    }
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(read > 0, "the server closed: {}", String::from_utf8_lossy(&buffer[..filled]));
        filled += read;
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = response.parse(&buffer[..filled]) else { continue };
        let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length")).unwrap();
        let length: usize = std::str::from_utf8(length.value).unwrap().parse().unwrap();
        if filled >= head + length {
            assert_eq!(response.code, Some(200), "{}", String::from_utf8_lossy(&buffer[..filled]));
            return;
        }
    }
}
