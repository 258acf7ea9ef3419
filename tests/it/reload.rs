//! A configuration takes the place of another one while the server runs: all of it, or nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::service::{self, Service};
use crate::support::{Approval, Client, PATIENCE, Process, Setup, approved, metric, request};

pub const APPLIED: &str = "openexec_config_reloads_total{result=\"applied\"}";
pub const REFUSED: &str = "openexec_config_reloads_total{result=\"refused\"}";
const GOOD: &str = "openexec_config_last_reload_successful";

/// Until this counter is one more than it was.
fn counted(server: &Process, line: &str, before: f64) {
    let deadline = Instant::now() + PATIENCE;
    while metric(server.admin, line) < before + 1.0 {
        assert!(Instant::now() < deadline, "it was not read again");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn reload(server: &Process, line: &str) {
    let before = metric(server.admin, line);
    server.signal("HUP");
    counted(server, line, before);
}

/// As a careful editor does it.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn under_load_no_request_fails() {
    let service = Service::start(|_, stream| service::json(stream, "200 OK", "{}"));
    let file = |allowed: &str| {
        format!(
            "upstreams: {{s: {{addresses: [\"http://{}\"]}}}}\n\
             actions: {{forward: {{upstream: s, path: /do}}, echo: {{builtin: echo}}, add: {{builtin: add}}}}\n\
             allowed_actions: [{allowed}]\n",
            service.address
        )
    };
    let setup = Setup::demo().file(&file("forward, echo"));
    let server = setup.spawn();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (server, stop, done) = (&server, &stop, &done);
            scope.spawn(move || {
                let mut client = Client::connect(server.address);
                for at in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let action = ["forward", "echo"][at % 2];
                    let payload = json!({"at": at, "thread": thread});
                    let response = client.execute(&request(action, &payload, &format!("{thread}-{at}")));
                    assert_eq!(response.must_be_executed(false)["action"], json!(action));
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..20 {
            let allowed = if round % 2 == 0 { "forward, echo, add" } else { "forward, echo" };
            replace(&setup.directory.path().join("openexec.yaml"), &file(allowed));
            reload(&server, APPLIED);
            let added = Client::connect(server.address).execute(&request(
                "add",
                &json!({"a": 1, "b": 2}),
                &format!("a{round}"),
            ));
            if round % 2 == 0 {
                added.must_be_executed(false);
            } else {
                added.must_be(403, "action_not_allowed", "add");
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(done.load(Ordering::SeqCst) > 100);
    assert_eq!((metric(server.admin, REFUSED), metric(server.admin, GOOD)), (0.0, 1.0));
}

#[test]
fn a_mistake_leaves_everything_as_it_was() {
    let setup = Setup::demo().file("allowed_actions: [echo]\n");
    let server = setup.spawn();
    let path = setup.directory.path().join("openexec.yaml");
    let is_unchanged = |nonce: &str| {
        let mut client = Client::connect(server.address);
        client.execute(&request("echo", &json!({}), nonce)).must_be_executed(false);
        client.execute(&request("add", &json!({"a": 1, "b": 1}), &format!("{nonce}-add"))).must_be(
            403,
            "action_not_allowed",
            "",
        );
    };
    let mistakes = [
        "allowed_actions: [add]\nlimits: {body_bytes: 0}\n",
        "allowed_actions: [add]\nunknown: 1\n",
        "allowed_actions: [add\n",
        "allowed_actions: [add]\nledger: {url: \"memory:\", create: false, cache_bytes: 1}\n",
        "allowed_actions: [add]\nupstreams: {s: {addresses: [\"https://h\"], tls: {ca: missing.pem}}}\n",
    ];
    for (at, mistake) in mistakes.into_iter().enumerate() {
        replace(&path, mistake);
        reload(&server, REFUSED);
        assert_eq!(metric(server.admin, GOOD), 0.0, "{mistake}");
        is_unchanged(&format!("n{at}"));
    }
    std::fs::remove_file(&path).unwrap();
    reload(&server, REFUSED);
    is_unchanged("gone");
    std::fs::write(&path, "allowed_actions: [add]\n").unwrap();
    reload(&server, APPLIED);
    assert_eq!(metric(server.admin, GOOD), 1.0);
    Client::connect(server.address).execute(&request("add", &json!({"a": 1, "b": 1}), "m")).must_be_executed(false);
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0));
    for said in
        ["limits.body_bytes must be at least 1", "unknown", "openexec.yaml:1: ", "ledger cannot change", "missing.pem"]
    {
        assert!(log.contains(said), "{said} in {log}");
    }
}

#[test]
fn what_needs_a_restart_is_refused_as_a_whole() {
    let setup = Setup::demo().without("OPENEXEC_MODE").file("mode: demo\nallowed_actions: [echo]\n");
    let server = setup.spawn();
    replace(&setup.directory.path().join("openexec.yaml"), "mode: clawshield\nallowed_actions: [add]\n");
    reload(&server, REFUSED);
    let mut client = Client::connect(server.address);
    client.execute(&request("echo", &json!({}), "n")).must_be_executed(false);
    client.execute(&request("add", &json!({"a": 1, "b": 1}), "m")).must_be(403, "action_not_allowed", "");
    server.signal("TERM");
    assert!(server.end().1.contains("mode cannot change while the server runs"));
}

/// Kubernetes mounts a directory of links through one link, and replaces that one.
#[test]
fn files_are_noticed_by_themselves_through_links_too() {
    let setup = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY");
    let mount = setup.directory.path().join("mount");
    let version = |name: &str, secret: &str| {
        std::fs::create_dir_all(mount.join(name)).unwrap();
        std::fs::write(mount.join(name).join("key"), secret).unwrap();
        std::fs::write(mount.join(name).join("to.json"), format!("{{\"required\": [\"{name}\"]}}")).unwrap();
        std::os::unix::fs::symlink(name, mount.join("next")).unwrap();
        std::fs::rename(mount.join("next"), mount.join("data")).unwrap();
    };
    let (old, new) = ("the first secret, 32 bytes or more", "the second secret, 32 bytes or more");
    version("v1", old);
    for name in ["key", "to.json"] {
        std::os::unix::fs::symlink(Path::new("data").join(name), mount.join(name)).unwrap();
    }
    let service = Service::start(|_, stream| service::json(stream, "200 OK", "{}"));
    let setup = setup.with("CLAWSHIELD_SECRET_KEY_FILE", mount.join("key").to_str().unwrap()).file(&format!(
        "upstreams: {{s: {{addresses: [\"http://{}\"]}}}}\n\
         actions: {{do: {{upstream: s, path: /do, schema: {}}}}}\n",
        service.address,
        mount.join("to.json").display()
    ));
    let server = setup.spawn();
    let ask = |secret: &str, member: &str, approval_id: &str| {
        let approval = Approval { secret, approval_id, ..Approval::default() };
        let body = approved("do", &json!({member: 1}), approval_id, &approval);
        Client::connect(server.address).execute(&body)
    };
    ask(old, "v1", "a1").must_be_executed(false);
    ask(new, "v1", "a2").must_be(403, "approval_signature_invalid", "");
    ask(old, "v2", "a3").must_be(400, "invalid_payload", "v1");
    let before = metric(server.admin, APPLIED);
    version("v2", new);
    counted(&server, APPLIED, before);
    ask(new, "v2", "a4").must_be_executed(false);
    ask(old, "v2", "a5").must_be(403, "approval_signature_invalid", "");
    ask(new, "v1", "a6").must_be(400, "invalid_payload", "v2");
}

/// Of [`limits_and_tokens_are_replaced_too`], the second ones.
const LIMITS: &str =
    "limits: {body_bytes: 2000, header_bytes: 300, connections: 60, in_flight: 6, buffered_bytes: 2000000}\n";

#[test]
fn limits_and_tokens_are_replaced_too() {
    let setup =
        Setup::demo().file("limits: {body_bytes: 200, connections: 50, in_flight: 5, buffered_bytes: 1000000}\n");
    let token = setup.directory.path().join("token");
    std::fs::write(&token, "the-first-admin-token").unwrap();
    let setup = setup.with("OPENEXEC_ADMIN_TOKEN_FILE", token.to_str().unwrap());
    let server = setup.spawn();
    let large = request("echo", &json!({"text": "x".repeat(300)}), "n");
    Client::connect(server.address).execute(&large).must_be(413, "body_too_large", "200");
    let list = |token: &str| {
        let asked = format!("GET /executions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        Client::connect(server.admin).send(asked).unwrap().status
    };
    assert_eq!([list("the-first-admin-token"), list("the-second-admin-token")], [200, 401]);
    let limits = || {
        ["connections", "in_flight_executions", "buffered_bytes"]
            .map(|name| metric(server.admin, &format!("openexec_{name}_limit")))
    };
    assert_eq!(limits(), [50.0, 5.0, 1_000_000.0]);
    std::fs::write(&token, "the-second-admin-token").unwrap();
    replace(&setup.directory.path().join("openexec.yaml"), LIMITS);
    reload(&server, APPLIED);
    Client::connect(server.address).execute(&large).must_be_executed(false);
    let flood = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(400));
    Client::connect(server.address).send(flood).unwrap().must_be(431, "headers_too_large", "300");
    assert_eq!([list("the-first-admin-token"), list("the-second-admin-token")], [401, 200]);
    assert_eq!(limits(), [60.0, 6.0, 2_000_000.0]);
}
