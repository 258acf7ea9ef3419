//! Traces, as a collector gets them.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use openexec::registry::{Ended, Registry};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;

use crate::network::Authority;
use crate::reload::{APPLIED, REFUSED, reload};
use crate::service::{After, Seen, Service, answer, json};
use crate::support::{Client, PATIENCE, Response, Server, Setup, effect, metric, request};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const EXPORTED: &str = r#"openexec_trace_spans_total{result="exported"}"#;
const DROPPED: &str = r#"openexec_trace_spans_total{result="dropped"}"#;
const FAILED: &str = r#"openexec_trace_spans_total{result="failed"}"#;

/// One that takes everything.
fn collector() -> Service {
    Service::start(|_, stream| answer(stream, "200 OK", "Content-Type: application/x-protobuf\r\n", ""))
}

/// What it got, in OpenTelemetry's own messages.
fn spans(collector: &Service) -> Vec<Span> {
    let exports = collector.seen().iter().map(decoded).collect::<Vec<_>>();
    let scopes = exports.into_iter().flat_map(|export| export.resource_spans).flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn decoded(seen: &Seen) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(&seen.body[..]).unwrap()
}

/// Waits until this many came, and no more.
fn await_spans(collector: &Service, count: usize) -> Vec<Span> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = spans(collector);
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:?}");
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn await_metric(server: &Server, line: &str, least: f64) {
    let deadline = Instant::now() + PATIENCE;
    while metric(server.admin, line) < least {
        assert!(Instant::now() < deadline, "{line} stays at {}", metric(server.admin, line));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let first = found.next().unwrap_or_else(|| panic!("no {name} in {spans:?}"));
    assert!(found.next().is_none(), "{name} twice");
    first
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
    Some(match value {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        Any::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    })
}

fn hex_of(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// A request with these fields in its header.
fn execute(server: &Server, fields: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!(
        "POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    );
    server.client().send(format!("{head}{fields}\r\n{body}")).unwrap()
}

fn traceparent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

fn with_service(service: &Service) -> String {
    format!(
        "upstreams: {{mail: {{addresses: ['http://{}']}}}}\n\
         actions: {{echo: {{builtin: echo}}, mail.send: {{upstream: mail, path: /send}}}}\n\
         passthrough: [{{upstream: mail, methods: [GET], path: /docs}}]\n",
        service.address
    )
}

fn traced(setup: Setup, collector: &Service) -> Setup {
    setup.with("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address))
}

fn service() -> Service {
    Service::start(|_, stream| json(stream, "200 OK", r#"{"secret_result": 1}"#))
}

#[test]
fn a_trace_goes_from_the_client_through_the_gate_to_the_service() {
    let (collector, service) = (collector(), service());
    let server = traced(Setup::demo(), &collector).file(&with_service(&service)).start();
    let body = request("mail.send", &json!({"to": "payload-that-is-private"}), "nonce-that-is-private");
    let fields =
        traceparent("01") + "tracestate: rojo=00f067aa0ba902b7,congo=t61\r\nX-Token: header-that-is-private\r\n";
    let answer = execute(&server, &fields, &body);
    answer.must_be_executed(false);
    let spans = await_spans(&collector, 5);
    for span in &spans {
        assert_eq!(hex_of(&span.trace_id), TRACE);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
        assert_eq!((span.flags & 0xff, span.status.as_ref()), (1, None), "{span:?}");
    }
    let root = named(&spans, "POST /execute");
    assert_eq!((root.kind(), hex_of(&root.parent_span_id).as_str()), (SpanKind::Server, PARENT));
    let id = answer.header("openexec-execution-id");
    let wanted = [
        ("http.request.method", Some("POST")),
        ("http.route", Some("/execute")),
        ("http.response.status_code", Some("200")),
        ("openexec.action", Some("mail.send")),
        ("openexec.execution_id", id),
        ("openexec.verdict", Some("executed")),
        ("openexec.replayed", Some("false")),
        ("openexec.reason", None),
    ];
    for (name, value) in wanted {
        assert_eq!(attribute(root, name).as_deref(), value, "{name}");
    }
    for name in ["upstream.connect", "ledger.claim", "upstream", "ledger.record"] {
        let span = named(&spans, name);
        assert_eq!(span.parent_span_id, root.span_id, "{name}");
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano, "{name}");
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{name}");
        let kind = if name == "upstream" { SpanKind::Client } else { SpanKind::Internal };
        assert_eq!(span.kind(), kind, "{name}");
    }
    let client = named(&spans, "upstream");
    assert_eq!(attribute(client, "http.response.status_code").as_deref(), Some("200"));
    let seen = service.seen()[0].clone();
    let span_id = hex_of(&client.span_id);
    assert_eq!(seen.header("traceparent").unwrap(), format!("00-{TRACE}-{span_id}-01"));
    assert_eq!(seen.header("tracestate").unwrap(), "rojo=00f067aa0ba902b7,congo=t61");

    // A retry is a trace of its own, and no request to the service or the ledger.
    execute(&server, "", &body).must_be_executed(true);
    let spans = await_spans(&collector, 6);
    let retry = &spans[5];
    assert_eq!(attribute(retry, "openexec.verdict").as_deref(), Some("replayed"));
    assert_eq!(attribute(retry, "openexec.replayed").as_deref(), Some("true"));
    assert!(retry.parent_span_id.is_empty() && hex_of(&retry.trace_id) != TRACE);

    let exports = collector.seen();
    for export in exports.iter() {
        assert_eq!(export.line, "POST /v1/traces HTTP/1.1");
        assert_eq!(export.header("content-type"), Some("application/x-protobuf"));
        let text = String::from_utf8_lossy(&export.body);
        for private in ["private", "secret_result", "congo", "rojo"] {
            assert!(!text.contains(private), "{private}: {text}");
        }
        let resource = decoded(export).resource_spans[0].resource.clone().unwrap();
        let names: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        assert_eq!(names, ["service.name", "service.version", "service.instance.id"]);
    }
    server.await_metric(EXPORTED, 6.0);
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn a_refusal_is_a_span_with_its_reason() {
    let collector = collector();
    let server = traced(Setup::demo(), &collector).start();
    execute(&server, "", &request("nobody.knows.private", &json!({}), "n")).must_be(400, "unknown_action", "");
    let spans = await_spans(&collector, 2);
    let root = named(&spans, "POST /execute");
    assert_eq!(attribute(root, "openexec.reason").as_deref(), Some("unknown_action"));
    assert_eq!(attribute(root, "http.response.status_code").as_deref(), Some("400"));
    assert_eq!(attribute(root, "openexec.action"), None, "not a registered one");
    named(&spans, "ledger.look_up");
    // One that was not even read.
    let response = server.client().send("POST /execute HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    response.must_be(415, "unsupported_media_type", "");
    let spans = await_spans(&collector, 3);
    assert_eq!(attribute(&spans[2], "openexec.reason").as_deref(), Some("unsupported_media_type"));
    assert!(!spans.iter().any(|span| format!("{span:?}").contains("private")), "{spans:?}");
    execute(&server, "", &request("echo", &json!({}), "n")).must_be_executed(false);
    let spans = await_spans(&collector, 5);
    assert_eq!(attribute(&spans[3], "openexec.verdict").as_deref(), Some("executed"));
}

#[test]
fn what_went_wrong_at_the_service_is_an_error_in_the_trace() {
    let collector = collector();
    let service = Service::start(|seen, stream| match seen.body.len() {
        2 => After::Reset,
        _ => json(stream, "500 Internal Server Error", "{}"),
    });
    let server = traced(Setup::demo(), &collector).file(&with_service(&service)).start();
    execute(&server, "", &request("mail.send", &json!({}), "n")).must_be(504, "outcome_unknown", "");
    let spans = await_spans(&collector, 5);
    let status = |name| named(&spans, name).status.clone().map(|status| (status.code, status.message));
    assert_eq!(status("upstream"), Some((2, "outcome_unknown".to_owned())));
    assert_eq!(status("POST /execute"), Some((2, String::new())));
    assert_eq!(status("ledger.record"), None);
    assert_eq!(attribute(named(&spans, "POST /execute"), "openexec.reason").as_deref(), Some("outcome_unknown"));
    // An answer that is an error is one, and a verdict all the same.
    assert_eq!(execute(&server, "", &request("mail.send", &json!({"a": 1}), "m")).status, 500);
    let spans = await_spans(&collector, 10).split_off(5);
    let upstream = named(&spans, "upstream");
    assert_eq!(attribute(upstream, "http.response.status_code").as_deref(), Some("500"));
    assert_eq!(upstream.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!(attribute(named(&spans, "POST /execute"), "openexec.verdict").as_deref(), Some("executed"));
}

#[test]
fn an_execution_whose_client_left_is_in_its_trace() {
    let collector = collector();
    let slow = effect(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ended::Unknown
    });
    let server = traced(Setup::demo(), &collector).registry(Registry::default().with("slow", slow)).start();
    let body = request("slow", &json!({}), "n");
    let length = body.len();
    let mut client = server.client();
    let head = "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length";
    client.stream.write_all(format!("{head}: {length}\r\n\r\n{body}").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(client);
    let spans = await_spans(&collector, 5);
    assert_eq!(attribute(named(&spans, "POST /execute"), "openexec.reason").as_deref(), Some("outcome_unknown"));
}

#[test]
fn a_parent_that_is_not_sampled_is_not_exported_and_goes_on() {
    let (collector, service) = (collector(), service());
    let server = traced(Setup::demo(), &collector).file(&with_service(&service)).start();
    execute(&server, &traceparent("00"), &request("mail.send", &json!({}), "1")).must_be_executed(false);
    let sent = service.seen()[0].header("traceparent").unwrap().to_owned();
    assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00") && !sent.contains(PARENT), "{sent}");
    // The next one is the first that comes.
    execute(&server, &traceparent("01"), &request("mail.send", &json!({}), "2")).must_be_executed(false);
    await_spans(&collector, 5);
}

#[test]
fn a_sampler_decides_about_traces_that_nobody_decided_about() {
    let (collector, service) = (collector(), service());
    let setup = traced(Setup::demo(), &collector).file(&with_service(&service));
    let server = setup.with("OTEL_TRACES_SAMPLER", "parentbased_always_off").start();
    execute(&server, "", &request("mail.send", &json!({}), "1")).must_be_executed(false);
    assert!(service.seen()[0].header("traceparent").unwrap().ends_with("-00"));
    execute(&server, &traceparent("01"), &request("mail.send", &json!({}), "2")).must_be_executed(false);
    let spans = await_spans(&collector, 5);
    assert!(spans.iter().all(|span| hex_of(&span.trace_id) == TRACE));
}

#[test]
fn what_is_let_through_is_in_the_trace_too() {
    let (collector, service) = (collector(), service());
    let server = traced(Setup::demo(), &collector).file(&with_service(&service)).start();
    let fields = traceparent("01");
    let request = format!("GET /docs/private?private=1 HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert_eq!(server.client().send(request).unwrap().status, 200);
    let spans = await_spans(&collector, 2);
    let (root, client) = (named(&spans, "GET /docs"), named(&spans, "upstream"));
    assert_eq!((hex_of(&root.parent_span_id).as_str(), &client.parent_span_id), (PARENT, &root.span_id));
    let span_id = hex_of(&client.span_id);
    assert_eq!(service.seen()[0].header("traceparent").unwrap(), format!("00-{TRACE}-{span_id}-01"));
    assert!(!format!("{spans:?}").contains("private"), "{spans:?}");
}

#[test]
fn without_an_endpoint_nothing_is_sent_and_a_trace_goes_on_all_the_same() {
    let (collector, service) = (collector(), service());
    let endpoint = format!("http://{}", collector.address);
    let disabled = Setup::demo().with("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).with("OTEL_SDK_DISABLED", "true");
    for (nonce, setup) in
        [Setup::demo(), Setup::demo().with("OTEL_EXPORTER_OTLP_ENDPOINT", ""), disabled].into_iter().enumerate()
    {
        let server = setup.file(&with_service(&service)).start();
        let fields = traceparent("01") + "tracestate: a=1\r\n";
        execute(&server, &fields, &request("mail.send", &json!({}), &nonce.to_string())).must_be_executed(false);
        let seen = service.seen()[nonce].clone();
        let sent = seen.header("traceparent").unwrap();
        assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-01") && !sent.contains(PARENT), "{sent}");
        assert_eq!(seen.header("tracestate"), None);
        for line in [EXPORTED, DROPPED, FAILED] {
            assert_eq!(server.metric(line), 0.0);
        }
        server.stop();
    }
    assert_eq!(collector.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// Executions go on whatever the collector does, spans beyond the bound are counted, and the stop is bounded.
#[track_caller]
fn costs_nothing(collector: &Service, setup: Setup) {
    let server = traced(setup, collector).with("OTEL_BSP_MAX_QUEUE_SIZE", "16").with("OPENEXEC_DB_URL", "memory:");
    let server = server.start();
    let mut client = server.client();
    let deadline = Instant::now() + PATIENCE;
    let mut executed = 0;
    while server.metric(DROPPED) == 0.0 || executed < 50 {
        client.execute(&request("echo", &json!({}), &format!("n{executed}"))).must_be_executed(false);
        executed += 1;
        assert!(Instant::now() < deadline, "nothing is dropped");
    }
    assert_eq!(server.metric(EXPORTED), 0.0);
    server.must_be_well();
    let stopping = Instant::now();
    server.stop();
    // One second for the last export, and room to spare.
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
}

#[test]
fn a_collector_that_hangs_costs_executions_nothing() {
    costs_nothing(&Service::start(|_, _| After::Hold), Setup::demo());
}

#[test]
fn a_collector_that_fails_costs_executions_nothing() {
    let endless = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000000000\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        After::Close
    };
    costs_nothing(&Service::start(move |_, stream| endless(stream)), Setup::demo());
    costs_nothing(&Service::start(|_, _| After::Reset), Setup::demo());
}

#[test]
fn a_collector_that_is_not_there_costs_executions_nothing() {
    let address = crate::support::free();
    let setup = Setup::demo().with("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("http://{address}/v1/traces"));
    costs_nothing(&collector(), setup);
}

#[test]
fn what_the_collector_refuses_has_failed_and_what_it_puts_off_is_sent_again() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let collector = Service::start(move |_, stream| {
        let status = match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => "400 Bad Request",
            1 => "503 Service Unavailable",
            _ => "200 OK",
        };
        answer(stream, status, "", "")
    });
    let server = traced(Setup::demo(), &collector).start();
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    await_metric(&server, FAILED, 2.0);
    server.execute(&request("echo", &json!({}), "2")).must_be_executed(false);
    await_metric(&server, EXPORTED, 2.0);
    assert_eq!((server.metric(FAILED), server.metric(DROPPED)), (2.0, 0.0));
    let seen = collector.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[1].body, seen[2].body);
}

#[test]
fn a_stop_exports_what_is_left() {
    let collector = collector();
    let server = traced(Setup::demo(), &collector).start();
    for nonce in 0..10 {
        server.execute(&request("echo", &json!({}), &nonce.to_string())).must_be_executed(false);
    }
    server.stop();
    assert_eq!(spans(&collector).len(), 20);
}

#[test]
fn the_file_says_where_traces_go_and_with_which_headers() {
    let collector = collector();
    let setup = Setup::demo();
    let token = setup.directory.path().join("token");
    std::fs::write(&token, "one\n").unwrap();
    let file = format!(
        "telemetry:\n  traces:\n    endpoint: http://{}/otlp\n    service_name: gate\n    sample: 1\n    headers:\n      \
         X-Tenant: ours\n      Authorization: {{file: {}, prefix: 'Bearer '}}\n",
        collector.address,
        token.display()
    );
    let server = setup.file(&file).with("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=a%20b").start();
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    await_spans(&collector, 2);
    let seen = collector.seen()[0].clone();
    assert_eq!(seen.line, "POST /otlp/v1/traces HTTP/1.1");
    assert_eq!((seen.header("x-tenant"), seen.header("authorization")), (Some("ours"), Some("Bearer one")));
    let resource = decoded(&seen).resource_spans[0].resource.clone().unwrap();
    let names: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(names, ["deployment.environment", "service.name", "service.version", "service.instance.id"]);
    assert!(format!("{resource:?}").contains("\"gate\"") && format!("{resource:?}").contains("\"a b\""));
}

#[test]
fn a_collector_must_have_a_good_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let start = |of: &Authority| {
        let port = of.serve("localhost", 10, None).port();
        let tls = format!("tls: {{ca: {}}}", ours.path("ca.pem"));
        Setup::demo().file(&format!("telemetry: {{traces: {{endpoint: 'https://localhost:{port}', {tls}}}}}")).start()
    };
    let server = start(&theirs);
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    await_metric(&server, r#"openexec_upstream_connections_total{how="failed",upstream="(collector)"}"#, 1.0);
    assert_eq!(server.metric(EXPORTED), 0.0);
    server.must_be_well();
    let server = start(&ours);
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    await_metric(&server, EXPORTED, 2.0);
}

#[test]
fn a_renewed_token_is_used_and_another_collector_needs_a_restart() {
    let collector = collector();
    let setup = Setup::demo();
    let token = setup.directory.path().join("token");
    std::fs::write(&token, "one").unwrap();
    let traces = format!("headers: {{Authorization: {{file: {}}}}}", token.display());
    let file = |address| format!("telemetry: {{traces: {{endpoint: 'http://{address}', {traces}}}}}\n");
    let setup = setup.file(&file(collector.address.to_string()));
    let server = setup.spawn();
    let mut client = Client::connect(server.address);
    client.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    await_spans(&collector, 2);
    std::fs::write(&token, "two").unwrap();
    reload(&server, APPLIED);
    client.execute(&request("echo", &json!({}), "2")).must_be_executed(false);
    await_spans(&collector, 4);
    let sent: Vec<_> = collector.seen().iter().map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [Some("one".to_owned()), Some("two".to_owned())]);
    let setup = setup.file(&file("127.0.0.1:1".to_owned()));
    setup.config_path();
    reload(&server, REFUSED);
    client.execute(&request("echo", &json!({}), "3")).must_be_executed(false);
    await_spans(&collector, 6);
}

#[test]
fn what_is_wrong_with_telemetry_is_listed() {
    let file = "telemetry: {traces: {endpoint: 'http://user:secret@a', sample: 2, timeout: 0s, queue_spans: 1, \
                headers: {Host: a, X-A: \"\\n\"}}}";
    let problems = |setup: &Setup| {
        let loaded = openexec::config::Config::load(setup.config_path().as_deref(), &setup.environment);
        loaded.unwrap_err().to_string()
    };
    let text = problems(&Setup::demo().file(file));
    for problem in [
        "telemetry.traces.endpoint must be http://host:port or https://host:port",
        "telemetry.traces.sample must be between 0 and 1",
        "telemetry.traces.timeout must be between",
        "telemetry.traces.queue_spans must be between",
        "telemetry.traces.headers.Host is set by OpenExec itself",
        "telemetry.traces.headers.X-A is no header that can be sent",
    ] {
        assert!(text.contains(problem), "{problem} is not in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    let setup = Setup::demo()
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317")
        .with("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .with("OTEL_EXPORTER_OTLP_HEADERS", "authorization")
        .with("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")
        .with("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .with("OTEL_TRACES_SAMPLER_ARG", "1.5")
        .with("OTEL_RESOURCE_ATTRIBUTES", "x");
    let text = problems(&setup);
    for name in [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_TRACES_SAMPLER_ARG",
        "OTEL_RESOURCE_ATTRIBUTES",
    ] {
        assert!(text.contains(&format!("{name} must be")), "{name} is not in {text}");
    }
    assert!(Setup::demo().with("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").start().metric(EXPORTED) == 0.0, "not asked for");
}
