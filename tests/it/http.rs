//! What a client can do wrong with HTTP. Each attack is followed by an innocent request that must succeed.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Server, Setup, request};

/// Short times, so that the tests are.
fn impatient() -> Server {
    Setup::demo()
        .file("limits: {header_time: 300ms, body_time: 300ms, write_time: 300ms, idle_time: 2s, header_bytes: 2048, body_bytes: 4096}")
        .start()
}

fn execute(headers: &str, body: &str) -> String {
    format!("POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}\r\n{body}")
}

#[test]
fn requests_that_come_together_are_answered_one_by_one() {
    let server = impatient();
    let mut client = server.client();
    let bodies: Vec<String> = (0..3).map(|n| request("add", &json!({"a": n}), &n.to_string())).collect();
    let pipelined: String = bodies.iter().map(|b| execute(&format!("Content-Length: {}\r\n", b.len()), b)).collect();
    // In every cut, so that no read ends where a request does.
    for cut in [1, 7, 150, 200, pipelined.len()] {
        for part in pipelined.as_bytes().chunks(cut) {
            client.stream.write_all(part).unwrap();
        }
        for n in 0..3 {
            assert_eq!(client.read().unwrap().json()["result"], json!({"sum": n}));
        }
    }
}

#[test]
fn a_chunked_request_is_executed_and_is_the_last_of_its_connection() {
    let server = impatient();
    let body = request("echo", &json!({"a": 1}), "n");
    let (one, two) = body.split_at(10);
    let chunks = format!("{:x}\r\n{one}\r\n{:x};x=y\r\n{two}\r\n0\r\nX-Trailer: t\r\n\r\n", one.len(), two.len());
    let innocent = request("echo", &json!({}), "behind");
    let behind = execute(&format!("Content-Length: {}\r\n", innocent.len()), &innocent);
    let mut client = server.client();
    let response = client.send(execute("Transfer-Encoding: chunked\r\n", &chunks) + &behind).unwrap();
    response.must_be_executed(false);
    assert_eq!(response.header("connection"), Some("close"));
    client.must_be_closed();
    server.execute(&innocent).must_be_executed(false);
}

#[test]
fn what_is_too_large_is_refused() {
    let server = impatient();
    let mut client = server.client();
    let response = client.send(execute(&format!("X: {}\r\n", "x".repeat(3_000)), "")).unwrap();
    response.must_be(431, "headers_too_large", "over 2048 bytes");
    client.must_be_closed();
    let fields = server.client().send(execute(&"X: y\r\n".repeat(101), "")).unwrap();
    fields.must_be(431, "headers_too_large", "too many header fields");
    let large = request("echo", &json!({"a": "x".repeat(5_000)}), "n");
    // A small rest is read away, and the connection stays.
    let mut client = server.client();
    client.try_execute(&large).unwrap().must_be(413, "body_too_large", "over 4096 bytes");
    assert_eq!(client.get("/health").status, 200);
    // A large one is not, but its sender still sees the answer.
    let huge = "x".repeat(1 << 20);
    server.client().try_execute(&huge).unwrap().must_be(413, "body_too_large", "");
    let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let chunked = server.client().send(execute("Transfer-Encoding: chunked\r\n", &chunks)).unwrap();
    chunked.must_be(413, "body_too_large", "");
    server.must_be_well();
}

#[test]
fn what_is_too_slow_is_refused() {
    let server = impatient();
    // A byte at a time keeps no header alive.
    let mut client = server.client();
    let started = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " {
        if client.stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    client.read().unwrap().must_be(408, "request_timeout", "header took too long");
    client.must_be_closed();
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut client = server.client();
    client.stream.write_all(execute("Content-Length: 100\r\n", "{\"action\"").as_bytes()).unwrap();
    client.read().unwrap().must_be(408, "request_timeout", "body took too long");
    client.must_be_closed();
    // One that says nothing at all is closed without a word.
    let mut client = server.client();
    client.must_be_closed();
    server.must_be_well();
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let server = Setup::demo().file("limits: {write_time: 300ms, body_bytes: 1000000, json_nodes: 100000}").start();
    let body = request("echo", &json!({"a": "x".repeat(200_000)}), "n");
    let mut client = server.client();
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let request = execute(&format!("Content-Length: {}\r\n", body.len()), &body);
    // As many answers as the sockets' buffers hold, and then more.
    for _ in 0..100 {
        if client.stream.write_all(request.as_bytes()).is_err() {
            break;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.metric("openexec_connections") > 0.0 {
        assert!(Instant::now() < deadline, "the connection is still held");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.must_be_well();
}

#[test]
fn only_plain_json_is_taken() {
    let server = impatient();
    let body = request("echo", &json!({}), "n");
    let send = |headers: &str| {
        let length = body.len();
        let bytes = format!("POST /execute HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        server.client().send(bytes).unwrap()
    };
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/jsonx\r\n",
        "Content-Type: multipart/form-data\r\n",
        "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
    ] {
        send(headers).must_be(415, "unsupported_media_type", "");
    }
    send("Content-Type: Application/JSON; charset=utf-8\r\n").must_be_executed(false);
}

#[test]
fn a_client_that_waits_for_100_gets_it_and_keeps_its_connection() {
    let server = impatient();
    let body = request("echo", &json!({}), "n");
    let mut client = server.client();
    let headers = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len());
    assert_eq!(client.send(execute(&headers, "")).unwrap().status, 100);
    let response = client.send(&body).unwrap();
    response.must_be_executed(false);
    assert_eq!(client.get("/health").status, 200);
    // Refused before a byte of the body was asked for.
    let mut client = server.client();
    let response = client.send(execute("Content-Length: 1000000\r\nExpect: 100-continue\r\n", "")).unwrap();
    response.must_be(413, "body_too_large", "");
}

#[test]
fn old_clients_are_served() {
    let server = impatient();
    let body = request("echo", &json!({}), "n");
    let request = format!(
        "POST /execute HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n{body}",
        body.len()
    );
    let mut client = server.client();
    client.send(request).unwrap().must_be_executed(false);
    client.must_be_closed();
}

#[test]
fn empty_lines_before_a_request_are_passed_over_however_they_arrive() {
    let server = impatient();
    let mut client = server.client();
    for part in ["\r", "\n\r\nGET /health HTTP/1.1\r", "\nHost: a\r\n\r", "\n"] {
        client.stream.write_all(part.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(client.read().unwrap().status, 200);
}

#[test]
fn connections_and_their_requests_are_counted() {
    let server = Setup::demo().file("limits: {connections: 2, connection_requests: 3}").start();
    let mut first = server.client();
    for last in [false, false, true] {
        let response = first.get("/health");
        assert_eq!(response.header("connection"), Some(if last { "close" } else { "keep-alive" }));
    }
    first.must_be_closed();
    let _held: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = server.client();
            client.get("/health");
            client
        })
        .collect();
    let mut crowded = server.client();
    crowded.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().must_be(503, "overloaded", "Too many connections");
    crowded.must_be_closed();
    assert_eq!([server.metric("openexec_connections"), server.metric("openexec_connections_limit")], [2.0, 2.0]);
    drop(_held);
    std::thread::sleep(Duration::from_millis(100));
    server.must_be_well();
}

#[test]
fn what_is_only_announced_keeps_nobody_out() {
    let server = Setup::demo().file("limits: {buffered_bytes: 10000, body_time: 5s}").start();
    let mut silent: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for client in &mut silent {
        client.stream.write_all(execute("Content-Length: 9000\r\n", "{").as_bytes()).unwrap();
    }
    server.execute(&request("echo", &json!({}), "n")).must_be_executed(false);
    let too_much = request("echo", &json!({"a": "x".repeat(11_000)}), "m");
    server.client().try_execute(&too_much).unwrap().must_be(503, "overloaded", "Too many bodies");
    server.must_be_well();
}
