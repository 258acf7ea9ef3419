//! Actions that a service does, and every way in which it or the network can fail.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::service::{After, Seen, Service, answer, json as json_answer, write};
use crate::support::{Approval, PATIENCE, Response, Server, Setup, approved, request};

/// What the service does is in the payload's `do`.
fn script(seen: &Seen, stream: &mut TcpStream) -> After {
    let ok = r#"{"sent":true}"#;
    match seen.asked().as_str() {
        "nothing" => After::Hold,
        "half a header" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Le");
            After::Hold
        }
        "half a body" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
            After::Hold
        }
        "reset" => After::Reset,
        "close" => After::Close,
        "half a body, and close" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
            After::Close
        }
        "half a chunk, and close" => {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
            After::Close
        }
        "no last chunk" => {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
            After::Close
        }
        "rubbish" => {
            write(stream, "220 mail.example.com ESMTP\r\n\r\n");
            After::Close
        }
        "rubbish as chunks" => {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n");
            After::Close
        }
        "two lengths" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x");
            After::Close
        }
        "a header without end" => {
            write(stream, "HTTP/1.1 200 OK\r\n");
            for _ in 0..2_000 {
                write(stream, format!("X-Filler: {}\r\n", "x".repeat(500)));
            }
            After::Close
        }
        "many headers" => {
            write(stream, format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(500)));
            After::Close
        }
        "continue without end" => loop {
            if stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return After::Close;
            }
            std::thread::sleep(Duration::from_millis(1));
        },
        "switch" => {
            write(stream, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n");
            After::Hold
        }
        "drip" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            loop {
                if stream.write_all(b"x").is_err() {
                    return After::Close;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "early answers" => {
            write(stream, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            json_answer(stream, "200 OK", ok)
        }
        "202" => json_answer(stream, "202 Accepted", ok),
        "204" => {
            write(stream, "HTTP/1.1 204 No Content\r\n\r\n");
            After::Keep
        }
        "205" => answer(stream, "205 Reset Content", "", ""),
        "302" => answer(stream, "302 Found", "Location: http://elsewhere.example/\r\n", ""),
        "404" => json_answer(stream, "404 Not Found", r#"{"error":"no such account"}"#),
        "500" => json_answer(stream, "500 Internal Server Error", r#"{"error":"after the effect"}"#),
        "503" => answer(stream, "503 Service Unavailable", "", "mesh"),
        "invalid JSON" => json_answer(stream, "200 OK", r#"{"a":1,"a":2}"#),
        "text" => answer(stream, "200 OK", "Content-Type: text/plain\r\n", "grüße"),
        "bytes" => answer(stream, "200 OK", "Content-Type: image/png\r\n", [0xff, 0x00, 0x80]),
        "encoded" => answer(stream, "200 OK", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "{}"),
        "no type" => answer(stream, "200 OK", "", "{}"),
        "chunks" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
            write(stream, "6\r\n{\"a\":1\r\n");
            write(stream, "1\r\n}\r\n0\r\nX-Trailer: y\r\n\r\n");
            After::Keep
        }
        "until the end" => {
            write(stream, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\":1}");
            After::Close
        }
        "2 MiB" => answer(stream, "200 OK", "Content-Type: application/json\r\n", vec![b' '; 2 << 20]),
        "17 MiB" => answer(stream, "200 OK", "Content-Type: application/json\r\n", vec![b' '; 17 << 20]),
        "a body without end" => {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).is_ok() {}
            After::Close
        }
        "imitate" => answer(
            stream,
            "200 OK",
            "Content-Type: application/json\r\nOpenExec-Receipt: forged\r\nOpenExec-Replayed: true\r\n\
             OpenExec-Execution-Id: forged\r\nSet-Cookie: a=b\r\nX-Request-Id: r-1\r\n",
            ok,
        ),
        "more than it says" => {
            write(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"x\":1}",
            );
            After::Keep
        }
        "close when idle" => {
            json_answer(stream, "200 OK", ok);
            After::Close
        }
        "slowly" => {
            std::thread::sleep(Duration::from_millis(400));
            json_answer(stream, "200 OK", ok)
        }
        // A string of so many bytes, with its quotation marks.
        other => match other.strip_prefix("exactly ").and_then(|count| count.parse::<usize>().ok()) {
            Some(count) => json_answer(stream, "200 OK", &format!("\"{}\"", "x".repeat(count - 2))),
            None => json_answer(stream, "200 OK", ok),
        },
    }
}

pub fn config(address: SocketAddr, action: &str) -> String {
    format!(
        "upstreams: {{service: {{addresses: [\"http://{address}\"]}}}}
actions:
  echo: {{builtin: echo}}
  send: {{upstream: service, path: /send, timeout: 500ms{action}}}"
    )
}

fn gate(service: &Service, action: &str) -> Server {
    Setup::demo().file(&config(service.address, action)).start()
}

fn send(server: &Server, what: &str) -> Response {
    server.execute(&request("send", &json!({"do": what}), what))
}

/// Whatever happened: the next one works.
#[track_caller]
fn must_still_work(server: &Server) {
    let nonce = uuid::Uuid::new_v4().to_string();
    let answer = server.execute(&request("send", &json!({"do": "ok"}), &nonce)).must_be_executed(false);
    assert_eq!(answer["result"], json!({"sent": true}));
}

#[test]
fn what_was_approved_is_what_is_sent_and_nothing_else() {
    let service = Service::start(script);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret\n").unwrap();
    let action = format!(
        ", headers: {{Authorization: {{file: \"{}\", prefix: \"Bearer \"}}, X-Team: ops}}",
        token.path().display()
    );
    let server = Setup::clawshield().file(&config(service.address, &action)).start();
    let body = approved("send", &json!({"do": "202", "b": "ä", "a": 1.0}), "n", &Approval::default());
    // Not as it was typed: whitespace, order and headers of the client's stay outside.
    let typed = body.replace(r#""payload":{"#, r#""payload" : {  "#);
    let response = server.client().send(format!(
        "POST /execute HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\nIdempotency-Key: forged\r\n\
         OpenExec-Tenant: other\r\nOpenExec_Tenant: other\r\nAuthorization: Bearer client\r\nX-Anything: x\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nContent-Length: {}\r\n\r\n{typed}",
        typed.len()
    ));
    let response = response.unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.header("openexec-upstream-status"), Some("202"));
    assert_eq!(response.header("openexec-replayed"), Some("false"));
    let id = response.json()["id"].as_str().unwrap().to_owned();
    let seen = service.seen()[0].clone();
    assert_eq!(seen.line, "POST /send HTTP/1.1");
    assert_eq!(String::from_utf8(seen.body.clone()).unwrap(), r#"{"a":1.0,"b":"\u00e4","do":"202"}"#);
    let traceparent = seen.header("traceparent").unwrap();
    assert!(traceparent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && traceparent.ends_with("-01"));
    assert!(!traceparent.contains("00f067aa0ba902b7"), "a span of our own");
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "idempotency-key",
            "openexec-approval-id",
            "openexec-execution-id",
            "openexec-tenant",
            "traceparent",
            "user-agent",
            "x-team"
        ]
    );
    for (name, value) in [
        ("authorization", "Bearer s3cret"),
        ("host", &service.address.to_string()),
        ("idempotency-key", &id),
        ("openexec-execution-id", &id),
        ("openexec-approval-id", "approval-1"),
        ("openexec-tenant", "tenant-001"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    let again = server.execute(&body);
    assert_eq!((again.status, &again.body), (202, &response.body));
    assert_eq!(again.header("openexec-upstream-status"), Some("202"));
    assert_eq!(again.header("openexec-replayed"), Some("true"));
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn a_body_may_be_the_whole_request() {
    let service = Service::start(script);
    let server = gate(&service, ", body: request, method: PUT");
    server.execute(&request("send", &json!({"x": 1}), "n")).must_be_executed(false);
    let seen = service.seen()[0].clone();
    assert_eq!(seen.line, "PUT /send HTTP/1.1");
    assert_eq!(String::from_utf8(seen.body).unwrap(), r#"{"action":"send","payload":{"x":1}}"#);
}

#[test]
fn what_cannot_be_reached_costs_nothing() {
    let service = Service::start(script);
    let address = service.address;
    drop(service);
    std::thread::sleep(Duration::from_millis(50));
    let server = Setup::clawshield().file(&config(address, "")).start();
    let body = approved("send", &json!({"do": "ok"}), "n", &Approval::default());
    for _ in 0..2 {
        let refused = server.execute(&body);
        refused.must_be(502, "upstream_unreachable", "nothing was sent or stored");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    let _service = Service::start_at(&address.to_string(), script);
    server.execute(&body).must_be_executed(false);
    server.execute(&body).must_be_executed(true);
}

#[test]
fn when_it_cannot_be_known_it_is_said_and_never_sent_again() {
    let service = Service::start(script);
    let server = gate(&service, "");
    for what in [
        "nothing",
        "half a header",
        "half a body",
        "reset",
        "close",
        "half a body, and close",
        "half a chunk, and close",
        "no last chunk",
        "rubbish",
        "rubbish as chunks",
        "two lengths",
        "a header without end",
        "many headers",
        "continue without end",
        "switch",
        "drip",
    ] {
        // On a connection that was used before, too: nobody sends it again on another.
        must_still_work(&server);
        let first = send(&server, what);
        first.must_be(504, "outcome_unknown", "cannot be known");
        let again = send(&server, what);
        again.must_be(409, "outcome_unknown", "cannot be known");
        assert_eq!(first.json()["execution_id"], again.json()["execution_id"], "{what}");
        assert_eq!(service.times(what), 1, "{what}");
        must_still_work(&server);
    }
    server.must_be_well();
}

#[test]
fn an_answer_is_an_answer() {
    let service = Service::start(script);
    let server = gate(&service, "");
    let text = |kind: &str, body: &str| json!({"content_type": kind, "body": body});
    for (what, status, upstream_status, result) in [
        ("early answers", 200, "200", json!({"sent": true})),
        ("204", 200, "204", json!({"content_type": null, "body": ""})),
        ("205", 200, "205", json!({"content_type": null, "body": ""})),
        ("302", 200, "302", json!({"content_type": null, "body": ""})),
        ("404", 404, "404", json!({"error": "no such account"})),
        ("500", 500, "500", json!({"error": "after the effect"})),
        ("503", 503, "503", json!({"content_type": null, "body": "mesh"})),
        ("invalid JSON", 200, "200", text("application/json", r#"{"a":1,"a":2}"#)),
        ("text", 200, "200", text("text/plain", "grüße")),
        ("bytes", 200, "200", json!({"content_type": "image/png", "body_base64": "/wCA"})),
        ("encoded", 200, "200", json!({"content_type": "application/json", "body_base64": "e30="})),
        ("no type", 200, "200", json!({"content_type": null, "body": "{}"})),
        ("chunks", 200, "200", json!({"a": 1})),
        ("until the end", 200, "200", json!({"a": 1})),
        ("more than it says", 200, "200", json!({})),
        ("close when idle", 200, "200", json!({"sent": true})),
    ] {
        let first = send(&server, what);
        assert_eq!(first.status, status, "{what}: {}", first.text());
        assert_eq!(first.header("openexec-upstream-status"), Some(upstream_status), "{what}");
        let answer = first.json();
        assert_eq!(answer["result"], result, "{what}");
        assert_eq!(first.header("location"), None);
        assert_eq!(first.header("openexec-receipt"), answer["receipt"].as_str(), "{what}");
        let again = send(&server, what);
        assert_eq!((again.status, &again.body), (status, &first.body), "{what}");
        assert_eq!(again.header("openexec-replayed"), Some("true"));
        assert_eq!(service.times(what), 1, "{what}");
        must_still_work(&server);
    }
}

#[test]
fn what_is_too_large_to_keep_is_described() {
    let service = Service::start(script);
    let server = Setup::demo().file(&config(service.address, "").replace("500ms", "20s")).start();
    let sha256: String = Sha256::digest(vec![b' '; 2 << 20]).iter().map(|b| format!("{b:02x}")).collect();
    let read = 16 << 20;
    for (what, result) in [
        ("2 MiB", json!({"truncated": true, "bytes": 2 << 20, "sha256": sha256})),
        ("17 MiB", json!({"truncated": true, "bytes": read})),
        ("a body without end", json!({"truncated": true, "bytes": read})),
    ] {
        let first = send(&server, what).must_be_executed(false);
        assert_eq!(first["result"], result, "{what}");
        assert_eq!(send(&server, what).must_be_executed(true), first);
        assert_eq!(service.times(what), 1);
        must_still_work(&server);
    }
}

#[test]
fn a_result_is_kept_and_read_to_its_last_byte() {
    let service = Service::start(script);
    let server = gate(&service, ", result: {kept_bytes: 1000, read_bytes: 2000}");
    let hash = |count: usize| {
        let body = format!("\"{}\"", "x".repeat(count - 2));
        Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (count, result) in [
        (1_000, json!("x".repeat(998))),
        (1_001, json!({"truncated": true, "bytes": 1_001, "sha256": hash(1_001)})),
        (2_000, json!({"truncated": true, "bytes": 2_000, "sha256": hash(2_000)})),
        (2_001, json!({"truncated": true, "bytes": 2_000})),
    ] {
        let what = format!("exactly {count}");
        let first = send(&server, &what).must_be_executed(false);
        assert_eq!(first["result"], result, "{count}");
        assert_eq!(send(&server, &what).must_be_executed(true), first, "{count}");
        must_still_work(&server);
    }
}

/// What other proxies call a retry: the service may have acted before it failed.
#[test]
fn another_address_is_not_asked_what_the_first_was() {
    let services = [Service::start(script), Service::start(script)];
    let [first, second] = [services[0].address, services[1].address];
    let file = config(first, "").replace("addresses: [", &format!("addresses: [\"http://{second}\", "));
    let server = Setup::demo().file(&file).start();
    for what in ["reset", "close", "nothing", "half a header", "half a body, and close"] {
        send(&server, what).must_be(504, "outcome_unknown", "");
        assert_eq!(services.iter().map(|service| service.times(what)).sum::<usize>(), 1, "{what}");
        must_still_work(&server);
    }
}

#[test]
fn headers_pass_by_name_only() {
    let service = Service::start(script);
    let server = gate(&service, ", response_headers: [x-request-id, x-other]");
    let first = send(&server, "imitate");
    let id = first.must_be_executed(false)["id"].clone();
    assert_ne!(id, "forged");
    assert_eq!(first.header("x-request-id"), Some("r-1"));
    assert_eq!(first.header("set-cookie"), None);
    let again = send(&server, "imitate");
    again.must_be_executed(true);
    assert_eq!(again.header("x-request-id"), Some("r-1"), "stored with the result");
    must_still_work(&server);
}

#[test]
fn some_statuses_say_that_nothing_happened() {
    let service = Service::start(script);
    let file = config(service.address, ", not_executed_on: [503]");
    let server = Setup::clawshield().file(&file).start();
    let body = approved("send", &json!({"do": "503"}), "n", &Approval::default());
    let first = server.execute(&body);
    first.must_be(503, "not_executed", "certain");
    let again = server.execute(&body);
    again.must_be(503, "not_executed", "certain");
    assert_eq!(first.json(), again.json());
    let other = approved("send", &json!({"do": "503"}), "m", &Approval::default());
    server.execute(&other).must_be(403, "approval_already_used", "");
    assert_eq!(service.times("503"), 1);
    let fresh = Approval { approval_id: "approval-2", ..Approval::default() };
    server.execute(&approved("send", &json!({"do": "ok"}), "o", &fresh)).must_be_executed(false);
}

#[test]
fn a_payload_must_fit_its_schema() {
    let service = Service::start(script);
    let schema = ", schema: {type: object, required: [to, amount], additionalProperties: false, properties: {to: \
                  {type: string, pattern: '^[a-z]+$'}, amount: {type: integer, maximum: 100}}}";
    let server = Setup::clawshield().file(&config(service.address, schema)).start();
    for (payload, place) in [
        (json!({"to": "ada"}), "the payload"),
        (json!({"to": "ada", "amount": "secret-of-the-payload"}), "`/amount`"),
        (json!({"to": "ada", "amount": 101}), "`/amount`"),
        (json!({"to": "ADA-secret-of-the-payload", "amount": 1}), "`/to`"),
        (json!({"to": "ada", "amount": 1, "x": 1}), "the payload"),
    ] {
        let refused = server.execute(&approved("send", &payload, "n", &Approval::default()));
        refused.must_be(400, "invalid_payload", place);
        assert!(!refused.text().contains("secret-of-the-payload"), "{}", refused.text());
    }
    // However deep, by its JSON pointer (RFC 6901).
    let nested = ", schema: {properties: {lines: {items: {properties: {'a/b': {type: string}}}}}}";
    let nested = gate(&service, nested);
    let payload = json!({"do": "nested", "lines": [{"a/b": "good"}, {"a/b": 7_654_321}]});
    let refused = nested.execute(&request("send", &payload, "n"));
    refused.must_be(400, "invalid_payload", "`/lines/1/a~1b`");
    assert!(!refused.text().contains("7654321"), "{}", refused.text());
    assert_eq!(service.seen().len(), 0);
    // A number that JSON has, and that no schema can be asked about.
    let demo = gate(&service, schema);
    let too_large = request("send", &json!({"to": "ada", "amount": 1}), "n")
        .replace(r#""amount":1"#, &format!(r#""amount":{}"#, "9".repeat(400)));
    demo.execute(&too_large).must_be(400, "invalid_payload", "a number of the payload is too large");
    let huge = format!(r#"{{"to":"ada","amount":{}}}"#, "9".repeat(400));
    let huge = approved(
        "send",
        &serde_json::from_str::<Value>(r#"{"to":"ada","amount":1}"#).unwrap(),
        "n",
        &Approval::default(),
    )
    .replace(r#"{"amount":1,"to":"ada"}"#, &huge);
    assert_eq!(server.execute(&huge).status, 403, "the hash is another's");
    let good = json!({"to": "ada", "amount": 100});
    server.execute(&approved("send", &good, "n", &Approval::default())).must_be_executed(false);
    assert_eq!(service.seen().len(), 1);
}

/// An engine that goes back would not end within anybody's lifetime.
#[test]
fn a_payload_cannot_make_the_schemas_patterns_slow() {
    let service = Service::start(script);
    let schema = ", schema: {type: object, properties: {do: {type: string, pattern: '^(([a-z])+.)+[A-Z]([a-z])+$'}}}";
    let server = gate(&service, schema);
    let hostile = request("send", &json!({"do": "a".repeat(5_000)}), "n");
    server.execute(&hostile).must_be(400, "invalid_payload", "`/do`");
    server.execute(&request("send", &json!({"do": "abcDef"}), "n")).must_be_executed(false);
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn a_client_that_leaves_changes_nothing() {
    let service = Service::start(script);
    let setup = Setup::demo().file(&config(service.address, "").replace("500ms", "10s"));
    let server = setup.start();
    let asked_again = request("send", &json!({"do": "slowly"}), "asked again");
    let left_alone = request("send", &json!({"do": "slowly"}), "left alone");
    let leave = |body: &str, times: usize| {
        let mut client = server.client();
        let head = "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:";
        client.stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while service.times("slowly") < times {
            assert!(Instant::now() < deadline, "not sent");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    // While it runs, its retry waits for what comes of it.
    leave(&asked_again, 1);
    assert_eq!(server.execute(&asked_again).json()["result"], json!({"sent": true}));
    // Nobody asks for the other one before it is recorded, nor before the next start.
    leave(&left_alone, 2);
    server.await_metric(r#"openexec_executions_total{action="send",outcome="done"}"#, 2.0);
    must_still_work(&server);
    server.stop();
    let server = setup.start();
    for body in [&asked_again, &left_alone] {
        assert_eq!(server.execute(body).must_be_executed(true)["result"], json!({"sent": true}));
    }
    assert_eq!(service.times("slowly"), 2);
    must_still_work(&server);
}

#[test]
fn connections_are_used_again_and_not_when_they_are_old() {
    let service = Service::start(script);
    let server = gate(&service, "");
    let mut client = server.client();
    for nonce in 0..20 {
        client.execute(&request("send", &json!({"do": "ok"}), &nonce.to_string())).must_be_executed(false);
    }
    assert_eq!(service.connections.load(Ordering::SeqCst), 1);
    assert_eq!(server.metric(r#"openexec_upstream_connections_total{how="reused",upstream="service"}"#), 19.0);
    drop(server);

    let service = Service::start(script);
    let file = config(service.address, "").replace("]}}", "], reuse: false}}");
    let server = Setup::demo().file(&file).start();
    for nonce in 0..3 {
        server.execute(&request("send", &json!({"do": "ok"}), &nonce.to_string())).must_be_executed(false);
    }
    assert_eq!(service.connections.load(Ordering::SeqCst), 3);
    drop(server);

    let service = Service::start(script);
    let file = config(service.address, "").replace("]}}", "], idle_timeout: 50ms}}");
    let server = Setup::demo().file(&file).start();
    for nonce in 0..3 {
        server.execute(&request("send", &json!({"do": "ok"}), &nonce.to_string())).must_be_executed(false);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(service.connections.load(Ordering::SeqCst), 3);
}

#[test]
fn many_at_once_are_each_sent_once() {
    let service = Service::start(script);
    let server = Setup::demo().file(&config(service.address, "").replace("500ms", "10s")).start();
    let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (server, failures) = (&server, failures.clone());
            scope.spawn(move || {
                let mut connection = server.client();
                for at in 0..50 {
                    // Each nonce is sent by two clients.
                    let nonce = format!("{}-{at}", client / 2);
                    let response = connection.execute(&request("send", &json!({"do": nonce}), &nonce));
                    if response.status != 200 {
                        failures.lock().unwrap().push(response.text());
                    }
                }
            });
        }
    });
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new());
    let mut asked: Vec<String> = service.seen().iter().map(Seen::asked).collect();
    asked.sort();
    let all = asked.len();
    asked.dedup();
    assert_eq!((all, asked.len()), (400, 400));
}
