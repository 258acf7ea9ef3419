//! A stop loses nothing that was claimed.

use std::io::Write;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openexec::registry::Registry;
use serde_json::json;

use crate::support::{Client, PATIENCE, Process, Response, Setup, answered, effect, free, request};

fn slow() -> Registry {
    let slow = effect(|_| async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        answered(&json!({}))
    });
    Registry::builtin().with("slow", slow)
}

#[test]
fn what_runs_is_finished_recorded_and_answered() {
    let setup = Setup::demo().registry(slow());
    let server = setup.start();
    let body = request("slow", &json!({}), "n");
    let answer = std::thread::scope(|scope| {
        let mut client = server.client();
        let running = scope.spawn({
            let body = &body;
            move || client.execute(body)
        });
        std::thread::sleep(Duration::from_millis(150));
        server.stop();
        running.join().unwrap()
    });
    answer.must_be_executed(false);
    let server = setup.start();
    assert_eq!(server.execute(&body).body, answer.body);
}

/// As systemd asks for it (sd_notify(3)), by a path or by an abstract name.
#[test]
fn a_service_manager_is_told_of_the_start_and_of_the_stop() {
    let setup = Setup::demo();
    let path = setup.directory.path().join("notify");
    let name = format!("openexec-test-{}", std::process::id());
    for (socket, address) in [
        (path.to_str().unwrap().to_owned(), SocketAddr::from_pathname(&path).unwrap()),
        (format!("@{name}"), SocketAddr::from_abstract_name(&name).unwrap()),
    ] {
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let hear = || {
            let mut word = [0; 64];
            let length = manager.recv(&mut word).unwrap();
            String::from_utf8(word[..length].to_vec()).unwrap()
        };
        let mut command = setup.command(&[]);
        command.env("NOTIFY_SOCKET", socket).env("OPENEXEC_LISTEN", free()).env("OPENEXEC_ADMIN_LISTEN", free());
        let process = Process::start(&mut command);
        assert_eq!(hear(), "READY=1");
        process.signal("TERM");
        assert_eq!(hear(), "STOPPING=1");
        assert_eq!(process.end().0, Some(0));
    }
    // Nobody hears: it serves all the same.
    let mut command = setup.command(&[]);
    command.env("NOTIFY_SOCKET", "/nowhere").env("OPENEXEC_LISTEN", free()).env("OPENEXEC_ADMIN_LISTEN", free());
    let process = Process::start(&mut command);
    process.signal("TERM");
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn what_does_not_end_in_time_is_unknown() {
    let setup = Setup::demo().registry(slow()).file("shutdown: {timeout: 100ms}");
    let server = setup.start();
    let body = request("slow", &json!({}), "n");
    std::thread::scope(|scope| {
        let mut client = server.client();
        let running = scope.spawn({
            let body = &body;
            move || client.try_execute(body)
        });
        std::thread::sleep(Duration::from_millis(150));
        let started = Instant::now();
        server.stop();
        assert!(started.elapsed() < Duration::from_millis(450), "bounded");
        drop(running.join());
    });
    // In a process of its own it would be gone by now; here its runtime lets go of the file a little later.
    std::thread::sleep(Duration::from_secs(1));
    let server = setup.start();
    server.execute(&body).must_be(409, "outcome_unknown", "");
}

#[test]
fn a_client_that_leaves_changes_nothing() {
    let server = Setup::demo().registry(slow()).start();
    let body = request("slow", &json!({}), "n");
    let mut client = server.client();
    let head = format!(
        "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    std::io::Write::write_all(&mut client.stream, (head + &body).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    drop(client);
    server.execute(&body).must_be_executed(true);
}

#[test]
fn readiness_turns_first_and_new_executions_are_refused_last() {
    let server = Setup::demo().registry(slow()).file("shutdown: {delay: 400ms}").start();
    let (address, admin) = (server.address, server.admin);
    let mut kept = server.client();
    kept.get("/health");
    let mut idle = Client::connect(address);
    idle.get("/health");
    let slow = request("slow", &json!({}), "slow");
    std::thread::scope(|scope| {
        let stopping = scope.spawn(move || server.stop());
        std::thread::sleep(Duration::from_millis(150));
        let ready = Client::connect(admin).get("/readyz");
        assert_eq!((ready.status, ready.text()), (503, "shutting_down\n".to_owned()));
        kept.execute(&request("echo", &json!({}), "n")).must_be_executed(false);
        // Half a header, so that the connection is not idle when the rest comes too late.
        let echo = request("echo", &json!({}), "late");
        let late = format!(
            "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{echo}",
            echo.len()
        );
        let mut late_client = Client::connect(address);
        late_client.stream.write_all(&late.as_bytes()[..20]).unwrap();
        // It keeps the drain going while a connection that sent its request in time is answered.
        let running = scope.spawn(move || kept.execute(&slow));
        std::thread::sleep(Duration::from_millis(400));
        assert!(TcpStream::connect(address).is_err(), "nobody new");
        let refused = late_client.send(&late[20..]).unwrap();
        refused.must_be(503, "shutting_down", "The server is stopping");
        assert_eq!(refused.header("connection"), Some("close"));
        running.join().unwrap().must_be_executed(false);
        stopping.join().unwrap();
    });
    idle.must_be_closed();
}

/// The real process, SIGTERM under load: every answer that was seen is there after the restart.
#[test]
fn sigterm_under_load_loses_nothing() {
    let setup = Setup::demo();
    let process = setup.spawn();
    let stop = AtomicBool::new(false);
    let counter = AtomicUsize::new(0);
    let address = process.address;
    let seen: Vec<(String, Response)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    let Ok(stream) = TcpStream::connect(address) else { return seen };
                    drop(stream);
                    let mut client = Client::connect(address);
                    while !stop.load(Ordering::Relaxed) {
                        let nonce = counter.fetch_add(1, Ordering::Relaxed).to_string();
                        let body = request("add", &json!({"a": 1}), &nonce);
                        match client.try_execute(&body) {
                            Some(response) if response.status == 200 => seen.push((body, response)),
                            _ => break,
                        }
                    }
                    seen
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        process.signal("TERM");
        let (code, log) = process.end();
        assert_eq!(code, Some(0), "{log}");
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(seen.len() > 20, "{}", seen.len());
    let server = setup.start();
    let mut client = server.client();
    for (body, response) in &seen {
        assert_eq!(client.execute(body).body, response.body);
    }
}
