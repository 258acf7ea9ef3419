//! Other requests to a service: by allow-list, streamed, and no way around the gate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openexec::config::Config;
use openexec::execute::front::PATHS;
use serde_json::json;

use crate::service::{After, Seen, Service, answer, write};
use crate::support::{Client, Server, Setup, request};

fn script(seen: &Seen, stream: &mut TcpStream) -> After {
    match seen.line.split(' ').nth(1).unwrap() {
        "/docs/chunks" => {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            std::thread::sleep(Duration::from_millis(300));
            write(stream, "3\r\ntwo\r\n0\r\n\r\n");
            After::Keep
        }
        "/docs/cut" => {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            After::Close
        }
        "/docs/short" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none");
            After::Close
        }
        "/docs/nothing" => After::Hold,
        "/docs/rubbish" => {
            write(stream, "SSH-2.0-OpenSSH\r\n");
            After::Close
        }
        "/docs/switch" => {
            write(stream, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nsecret");
            After::Hold
        }
        "/docs/empty" => {
            write(stream, "HTTP/1.1 204 No Content\r\n\r\n");
            After::Keep
        }
        "/docs/imitate" => answer(
            stream,
            "200 OK",
            "OpenExec-Receipt: forged\r\nOpenExec_Replayed: true\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-End: 2\r\n\
             Keep-Alive: timeout=5\r\n",
            "ok",
        ),
        _ => answer(stream, "200 OK", "Content-Type: text/plain\r\nETag: \"1\"\r\n", &seen.body),
    }
}

fn start(service: &Service, more: &str) -> Server {
    Setup::demo()
        .file(&format!(
            "upstreams: {{service: {{addresses: [\"http://{}\"]}}}}
actions: {{send: {{upstream: service, path: /docs/send}}}}
passthrough:
  - {{upstream: service, methods: [GET, HEAD], path: /docs, timeout: 500ms}}
{more}",
            service.address
        ))
        .start()
}

/// Everything that comes until the connection ends.
fn raw(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let _ = stream.write_all(bytes.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(server: &Server, path: &str) -> String {
    raw(server.address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

#[track_caller]
fn must_still_work(server: &Server) {
    let response = server.client().get("/docs/page?a=b%20c");
    assert_eq!((response.status, response.header("etag")), (200, Some("\"1\"")));
}

#[test]
fn what_is_listed_goes_through() {
    let service = Service::start(script);
    let server = start(&service, "");
    let mut client = server.client();
    let page = client.get("/docs/page?a=b%20c");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/plain")));
    assert_eq!(service.seen()[0].line, "GET /docs/page?a=b%20c HTTP/1.1");
    let _ = client.stream.write_all(b"HEAD /docs/page HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.read_head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("0")));
    // The connection is as good as before, and an action goes over it too.
    client.execute(&request("send", &json!({}), "n")).must_be_executed_text();
    assert_eq!(client.get("/docs").status, 200);
    let _ = client.stream.write_all(b"GET /docs/empty HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 204);
    assert_eq!(client.get("/docs/%70age").status, 200);
    assert_eq!(service.seen().last().unwrap().line, "GET /docs/page HTTP/1.1", "as it was compared");
    // Counted when the answer is written to its end, which the client may have read by then.
    server.await_metric(r#"openexec_passthrough_requests_total{status="2xx",upstream="service"}"#, 5.0);
}

#[test]
fn our_own_paths_stay_ours_whatever_is_let_through() {
    let service = Service::start(script);
    let all = "  - {upstream: other, methods: [GET, POST], path: /}\n";
    let server = Setup::demo()
        .file(&format!("upstreams: {{other: {{addresses: [\"http://{}\"]}}}}\npassthrough:\n{all}", service.address))
        .start();
    for path in PATHS {
        assert_eq!(server.client().get(path).header("etag"), None, "{path}");
        assert_eq!(server.client().post(path, "{}").unwrap().header("etag"), None, "{path}");
    }
    assert!(service.seen().is_empty());
    assert_eq!(server.client().get("/other").header("etag"), Some("\"1\""));
}

#[test]
fn nothing_else_does() {
    let service = Service::start(script);
    let server = start(&service, "");
    for path in [
        "/other",
        "/docsx",
        "/doc",
        "/Docs/page",
        "/docs/../send",
        "/docs/%2e%2e/send",
        "/docs/..%2fsend",
        "/docs%2fpage",
        "/docs//page",
        "//docs/page",
        "/docs/./page",
        "/docs;a=b/page",
        "/docs/page;a",
        "/docs/%3bpage",
        "/docs\\page",
        "/docs/%5cpage",
        "/docs/%00",
        "/docs/%",
        "/docs/%252e%252e/send",
        "/docs/send",
        "/docs/send/",
        "/docs/SEND",
        "/docs/%73end",
        "/docs/send?x=1",
        "/docs/Send/?",
        "http://localhost/docs/send",
        "http://other/docs/../x",
    ] {
        let answer = get(&server, path);
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "404" | "400"), "{path}: {answer}");
    }
    for (method, path) in [("POST", "/docs/page"), ("DELETE", "/docs/page"), ("PUT", "/docs/send"), ("TRACE", "/docs")]
    {
        let answer = raw(
            server.address,
            &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        );
        assert!(answer.starts_with("HTTP/1.1 404"), "{method} {path}: {answer}");
    }
    for upgrade in ["Upgrade: websocket\r\nConnection: Upgrade", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings"]
    {
        let answer = raw(server.address, &format!("GET /docs/page HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("bad_http"), "{answer}");
    }
    assert_eq!(service.seen().len(), 0, "not one of them reached it");
    must_still_work(&server);
}

/// An action is what its service does on a path, whatever the query, and whatever name the service has here.
#[test]
fn another_name_of_the_service_and_a_query_are_no_ways_around() {
    let service = Service::start(script);
    let (by_address, by_name) = (service.address, format!("localhost:{}", service.address.port()));
    let server = Setup::demo()
        .file(&format!(
            "upstreams:
  service: {{addresses: [\"http://{by_address}\"]}}
  alias: {{addresses: [\"http://127.0.0.1:9\", \"http://{by_address}\"]}}
  other: {{addresses: [\"http://{by_name}\"]}}
actions:
  send: {{upstream: service, path: '/docs/send?how=mail'}}
  told: {{upstream: other, path: '/docs/told'}}
passthrough: [{{upstream: alias, methods: [GET], path: /docs}}]"
        ))
        .start();
    for path in ["/docs/send", "/docs/send?how=mail", "/docs/send?how=post", "/docs/send/", "/docs/told", "/docs/told?"]
    {
        let answer = get(&server, path);
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    assert!(service.seen().is_empty());
    must_still_work(&server);
    server.execute(&request("send", &json!({}), "n")).must_be_executed_text();
    assert_eq!(service.seen().last().unwrap().line, "POST /docs/send?how=mail HTTP/1.1");
    // Nor may more than reading go through to it by its other name.
    let setup = Setup::demo().file(&format!(
        "upstreams: {{service: {{addresses: [\"http://{by_address}\"]}}, alias: {{addresses: [\"http://{by_address}\"]}}}}
actions: {{send: {{upstream: service, path: /docs/send}}}}
passthrough: [{{upstream: alias, methods: [POST], path: /docs}}]"
    ));
    let problems = Config::load(setup.config_path().as_deref(), &setup.environment).unwrap_err().to_string();
    assert!(problems.contains("only GET and HEAD may go through"), "{problems}");
}

#[test]
fn headers_that_could_fool_the_service_end_here() {
    let service = Service::start(script);
    let server = start(&service, "");
    let answer = raw(
        server.address,
        "GET /docs/imitate HTTP/1.1\r\nHost: localhost\r\nConnection: close, X-Nominated\r\nX-Nominated: 1\r\n\
         OpenExec-Tenant: other\r\nopenexec_execution_id: forged\r\nX-HTTP-Method-Override: POST\r\n\
         X_HTTP_Method_Override: POST\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Real-IP: 1\r\nX-Original-URL: /docs/send\r\nX-Rewrite-URL: /docs/send\r\nTE: trailers\r\n\
         Keep-Alive: 5\r\nProxy-Authorization: x\r\nAuthorization: Bearer mine\r\nCookie: a=b\r\nAccept: */*\r\n\r\n",
    );
    let with_body = raw(server.address, "GET /docs/page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab");
    assert!(with_body.starts_with("HTTP/1.1 400"), "{with_body}");
    let mut names: Vec<_> = service.seen()[0].headers.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(names, ["accept", "authorization", "cookie", "host"]);
    assert_eq!(service.seen()[0].header("host"), Some(service.address.to_string().as_str()));
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("x-end: 2") && lower.ends_with("\r\n\r\nok"), "{answer}");
    for gone in ["openexec", "x-hop", "keep-alive: timeout"] {
        assert!(!lower.contains(gone), "{gone}: {answer}");
    }
    must_still_work(&server);
}

#[test]
fn bodies_are_streamed_both_ways() {
    let service = Service::start(script);
    let upload = Service::start(script);
    // To a service that no action uses, more than reading may go through.
    let server = Setup::demo()
        .file(&format!(
            "upstreams: {{docs: {{addresses: [\"http://{}\"]}}, upload: {{addresses: [\"http://{}\"]}}}}
passthrough:
  - {{upstream: docs, methods: [GET], path: /docs}}
  - {{upstream: upload, methods: [POST, PUT], path: /upload}}",
            service.address, upload.address
        ))
        .start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /docs/chunks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut part = [0; 4096];
    let mut text = String::new();
    while !text.contains("one") {
        let count = stream.read(&mut part).unwrap();
        text.push_str(std::str::from_utf8(&part[..count]).unwrap());
    }
    assert!(!text.contains("two"), "the first piece does not wait for the second: {text}");
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("two") && text.ends_with("0\r\n\r\n"), "{text}");
    // A mebibyte up, and back.
    let body = "x".repeat(1 << 20);
    let mut client = server.client();
    let back = client
        .send(format!("PUT /upload/file HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert!(back.unwrap().body == body.as_bytes());
    assert_eq!(client.post("/upload/file", "after that").unwrap().text(), "after that");
    let chunked = raw(
        server.address,
        "POST /upload/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert!(chunked.starts_with("HTTP/1.1 200") && chunked.contains("abc"), "{chunked}");
    let expecting = raw(
        server.address,
        "POST /upload/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\
         Connection: close\r\n\r\nabc",
    );
    assert!(expecting.starts_with("HTTP/1.1 100") && expecting.ends_with("abc"), "{expecting}");
    // A service that answers before it has read everything: its answer comes through, and no whole body reaches it.
    let (early, whole_bodies) = early_answers();
    let impatient = Setup::demo()
        .file(&format!(
            "upstreams: {{upload: {{addresses: [\"http://{}\"]}}}}
passthrough: [{{upstream: upload, methods: [POST], path: /upload}}]",
            early
        ))
        .start();
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(impatient.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let head = format!("POST /upload/x HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n5\r\nabcde\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut got = String::new();
        let _ = stream.read_to_string(&mut got);
        assert!(got.starts_with("HTTP/1.1 413") && got.contains("too much"), "{framing}: {got}");
    }
    assert_eq!(whole_bodies.load(Ordering::SeqCst), 0);
    // A client that leaves in the middle: the service sees no whole request.
    let before = upload.seen().len();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"PUT /upload/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
    drop(stream);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(upload.seen().len(), before);
    assert_eq!(server.client().post("/upload/y", "well").unwrap().text(), "well");
}

/// A service that answers as soon as the header is there; how many chunked bodies it then saw to their end.
fn early_answers() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, whole) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = whole.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let count = count.clone();
            std::thread::spawn(move || {
                let mut got = Vec::new();
                let mut part = [0; 4096];
                while !got.windows(4).any(|four| four == b"\r\n\r\n") {
                    let Ok(read) = stream.read(&mut part) else { return };
                    got.extend_from_slice(&part[..read]);
                }
                write(&mut stream, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo ");
                std::thread::sleep(Duration::from_millis(100));
                write(&mut stream, "much");
                let _ = stream.read_to_end(&mut got);
                count.fetch_add(usize::from(got.ends_with(b"\r\n0\r\n\r\n")), Ordering::SeqCst);
            });
        }
    });
    (address, whole)
}

#[test]
fn what_goes_wrong_is_said_or_seen() {
    let service = Service::start(script);
    let server = start(&service, "");
    let timed_out = server.client().get("/docs/nothing");
    timed_out.must_be(504, "upstream_timeout", "");
    must_still_work(&server);
    for path in ["/docs/rubbish", "/docs/switch"] {
        server.client().get(path).must_be(504, "upstream_timeout", "got the request");
        must_still_work(&server);
    }
    // A body that was cut off must not look whole.
    let cut = get(&server, "/docs/cut");
    assert!(cut.contains("one") && !cut.contains("0\r\n\r\n"), "{cut}");
    let short = get(&server, "/docs/short");
    assert!(short.contains("Content-Length: 100") || short.contains("content-length: 100"), "{short}");
    must_still_work(&server);
    drop(service);
    std::thread::sleep(Duration::from_millis(50));
    let mut client = Client::connect(server.address);
    // The pooled connection may still live: the service's threads do.
    let gone = client.get("/docs/page");
    assert!(matches!(gone.status, 200 | 502), "{}", gone.status);
    server.must_be_well();
}

trait Executed {
    fn must_be_executed_text(&self);
}

impl Executed for crate::support::Response {
    /// The service echoes the body as text.
    fn must_be_executed_text(&self) {
        assert_eq!(self.json()["result"]["body"], json!("{}"), "{}", self.text());
    }
}
