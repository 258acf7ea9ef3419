//! The status page's log-in: what a session needs, what it may do, and when it ends.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::recovery::{READ_TOKEN, TOKEN, admin, with_tokens};
use crate::support::{Client, Response, Setup, request};

/// What a browser keeps of a log-in.
struct Browser {
    address: SocketAddr,
    cookie: String,
    proof: String,
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    );
    Client::connect(address).send(request).unwrap()
}

fn log_in(address: SocketAddr, token: &str, headers: &[(&str, &str)]) -> Response {
    ask(address, "POST", "/session", headers, &json!({"token": token}).to_string())
}

impl Browser {
    fn log_in(address: SocketAddr, token: &str) -> Self {
        let answer = log_in(address, token, &[("Origin", &format!("http://{address}"))]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let cookie = answer.header("set-cookie").unwrap();
        let attributes: Vec<_> = cookie.split("; ").skip(1).collect();
        assert_eq!(attributes, ["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"]);
        assert!(cookie.starts_with(&format!("openexec-session-{}=", address.port())), "{cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Browser { address, cookie, proof: answer.json()["proof"].as_str().unwrap().to_owned() }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let origin = format!("http://{}", self.address);
        let cookie = format!("theme=dark; {}", self.cookie);
        let headers = [("Cookie", &*cookie), ("OpenExec-Session", &self.proof), ("Origin", &origin)];
        ask(self.address, method, path, &headers, body)
    }
}

#[test]
fn a_session_may_do_what_its_token_may() {
    let server = with_tokens(Setup::demo()).start();
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    let (reader, operator) = (Browser::log_in(server.admin, READ_TOKEN), Browser::log_in(server.admin, TOKEN));
    for (browser, role) in [(&reader, "reader"), (&operator, "operator")] {
        assert_eq!(browser.ask("GET", "/session", "").json()["role"], role);
        for path in ["/executions", "/denials", "/status", "/openapi.json"] {
            assert_eq!(browser.ask("GET", path, "").status, 200, "{path}");
        }
    }
    let id = reader.ask("GET", "/executions", "").json()["executions"][0]["id"].as_str().unwrap().to_owned();
    let resolve = format!("/executions/{id}/resolve");
    let body = r#"{"outcome":"not_executed","by":"ada"}"#;
    reader.ask("POST", &resolve, body).must_be(403, "caller_not_allowed", "may read");
    operator.ask("POST", &resolve, body).must_be(409, "invalid_request", "only an UNKNOWN one");
    // A token has no end.
    let of_token = admin(server.admin, "GET", "/session", TOKEN, "").json();
    assert_eq!(of_token, json!({"role": "operator", "expires_at": null}));
    server.must_be_well();
}

#[test]
fn neither_half_of_a_session_opens_anything() {
    let server = with_tokens(Setup::demo()).start();
    let at = server.admin;
    let (ours, other) = (Browser::log_in(at, TOKEN), Browser::log_in(at, TOKEN));
    let own = format!("http://{at}");
    let get = |headers: &[(&str, &str)]| ask(at, "GET", "/executions", headers, "");
    let (cookie, proof) = (("Cookie", &*ours.cookie), ("OpenExec-Session", &*ours.proof));
    get(&[cookie]).must_be(401, "caller_unauthenticated", "log in again");
    get(&[proof]).must_be(401, "caller_unauthenticated", "");
    get(&[cookie, ("OpenExec-Session", &other.proof)]).must_be(401, "caller_unauthenticated", "");
    get(&[("Cookie", &other.cookie), proof]).must_be(401, "caller_unauthenticated", "");
    let renamed = ours.cookie.replace(&at.port().to_string(), "1");
    get(&[("Cookie", &renamed), proof]).must_be(401, "caller_unauthenticated", "");
    assert_eq!(get(&[cookie, proof]).status, 200);
    // A page of another origin, which has no way to the proof, gets no further with it.
    for foreign in ["http://evil.example", "null", &format!("http://127.0.0.1:{}", at.port() ^ 1), "https://127.0.0.1"]
    {
        let headers = [cookie, proof, ("Origin", foreign)];
        ask(at, "POST", "/executions/x/resolve", &headers, "{}").must_be(403, "caller_not_allowed", "another origin");
        ask(at, "DELETE", "/session", &headers, "").must_be(403, "caller_not_allowed", "another origin");
        log_in(at, TOKEN, &[("Origin", foreign)]).must_be(403, "caller_not_allowed", "another origin");
    }
    let site = ("Sec-Fetch-Site", "same-site");
    ask(at, "POST", "/executions/x/resolve", &[cookie, proof, site], "{}").must_be(403, "caller_not_allowed", "");
    ask(at, "POST", "/executions/x/resolve", &[cookie, proof, ("Origin", &own)], "{}").must_be(
        422,
        "invalid_request",
        "",
    );
    // It asks first, and nothing allows it.
    let preflight = ask(at, "OPTIONS", "/executions", &[("Origin", "http://evil.example")], "");
    assert!(preflight.status == 405 && preflight.header("access-control-allow-origin").is_none());
    server.must_be_well();
}

#[test]
fn sessions_end() {
    let setup = with_tokens(Setup::demo());
    let server = setup.start();
    let at = server.admin;
    let browser = Browser::log_in(at, TOKEN);
    let left = browser.ask("DELETE", "/session", "");
    assert!(left.header("set-cookie").unwrap().contains("Max-Age=0"));
    browser.ask("GET", "/executions", "").must_be(401, "caller_unauthenticated", "log in again");
    let browser = Browser::log_in(at, TOKEN);
    server.stop();
    let server = setup.start();
    let over = Browser {
        address: server.admin,
        cookie: browser.cookie.replace(&at.port().to_string(), &server.admin.port().to_string()),
        ..browser
    };
    over.ask("GET", "/executions", "").must_be(401, "caller_unauthenticated", "log in again");
    Browser::log_in(server.admin, TOKEN);
}

#[test]
fn a_token_that_is_replaced_ends_its_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("operator"), TOKEN).unwrap();
    std::fs::write(path("reader"), READ_TOKEN).unwrap();
    let setup = Setup::demo()
        .with("OPENEXEC_ADMIN_TOKEN_FILE", &path("operator"))
        .with("OPENEXEC_ADMIN_READ_TOKEN_FILE", &path("reader"));
    let process = setup.spawn();
    let (operator, reader) = (Browser::log_in(process.admin, TOKEN), Browser::log_in(process.admin, READ_TOKEN));
    std::fs::write(path("operator"), "the-next-token-of-an-operator").unwrap();
    process.signal("HUP");
    crate::listen::becomes(&process, "openexec_config_reloads_total{result=\"applied\"}", 1.0);
    operator.ask("GET", "/executions", "").must_be(401, "caller_unauthenticated", "log in again");
    assert_eq!(reader.ask("GET", "/executions", "").status, 200);
}

#[test]
fn who_has_no_token_does_not_log_in() {
    let without = Setup::demo().start();
    log_in(without.admin, TOKEN, &[]).must_be(404, "not_found", "");
    let server = with_tokens(Setup::demo()).start();
    let wrong = "openexec_admin_unauthenticated_total";
    assert_eq!(server.metric(wrong), 0.0);
    for token in ["", "x", &TOKEN[1..], &format!("{TOKEN} ")] {
        let refused = log_in(server.admin, token, &[]);
        refused.must_be(401, "caller_unauthenticated", "");
        assert_eq!(refused.header("set-cookie"), None);
    }
    assert_eq!(server.metric(wrong), 4.0);
    admin(server.admin, "GET", "/executions", "x", "").must_be(401, "caller_unauthenticated", "");
    assert_eq!(server.metric(wrong), 5.0);
    let post = |body: &str| ask(server.admin, "POST", "/session", &[], body);
    for body in ["", "{", "[]", "{}", r#"{"token": 1}"#] {
        post(body).must_be(422, "invalid_request", "");
    }
    post(&json!({"token": "x".repeat(5_000)}).to_string()).must_be(413, "body_too_large", "");
    ask(server.admin, "PUT", "/session", &[], "").must_be(405, "method_not_allowed", "");
    ask(server.admin, "GET", "/session", &[], "").must_be(401, "caller_unauthenticated", "");
    server.must_be_well();
}

#[test]
fn the_status_says_what_is_configured_and_no_secret() {
    let file = "upstreams: {mail: {addresses: [\"http://127.0.0.1:9\"]}}
actions: {mail.send: {upstream: mail, path: /send, recovery: {idempotent: {window: 1h}}}, echo: {builtin: echo}}
";
    let setup = with_tokens(Setup::clawshield()).file(file);
    let server = setup.start();
    ask(server.admin, "GET", "/status", &[], "").must_be(401, "caller_unauthenticated", "");
    admin(server.admin, "POST", "/status", TOKEN, "").must_be(405, "method_not_allowed", "");
    let answer = admin(server.admin, "GET", "/status", READ_TOKEN, "");
    let status = answer.json();
    for secret in [TOKEN, READ_TOKEN, crate::support::SECRET] {
        assert!(!answer.text().contains(secret));
    }
    assert_eq!(status["version"], openexec::VERSION);
    assert_eq!(
        (&status["mode"], &status["reload_ok"], &status["not_ready"]),
        (&json!("clawshield"), &json!(true), &json!([]))
    );
    assert_eq!(status["ledger"], json!({"kind": "sqlite", "local": false}));
    assert_eq!(
        status["actions"],
        json!([
            {"name": "echo", "kind": "builtin", "upstream": null, "recovery": null},
            {"name": "mail.send", "kind": "upstream", "upstream": "mail", "recovery": "idempotent"},
        ])
    );
    assert_eq!(status["upstreams"], json!([{"name": "mail", "addresses": ["http://127.0.0.1:9"]}]));
    let key = &status["keys"][0];
    assert_eq!((&key["form"], &key["fingerprint"], &key["state"]), (&json!("hmac"), &Value::Null, &json!("active")));
    for moment in ["started_at", "configured_at"] {
        let text = status[moment].as_str().unwrap();
        assert!(openexec_protocol::timestamp::parse(text).is_some(), "{moment}: {text}");
    }
}
