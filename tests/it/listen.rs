//! Where clients come in: several listeners, Unix sockets, TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use crate::network::Authority;
use crate::support::{Client, PATIENCE, Process, Setup, free, metric, request};

/// A request, and what comes until the connection ends.
pub fn exchange(stream: &mut (impl Read + Write), nonce: &str) -> std::io::Result<String> {
    let body = request("echo", &json!({}), nonce);
    let length = body.len();
    write!(
        stream,
        "POST /execute HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    stream.flush()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn must_be_executed(answer: std::io::Result<String>, replayed: bool) {
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!("Replayed: {replayed}\r\n")), "{answer}");
}

/// What a client offers and expects.
pub struct Offer<'a> {
    pub authority: &'a Authority,
    pub name: &'a str,
    pub certificate: Option<(String, String)>,
    pub versions: &'a [&'static rustls::SupportedProtocolVersion],
    pub alpn: &'a [&'a [u8]],
}

impl<'a> Offer<'a> {
    pub fn new(authority: &'a Authority) -> Self {
        Offer { authority, name: "localhost", certificate: None, versions: rustls::ALL_VERSIONS, alpn: &[] }
    }

    pub fn connect(&self, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(self.name.to_owned()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    fn ask(&self, address: SocketAddr, nonce: &str) -> std::io::Result<String> {
        exchange(&mut self.connect(address), nonce)
    }
}

/// The real binary with listeners of a file; the first is a plain one.
fn start(listeners: &str) -> (Setup, Process) {
    start_with(listeners, "")
}

pub fn start_with(listeners: &str, more: &str) -> (Setup, Process) {
    let plain = free();
    let setup = Setup::demo().without("OPENEXEC_LISTEN").file(&format!("listen:\n  - {plain}\n{listeners}{more}"));
    let mut command = setup.command(&[]);
    let process = Process::start_at(command.env("OPENEXEC_ADMIN_LISTEN", free()), plain.parse().unwrap());
    (setup, process)
}

pub fn becomes(server: &Process, line: &str, value: f64) {
    let deadline = Instant::now() + PATIENCE;
    while metric(server.admin, line) != value {
        assert!(Instant::now() < deadline, "{line} does not become {value}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn tls(address: &str, (certificate, key): &(String, String), more: &str) -> String {
    format!("  - address: {address}\n    tls: {{certificate: \"{certificate}\", key: \"{key}\"{more}}}\n")
}

#[test]
fn several_listeners_are_one_gate() {
    let authority = Authority::new();
    let (encrypted, directory) = (free(), tempfile::tempdir().unwrap());
    let socket = directory.path().join("gate.sock");
    let unix = format!("  - {{address: \"unix:{}\", mode: \"0600\"}}\n", socket.display());
    let (_setup, server) = start(&(unix + &tls(&encrypted, &authority.issue("localhost", 10), "")));
    let first = Client::connect(server.address).execute(&request("echo", &json!({}), "n")).must_be_executed(false);
    let over_unix = exchange(&mut UnixStream::connect(&socket).unwrap(), "n").unwrap();
    let over_tls = Offer::new(&authority).ask(encrypted.parse().unwrap(), "n").unwrap();
    for answer in [&over_unix, &over_tls] {
        assert!(answer.contains(first["receipt"].as_str().unwrap()), "{answer}");
    }
    must_be_executed(Ok(over_unix), true);
    must_be_executed(Ok(over_tls), true);
    let found = std::fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
    assert!(!socket.exists(), "it is removed");
}

#[test]
fn a_unix_sockets_file_is_taken_when_nobody_listens_there() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gate.sock");
    let unix = format!("  - \"unix:{}\"\n", socket.display());
    let refused = |why: &str| {
        let setup = Setup::demo().without("OPENEXEC_LISTEN").file(&format!("listen:\n{unix}"));
        let output = setup.command(&[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains("gate.sock cannot be listened on") && said.contains(why), "{said}");
    };
    std::fs::write(&socket, "precious").unwrap();
    refused("another kind");
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
    std::fs::remove_file(&socket).unwrap();
    let other = UnixListener::bind(&socket).unwrap();
    refused("in use");
    drop(other);
    assert!(socket.exists(), "as a process leaves it that dies");
    let (_setup, server) = start(&unix);
    must_be_executed(exchange(&mut UnixStream::connect(&socket).unwrap(), "n"), false);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    // Another one's file is left alone.
    std::fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
    assert!(UnixStream::connect(&socket).is_ok());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn tls_has_a_least_version_and_one_protocol() {
    let authority = Authority::new();
    let pair = authority.issue("localhost", 10);
    let (any, new) = (free(), free());
    let (_setup, server) = start(&(tls(&any, &pair, "") + &tls(&new, &pair, ", min_version: TLS1.3")));
    let (any, new) = (any.parse().unwrap(), new.parse().unwrap());
    let old = Offer { versions: &[&rustls::version::TLS12], ..Offer::new(&authority) };
    must_be_executed(old.ask(any, "1"), false);
    assert!(old.ask(new, "2").is_err());
    must_be_executed(Offer::new(&authority).ask(new, "3"), false);
    let both = Offer { alpn: &[b"h2", b"http/1.1"], ..Offer::new(&authority) };
    let mut stream = both.connect(any);
    must_be_executed(exchange(&mut stream, "4"), false);
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(Offer { alpn: &[b"h2"], ..Offer::new(&authority) }.ask(any, "5").is_err());
    // HTTP/2 that nobody agreed upon.
    let mut stream = Offer::new(&authority).connect(any);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // No TLS at all.
    let mut plain = Client::connect(any);
    plain.stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    becomes(&server, "openexec_tls_handshake_failures_total", 3.0);
    must_be_executed(Offer::new(&authority).ask(any, "6"), false);
}

#[test]
fn clients_may_have_to_show_who_they_are() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let pair = ours.issue("localhost", 10);
    let (anyone, named) = (free(), free());
    let ca = format!(", client_ca: \"{}\"", theirs.path("ca.pem"));
    let names = format!("{ca}, client_names: [agent.internal, other.internal]");
    let (_setup, server) = start(&(tls(&anyone, &pair, &ca) + &tls(&named, &pair, &names)));
    let (anyone, named) = (anyone.parse().unwrap(), named.parse().unwrap());
    let with = |certificate| Offer { certificate, ..Offer::new(&ours) };
    let agent = Some(theirs.issue("agent.internal", 10));
    let stranger = Some(theirs.issue("stranger.internal", 10));
    let forged = Some(ours.issue("agent.internal", 10));
    let expired = Some(theirs.issue("late.internal", -1));
    for (at, (certificate, on_any, on_named)) in [
        (agent, true, true),
        (stranger, true, false),
        (forged, false, false),
        (expired, false, false),
        (None, false, false),
    ]
    .into_iter()
    .enumerate()
    {
        for (address, is_let_in) in [(anyone, on_any), (named, on_named)] {
            let nonce = format!("{at}-{address}");
            let answer = with(certificate.clone()).ask(address, &nonce);
            assert_eq!(
                answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")),
                is_let_in,
                "{nonce}: {answer:?}"
            );
            // And nothing was executed before it was known who asks.
            let again = Client::connect(server.address).execute(&request("echo", &json!({}), &nonce));
            again.must_be_executed(is_let_in);
        }
    }
}

#[test]
fn a_new_certificate_is_shown_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let install = |authority: &Authority, days: i64| {
        let (certificate, key) = authority.issue("localhost", days);
        std::fs::copy(certificate, path("tls.pem")).unwrap();
        std::fs::copy(key, path("tls.key")).unwrap();
    };
    install(&old, 10);
    let address = free();
    let (_setup, server) = start(&tls(&address, &(path("tls.pem"), path("tls.key")), ""));
    let address = address.parse().unwrap();
    let mut kept = Offer::new(&old).connect(address);
    kept.conn.complete_io(&mut kept.sock).unwrap();
    must_be_executed(Offer::new(&old).ask(address, "1"), false);
    let until = |line: &str| becomes(&server, line, 1.0);
    // A key that belongs to another certificate: the old pair stays.
    std::fs::copy(new.issue("localhost", 10).1, path("tls.key")).unwrap();
    until("openexec_config_reloads_total{result=\"refused\"}");
    must_be_executed(Offer::new(&old).ask(address, "2"), false);
    must_end_in(&server, &address.to_string(), 10);
    install(&new, 20);
    until("openexec_config_reloads_total{result=\"applied\"}");
    must_be_executed(Offer::new(&new).ask(address, "3"), false);
    assert!(Offer::new(&old).ask(address, "4").is_err(), "the old authority knows nothing of the new certificate");
    must_be_executed(exchange(&mut kept, "5"), false);
    must_end_in(&server, &address.to_string(), 20);
}

/// What the metrics say of a listener's certificate.
#[track_caller]
fn must_end_in(server: &Process, name: &str, days: i64) {
    let line = format!("openexec_certificate_expiry_timestamp_seconds{{name=\"{name}\",of=\"listener\"}}");
    let left = metric(server.admin, &line) - chrono::Utc::now().timestamp() as f64;
    let (most, hour) = ((days * 86_400) as f64, 3_600.0);
    assert!(left <= most && left > most - hour, "{left} of {most}");
}

#[test]
fn a_client_that_does_not_shake_hands_is_cut_off() {
    let authority = Authority::new();
    let address = free();
    let limits = "limits: {header_time: 300ms, connections: 3}\n";
    let (_setup, server) = start_with(&tls(&address, &authority.issue("localhost", 10), ""), limits);
    let address: SocketAddr = address.parse().unwrap();
    let mut silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    silent[0].write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    becomes(&server, "openexec_tls_handshake_failures_total", 3.0);
    must_be_executed(Offer::new(&authority).ask(address, "n"), false);
}

#[test]
fn what_is_wrong_with_listeners_is_listed() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost", 10);
    let file = format!(
        "listen:
  - 127.0.0.1:5000
  - 127.0.0.1:5000
  - nowhere
  - unix:relative.sock
  - {{address: \"unix:/tmp/x.sock\", mode: \"0999\"}}
  - {{address: 127.0.0.1:5002, mode: \"0600\"}}
  - {{address: 127.0.0.1:5003, tls: {{certificate: /nowhere.pem, key: \"{key}\"}}}}
  - {{address: 127.0.0.1:5004, tls: {{certificate: \"{certificate}\", key: \"{key}\", client_names: [a]}}}}
  - {{address: 127.0.0.1:5005, tls: {{certificate: \"{certificate}\", key: \"{}\"}}}}
",
        authority.issue("other", 10).1
    );
    let setup = Setup::demo().without("OPENEXEC_LISTEN").file(&file);
    let output = setup.command(&["validate"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    for problem in [
        ":3: listen[1] is 127.0.0.1:5000 once more",
        ":4: listen[2] must be",
        ":5: listen[3] must be",
        ":6: listen[4].address: `mode` must be permission bits",
        ":7: listen[5].address: `mode` is for unix",
        ":8: listen[6].tls: /nowhere.pem",
        ":9: listen[7].tls: `client_names` needs",
        ":10: listen[8].tls: ",
    ] {
        assert!(said.contains(problem), "{problem} is not in {said}");
    }
    assert!(Path::new(&key).exists());
}
