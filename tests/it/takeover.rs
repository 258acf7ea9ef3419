//! A new process takes the sockets of the one that serves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::service::{self, Service};
use crate::support::{Client, PATIENCE, Process, Response, Setup, free, request};

/// A server that lets others take its sockets, with more in its file.
struct Stage {
    setup: Setup,
    listen: String,
    admin: String,
}

impl Stage {
    fn new(more: &str) -> Self {
        let setup = Setup::demo();
        let socket = setup.directory.path().join("takeover.sock");
        let file = format!("startup: {{takeover_socket: {}, wait: 20s}}\n{more}", socket.display());
        Stage { setup: setup.file(&file), listen: free(), admin: free() }
    }

    fn command(&self) -> Command {
        let mut command = self.setup.command(&["serve", "--takeover"]);
        // Without a line for each execution: nobody reads them here, and they would push out the others.
        command.env("OPENEXEC_LOG", "warn,openexec::app=info");
        command.env("OPENEXEC_LISTEN", &self.listen).env("OPENEXEC_ADMIN_LISTEN", &self.admin);
        command
    }

    fn start(&self) -> Process {
        Process::start(&mut self.command())
    }

    /// Starts one beside the other, and waits until that one is gone.
    fn replace(&self, old: Process) -> Process {
        let new = self.start();
        let (code, log) = old.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("another process has the sockets"), "{log}");
        self.await_ready();
        new
    }

    fn address(&self) -> SocketAddr {
        self.listen.parse().unwrap()
    }

    fn ready(&self) -> Response {
        Client::connect(self.admin.parse().unwrap()).get("/readyz")
    }

    fn await_ready(&self) {
        await_that("it is ready", || self.ready().status == 200);
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn await_that(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A service that takes a second.
/// One that does not answer before it is told to.
fn slow_service() -> (Service, String, Arc<AtomicBool>) {
    let released = Arc::new(AtomicBool::new(false));
    let may_answer = released.clone();
    let service = Service::start(move |_, stream| {
        await_that("it may answer", || may_answer.load(Ordering::SeqCst));
        service::json(stream, "200 OK", "{\"done\":true}")
    });
    let file = format!(
        "upstreams: {{s: {{addresses: [\"http://{}\"]}}}}\n\
         actions: {{slow: {{upstream: s, path: /do}}, echo: {{builtin: echo}}}}\n",
        service.address
    );
    (service, file, released)
}

#[test]
fn under_load_no_connection_is_refused_and_nothing_is_lost() {
    let stage = Stage::new("");
    let mut process = stage.start();
    let (stop, counter) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = stage.address();
    let (_process, seen) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let (stop, counter) = (&stop, &counter);
                scope.spawn(move || {
                    let keeps = number % 2 == 0;
                    let mut seen = Vec::new();
                    let mut client = Client::connect(address);
                    while !stop.load(Ordering::Relaxed) {
                        let nonce = counter.fetch_add(1, Ordering::Relaxed);
                        let body = request("echo", &json!({"a": nonce}), &nonce.to_string());
                        if !keeps {
                            client = Client::connect(address);
                        }
                        let answer = match client.try_execute(&body) {
                            Some(answer) => answer,
                            // An idle connection may end just when it is used. A new one must not.
                            None => {
                                assert!(keeps, "a new connection was not answered");
                                client = Client::connect(address);
                                client.execute(&body)
                            }
                        };
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        if answer.header("connection") == Some("close") {
                            client = Client::connect(address);
                        }
                        seen.push((body, answer));
                    }
                    seen
                })
            })
            .collect();
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(200));
            process = stage.replace(process);
        }
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let seen: Vec<(String, Response)> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (process, seen)
    });
    assert!(seen.len() > 100, "{}", seen.len());
    let mut client = Client::connect(address);
    for (body, response) in &seen {
        assert_eq!(client.execute(body).body, response.body);
    }
}

#[test]
fn what_runs_is_finished_there_and_answered_here_too() {
    let (service, file, released) = slow_service();
    let stage = Stage::new(&file);
    let old = stage.start();
    let body = request("slow", &json!({"do": "it"}), "n");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| Client::connect(stage.address()).execute(&body));
        service.await_asked("it");
        let mut new = stage.command().stderr(std::process::Stdio::null()).spawn().unwrap();
        await_that("the new one waits", || stage.ready().text() == "ledger_waiting\n");
        // A duplicate and another one: both are held, not refused.
        let duplicate = scope.spawn(|| Client::connect(stage.address()).execute(&body));
        let other = scope.spawn(|| Client::connect(stage.address()).execute(&request("echo", &json!({}), "other")));
        released.store(true, Ordering::SeqCst);
        let first = running.join().unwrap();
        first.must_be_executed(false);
        assert_eq!(duplicate.join().unwrap().body, first.body);
        other.join().unwrap().must_be_executed(false);
        assert_eq!(old.end().0, Some(0));
        assert_eq!(service.times("it"), 1);
        new.kill().unwrap();
        new.wait().unwrap();
    });
}

#[test]
fn a_connection_that_was_accepted_before_is_answered_there() {
    let stage = Stage::new("");
    let old = stage.start();
    let mut early = Client::connect(stage.address());
    // It is accepted when one behind it is.
    Client::connect(stage.address()).get("/health");
    let mut new = stage.command().stderr(std::process::Stdio::null()).spawn().unwrap();
    await_that("the new one waits", || stage.ready().text() == "ledger_waiting\n");
    early.execute(&request("echo", &json!({}), "n")).must_be_executed(false);
    early.must_be_closed();
    assert_eq!(old.end().0, Some(0));
    Client::connect(stage.address()).execute(&request("echo", &json!({}), "n")).must_be_executed(true);
    new.kill().unwrap();
    new.wait().unwrap();
}

#[test]
fn requests_are_held_no_longer_than_configured() {
    let (service, file, released) = slow_service();
    let stage = Stage::new(&file);
    let old = stage.start();
    let impatient = stage.setup.file.clone().unwrap().replace("wait: 20s", "wait: 100ms");
    let body = request("slow", &json!({"do": "it"}), "n");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| Client::connect(stage.address()).execute(&body));
        service.await_asked("it");
        let mut command = stage.command();
        std::fs::write(stage.setup.directory.path().join("openexec.yaml"), &impatient).unwrap();
        let mut new = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        await_that("the new one waits", || stage.ready().text() == "ledger_waiting\n");
        // For a moment both accept, and the old one answers what it accepts.
        std::thread::sleep(Duration::from_millis(500));
        let held = Client::connect(stage.address()).execute(&request("echo", &json!({}), "held"));
        held.must_be(503, "ledger_unavailable", "");
        released.store(true, Ordering::SeqCst);
        running.join().unwrap().must_be_executed(false);
        assert_eq!(old.end().0, Some(0));
        // It waits on for the ledger all the same.
        stage.await_ready();
        let after = Client::connect(stage.address()).execute(&request("echo", &json!({}), "held"));
        after.must_be_executed(false);
        new.kill().unwrap();
        new.wait().unwrap();
    });
}

#[test]
fn whoever_asks_and_does_not_take_changes_nothing() {
    let stage = Stage::new("");
    let _process = stage.start();
    let path = stage.setup.directory.path().join("takeover.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Root can be somebody else, who may ask here only because the file's mode was changed.
    if is_root() {
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let directory = stage.setup.directory.path();
        std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let binary = directory.join("openexec");
        std::fs::copy(env!("CARGO_BIN_EXE_openexec"), &binary).unwrap();
        let original = stage.command();
        let mut theirs = Command::new("setpriv");
        theirs.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary).args(original.get_args());
        theirs.env_clear().envs(original.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let asked = theirs.current_dir(directory).output().unwrap();
        let said = String::from_utf8_lossy(&asked.stderr);
        // It got through to the server, and nothing from it.
        assert!(asked.status.code() == Some(69) && said.contains("other sockets than it named"), "{said}");
    }
    for word in ["", "no", "g"] {
        let mut asking = UnixStream::connect(&path).unwrap();
        asking.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut names = [0; 1024];
        let count = asking.read(&mut names).unwrap();
        assert!(String::from_utf8_lossy(&names[..count]).contains(&stage.listen));
        asking.write_all(word.as_bytes()).unwrap();
        drop(asking);
        let answer = Client::connect(stage.address()).execute(&request("echo", &json!({}), &format!("after {word}")));
        answer.must_be_executed(false);
        assert_eq!(stage.ready().status, 200);
    }
}

#[test]
fn one_that_could_not_serve_does_not_end_the_one_that_does() {
    let stage = Stage::new("");
    let _process = stage.start();
    let elsewhere = stage.setup.directory.path().join("foreign.db");
    rusqlite::Connection::open(&elsewhere).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    for (variable, value, code) in [
        ("OPENEXEC_DB_URL", format!("sqlite:///{}", elsewhere.display()), 78),
        ("OPENEXEC_MODE", "neither".to_owned(), 78),
        ("OPENEXEC_ADMIN_LISTEN", "192.0.2.1:1".to_owned(), 69),
    ] {
        let output = stage.command().env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let answer = Client::connect(stage.address()).execute(&request("echo", &json!({}), variable));
        answer.must_be_executed(false);
        assert_eq!(stage.ready().status, 200);
    }
}

#[test]
fn without_the_option_or_the_socket_nothing_is_taken() {
    let stage = Stage::new("");
    let _process = stage.start();
    let mut plain = stage.setup.command(&[]);
    plain.env("OPENEXEC_LISTEN", &stage.listen).env("OPENEXEC_ADMIN_LISTEN", &stage.admin);
    let output = plain.output().unwrap();
    // The ledger is looked at first.
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Setup::demo().command(&["serve", "--takeover"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("startup.takeover_socket"));
    Client::connect(stage.address()).execute(&request("echo", &json!({}), "n")).must_be_executed(false);
}

#[test]
fn unix_sockets_are_taken_too_and_keep_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate.sock");
    let listen = free();
    let setup = Setup::demo().without("OPENEXEC_LISTEN");
    let socket = directory.path().join("takeover.sock");
    let setup = setup.file(&format!(
        "listen: [\"{listen}\", \"unix:{}\"]\nstartup: {{takeover_socket: {}}}\n",
        gate.display(),
        socket.display()
    ));
    let admin = free();
    let start = || {
        let mut command = setup.command(&["serve", "--takeover"]);
        Process::start_at(command.env("OPENEXEC_ADMIN_LISTEN", &admin), listen.parse().unwrap())
    };
    let ask = |nonce: &str| {
        let mut stream = UnixStream::connect(&gate).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = request("echo", &json!({}), nonce);
        let head = "POST /execute HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let old = start();
    assert!(ask("1").starts_with("HTTP/1.1 200"));
    let new = start();
    let (code, log) = old.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(ask("2").starts_with("HTTP/1.1 200"));
    new.signal("TERM");
    assert_eq!(new.end().0, Some(0));
    assert!(!gate.exists() && !socket.exists(), "the last one cleans up");
}

#[test]
fn a_second_signal_hurries() {
    let service = Service::start(|_, stream| {
        std::thread::sleep(Duration::from_secs(15));
        service::json(stream, "200 OK", "{}")
    });
    let setup = Setup::demo().file(&format!(
        "upstreams: {{s: {{addresses: [\"http://{}\"]}}}}\nactions: {{slow: {{upstream: s, path: /do}}}}\n\
         shutdown: {{delay: 15s, timeout: 15s}}\n",
        service.address
    ));
    let process = setup.spawn();
    let body = request("slow", &json!({"do": "it"}), "n");
    let mut client = Client::connect(process.address);
    let head = "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    write!(client.stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    service.await_asked("it");
    let admin = process.admin;
    process.signal("TERM");
    await_that("it stops", || Client::connect(admin).get("/readyz").status == 503);
    assert!(TcpStream::connect(process.address).is_ok(), "it serves on for shutdown.delay");
    process.signal("TERM");
    let started = Instant::now();
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(started.elapsed() < Duration::from_secs(8), "bounded");
    assert!(log.contains("still running at the deadline"), "{log}");
    let next = setup.spawn();
    Client::connect(next.address).execute(&body).must_be(409, "outcome_unknown", "");
}
