//! Unknown outcomes: who finds out, and how.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::files::in_mount_namespace;
use crate::forward::config;
use crate::service::{After, Seen, Service, answer, json as json_answer};
use crate::support::{Client, PATIENCE, Process, Response, Server, Setup, request};

pub const TOKEN: &str = "operator-token-of-a-test";
pub const READ_TOKEN: &str = "reader-token-of-a-test";

fn start(address: SocketAddr, action: &str) -> Server {
    with_tokens(Setup::demo()).file(&config(address, action)).start()
}

pub fn with_tokens(setup: Setup) -> Setup {
    setup.with("OPENEXEC_ADMIN_TOKEN", TOKEN).with("OPENEXEC_ADMIN_READ_TOKEN", READ_TOKEN)
}

pub fn admin(address: SocketAddr, method: &str, path: &str, token: &str, body: &str) -> Response {
    let mut client = Client::connect(address);
    client
        .send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .unwrap()
}

/// Waits until the retry is no longer told that nobody knows.
#[track_caller]
fn await_verdict(address: SocketAddr, body: &str) -> Response {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = Client::connect(address).execute(body);
        if response.json()["code"] != json!("outcome_unknown") {
            return response;
        }
        assert!(Instant::now() < deadline, "still unknown");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Resets the first, refuses the second so, and does the third.
fn refuses_a_repetition(status: &'static str) -> Service {
    let asked = Mutex::new(0);
    Service::start(move |seen, stream| {
        if !seen.line.starts_with("POST /send ") {
            return After::Close;
        }
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        match *asked {
            1 => After::Reset,
            2 => json_answer(stream, status, r#"{"not":"this"}"#),
            3 => json_answer(stream, "201 Created", r#"{"done":"once"}"#),
            _ => json_answer(stream, "500 Internal Server Error", "{}"),
        }
    })
}

#[test]
fn an_idempotent_service_is_asked_again_with_the_same_key() {
    let service = refuses_a_repetition("503 Service Unavailable");
    let server = start(service.address, ", recovery: {idempotent: {window: 1h}}");
    let body = request("send", &json!({"a": 1.0}), "n");
    let first = server.execute(&body);
    first.must_be(504, "outcome_unknown", "");
    let verdict = await_verdict(server.address, &body);
    assert_eq!((verdict.status, verdict.json()["result"].clone()), (201, json!({"done": "once"})));
    assert_eq!(verdict.header("openexec-replayed"), Some("true"));
    assert_eq!(verdict.json()["id"], first.json()["execution_id"]);
    let seen = service.seen().clone();
    assert_eq!(seen.len(), 3);
    for again in &seen[1..] {
        assert_eq!((&again.line, &again.body), (&seen[0].line, &seen[0].body));
        assert_eq!(again.header("idempotency-key"), seen[0].header("idempotency-key"));
    }
    assert_eq!(server.metric(r#"openexec_recoveries_total{result="ask_again"}"#), 1.0);
    // The client may hear of it before it is counted.
    let deadline = Instant::now() + PATIENCE;
    while server.metric(r#"openexec_recoveries_total{result="settled"}"#) != 1.0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = verdict.json()["id"].as_str().unwrap().to_owned();
    let shown = admin(server.admin, "GET", &format!("/executions/{id}"), READ_TOKEN, "").json();
    assert_eq!((&shown["state"], &shown["settled_by"]), (&json!("DONE"), &json!("recovery: idempotent")));
}

/// They say something about the repetition only; what the first one did is as unknown as before.
#[test]
fn what_a_repetition_is_refused_with_settles_nothing() {
    std::thread::scope(|scope| {
        for (status, more) in [
            ("409 Conflict", ""),
            ("425 Too Early", ""),
            ("429 Too Many Requests", ""),
            ("500 Internal Server Error", ""),
            ("503 Service Unavailable", ", not_executed_on: [503]"),
        ] {
            scope.spawn(move || {
                let service = refuses_a_repetition(status);
                let server = start(service.address, &format!(", recovery: {{idempotent: {{window: 1h}}}}{more}"));
                let body = request("send", &json!({}), "n");
                server.execute(&body).must_be(504, "outcome_unknown", "");
                let verdict = await_verdict(server.address, &body);
                assert_eq!((verdict.status, &verdict.json()["result"]), (201, &json!({"done": "once"})), "{status}");
                assert_eq!(server.metric(r#"openexec_recoveries_total{result="ask_again"}"#), 1.0, "{status}");
                let seen = service.seen().clone();
                assert_eq!(seen.len(), 3, "{status}");
                assert!(seen.iter().all(|s| s.header("idempotency-key") == seen[0].header("idempotency-key")));
            });
        }
    });
}

#[test]
fn after_the_window_an_operator_decides() {
    let service = Service::start(|_, _| After::Close);
    let server = start(service.address, ", recovery: {idempotent: {window: 1500ms}}");
    let body = request("send", &json!({}), "n");
    server.execute(&body).must_be(504, "outcome_unknown", "");
    let deadline = Instant::now() + PATIENCE;
    while server.metric(r#"openexec_recoveries_total{result="operator"}"#) == 0.0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    // The first repetition would be a second later: what it starts would not end within the window.
    let asked = service.seen().len();
    assert_eq!(asked, 1);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(service.seen().len(), asked, "not asked any more");
    server.execute(&body).must_be(409, "outcome_unknown", "");
    assert_eq!(server.metric("openexec_unknown_executions"), 1.0);
}

#[test]
fn a_service_may_be_asked_what_became_of_a_key() {
    for (settle, first_probe, later_probe, expected) in [
        ("1h", "404", "200", "executed"),
        ("0s", "404", "404", "not executed"),
        ("0s", "500", "200", "executed"),
        ("0s", "302", "200", "executed"),
    ] {
        let probes = Mutex::new(0);
        let service = Service::start(move |seen, stream| {
            if seen.line.starts_with("POST") {
                return After::Reset;
            }
            let mut probes = probes.lock().unwrap();
            *probes += 1;
            match if *probes == 1 { first_probe } else { later_probe } {
                "404" => answer(stream, "404 Not Found", "", ""),
                "500" => answer(stream, "500 Internal Server Error", "", ""),
                "302" => answer(stream, "302 Found", "Location: /\r\n", ""),
                _ => json_answer(stream, "200 OK", r#"{"found":true}"#),
            }
        });
        let policy = format!(
            ", headers: {{X-Team: ops}}, recovery: {{probe: {{path: '/status/{{key}}?v=1', settle: {settle}}}}}"
        );
        let server = start(service.address, &policy);
        let body = request("send", &json!({}), "n");
        let id = server.execute(&body).json()["execution_id"].as_str().unwrap().to_owned();
        let verdict = await_verdict(server.address, &body);
        match expected {
            "executed" => assert_eq!(verdict.must_be_executed(true)["result"], json!({"found": true})),
            _ => verdict.must_be(409, "not_executed", "certain"),
        }
        let seen = service.seen().clone();
        assert_eq!(seen.iter().filter(|seen| seen.line.starts_with("POST")).count(), 1, "only asked, not sent again");
        let probe = &seen[1];
        assert_eq!(probe.line, format!("GET /status/{id}?v=1 HTTP/1.1"));
        assert_eq!((probe.header("idempotency-key"), probe.header("x-team")), (Some(id.as_str()), Some("ops")));
    }
}

/// A service that resets the action, which has two seconds, and answers those who ask so; when it was asked.
fn probes(answer_with: &'static str, policy: &str) -> (Service, Arc<Mutex<Vec<Instant>>>, Server) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = asked.clone();
    let service = Service::start(move |seen, stream| {
        if seen.line.starts_with("POST") {
            return After::Reset;
        }
        note.lock().unwrap().push(Instant::now());
        answer(stream, answer_with, "", "")
    });
    let file = config(service.address, &format!(", recovery: {{probe: {{path: '/status/{{key}}', {policy}}}}}"));
    let server = with_tokens(Setup::demo()).file(&file.replace("500ms", "2s")).start();
    (service, asked, server)
}

/// What it does not know yet it may still be doing.
#[test]
fn a_probe_is_believed_that_nothing_happened_only_when_the_time_to_settle_is_over() {
    let (service, asked, server) = probes("404 Not Found", "settle: 2s");
    let began = Instant::now();
    let body = request("send", &json!({}), "n");
    server.execute(&body).must_be(504, "outcome_unknown", "");
    await_verdict(server.address, &body).must_be(409, "not_executed", "certain");
    // From when the action's own time was over. It is asked after one second, three and seven.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    let asked = asked.lock().unwrap().clone();
    assert!(asked.len() >= 2, "it was asked before, and not believed");
    // A second, and twice as long each time.
    let pauses = std::iter::once(began).chain(asked.clone()).zip(asked).map(|(before, after)| after - before);
    for (pause, least) in pauses.zip([1, 2, 4]) {
        assert!(pause >= Duration::from_secs(least), "{pause:?} where at least {least} s were to pass");
    }
    assert_eq!(service.seen().iter().filter(|seen| seen.line.starts_with("POST")).count(), 1);
}

#[test]
fn after_the_window_of_a_probe_an_operator_decides() {
    let (service, asked, server) = probes("503 Service Unavailable", "settle: 0s, window: 6s");
    let body = request("send", &json!({}), "n");
    server.execute(&body).must_be(504, "outcome_unknown", "");
    server.await_metric(r#"openexec_recoveries_total{result="operator"}"#, 1.0);
    // After one second and three; after seven the window is over.
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert_eq!(server.metric(r#"openexec_recoveries_total{result="ask_again"}"#), 2.0);
    assert_eq!(service.seen().len(), 3);
    server.execute(&body).must_be(409, "outcome_unknown", "");
    assert_eq!(server.metric("openexec_unknown_executions"), 1.0);
}

fn held(seen: &Seen, stream: &mut TcpStream) -> After {
    match seen.asked().as_str() {
        "hold" => After::Hold,
        _ => json_answer(stream, "200 OK", r#"{"sent":true}"#),
    }
}

/// Killed while the service works on it.
fn killed_in_between(service: &Service, setup: &Setup) -> String {
    let process = setup.spawn();
    let body = request("send", &json!({"do": "hold"}), "n");
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(Client::connect(process.address).try_execute(&body).is_none()));
        service.await_asked("hold");
        let killed = Command::new("kill").args(["-9", &process.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    });
    body
}

#[test]
fn what_a_crash_leaves_is_unknown_and_visible() {
    let service = Service::start(held);
    let setup = with_tokens(Setup::demo()).file(&config(service.address, "").replace("500ms", "20s"));
    let body = killed_in_between(&service, &setup);
    let process = setup.spawn();
    Client::connect(process.address).execute(&body).must_be(409, "outcome_unknown", "");
    let list = admin(process.admin, "GET", "/executions?state=unknown", READ_TOKEN, "").json();
    assert_eq!(list["executions"].as_array().unwrap().len(), 1);
    assert_eq!(list["executions"][0]["recovery"], json!("operator"));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(service.times("hold"), 1, "never sent again blindly");
}

#[test]
fn what_a_crash_leaves_is_recovered_only_on_the_same_route() {
    let service = Service::start(held);
    let other = Service::start(|_, stream| json_answer(stream, "200 OK", r#"{"other":true}"#));
    let file = |address| config(address, ", recovery: {idempotent: {}}").replace("500ms", "20s");
    let setup = with_tokens(Setup::demo()).file(&file(service.address));
    let body = killed_in_between(&service, &setup);
    let directory = setup.directory.clone();
    let elsewhere = Setup { directory, ..with_tokens(Setup::demo()) };
    let url = format!("sqlite:///{}", setup.ledger().display());
    let elsewhere = elsewhere.with("OPENEXEC_DB_URL", &url).file(&file(other.address));
    let process = elsewhere.spawn();
    std::thread::sleep(Duration::from_millis(2_000));
    Client::connect(process.address).execute(&body).must_be(409, "outcome_unknown", "");
    assert_eq!(other.seen().len(), 0, "another service may do another thing");
    drop(process);
    let times = service.times("hold");
    // Back on its route, and the service answers now.
    let address = service.address;
    drop(service);
    std::thread::sleep(Duration::from_millis(50));
    let service = Service::start_at(&address.to_string(), |_, stream| json_answer(stream, "200 OK", r#"{"late":1}"#));
    let process = setup.spawn();
    let verdict = await_verdict(process.address, &body);
    assert_eq!(verdict.must_be_executed(true)["result"], json!({"late": 1}));
    assert_eq!((times, service.seen().len()), (1, 1));
}

/// What a service promises today it may not have promised when the execution was dispatched.
#[test]
fn what_was_dispatched_under_another_policy_is_an_operators() {
    for (first, later) in [
        ("recovery: {probe: {path: '/status/{key}'}}", "recovery: {idempotent: {}}"),
        ("recovery: {idempotent: {}}, headers: {X-Account: a}", "recovery: {idempotent: {}}, headers: {X-Account: b}"),
    ] {
        let service = Service::start(|_, _| After::Close);
        let setup = with_tokens(Setup::demo()).file(&config(service.address, &format!(", {first}")));
        let server = setup.start();
        let body = request("send", &json!({}), "n");
        server.execute(&body).must_be(504, "outcome_unknown", "");
        server.stop();
        let sent = |service: &Service| service.seen().iter().filter(|seen| seen.line.starts_with("POST")).count();
        let before = sent(&service);
        let setup = Setup { file: Some(config(service.address, &format!(", {later}"))), ..setup };
        let server = setup.start();
        let deadline = Instant::now() + PATIENCE;
        while server.metric(r#"openexec_recoveries_total{result="operator"}"#) == 0.0 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(sent(&service), before, "not sent again: {later}");
        server.execute(&body).must_be(409, "outcome_unknown", "");
    }
}

/// What would not be executed now is not executed again: demo mode approved everything, and an allow-list may shrink.
#[test]
fn what_this_server_would_not_execute_it_does_not_send_again() {
    type Change = fn(Setup) -> Setup;
    let changes: [Change; 3] = [
        |setup| setup.with("OPENEXEC_ALLOWED_ACTIONS", "echo"),
        |setup| {
            let setup = setup.with("OPENEXEC_MODE", "clawshield").with("CLAWSHIELD_TENANT_ID", "tenant-001");
            setup.with("CLAWSHIELD_SECRET_KEY", crate::support::SECRET)
        },
        // Not configured: a server that refuses everything.
        |setup| setup.with("OPENEXEC_MODE", "clawshield"),
    ];
    for change in changes {
        let service = Service::start(|_, _| After::Close);
        let setup = with_tokens(Setup::demo()).file(&config(service.address, ", recovery: {idempotent: {}}"));
        let server = setup.start();
        server.execute(&request("send", &json!({}), "n")).must_be(504, "outcome_unknown", "");
        server.stop();
        let before = service.seen().len();
        let server = change(setup).start();
        let deadline = Instant::now() + PATIENCE;
        while server.metric(r#"openexec_recoveries_total{result="operator"}"#) == 0.0 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(service.seen().len(), before, "not sent again");
    }
}

/// While a recovery may be having its effect, nobody can say that there is none.
#[test]
fn an_operator_does_not_decide_while_a_recovery_is_under_way() {
    let service = Service::start(|seen, stream| match seen.line.as_str() {
        "POST /send HTTP/1.1" if seen.asked() == "ok" => json_answer(stream, "200 OK", "{}"),
        _ => After::Hold,
    });
    let setup = with_tokens(Setup::demo()).file(&config(service.address, ", recovery: {idempotent: {}}"));
    let server = Setup { file: setup.file.clone().map(|file| file.replace("500ms", "3s")), ..setup }.start();
    let body = request("send", &json!({"do": "hold"}), "n");
    let id = server.execute(&body).json()["execution_id"].as_str().unwrap().to_owned();
    let deadline = Instant::now() + PATIENCE;
    while service.times("hold") < 2 {
        assert!(Instant::now() < deadline, "not sent again");
        std::thread::sleep(Duration::from_millis(10));
    }
    let path = format!("/executions/{id}/resolve");
    let resolve = || admin(server.admin, "POST", &path, TOKEN, r#"{"outcome":"not_executed","by":"ada"}"#);
    resolve().must_be(409, "execution_in_flight", "recovery");
    let deadline = Instant::now() + PATIENCE;
    while resolve().status != 200 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let times = service.times("hold");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(service.times("hold"), times, "and what an operator has settled is not sent again");
    server.execute(&body).must_be(409, "not_executed", "");
}

/// The answer is here, and the disk takes it no more: the client is told that nobody knows, and the answer is stored as
/// soon as there is room.
#[test]
fn an_answer_that_cannot_be_recorded_is_kept_until_it_can_be() {
    let setup = Setup::demo();
    let inside = setup.directory.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let filler: &'static Mutex<Option<std::path::PathBuf>> = Box::leak(Box::new(Mutex::new(None)));
    let service = Service::start(|seen, stream| {
        if seen.asked() == "fill" {
            let path = filler.lock().unwrap().clone().unwrap();
            let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        }
        json_answer(stream, "200 OK", &json!({"filled": "x".repeat(300_000)}).to_string())
    });
    let file = config(service.address, "").replace("500ms", "5s") + "\nledger: {min_free_bytes: 0}\n";
    let setup = setup.file(&file);
    let url = format!("sqlite:///{}/openexec.db", inside.display());
    let script = format!("mount -t tmpfs -o size=4m none {}", inside.display());
    let process = Process::start(&mut in_mount_namespace(&setup, &script, &url));
    let path = format!("/proc/{}/root{}/filler", process.child.id(), inside.display());
    *filler.lock().unwrap() = Some(path.clone().into());
    let body = request("send", &json!({"do": "fill"}), "n");
    let execute = || Client::connect(process.address).execute(&body);
    let first = execute();
    first.must_be(504, "outcome_unknown", "");
    execute().must_be(409, "outcome_unknown", "");
    std::fs::remove_file(Path::new(&path)).unwrap();
    let verdict = await_verdict(process.address, &body);
    let answer = verdict.must_be_executed(true);
    assert_eq!(answer["id"], first.json()["execution_id"]);
    assert_eq!(answer["result"]["filled"].as_str().unwrap().len(), 300_000);
    assert_eq!(service.times("fill"), 1);
    let innocent = request("send", &json!({"do": "ok"}), "m");
    Client::connect(process.address).execute(&innocent).must_be_executed(false);
}

#[test]
fn executions_are_shown_to_whoever_has_a_token() {
    let service = Service::start(|seen, stream| match seen.asked().as_str() {
        "close" => After::Close,
        _ => json_answer(stream, "200 OK", r#"{"sent":true}"#),
    });
    let without = Setup::demo().file(&config(service.address, "")).start();
    admin(without.admin, "GET", "/executions", TOKEN, "").must_be(404, "not_found", "");
    let server = start(service.address, "");
    for (nonce, what) in [("1", "ok"), ("2", "close"), ("3", "ok")] {
        server.execute(&request("send", &json!({"do": what}), nonce));
    }
    for wrong in ["", "x", &TOKEN[1..]] {
        let refused = admin(server.admin, "GET", "/executions", wrong, "");
        refused.must_be(401, "caller_unauthenticated", "");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let list = |query: &str| admin(server.admin, "GET", &format!("/executions{query}"), READ_TOKEN, "");
    let nonces = |response: Response| {
        let answer = response.json();
        let nonces: Vec<String> =
            answer["executions"].as_array().unwrap().iter().map(|e| e["nonce"].as_str().unwrap().to_owned()).collect();
        (nonces, answer["next"].clone())
    };
    assert_eq!(nonces(list("")), (vec!["3".to_owned(), "2".to_owned(), "1".to_owned()], Value::Null));
    let (page, next) = nonces(list("?limit=2"));
    assert_eq!(page, ["3", "2"]);
    assert_eq!(nonces(list(&format!("?limit=2&before={}", next.as_str().unwrap()))).0, ["1"]);
    assert_eq!(nonces(list("?state=UNKNOWN")).0, ["2"]);
    assert_eq!(nonces(list("?state=done&limit=1")).0, ["3"]);
    assert_eq!(nonces(list("?action=send&limit=1")).0, ["3"]);
    assert_eq!(nonces(list("?action=echo")), (vec![], Value::Null));
    assert_eq!(nonces(list("?tenant=&state=unknown")).0, ["2"]);
    assert_eq!(nonces(list("?tenant=nobody")).0, [""; 0]);
    for wrong in ["?state=lost", "?limit=0", "?limit=501", "?limit=x", "?nonce=1"] {
        list(wrong).must_be(422, "invalid_request", "");
    }
    assert!(!list("").text().contains("sent"), "no payloads and no results in a list");
    let id = list("?state=UNKNOWN").json()["executions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(nonces(list(&format!("?search={}", &id[3..]))).0, ["2"]);
    let shown = list(&format!("/{id}")).json();
    assert_eq!(shown["payload"], json!(r#"{"do":"close"}"#));
    let route = format!("POST /send (payload) to service: http://{}", service.address);
    assert_eq!((shown["route"].as_str(), shown["result"].as_str()), (Some(route.as_str()), None));
    list("/nobody").must_be(404, "not_found", "No execution");
    let resolve = |token: &str, id: &str, body: &str| {
        admin(server.admin, "POST", &format!("/executions/{id}/resolve"), token, body)
    };
    let done = r#"{"outcome":"done","result":{"n":12345678901234567890123},"by":"ada"}"#;
    resolve(READ_TOKEN, &id, done).must_be(403, "caller_not_allowed", "");
    for wrong in [
        "",
        "{}",
        r#"{"outcome":"done","by":"ada"}"#,
        r#"{"outcome":"done","result":1}"#,
        r#"{"outcome":"done","result":1,"result":2,"by":"ada"}"#,
        r#"{"outcome":"not_executed","result":1,"by":"ada"}"#,
        r#"{"outcome":"not_executed","by":"a\nb"}"#,
        r#"{"outcome":"maybe","by":"ada"}"#,
    ] {
        resolve(TOKEN, &id, wrong).must_be(422, "invalid_request", "");
    }
    resolve(TOKEN, "nobody", done).must_be(404, "not_found", "");
    let resolved = resolve(TOKEN, &id, done).json();
    assert_eq!((&resolved["state"], &resolved["settled_by"]), (&json!("DONE"), &json!("operator: ada")));
    resolve(TOKEN, &id, done).must_be_about(409, "only an UNKNOWN one");
    let retry = server.execute(&request("send", &json!({"do": "close"}), "2"));
    retry.must_be_executed(true);
    assert!(retry.text().contains(r#""result":{"n": 12345678901234567890123}"#), "{}", retry.text());
    assert_eq!(service.times("close"), 1);
    for (outcome, count) in [("done", 2.0), ("unknown", 1.0), ("not_executed", 0.0)] {
        let line = format!("openexec_executions_total{{action=\"send\",outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&line), count, "{outcome}");
    }
}

#[test]
fn a_search_goes_through_all_in_parts() {
    let server = with_tokens(Setup::demo()).start();
    let mut client = server.client();
    // More than are looked through at once, between two that are wanted.
    for n in 0..=11_000 {
        if n % 5_000 == 0 {
            // Below the requests that one connection may have.
            client = server.client();
        }
        let nonce = if n == 0 || n == 11_000 { format!("a needle & a thread {n}") } else { format!("straw-{n}") };
        client.execute(&request(if n % 2 == 0 { "echo" } else { "add" }, &json!({"a": 1, "b": 2}), &nonce));
    }
    let list = |query: &str| admin(server.admin, "GET", &format!("/executions?{query}"), READ_TOKEN, "").json();
    let found = list("search=needle+%26+a");
    let nonce = |page: &Value| page["executions"][0]["nonce"].clone();
    assert_eq!((found["executions"].as_array().unwrap().len(), nonce(&found)), (1, json!("a needle & a thread 11000")));
    let next = found["next"].as_str().expect("more that was not looked at");
    let found = list(&format!("search=needle+%26+a&before={next}"));
    assert_eq!((nonce(&found), &found["next"]), (json!("a needle & a thread 0"), &Value::Null));
    // One page of many that are wanted ends as one of all does.
    let page = list("action=echo&limit=500");
    assert_eq!(page["executions"].as_array().unwrap().len(), 500);
    let follows = list(&format!("action=echo&limit=1&before={}", page["next"].as_str().unwrap()));
    assert_eq!(nonce(&follows), "straw-10000");
    // The command goes through all of it.
    let output = Command::new(env!("CARGO_BIN_EXE_openexec"))
        .env_clear()
        .env("OPENEXEC_ADMIN_TOKEN", READ_TOKEN)
        .args(["executions", "--json", "--admin", &server.admin.to_string(), "list", "--search", "needle & a"])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["executions"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["next"], Value::Null);
}

impl Response {
    /// A refusal that names an execution.
    #[track_caller]
    fn must_be_about(&self, status: u16, detail: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.json()["detail"].as_str().unwrap().contains(detail), "{}", self.text());
    }
}

#[test]
fn operators_have_commands() {
    let service = Service::start(|seen, stream| match seen.asked().as_str() {
        "ok" => json_answer(stream, "200 OK", r#"{"sent":true}"#),
        _ => After::Close,
    });
    let setup = with_tokens(Setup::demo()).file(&config(service.address, ""));
    let server = setup.start();
    for (nonce, what) in [("1", "ok"), ("nonce\u{1b}[31m", "a"), ("3", "b")] {
        server.execute(&request("send", &json!({"do": what}), nonce));
    }
    let at = server.admin.to_string();
    let run = |token: Option<&str>, arguments: &[&str], input: &str| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
        command.env_clear().args(["executions", "--admin", &at]).args(arguments);
        if let Some(token) = token {
            command.env("OPENEXEC_ADMIN_TOKEN", token);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let list = run(Some(TOKEN), &["list"], "");
    let table = text(&list.stdout);
    assert_eq!((list.status.code(), table.lines().count()), (Some(0), 4), "{table}");
    let json_list = run(Some(TOKEN), &["list", "--state", "unknown", "--json"], "");
    let listed: Value = serde_json::from_slice(&json_list.stdout).unwrap();
    let ids: Vec<&str> = listed["executions"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    let shown = text(&run(Some(TOKEN), &["show", ids[1]], "").stdout);
    assert!(shown.contains("UNKNOWN") && shown.contains(r#"{"do":"a"}"#), "{shown}");
    assert!(!shown.contains('\u{1b}') && shown.contains(r"\u{1b}"), "nothing that a terminal obeys: {shown}");
    let resolved = run(Some(TOKEN), &["resolve", ids[1], "--result", "-", "--as", "ada"], r#"{"found": 1}"#);
    assert_eq!(resolved.status.code(), Some(0), "{}", text(&resolved.stderr));
    let resolved = run(Some(TOKEN), &["resolve", ids[0], "--not-executed", "--as", "ada"], "");
    assert_eq!(resolved.status.code(), Some(0), "{}", text(&resolved.stderr));
    assert!(text(&resolved.stdout).contains("operator: ada"));
    let retry = server.execute(&request("send", &json!({"do": "a"}), "nonce\u{1b}[31m"));
    assert_eq!(retry.must_be_executed(true)["result"], json!({"found": 1}));
    server.execute(&request("send", &json!({"do": "b"}), "3")).must_be(409, "not_executed", "");
    for (token, arguments, code, words) in [
        (Some(TOKEN), &["resolve", ids[0], "--not-executed", "--as", "ada"][..], 1, "NOT_EXECUTED"),
        (Some(TOKEN), &["show", "nobody"], 1, "No execution"),
        (Some("wrong-token-of-a-test"), &["list"], 77, "token"),
        (None, &["list"], 77, "OPENEXEC_ADMIN_TOKEN"),
        (Some(TOKEN), &["resolve", ids[0], "--as", "ada"], 2, "--result"),
        (Some(TOKEN), &["list", "--state", "lost"], 2, "lost"),
    ] {
        let failed = run(token, arguments, "");
        assert_eq!(failed.status.code(), Some(code), "{arguments:?}: {}", text(&failed.stderr));
        assert!(text(&failed.stderr).contains(words), "{}", text(&failed.stderr));
    }
    drop(server);
    let unreachable = run(Some(TOKEN), &["list"], "");
    assert_eq!(unreachable.status.code(), Some(69), "{}", text(&unreachable.stderr));
}
