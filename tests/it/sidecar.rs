//! What a gate does for the pod that it stands in: the service's probes, the wait for what runs, the environment that
//! `openexec inject` gives it.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::network::Authority;
use crate::service::{After, Seen, Service, read};
use crate::support::{Client, PATIENCE, Response, Server, Setup, free, request};

fn answering(status: &'static str) -> impl Fn(&Seen, &mut TcpStream) -> After {
    move |_, stream| {
        let _ = write!(stream, "HTTP/1.1 {status}\r\nSet-Cookie: private=1\r\nContent-Length: 7\r\n\r\nprivate");
        After::Keep
    }
}

fn probe(server: &Server, name: &str) -> Response {
    Client::connect(server.admin).get(&format!("/probes/{name}"))
}

#[test]
fn a_probe_hears_whether_the_services_answer_was_good_and_nothing_else_of_it() {
    let good = Service::start(answering("204 No Content"));
    let moved = Service::start(answering("302 Found"));
    let bad = Service::start(answering("500 Internal Server Error"));
    let slow = Service::start(|_, _| After::Hold);
    let closed = Service::start(|_, _| After::Reset);
    let nobody = free();
    let probes = json!({
        "app/liveness": {"address": format!("http://{}", good.address), "path": "/healthz?full=1",
            "headers": {"X-Probe": "yes", "Host": "app.internal"}},
        "app/readiness": {"address": format!("http://{}", bad.address), "path": "/"},
        "app/startup": {"address": format!("http://{}", moved.address), "path": "/"},
        "slow/liveness": {"address": format!("http://{}", slow.address), "path": "/", "timeout": "200ms"},
        "closed/liveness": {"address": format!("http://{}", closed.address), "path": "/"},
        "port/liveness": {"address": format!("http://{}", bad.address)},
        "port/readiness": {"address": format!("http://{nobody}")},
    });
    let server = Setup::demo().with("OPENEXEC_APP_PROBES", &probes.to_string()).start();
    for (name, status, text) in [
        ("app/liveness", 200, "ok\n"),
        ("app/readiness", 503, "the service answers 500\n"),
        ("app/startup", 200, "ok\n"),
        ("slow/liveness", 503, "the service does not answer in time\n"),
        ("closed/liveness", 503, "the service cannot be reached\n"),
        ("port/liveness", 200, "ok\n"),
        ("port/readiness", 503, "the service cannot be reached\n"),
    ] {
        let answer = probe(&server, name);
        assert_eq!((answer.status, answer.header("set-cookie")), (status, None), "{name}");
        assert_eq!(answer.text(), text, "{name}");
    }
    let asked = good.seen()[0].clone();
    assert_eq!(asked.line, "GET /healthz?full=1 HTTP/1.1");
    assert_eq!((asked.header("x-probe"), asked.header("host")), (Some("yes"), Some("app.internal")));
    // Nothing of whoever asks reaches the service, and no other path of it is reached.
    let mut client = Client::connect(server.admin);
    let with_more = "GET /probes/app/liveness?path=/admin HTTP/1.1\r\nHost: h\r\nX-Mine: 1\r\n\r\n";
    assert_eq!(client.send(with_more).unwrap().status, 200);
    let asked = good.seen()[1].clone();
    assert_eq!((asked.line.as_str(), asked.header("x-mine")), ("GET /healthz?full=1 HTTP/1.1", None));
    for path in
        ["/probes/", "/probes/app", "/probes/app/liveness/", "/probes/app%2fliveness", "/probes/app/../app/liveness"]
    {
        client.get(path).must_be(404, "not_found", "");
    }
    client.post("/probes/app/liveness", "{}").unwrap().must_be(405, "method_not_allowed", "");
    assert_eq!(good.seen().len(), 2);
    assert_eq!(probe(&server, "app/liveness").status, 200);
    // They are no paths of the main listener.
    server.client().get("/probes/app/liveness").must_be(404, "not_found", "");
}

#[test]
fn a_probe_reaches_a_socket_and_a_service_with_any_certificate() {
    let setup = Setup::demo();
    let path = setup.directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            assert!(read(&mut stream, &mut Vec::new()).is_some());
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let authority = Authority::new();
    let secure = authority.serve("expired.example", -1, None);
    let file = format!(
        "probes:\n  app/liveness: {{address: \"unix:{}\", path: /}}\n  app/readiness: {{address: \"https://{secure}\", path: /}}\n",
        path.display()
    );
    let server = setup.file(&file).start();
    assert_eq!(probe(&server, "app/liveness").status, 200);
    assert_eq!(probe(&server, "app/readiness").status, 200);
}

#[test]
fn what_cannot_be_asked_is_said_before_the_start() {
    let probes = r#"{"app": {"address": "http://127.0.0.1:1"}, "app/a": {"address": "ftp://x", "path": "x"},
        "app/b": {"address": "http://127.0.0.1:1", "headers": {"connection": "x", "a b": "c"}, "timeout": "0s"}}"#;
    let setup = Setup::demo()
        .with("OPENEXEC_APP_PROBES", probes)
        .with("OPENEXEC_POD_IPS", "10.0.0.7, 127.0.0.1,nowhere")
        .with("OPENEXEC_UPSTREAM", "tcp://127.0.0.1:8080")
        .with("OPENEXEC_LEDGER_FENCE", "never");
    let output = setup.command(&["validate"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for problem in [
        "OPENEXEC_APP_PROBES.app: its name must be such as container/readiness",
        "OPENEXEC_APP_PROBES.app/a.address must be http://host:port",
        "OPENEXEC_APP_PROBES.app/a.path must be a path",
        "OPENEXEC_APP_PROBES.app/b.headers.connection belongs to the connection",
        "OPENEXEC_APP_PROBES.app/b.headers.a b is no header",
        "OPENEXEC_APP_PROBES.app/b.timeout must be between",
        "OPENEXEC_POD_IPS: 127.0.0.1 is none that others can reach",
        "OPENEXEC_POD_IPS must be IP addresses",
        "OPENEXEC_UPSTREAM must be http://host:port",
        "OPENEXEC_LEDGER_FENCE must be `auto` or `always`",
    ] {
        assert!(said.contains(problem), "{problem:?} is not in {said}");
    }
}

#[test]
fn the_environment_says_where_the_service_and_the_ledger_are() {
    let service = Service::start(|seen, stream| {
        let body = format!("{{\"path\":\"{}\"}}", seen.line.split(' ').nth(1).unwrap());
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes());
        After::Keep
    });
    let setup = Setup::demo();
    let url = setup.environment["OPENEXEC_DB_URL"].clone();
    let secret = setup.directory.path().join("url");
    std::fs::write(&secret, url + "\n").unwrap();
    let setup = setup
        .without("OPENEXEC_DB_URL")
        .with("OPENEXEC_DB_URL_FILE", secret.to_str().unwrap())
        .with("OPENEXEC_UPSTREAM", &format!("http://{}", service.address))
        .with("OPENEXEC_LEDGER_FENCE", "always")
        .file("upstreams: {app: {addresses: [\"http://192.0.2.1:9\"], max_idle: 1}}\nactions: {send: {upstream: app, path: /send}}");
    let server = setup.start();
    server.execute(&request("send", &json!({}), "1")).must_be_executed(false);
    assert_eq!(service.seen()[0].line, "POST /send HTTP/1.1");
    assert!(setup.ledger().exists());
    assert_eq!(server.metric("openexec_ledger_local"), 1.0, "it is fenced at each start");
    server.stop();
    let server = Setup::demo().start();
    assert_eq!(server.metric("openexec_ledger_local"), 0.0);
    assert_eq!(server.metric("openexec_bypass_found"), 0.0);
}

#[test]
fn whoever_must_outlive_what_runs_waits_for_it() {
    let service = Service::start(|seen, stream| {
        std::thread::sleep(Duration::from_millis(if seen.asked() == "slow" { 1_500 } else { 0 }));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        After::Keep
    });
    let server = Setup::demo()
        .with("OPENEXEC_UPSTREAM", &format!("http://{}", service.address))
        .file("actions: {send: {upstream: app, path: /send}}")
        .start();
    let drained = |query: &str| Client::connect(server.admin).get(&format!("/drained{query}"));
    assert_eq!(drained("?settle=0").text(), "ok\n");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.execute(&request("send", &json!({"do": "slow"}), "1")));
        service.await_asked("slow");
        let began = Instant::now();
        let early = drained("?settle=0&wait=0");
        assert_eq!((early.status, early.text().as_str()), (503, "executions are still running\n"));
        assert_eq!(drained("?settle=0").status, 200);
        assert!(slow.is_finished() || began.elapsed() > Duration::from_millis(500), "it waited for the execution");
        slow.join().unwrap().must_be_executed(false);
    });
    for query in ["?settle=x", "?wait=-1", "?wait=3601", "?what=1", "?settle"] {
        drained(query).must_be(422, "invalid_request", "");
    }
    // Those who wait are few, and the rest of the listener works meanwhile.
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::connect(server.admin);
            client.stream.write_all(b"GET /drained?settle=60 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            client
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while drained("?settle=0").status != 503 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(Client::connect(server.admin).get("/readyz").text(), "ok\n");
    drop(waiting);
}
