//! Every limit: what is over it is refused or let go, and an innocent request works afterwards. Those of framing,
//! connections, results and times of services have tests where those things are: see SECURITY.md.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use openexec::config::Config;
use openexec::config::action::ActionConfig;
use openexec::registry::Registry;
use openexec_protocol::timestamp;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::forward;
use crate::service::{After, Service, json as json_answer, write};
use crate::support::{Approval, Client, PATIENCE, Process, Server, Setup, answered, approved, effect, free, request};

fn execute(headers: &str, body: &str) -> String {
    format!("POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}\r\n{body}")
}

/// Waits for what happens soon.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_limits_have_the_defaults_that_are_documented() {
    let environment: HashMap<&'static str, String> = HashMap::new();
    let config = Config::load(None, &environment).unwrap();
    let (limits, replay) = (config.limits, config.replay);
    let seconds = Duration::from_secs;
    assert_eq!((limits.header_bytes, limits.header_time), (16 << 10, seconds(5)));
    assert_eq!((limits.body_bytes, limits.body_time), (256 << 10, seconds(10)));
    assert_eq!(limits.receipt_body_bytes, 4 << 20);
    assert_eq!((limits.json.depth, limits.json.nodes), (64, 10_000));
    assert_eq!((limits.connections, limits.connection_requests), (10_000, 10_000));
    assert_eq!((limits.write_time, limits.idle_time), (seconds(10), seconds(60)));
    assert_eq!((limits.in_flight, limits.buffered_bytes), (1_024, 256 << 20));
    assert_eq!((replay.waiters, replay.wait), (64, seconds(10)));
    assert_eq!(config.clock_skew, TimeDelta::seconds(30));
    let setup =
        Setup::demo().file(&forward::config("127.0.0.1:1".parse().unwrap(), "").replace(", timeout: 500ms", ""));
    let config = Config::load(setup.config_path().as_deref(), &setup.environment).unwrap();
    assert_eq!(config.upstreams[0].connect_timeout, seconds(1));
    let ActionConfig::Forward(send) = &config.actions["send"] else { panic!("a service's action") };
    assert_eq!((send.timeout, send.read_bytes, send.kept_bytes), (seconds(30), 16 << 20, 1 << 20));
}

#[test]
fn memory_for_bodies_that_holds_no_answer_is_a_mistake() {
    let file = format!("{}\nlimits: {{buffered_bytes: 300000}}", forward::config("127.0.0.1:1".parse().unwrap(), ""));
    let setup = Setup::demo().file(&file);
    let error = Config::load(setup.config_path().as_deref(), &setup.environment).unwrap_err().to_string();
    assert!(error.contains("limits.buffered_bytes must be at least 327680"), "{error}");
}

#[test]
fn a_header_may_have_16_kib_and_a_body_256() {
    let server = Setup::demo().start();
    let header = |bytes: usize| {
        let head = "GET /health HTTP/1.1\r\nHost: a\r\nX: ";
        server.client().send(format!("{head}{}\r\n\r\n", "x".repeat(bytes - head.len() - 4))).unwrap()
    };
    assert_eq!(header(16 << 10).status, 200);
    header((16 << 10) + 1).must_be(431, "headers_too_large", "over 16384 bytes");
    let body = |bytes: usize| {
        let empty = request("echo", &json!({"a": ""}), "n").len();
        server.execute(&request("echo", &json!({"a": "x".repeat(bytes - empty)}), "n"))
    };
    body(256 << 10).must_be_executed(false);
    body((256 << 10) + 1).must_be(413, "body_too_large", "over 262144 bytes");
    server.must_be_well();
}

#[test]
fn a_receipt_may_be_checked_for_4_mib() {
    let server = Setup::demo().start();
    let body = |bytes: usize| {
        let text = json!({"exec_id": "e", "receipt": "r", "result": ""}).to_string();
        text.replace(r#""result":"""#, &format!(r#""result":"{}""#, "x".repeat(bytes - text.len())))
    };
    let verify = |bytes: usize| server.client().post("/receipts/verify", &body(bytes)).unwrap();
    assert_eq!(verify(4 << 20).json(), json!({"valid": false}));
    verify((4 << 20) + 1).must_be(413, "body_too_large", "over 4194304 bytes");
    server.must_be_well();
}

#[test]
fn json_may_be_64_deep_and_have_10_000_values() {
    let server = Setup::demo().start();
    let send = |value: String, nonce: &str| {
        server.execute(&format!(r#"{{"action":"echo","nonce":"{nonce}","payload":{{"a":{value}}}}}"#))
    };
    // Around the value: the request, the payload.
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels - 2), "]".repeat(levels - 2));
    send(deep(64), "deep").must_be_executed(false);
    send(deep(65), "deeper").must_be(422, "invalid_request", "");
    // Beside them: the request, the action, the nonce, the payload, the list.
    let many = |values: usize| format!("[{}]", vec!["0"; values - 5].join(","));
    send(many(10_000), "many").must_be_executed(false);
    send(many(10_001), "more").must_be(422, "invalid_request", "");
    let small = Setup::demo().file("limits: {json_depth: 3, json_nodes: 6}").start();
    small.execute(&request("echo", &json!({"a": [[]]}), "n")).must_be(422, "invalid_request", "");
    small.execute(&request("echo", &json!({"a": [1, 2]}), "n")).must_be(422, "invalid_request", "");
    small.execute(&request("echo", &json!({"a": [1]}), "n")).must_be_executed(false);
}

#[test]
fn a_body_that_drips_is_refused_as_a_whole() {
    let server = Setup::demo().file("limits: {body_time: 400ms}").start();
    for head in [execute("Content-Length: 5000\r\n", ""), execute("Transfer-Encoding: chunked\r\n", "1000\r\n")] {
        let mut client = server.client();
        client.stream.write_all(head.as_bytes()).unwrap();
        let started = Instant::now();
        // Each byte comes long before any single read would give up.
        while started.elapsed() < Duration::from_secs(2) && client.stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        client.read().unwrap().must_be(408, "request_timeout", "body took too long");
    }
    server.execute(&request("echo", &json!({}), "n")).must_be_executed(false);
}

/// Those of many silent clients that are not turned away.
fn turned_away_from(clients: Vec<Client>, admin: SocketAddr) -> Vec<Client> {
    let refused = r#"openexec_verdicts_total{reason="overloaded",verdict="refused"}"#;
    until("they are not all accepted or refused", || {
        crate::support::metric(admin, "openexec_connections") + crate::support::metric(admin, refused)
            >= clients.len() as f64
    });
    let is_held = |client: &mut Client| {
        client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let has_answer = client.stream.peek(&mut [0]).is_ok();
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if has_answer {
            client.read().unwrap().must_be(503, "overloaded", "Too many connections");
            client.must_be_closed();
        }
        !has_answer
    };
    clients.into_iter().filter_map(|mut client| is_held(&mut client).then_some(client)).collect()
}

#[test]
fn a_flood_of_connections_is_turned_away_and_the_next_client_served() {
    let server = Setup::demo().file("limits: {connections: 20}").start();
    let held = turned_away_from((0..100).map(|_| server.client()).collect(), server.admin);
    assert_eq!(held.len(), 20);
    drop(held);
    until("the connections are still held", || server.metric("openexec_connections") == 0.0);
    server.must_be_well();
}

#[test]
fn connections_stay_below_the_limit_of_descriptors() {
    let setup = Setup::demo();
    let mut command = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_openexec");
    // 128 for the admin listener's clients, 4 for each thread that serves and 64 for everything else are not the clients'.
    command.args(["-c", "ulimit -n 234 && exec \"$0\"", binary]).current_dir(setup.directory.path());
    command
        .env_clear()
        .envs(&setup.environment)
        .env("TOKIO_WORKER_THREADS", "2")
        .env("OPENEXEC_LISTEN", free())
        .env("OPENEXEC_ADMIN_LISTEN", free());
    let process = Process::start(&mut command);
    let clients = (0..100).map(|_| Client::connect(process.address)).collect();
    let mut held = turned_away_from(clients, process.admin);
    assert_eq!(held.len(), 30);
    for client in &mut held {
        assert_eq!(client.get("/health").status, 200);
    }
    drop(held);
    let is_free = || crate::support::metric(process.admin, "openexec_connections") == 0.0;
    until("the connections are still held", is_free);
    Client::connect(process.address).execute(&request("echo", &json!({}), "n")).must_be_executed(false);
}

#[test]
fn without_descriptors_connections_go_on_and_new_ones_wait() {
    // A file that SQLite cannot open ends the process, which is another matter.
    let process = Setup::demo().with("OPENEXEC_DB_URL", "memory:").spawn();
    let mut known = Client::connect(process.address);
    known.execute(&request("echo", &json!({}), "before")).must_be_executed(false);
    let pid = Pid::from_raw(process.child.id() as i32);
    let limit = prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), maximum: Some(4096) }).unwrap();
    // The kernel connects it; nobody accepts it.
    let mut waiting = Client::connect(process.address);
    waiting.stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    waiting.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let refused = std::io::Read::read(&mut waiting.stream, &mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(refused, Err(std::io::ErrorKind::WouldBlock));
    known.execute(&request("echo", &json!({}), "without")).must_be_executed(false);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit.current.min(Some(4096)), maximum: Some(4096) }).unwrap();
    waiting.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(waiting.read().expect("an answer").status, 200);
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("no connection can be accepted"), "{log}");
}

#[test]
fn duplicates_of_an_execution_that_runs_take_no_permit_and_wait_in_bounds() {
    let slow = effect(|_| async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        answered(&json!({"slept": true}))
    });
    let registry = Registry::builtin().with("slow", slow);
    let file = "limits: {in_flight: 2}\nreplay: {waiters: 8, wait: 10s}";
    let server = Setup::demo().registry(registry).file(file).start();
    let body = request("slow", &json!({}), "n");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.execute(&body));
        until("it does not run", || server.metric("openexec_in_flight_executions") == 1.0);
        let duplicates: Vec<_> = (0..12).map(|_| scope.spawn(|| server.execute(&body))).collect();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(server.metric("openexec_in_flight_executions"), 1.0, "one, however many ask");
        server.execute(&request("echo", &json!({}), "another")).must_be_executed(false);
        first.join().unwrap().must_be_executed(false);
        let answers: Vec<_> = duplicates.into_iter().map(|duplicate| duplicate.join().unwrap()).collect();
        let waited = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(waited, 8);
        for turned_away in answers.iter().filter(|answer| answer.status != 200) {
            turned_away.must_be(409, "execution_in_flight", "");
        }
    });
    server.must_be_well();
}

#[test]
fn clocks_may_be_30_seconds_apart_or_as_configured() {
    let ahead = |server: &Server, seconds: i64, id: &str| {
        let issued_at = timestamp::print(Utc::now() + TimeDelta::seconds(seconds));
        server.execute(&approved(
            "echo",
            &json!({}),
            id,
            &Approval { issued_at, approval_id: id, ..Approval::default() },
        ))
    };
    let server = Setup::clawshield().start();
    ahead(&server, 45, "n1").must_be(403, "approval_not_yet_valid", "");
    ahead(&server, 25, "n2").must_be_executed(false);
    let strict = Setup::clawshield().file("approval: {clock_skew: 2s}").start();
    ahead(&strict, 25, "n1").must_be(403, "approval_not_yet_valid", "");
    ahead(&strict, 0, "n2").must_be_executed(false);
}

/// A service that answers in two parts: so many bytes in all, and the second part when it is told to.
fn in_parts() -> (Service, Sender<()>) {
    let (go_on, told) = channel();
    let told: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(told));
    let service = Service::start(move |seen, stream| {
        let Some(bytes) = seen.json()["bytes"].as_u64() else {
            return json_answer(stream, "200 OK", r#"{"sent":true}"#);
        };
        let body = answer_of(bytes as usize);
        write(stream, format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n"));
        let (first, second) = body.split_at(body.len() - 1);
        write(stream, first);
        if seen.json()["waits"] == true {
            let _ = told.lock().unwrap().recv_timeout(PATIENCE);
        }
        write(stream, second);
        After::Keep
    });
    (service, go_on)
}

fn answer_of(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

fn ask(server: &Server, bytes: usize, waits: bool, nonce: &str) -> crate::support::Response {
    server.execute(&request("send", &json!({"bytes": bytes, "waits": waits}), nonce))
}

#[test]
fn answers_take_memory_as_they_arrive_and_are_described_where_there_is_none() {
    let (service, go_on) = in_parts();
    let file = forward::config(service.address, "").replace("500ms", "20s");
    let server = Setup::demo().file(&format!("{file}\nlimits: {{buffered_bytes: 480000}}")).start();
    let (large, small) = (300_000, 60_000);
    let described = |bytes: usize| {
        let sha256: String = Sha256::digest(answer_of(bytes)).iter().map(|b| format!("{b:02x}")).collect();
        json!({"truncated": true, "bytes": bytes, "sha256": sha256})
    };
    std::thread::scope(|scope| {
        let held = scope.spawn(|| ask(&server, large, true, "held"));
        until("it is not held", || server.metric("openexec_buffered_bytes") > 290_000.0);
        // What is over the share that each one has is not kept; it is known all the same, and stays what it was.
        let crowded = ask(&server, large, false, "crowded").must_be_executed(false);
        assert_eq!(crowded["result"], described(large));
        assert_eq!(ask(&server, large, false, "crowded").must_be_executed(true), crowded);
        // Within its share, everything is as ever.
        let within = ask(&server, small, false, "within").must_be_executed(false);
        assert_eq!(within["result"], Value::String("x".repeat(small - 2)));
        // Where not even the share is left, nothing is dispatched.
        let sent = service.seen().len() + 2;
        let more: Vec<_> = ["a", "b"]
            .map(|n| {
                let server = &server;
                scope.spawn(move || ask(server, small, true, n))
            })
            .into();
        until("they were not sent", || service.seen().len() == sent);
        let full = ask(&server, small, false, "full");
        full.must_be(503, "overloaded", "Too many bodies");
        assert_eq!(service.seen().len(), sent, "nothing was sent");
        for _ in 0..3 {
            go_on.send(()).unwrap();
        }
        assert_eq!(held.join().unwrap().must_be_executed(false)["result"], Value::String("x".repeat(large - 2)));
        for one in more {
            one.join().unwrap().must_be_executed(false);
        }
    });
    // All of it came back.
    until("memory is still held", || server.metric("openexec_buffered_bytes") == 0.0);
    ask(&server, small, false, "full").must_be_executed(false);
    let whole = ask(&server, large, false, "later").must_be_executed(false);
    assert_eq!(whole["result"], Value::String("x".repeat(large - 2)));
    assert_eq!(ask(&server, large, false, "crowded").must_be_executed(true)["result"], described(large), "as it was");
}

#[test]
fn answers_that_nobody_reads_take_memory_and_are_let_go() {
    let (service, _) = in_parts();
    let action = ", result: {read_bytes: 16000000, kept_bytes: 8000000}";
    let file = forward::config(service.address, action).replace("500ms", "20s");
    let limits = "limits: {buffered_bytes: 20000000, write_time: 2s}";
    let server = Setup::demo().file(&format!("{file}\n{limits}")).start();
    let body = request("send", &json!({"bytes": 7_000_000, "waits": false}), "n");
    server.execute(&body).must_be_executed(false);
    // More than the sockets' buffers hold.
    let mut deaf: Vec<Client> = (0..2).map(|_| server.client()).collect();
    for client in &mut deaf {
        client.stream.write_all(execute(&format!("Content-Length: {}\r\n", body.len()), &body).as_bytes()).unwrap();
    }
    until("they are not being written", || server.metric("openexec_buffered_bytes") > 14_000_000.0);
    server.execute(&body).must_be(503, "overloaded", "Too many answers");
    server.execute(&request("send", &json!({}), "small")).must_be_executed(false);
    until("they are still held", || server.metric("openexec_buffered_bytes") == 0.0);
    server.execute(&body).must_be_executed(true);
}

/// Whether the system may give this process huge pages.
fn may_have_huge_pages(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).expect("Linux 5.0 or newer");
    line.trim() == "1"
}

#[test]
fn huge_pages_are_for_a_ledger_in_memory_only() {
    let setup = Setup::demo();
    let durable = setup.spawn();
    assert!(!may_have_huge_pages(&durable.child.id().to_string()));
    let in_memory = Setup::demo().with("OPENEXEC_DB_URL", "memory:").spawn();
    assert_eq!(may_have_huge_pages(&in_memory.child.id().to_string()), may_have_huge_pages("self"));
}
