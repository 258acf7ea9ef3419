//! Between the gate and a service: addresses, names, certificates, connections.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openexec::config::Config;
use openexec::metrics::Metrics;
use openexec::upstream::{Upstream, body_of};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::files::in_mount_namespace;
use crate::forward::config;
use crate::service::{self, After, Seen, Service, json as json_answer};
use crate::support::{Client, PATIENCE, Process, Response, Server, Setup, free, request};

fn ok(_: &Seen, stream: &mut TcpStream) -> After {
    json_answer(stream, "200 OK", r#"{"sent":true}"#)
}

fn send(server: &Server, nonce: &str) -> Response {
    server.execute(&request("send", &json!({"do": nonce}), nonce))
}

fn addresses(list: &str, more: &str) -> String {
    format!(
        "upstreams: {{service: {{addresses: [{list}]{more}}}}}
actions: {{echo: {{builtin: echo}}, send: {{upstream: service, path: /send, timeout: 2s}}}}"
    )
}

#[test]
fn a_connection_that_was_closed_while_it_waited_is_not_used() {
    let service = Service::start(|seen, stream| {
        ok(seen, stream);
        After::Close
    });
    let server = Setup::demo().file(&config(service.address, "")).start();
    for nonce in ["1", "2", "3"] {
        send(&server, nonce).must_be_executed(false);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(service.seen().len(), 3);
}

/// Its queue of connections is full, so whoever asks for one gets no answer at all.
#[test]
fn a_service_that_does_not_answer_in_time_is_not_connected() {
    let queue = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    queue.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    queue.listen(0).unwrap();
    let address = queue.local_addr().unwrap();
    let full: Vec<_> =
        std::iter::repeat_with(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).take(3).collect();
    for socket in &full {
        socket.set_nonblocking(true).unwrap();
        let _in_progress = socket.connect(&address);
    }
    let gate = |connect_timeout: &str| {
        let service = format!("\"http://{}\"", address.as_socket().unwrap());
        Setup::demo().file(&addresses(&service, &format!(", connect_timeout: {connect_timeout}"))).start()
    };
    let (impatient, patient) = (gate("100ms"), gate("15s"));
    send(&impatient, "1").must_be(502, "upstream_unreachable", "");
    let service = std::thread::scope(|scope| {
        let asked = scope.spawn(|| send(&patient, "1"));
        // Longer than the time that there is unless another is configured.
        std::thread::sleep(Duration::from_millis(1_500));
        let service = Service::on(queue.into(), ok);
        asked.join().unwrap().must_be_executed(false);
        service
    });
    // Nothing was sent or stored.
    send(&impatient, "1").must_be_executed(false);
    assert_eq!(service.seen().len(), 2);
}

/// Between the look at the connection and the first byte: it is certain that nothing was sent.
#[test]
fn a_connection_that_is_closed_at_the_worst_moment_sends_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::demo().file(&config(listener.local_addr().unwrap(), ""));
    let config = Config::load(setup.config_path().as_deref(), &setup.environment).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let upstream = Upstream::start(config.upstreams[0].clone(), &Metrics::new());
        let connection = upstream.connect().await.unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.shutdown(Shutdown::Both).unwrap();
        drop(theirs);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let watch = connection.watch();
        let request = http::Request::post("/send").header("host", "x").body(body_of("{}".into())).unwrap();
        assert!(connection.send(request).await.is_err());
        assert!(!watch.sent());
        // And one that is open says so.
        let connection = upstream.connect().await.unwrap();
        let watch = connection.watch();
        let request = http::Request::post("/send").header("host", "x").body(body_of("{}".into())).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let answer = std::thread::spawn(move || {
            service::read(&mut theirs, &mut Vec::new()).unwrap();
            theirs.shutdown(Shutdown::Both).unwrap();
        });
        assert!(connection.send(request).await.is_err());
        assert!(watch.sent());
        answer.join().unwrap();
    });
}

#[test]
fn requests_take_turns_and_go_where_it_works() {
    let services = [Service::start(ok), Service::start(ok)];
    let dead = free();
    let list = format!("\"http://{}\", \"http://{}\", \"http://{dead}\"", services[0].address, services[1].address);
    let server = Setup::demo().file(&addresses(&list, ", health: {passive: {failures: 1, eject: 1m}}")).start();
    for at in 0..12 {
        send(&server, &at.to_string()).must_be_executed(false);
    }
    for service in &services {
        assert!(service.seen().len() >= 4, "{}", service.seen().len());
    }
    // Tried once, and then last.
    assert_eq!(server.metric(r#"openexec_upstream_connections_total{how="failed",upstream="service"}"#), 1.0);
}

/// By exchanges that fail in a row, not by connections only: it is tried last, for a while.
#[test]
fn an_address_whose_exchanges_fail_is_left_out_for_a_while() {
    let failing = Service::start(|seen, stream| match seen.asked().as_str() {
        "fail" => After::Close,
        _ => ok(seen, stream),
    });
    let good = Service::start(ok);
    let list = format!("\"http://{}\", \"http://{}\"", failing.address, good.address);
    let eject = Duration::from_secs(5);
    let server = Setup::demo().file(&addresses(&list, ", health: {passive: {failures: 2, eject: 5s}}")).start();
    let mut nonce = 0;
    // Two requests: one for each address, while both are used. How many of them got an answer.
    let mut two = |what: &str| {
        (0..2)
            .filter(|_| {
                nonce += 1;
                server.execute(&request("send", &json!({"do": what}), &nonce.to_string())).status == 200
            })
            .count()
    };
    // One failure is not two, and neither are two with a success between.
    assert_eq!([two("fail"), two("ok"), two("fail"), two("ok")], [1, 2, 1, 2]);
    assert_eq!((failing.seen().len(), good.seen().len()), (4, 4));
    let ejected = Instant::now();
    assert_eq!([two("fail"), two("fail")], [1, 1]);
    let answered = [two("fail"), two("ok"), two("fail")];
    if ejected.elapsed() < eject {
        assert_eq!((answered, failing.seen().len()), ([2, 2, 2], 6), "it is tried last");
    }
    std::thread::sleep(eject);
    let (at_the_failing, at_the_good) = (failing.seen().len(), good.seen().len());
    assert_eq!(two("ok"), 2);
    assert_eq!((failing.seen().len(), good.seen().len()), (at_the_failing + 1, at_the_good + 1), "it has its turn");
}

#[test]
fn no_more_connections_wait_than_may() {
    for (max_idle, opened) in [(1, 3.0), (2, 2.0)] {
        let both = std::sync::Barrier::new(2);
        let service = Service::start(move |seen, stream| {
            both.wait();
            ok(seen, stream)
        });
        let list = format!("\"http://{}\"", service.address);
        let server = Setup::demo().file(&addresses(&list, &format!(", max_idle: {max_idle}"))).start();
        for pair in 0..2 {
            std::thread::scope(|scope| {
                for one in 0..2 {
                    let server = &server;
                    scope.spawn(move || send(server, &format!("{pair}-{one}")).must_be_executed(false));
                }
            });
        }
        let connections =
            |how: &str| format!("openexec_upstream_connections_total{{how=\"{how}\",upstream=\"service\"}}");
        assert_eq!(server.metric(&connections("opened")), opened, "{max_idle}");
        assert_eq!(server.metric(&connections("reused")), 4.0 - opened, "{max_idle}");
    }
}

#[test]
fn the_least_busy_address_is_next() {
    let slow = Service::start(|seen, stream| {
        std::thread::sleep(Duration::from_millis(300));
        ok(seen, stream)
    });
    let quick = Service::start(ok);
    let list = format!("\"http://{}\", \"http://{}\"", slow.address, quick.address);
    let server = Setup::demo().file(&addresses(&list, ", balance: least_requests")).start();
    std::thread::scope(|scope| {
        let server = &server;
        for at in 0..20 {
            scope.spawn(move || send(server, &at.to_string()).must_be_executed(false));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert!(slow.seen().len() < quick.seen().len(), "{} and {}", slow.seen().len(), quick.seen().len());
}

#[test]
fn an_address_that_fails_its_checks_is_tried_last_until_it_passes_them() {
    let sick = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let state = sick.clone();
    let first = Service::start(move |seen, stream| match seen.line.as_str() {
        "GET /healthz HTTP/1.1" if state.load(Ordering::SeqCst) => {
            service::answer(stream, "503 Service Unavailable", "", "")
        }
        _ => ok(seen, stream),
    });
    let second = Service::start(ok);
    let list = format!("\"http://{}\", \"http://{}\"", first.address, second.address);
    let health = ", health: {active: {path: /healthz, interval: 50ms, unhealthy: 2, healthy: 2}}";
    let server = Setup::demo().file(&addresses(&list, health)).start();
    let healthy = r#"openexec_upstream_addresses{upstream="service",which="healthy"}"#;
    server.await_metric(healthy, 1.0);
    for at in 0..6 {
        send(&server, &at.to_string()).must_be_executed(false);
    }
    let sent = |service: &Service| service.seen().iter().filter(|seen| seen.line.starts_with("POST")).count();
    assert_eq!((sent(&first), sent(&second)), (0, 6));
    sick.store(false, Ordering::SeqCst);
    server.await_metric(healthy, 2.0);
    for at in 6..12 {
        send(&server, &at.to_string()).must_be_executed(false);
    }
    assert_eq!((sent(&first), sent(&second)), (3, 9));
}

#[test]
fn a_unix_socket_is_an_address() {
    let setup = Setup::demo();
    let path = setup.directory.path().join("service.sock");
    let setup = setup.file(&addresses(&format!("\"unix:{}\"", path.display()), ""));
    let server = setup.start();
    send(&server, "n").must_be(502, "upstream_unreachable", "");
    let listener = UnixListener::bind(&path).unwrap();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let seen = service::read(&mut stream, &mut Vec::new()).unwrap();
        json_answer(&mut stream, "200 OK", "{}");
        seen
    });
    send(&server, "n").must_be_executed(false);
    assert_eq!(service.join().unwrap().header("host"), Some("localhost"));
}

/// An authority, and a certificate of it for each name.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { directory, issuer }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// `NAME.pem` and `NAME.key`
    pub fn issue(&self, name: &str, days: i64) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(10);
        params.not_after = now + time::Duration::days(days);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_path, key_path) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        std::fs::write(&cert_path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }

    /// A TLS service with this certificate; with `clients` it wants one of theirs.
    pub fn serve(&self, name: &str, days: i64, clients: Option<&Authority>) -> SocketAddr {
        self.serve_counting(name, days, clients, rustls::DEFAULT_VERSIONS).0
    }

    /// In these versions; how many requests it saw, too.
    fn serve_counting(
        &self,
        name: &str,
        days: i64,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> (SocketAddr, Arc<AtomicUsize>) {
        let (certificate, key) = self.issue(name, days);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(clients.path("ca.pem")).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = seen.clone();
                let connection = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(connection, stream.unwrap());
                std::thread::spawn(move || {
                    let mut buffer = Vec::new();
                    while service::read(&mut stream, &mut buffer).is_some() {
                        seen.fetch_add(1, Ordering::SeqCst);
                        json_answer(&mut stream, "200 OK", r#"{"sent":true}"#);
                    }
                });
            }
        });
        (address, requests)
    }
}

#[test]
fn a_certificate_must_be_good() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let good = ours.serve("localhost", 10, None).port();
    let of_another_name = ours.serve("mail.example.com", 10, None).port();
    let expired = ours.serve("localhost", -1, None).port();
    let of_another_authority = theirs.serve("localhost", 10, None).port();
    let plain = Service::start(ok).address.port();
    let tls = |more: &str| format!(", tls: {{ca: \"{}\"{more}}}", ours.path("ca.pem"));
    let start =
        |port: u16, more: &str| Setup::demo().file(&addresses(&format!("\"https://localhost:{port}\""), more)).start();
    for (port, more, why) in [
        (of_another_name, tls(""), "name"),
        (expired, tls(""), "expired"),
        (of_another_authority, tls(""), "authority"),
        (good, String::new(), "the system's authorities do not know ours"),
        (plain, tls(""), "no TLS at all"),
    ] {
        let server = start(port, &more);
        send(&server, "n").must_be(502, "upstream_unreachable", "nothing was sent");
        println!("{why}: refused");
        server.execute(&request("echo", &json!({}), "innocent")).must_be_executed(false);
    }
    for (port, more) in [(good, tls("")), (of_another_name, tls(", server_name: mail.example.com"))] {
        let server = start(port, &more);
        for nonce in ["1", "2"] {
            send(&server, nonce).must_be_executed(false);
        }
        assert_eq!(server.metric(r#"openexec_upstream_connections_total{how="reused",upstream="service"}"#), 1.0);
    }
}

#[test]
fn a_service_may_want_a_certificate_of_ours() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (certificate, key) = ours.issue("gate", 10);
    let (stranger, strangers_key) = theirs.issue("stranger", 10);
    let file = |port: u16, certificate: &str, key: &str| {
        let tls = format!("ca: \"{}\", certificate: \"{certificate}\", key: \"{key}\"", theirs.path("ca.pem"));
        addresses(&format!("\"https://localhost:{port}\""), &format!(", tls: {{{tls}}}"))
    };
    // In TLS 1.2 the refusal is part of the handshake. In 1.3 it may come before the request is written, in the middle,
    // or behind it, and only in the first case it is certain that nothing was sent.
    for (version, codes) in [
        (&rustls::version::TLS12, &["upstream_unreachable"][..]),
        (&rustls::version::TLS13, &["outcome_unknown", "not_executed", "upstream_unreachable"]),
    ] {
        let (address, requests) = theirs.serve_counting("localhost", 10, Some(&ours), &[version]);
        let server = Setup::demo().file(&file(address.port(), &stranger, &strangers_key)).start();
        let refused = send(&server, "n");
        let code = refused.json()["code"].as_str().unwrap().to_owned();
        assert!(codes.contains(&code.as_str()), "{version:?}: {code}");
        assert_eq!(requests.load(Ordering::SeqCst), 0, "{version:?}");
        server.execute(&request("echo", &json!({}), "innocent")).must_be_executed(false);
        let server = Setup::demo().file(&file(address.port(), &certificate, &key)).start();
        send(&server, "n").must_be_executed(false);
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{version:?}");
    }
    let without = Setup::demo().file(&file(1, &certificate, "/nowhere.key"));
    let problems = Config::load(without.config_path().as_deref(), &without.environment).unwrap_err().to_string();
    assert!(problems.contains("/nowhere.key"), "{problems}");
}

/// In a mount namespace of its own, where `/etc/hosts` is a file of the test's.
#[test]
fn names_that_fail_or_move_are_looked_up_again() {
    let services = [Service::start_at("127.0.0.1:0", ok)];
    let port = services[0].address.port();
    let moved = Service::start_at(&format!("127.0.0.2:{port}"), ok);
    let setup = Setup::demo().file(&addresses(
        &format!("\"http://mail.service.test:{port}\""),
        ", dns_refresh: 100ms, connect_timeout: 500ms",
    ));
    let hosts = setup.directory.path().join("hosts");
    write_hosts(&hosts, "");
    let script = format!("mount --bind {} /etc/hosts", hosts.display());
    let url = setup.environment["OPENEXEC_DB_URL"].clone();
    let process = Process::start(&mut in_mount_namespace(&setup, &script, &url));
    let try_it = |nonce: &str| Client::connect(process.address).execute(&request("send", &json!({}), nonce));
    try_it("1").must_be(502, "upstream_unreachable", "");
    write_hosts(&hosts, "127.0.0.1 mail.service.test\n");
    await_works(|| try_it("1"));
    assert_eq!((services[0].seen().len(), moved.seen().len()), (1, 0));
    write_hosts(&hosts, "127.0.0.2 mail.service.test\n");
    let deadline = Instant::now() + PATIENCE;
    for at in 2.. {
        try_it(&at.to_string()).must_be_executed(false);
        if !moved.seen().is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still the old address");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A look-up that fails takes nothing away.
    write_hosts(&hosts, "");
    std::thread::sleep(Duration::from_millis(400));
    try_it("last").must_be_executed(false);
}

/// In place: a bind mount stays with the file that it was made of.
fn write_hosts(path: &Path, text: &str) {
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).open(path).unwrap();
    file.write_all(format!("127.0.0.1 localhost\n{text}").as_bytes()).unwrap();
}

fn await_works(attempt: impl Fn() -> Response) {
    let deadline = Instant::now() + PATIENCE;
    while attempt().status != 200 {
        assert!(Instant::now() < deadline, "it does not work");
        std::thread::sleep(Duration::from_millis(50));
    }
}
