//! Who may send requests at all, where callers are configured.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use openexec_protocol::receipt;
use serde_json::json;

use crate::admin::must_have_the_documented_fields;
use crate::cli::{run, text};
use crate::keys::{keyless, private, public_file};
use crate::listen::{Offer, start_with, tls};
use crate::network::Authority;
use crate::recovery::{READ_TOKEN, admin, with_tokens};
use crate::reload::{APPLIED, reload};
use crate::service::{Service, answer};
use crate::support::{Approval, Client, Response, Server, Setup, approved, free, request};

const ID: &str = "00000000-0000-4000-8000-000000000001";
const TOKENS: [&str; 3] =
    ["token-of-the-planner-0123456789", "next-token-of-the-planner-01234", "token-of-the-mailer-01234567890"];

pub fn hash(token: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(token))
}

fn post(address: std::net::SocketAddr, path: &str, headers: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}");
    Client::connect(address).send(format!("{head}Content-Length: {length}\r\n\r\n{body}")).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Two tenants; the planner may do everything of `a`, the mailer only `echo` of `b`.
fn gateway() -> (Setup, Server) {
    let setup = with_tokens(keyless());
    let file = format!(
        "tenants:
  a: {{keys: [{{id: one, form: ed25519, file: {}}}]}}
  b: {{keys: [{{id: one, form: ed25519, file: {}}}]}}
callers:
  planner: {{token_sha256: [{}, {}], tenant: a}}
  mailer: {{token_sha256: [{}], tenant: b, actions: [echo]}}
",
        public_file(&setup, 1),
        public_file(&setup, 2),
        hash(TOKENS[0]),
        hash(TOKENS[1]).to_uppercase(),
        hash(TOKENS[2]),
    );
    let setup = setup.file(&file);
    let server = setup.start();
    (setup, server)
}

fn by(seed: u8, tenant: &str, action: &str, nonce: &str) -> String {
    let key = private(seed);
    let approval = Approval { private_key: Some(&key), tenant, approval_id: ID, ..Approval::default() };
    approved(action, &json!({"a": 1}), nonce, &approval)
}

#[test]
fn nobody_gets_further_without_showing_who_it_is() {
    let (_setup, server) = gateway();
    let good = by(1, "a", "add", "n");
    let two = bearer(TOKENS[0]) + &bearer(TOKENS[0]);
    for headers in [
        "",
        "Authorization: \r\n",
        "Authorization: Basic eDp5\r\n",
        "Authorization: Bearer\r\n",
        &two,
        &bearer("guess"),
        &bearer(&hash(TOKENS[0])),
    ] {
        for path in ["/execute", "/receipts/verify", "/anything"] {
            let refused = post(server.address, path, headers, &good);
            refused.must_be(401, "caller_unauthenticated", "");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
            assert!(!refused.text().contains("planner"), "{}", refused.text());
        }
    }
    // Before the body is looked at: what a stranger sends costs nothing.
    post(server.address, "/execute", "", "rubbish").must_be(401, "caller_unauthenticated", "");
    // What probes ask for is for everybody.
    for path in ["/", "/health", "/ready", "/version", "/openapi.json"] {
        assert_eq!(server.client().get(path).status, 200, "{path}");
    }
    for token in &TOKENS[..2] {
        let done = post(server.address, "/execute", &bearer(token), &good);
        assert_eq!(done.status, 200, "{}", done.text());
    }
    let claim = json!({"exec_id": "x", "result": "{}", "receipt": receipt::receipt("x", "{}")}).to_string();
    let verified = post(server.address, "/receipts/verify", &bearer(TOKENS[2]), &claim);
    assert_eq!((verified.status, verified.json()), (200, json!({"valid": true})));
}

#[test]
fn a_caller_may_ask_for_the_actions_of_its_tenant_only() {
    let (_setup, server) = gateway();
    let ask = |token: &str, body: &str| post(server.address, "/execute", &bearer(token), body);
    let first = ask(TOKENS[0], &by(1, "a", "add", "n"));
    first.must_be_executed(false);
    // Not even a stored answer, though the approval is good.
    ask(TOKENS[2], &by(1, "a", "add", "n")).must_be(403, "caller_not_allowed", "");
    ask(TOKENS[0], &by(2, "b", "echo", "n")).must_be(403, "caller_not_allowed", "");
    ask(TOKENS[2], &by(2, "b", "add", "n")).must_be(403, "caller_not_allowed", "");
    ask(TOKENS[2], &by(2, "b", "echo", "n")).must_be_executed(false);
    // Who shows a token still needs an approval.
    ask(TOKENS[0], &request("add", &json!({}), "m")).must_be(403, "approval_missing", "");
    ask(TOKENS[0], &by(3, "a", "add", "m")).must_be(403, "approval_signature_invalid", "");
    let id = first.header("openexec-execution-id").unwrap();
    let shown = admin(server.admin, "GET", &format!("/executions/{id}"), READ_TOKEN, "").json();
    assert_eq!((&shown["caller"], &shown["key_id"], &shown["tenant"]), (&json!("planner"), &json!("one"), &json!("a")));
}

#[test]
fn a_client_certificate_names_its_caller() {
    let (authority, address) = (Authority::new(), free());
    let more = format!(", client_ca: \"{}\"", authority.path("ca.pem"));
    let callers = "callers:\n  planner: {certificate_names: [planner.test], actions: [echo]}\n  mailer: {certificate_names: [mailer.test]}\n";
    let (_setup, server) = start_with(&tls(&address, &authority.issue("localhost", 10), &more), callers);
    let ask = |name: &str, headers: &str, action: &str| {
        let offer = Offer { certificate: Some(authority.issue(name, 10)), ..Offer::new(&authority) };
        let mut stream = offer.connect(address.parse().unwrap());
        let body = request(action, &json!({}), name);
        write!(
            stream,
            "POST /execute HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream.flush().unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("planner.test", "", "echo").starts_with("HTTP/1.1 200 "));
    // One that names two callers is nobody's.
    assert!(ask("*.test", "", "echo").contains("caller_unauthenticated"));
    assert!(ask("planner.test", "", "add").contains("caller_not_allowed"));
    assert!(ask("other.test", "", "echo").contains("caller_unauthenticated"));
    // A token that is shown must be good, whatever certificate there is.
    assert!(ask("planner.test", &bearer("guess"), "echo").contains("caller_unauthenticated"));
    // On the plain listener nobody can show anything.
    Client::connect(server.address).execute(&request("echo", &json!({}), "n")).must_be(
        401,
        "caller_unauthenticated",
        "",
    );
    assert!(ask("planner.test", "", "echo").contains("Replayed: true"));
}

#[test]
fn strangers_are_told_of_in_the_log_and_not_all_of_them() {
    let setup = Setup::demo().file(&format!("callers: {{planner: {{token_sha256: [{}]}}}}", hash(TOKENS[0])));
    let server = setup.spawn();
    for headers in ["", &bearer("guess-of-a-stranger")] {
        post(server.address, "/execute", headers, "{}").must_be(401, "caller_unauthenticated", "");
    }
    for _ in 0..30 {
        post(server.address, "/elsewhere", "", "{}").must_be(401, "caller_unauthenticated", "");
    }
    server.signal("TERM");
    let (_, log) = server.end();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().filter(|line| line["target"] == "openexec::caller").collect();
    assert!((10..32).contains(&told.len()), "{} lines", told.len());
    assert_eq!((&told[0]["shown"], &told[1]["shown"]), (&json!("nothing"), &json!("authorization")));
    assert!(told[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{}", told[0]);
    told.into_iter().for_each(must_have_the_documented_fields);
    assert!(!log.contains("guess-of") && !log.contains("elsewhere"), "{log}");
}

/// In demo mode a nonce that is known gives the first answer, whatever is asked for. Not to a caller.
#[test]
fn a_caller_gets_no_answer_of_an_action_that_is_not_its_own() {
    let file = format!(
        "callers:\n  all: {{token_sha256: [{}]}}\n  some: {{token_sha256: [{}], actions: [echo]}}\n",
        hash(TOKENS[0]),
        hash(TOKENS[1])
    );
    let server = Setup::demo().file(&file).start();
    let ask = |token: &str, action: &str| {
        post(server.address, "/execute", &bearer(token), &request(action, &json!({"a": 1}), "n"))
    };
    ask(TOKENS[0], "add").must_be_executed(false);
    ask(TOKENS[1], "add").must_be(403, "caller_not_allowed", "");
    ask(TOKENS[1], "echo").must_be(422, "nonce_reused", "");
    ask(TOKENS[0], "add").must_be_executed(true);
}

/// The body takes its time, and the token is revoked meanwhile.
#[test]
fn a_token_that_is_revoked_while_the_body_comes_does_not_count() {
    let file = |token: &str| format!("callers: {{planner: {{token_sha256: [{}]}}}}\n", hash(token));
    let setup = Setup::demo().file(&file(TOKENS[0]));
    let server = setup.spawn();
    let body = request("echo", &json!({}), "n");
    let mut slow = std::net::TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
        bearer(TOKENS[0]),
        body.len()
    );
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&body.as_bytes()[..5]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    std::fs::write(setup.directory.path().join("openexec.yaml"), file(TOKENS[1])).unwrap();
    reload(&server, APPLIED);
    slow.write_all(&body.as_bytes()[5..]).unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    post(server.address, "/execute", &bearer(TOKENS[1]), &body).must_be_executed(false);
}

#[test]
fn what_a_caller_shows_us_does_not_reach_the_service() {
    let service = Service::start(|_, stream| answer(stream, "200 OK", "Content-Type: text/plain\r\n", "ok"));
    let file = format!(
        "upstreams: {{service: {{addresses: [\"http://{}\"]}}}}
passthrough: [{{upstream: service, methods: [GET], path: /docs}}]
callers: {{reader: {{token_sha256: [{}]}}}}
",
        service.address,
        hash(TOKENS[0])
    );
    let server = Setup::demo().file(&file).start();
    let get = |headers: &str| {
        server.client().send(format!("GET /docs/1 HTTP/1.1\r\nHost: localhost\r\nX-Mine: 1\r\n{headers}\r\n")).unwrap()
    };
    get("").must_be(401, "caller_unauthenticated", "");
    assert_eq!(get(&bearer(TOKENS[0])).status, 200);
    let seen = service.seen();
    let head = format!("{:?}", seen[0].headers).to_ascii_lowercase();
    assert!(seen.len() == 1 && head.contains("x-mine") && !head.contains("authorization"), "{head}");
}

#[test]
fn a_token_is_made_in_a_file_of_its_own() {
    let setup = Setup::demo();
    let path = setup.directory.path().join("planner");
    let make = || run(&mut setup.command(&["keys", "token", path.to_str().unwrap()]), "");
    let made = make();
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let file = path.with_extension("token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap();
    assert_eq!((token.len(), text(&made.stdout)), (43, hash(&token) + "\n"));
    assert_eq!(make().status.code(), Some(2), "nothing is overwritten");
    let server = setup.file(&format!("callers: {{planner: {{token_sha256: [{}]}}}}", hash(&token))).start();
    let body = request("echo", &json!({}), "n");
    post(server.address, "/execute", &bearer(&token), &body).must_be_executed(false);
}

#[test]
fn every_mistake_with_callers_is_listed() {
    let setup = keyless();
    let file = format!(
        "tenants: {{a: {{keys: [{{id: one, form: ed25519, file: {}}}]}}}}
callers:
  'a b': {{token_sha256: [{}], tenant: a}}
  nothing: {{tenant: a}}
  short: {{token_sha256: [hunter2], tenant: a}}
  homeless: {{token_sha256: [{}]}}
  elsewhere: {{token_sha256: [{}], tenant: b}}
  same: {{token_sha256: [{}], tenant: a}}
  unnamed: {{certificate_names: ['1.2.3.4'], tenant: a}}
",
        public_file(&setup, 1),
        hash("1"),
        hash("2"),
        hash("3"),
        hash("1").to_uppercase(),
    );
    let output = run(&mut setup.file(&file).command(&["validate"]), "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    for problem in [
        "callers.a b must be named by",
        "callers.nothing needs token_sha256 or certificate_names",
        "callers.short.token_sha256[0] must be 64 hex digits",
        "callers.homeless.tenant must say",
        "callers.elsewhere.tenant is none of the configured ones: b",
        "callers.same cannot be told from callers.a b",
        "callers.unnamed.certificate_names[0] is no DNS name",
        "callers.unnamed.certificate_names need a listener with tls.client_ca",
    ] {
        assert!(said.contains(problem), "{problem:?} is not in {said}");
    }
    assert!(!said.contains("hunter2") && !said.contains(&hash("1")[..8]), "{said}");
    let demo = Setup::demo().file(&format!("callers: {{x: {{token_sha256: [{}], tenant: a}}}}", hash("1")));
    let said = text(&run(&mut demo.command(&["validate"]), "").stderr);
    let original = format!("callers: {{x: {{token_sha256: [{}]}}}}\nreplay: {{on_mismatch: original}}", hash("1"));
    let other = text(&run(&mut Setup::demo().file(&original).command(&["validate"]), "").stderr);
    let nobody = text(&run(&mut Setup::demo().file("callers: {}").command(&["validate"]), "").stderr);
    assert!(nobody.contains("callers names nobody"), "{nobody}");
    assert!(other.contains("replay.on_mismatch may be `original` in demo mode only, without callers"), "{other}");
    assert!(said.contains("callers.x.tenant has a meaning in ClawShield mode only"), "{said}");
}
