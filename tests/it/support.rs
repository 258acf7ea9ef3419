//! A server in this process or in one of its own, and a client that sees every byte.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use openexec::app::{self, Parts, Running};
use openexec::clock::{Clock, SystemClock};
use openexec::config::Config;
use openexec::config::listener::Place;
use openexec::registry::{Dispatch, Effect, Ended, Handler, Ready, Registry};
use openexec_protocol::approval::{self, HmacKey, PrivateKey, Terms};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::ResultText;
use openexec_protocol::refusal::Refusal;
use openexec_protocol::request::Request;
use openexec_protocol::timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const SECRET: &str = "test-secret-key-of-32-bytes-or-so";
pub const TENANT: &str = "tenant-001";
/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a server of a test is made of.
pub struct Setup {
    pub environment: HashMap<&'static str, String>,
    pub file: Option<String>,
    pub registry: Registry,
    pub clock: Arc<dyn Clock>,
    pub directory: Arc<TempDir>,
}

impl Setup {
    /// Demo mode, asked for by name, on a durable ledger in a directory of its own.
    pub fn demo() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let ledger = format!("sqlite:///{}", directory.path().join("openexec.db").display());
        let environment = HashMap::from([
            ("OPENEXEC_MODE", "demo".to_owned()),
            ("OPENEXEC_LISTEN", "127.0.0.1:0".to_owned()),
            ("OPENEXEC_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("OPENEXEC_DB_URL", ledger),
        ]);
        Setup { environment, file: None, registry: Registry::default(), clock: Arc::new(SystemClock), directory }
    }

    pub fn clawshield() -> Self {
        Setup::demo()
            .with("OPENEXEC_MODE", "clawshield")
            .with("CLAWSHIELD_SECRET_KEY", SECRET)
            .with("CLAWSHIELD_TENANT_ID", TENANT)
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.to_owned());
        self
    }

    pub fn without(mut self, name: &'static str) -> Self {
        self.environment.remove(name);
        self
    }

    pub fn file(mut self, yaml: &str) -> Self {
        self.file = Some(yaml.to_owned());
        self
    }

    pub fn registry(self, registry: Registry) -> Self {
        Setup { registry, ..self }
    }

    pub fn at(self, time: &str) -> Self {
        Setup { clock: Arc::new(Stopped(timestamp::parse(time).unwrap())), ..self }
    }

    pub fn config_path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|yaml| {
            let path = self.directory.path().join("openexec.yaml");
            std::fs::write(&path, yaml).unwrap();
            path
        })
    }

    pub fn ledger(&self) -> PathBuf {
        self.directory.path().join("openexec.db")
    }

    /// In this process.
    pub fn start(&self) -> Server {
        let config = Config::load(self.config_path().as_deref(), &self.environment).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let parts = Parts { config, registry: self.registry.clone(), clock: self.clock.clone(), taken: None };
        let running = runtime.block_on(app::start(parts)).unwrap();
        Server {
            address: running.listen.iter().find_map(tcp).expect("a test listens on TCP"),
            admin: tcp(&running.admin_listen).expect("the admin listener is on TCP"),
            running: Some(running),
            runtime: Some(runtime),
            _directory: self.directory.clone(),
        }
    }

    /// As a command of the real binary.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
        command.env_clear().envs(&self.environment).args(arguments).current_dir(self.directory.path());
        if let Some(path) = self.config_path() {
            command.arg("--config").arg(path);
        }
        command
    }

    /// As a process of its own.
    pub fn spawn(&self) -> Process {
        Process::start(self.command(&[]).env("OPENEXEC_LISTEN", free()).env("OPENEXEC_ADMIN_LISTEN", free()))
    }
}

fn tcp(place: &Place) -> Option<SocketAddr> {
    match place {
        Place::Tcp(address) => Some(*address),
        Place::Unix { .. } => None,
    }
}

/// An action with effects that a test scripts.
pub fn effect<F: Future<Output = Ended> + Send + 'static>(
    script: impl Fn(Dispatch) -> F + Clone + Send + Sync + 'static,
) -> Handler {
    Handler::Effect(Arc::new(Scripted(script)))
}

/// An effect that returned this.
pub fn answered(result: &Value) -> Ended {
    let result = CanonicalText::parse(result.to_string().as_bytes(), Limits::default()).unwrap();
    Ended::Answered { status: None, headers: Vec::new(), result: ResultText::from(&result) }
}

struct Scripted<S>(S);

#[async_trait]
impl<S, F> Effect for Scripted<S>
where
    S: Fn(Dispatch) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Ended> + Send + 'static,
{
    async fn prepare(&self) -> Result<Ready, Refusal> {
        let script = self.0.clone();
        Ok(Box::new(move |dispatch| Box::pin(async move { script(dispatch).await })))
    }
}

struct Stopped(DateTime<Utc>);

impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

/// An address that nobody listens on. Never the same one twice, and none that the system gives to somebody else meanwhile:
/// its own choices begin at 32768 (`ip_local_port_range`).
pub fn free() -> String {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let port = FIRST + (start + TRIED.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap().to_string();
        }
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    running: Option<Running>,
    runtime: Option<Runtime>,
    _directory: Arc<TempDir>,
}

impl Server {
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn execute(&self, body: &str) -> Response {
        self.client().execute(body)
    }

    /// An innocent request must still work, after whatever happened before.
    pub fn must_be_well(&self) {
        let response = self.client().get("/health");
        assert_eq!((response.status, &response.json()["status"]), (200, &json!("healthy")));
    }

    pub fn metric(&self, line: &str) -> f64 {
        metric(self.admin, line)
    }

    /// For what is counted behind an answer: its client may ask before that.
    #[track_caller]
    pub fn await_metric(&self, line: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(line) != value {
            assert!(Instant::now() < deadline, "{line} is {}", self.metric(line));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        if let (Some(runtime), Some(running)) = (self.runtime.take(), self.running.take()) {
            runtime.block_on(running.stop(std::future::pending()));
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_now();
    }
}

pub fn metric(admin: SocketAddr, line: &str) -> f64 {
    let text = Client::connect(admin).get("/metrics").text();
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

/// The real binary; killed when dropped.
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let variable = |name: &str| {
            let value = command.get_envs().find(|(found, _)| *found == name).and_then(|(_, value)| value);
            value.unwrap().to_str().unwrap().parse().unwrap()
        };
        let address = variable("OPENEXEC_LISTEN");
        Process::start_at(command, address)
    }

    /// Of which a file says where it listens.
    pub fn start_at(command: &mut Command, address: SocketAddr) -> Self {
        let admin = command.get_envs().find(|(name, _)| *name == "OPENEXEC_ADMIN_LISTEN").and_then(|(_, value)| value);
        let admin = admin.unwrap().to_str().unwrap().parse().unwrap();
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut process = Process { child, address, admin };
        let deadline = Instant::now() + PATIENCE;
        while !process.is_ready() {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("ended with {status}: {}", process.stderr());
            }
            assert!(Instant::now() < deadline, "not ready in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        process
    }

    fn is_ready(&self) -> bool {
        let Ok(stream) = TcpStream::connect(self.admin) else { return false };
        Client::new(stream).send_get("/readyz").is_some_and(|response| response.status == 200)
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end, and gives the exit code and what was printed.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child);
        let printed = self.stderr();
        (status.code(), printed)
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Client::new(TcpStream::connect(address).unwrap())
    }

    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    pub fn execute(&mut self, body: &str) -> Response {
        self.try_execute(body).expect("an answer")
    }

    /// `None` where the connection ends without an answer.
    pub fn try_execute(&mut self, body: &str) -> Option<Response> {
        self.post("/execute", body)
    }

    pub fn post(&mut self, path: &str, body: &str) -> Option<Response> {
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.send_get(path).expect("an answer")
    }

    fn send_get(&mut self, path: &str) -> Option<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Raw bytes, and the answer to them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Option<Response> {
        // A server that has answered already may have closed its side.
        let _ = self.stream.write_all(bytes.as_ref());
        self.read()
    }

    pub fn read(&mut self) -> Option<Response> {
        self.read_to(true)
    }

    /// An answer without a body, as to HEAD.
    pub fn read_head(&mut self) -> Option<Response> {
        self.read_to(false)
    }

    fn read_to(&mut self, has_body: bool) -> Option<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill() == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if !has_body || status == 100 {
            return Some(response);
        }
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        while self.buffer.len() < length {
            assert!(self.fill() > 0, "the body ends early");
        }
        response.body = self.buffer.drain(..length).collect();
        Some(response)
    }

    fn fill(&mut self) -> usize {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part) {
            Ok(count) => {
                self.buffer.extend_from_slice(&part[..count]);
                count
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => 0,
            Err(e) => panic!("no answer in time: {e}"),
        }
    }

    /// Nothing more comes, and the connection is closed.
    pub fn must_be_closed(&mut self) {
        assert!(self.buffer.is_empty(), "{}", String::from_utf8_lossy(&self.buffer));
        assert_eq!(self.fill(), 0, "{}", String::from_utf8_lossy(&self.buffer));
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice");
        first.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// A refusal, complete in all its parts.
    #[track_caller]
    pub fn must_be(&self, status: u16, code: &str, detail: &str) {
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(problem["status"], json!(status));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert!(problem["title"].is_string() && problem["type"].is_string(), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
        let retry_after = problem.get("retry_after").map(Value::to_string);
        assert_eq!(self.header("retry-after"), retry_after.as_deref());
        let says_when = [
            "execution_in_flight",
            "rate_limited",
            "upstream_unreachable",
            "ledger_unavailable",
            "overloaded",
            "shutting_down",
        ];
        assert_eq!(retry_after.is_some(), says_when.contains(&code), "{problem}");
        assert_eq!(self.header("openexec-execution-id"), problem.get("execution_id").and_then(Value::as_str));
        assert_eq!(self.header("openexec-receipt"), None);
    }

    #[track_caller]
    pub fn must_be_executed(&self, replayed: bool) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        let answer = self.json();
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("openexec-execution-id"), answer["id"].as_str());
        assert_eq!(self.header("openexec-receipt"), answer["receipt"].as_str());
        assert_eq!(self.header("openexec-replayed"), Some(if replayed { "true" } else { "false" }));
        assert_eq!(answer["approved"], json!(true));
        answer
    }
}

/// A request of demo mode.
pub fn request(action: &str, payload: &Value, nonce: &str) -> String {
    json!({"action": action, "payload": payload, "nonce": nonce}).to_string()
}

/// How an approval differs from a good one.
pub struct Approval<'a> {
    pub secret: &'a str,
    pub approval_id: &'a str,
    pub tenant: &'a str,
    pub issued_at: String,
    pub kid: Option<&'a str>,
    /// Signs it in the Ed25519 form, instead of the secret in the other one.
    pub private_key: Option<&'a PrivateKey>,
    pub expires_at: String,
}

impl Default for Approval<'_> {
    fn default() -> Self {
        let after = |minutes| timestamp::print(Utc::now() + TimeDelta::minutes(minutes));
        Approval {
            secret: SECRET,
            approval_id: "approval-1",
            tenant: TENANT,
            issued_at: after(0),
            kid: None,
            private_key: None,
            expires_at: after(5),
        }
    }
}

/// A request of ClawShield mode.
pub fn approved(action: &str, payload: &Value, nonce: &str, approval: &Approval<'_>) -> String {
    let mut body: Value = serde_json::from_str(&request(action, payload, nonce)).unwrap();
    let parsed = Request::parse(body.to_string().as_bytes(), Limits::default()).unwrap();
    let terms = Terms {
        approval_id: approval.approval_id,
        tenant_id: approval.tenant,
        issued_at: &approval.issued_at,
        kid: approval.kid,
    };
    let hash = parsed.action_hash();
    let artifact = match approval.private_key {
        Some(key) => approval::mint_ed25519(key, hash, &terms, &approval.expires_at).unwrap(),
        None => approval::mint(&HmacKey::new(approval.secret.as_bytes()), hash, &terms).unwrap(),
    };
    body["approval_artifact"] = serde_json::from_str(&artifact.to_json()).unwrap();
    body.to_string()
}

/// A program that `make tools` installs.
pub fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    assert!(path.exists(), "{} is missing: run `make tools`", path.display());
    path
}

pub fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
