//! The documents that describe the listeners, held against what the listeners do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use openexec::execute::front::PATHS;
use openexec_protocol::refusal::Code;
use serde_json::{Value, json};

use crate::support::{Approval, Client, Response, Server, Setup, approved, request, tool};

const TOKEN: &str = "an-operators-token-of-a-test";

/// From the admin listener, with the token.
fn get(server: &Server, path: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    Client::connect(server.admin).send(request).unwrap()
}

fn must_succeed(command: &mut Command) {
    let output = command.env("NO_COLOR", "1").output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Requests of every form that the document names, and of forms that it does not; every answer must be described.
fn must_do_what_it_says(address: SocketAddr, document: &Value, more: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("openapi.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/schemathesis.toml");
    must_succeed(
        // Several times what it takes.
        Command::new("timeout")
            .arg("120")
            .arg(tool("python/bin/schemathesis"))
            .arg("--config-file")
            .arg(config)
            .arg("run")
            .arg(&path)
            .args(["--url", &format!("http://{address}"), "--checks", "all", "--max-examples", "200", "--seed", "1"])
            .args(["--no-shrink", "--request-timeout", "20", "--continue-on-failure"])
            .args(more)
            .current_dir(directory.path()),
    );
}

/// The main listener's document without the answers of services, of which there are none.
fn without_services(server: &Server) -> Value {
    let mut document = server.client().get("/openapi.json").json();
    let responses = document["paths"]["/execute"]["post"]["responses"].as_object_mut().unwrap();
    assert!(responses.remove("default").is_some());
    document
}

#[test]
fn the_main_listener_answers_as_its_document_says() {
    let demo = Setup::demo().start();
    must_do_what_it_says(demo.address, &without_services(&demo), &[]);
    assert!(demo.metric(r#"openexec_verdicts_total{reason="",verdict="executed"}"#) > 0.0);
    demo.execute(&request("echo", &json!({}), "innocent")).must_be_executed(false);
    let clawshield = Setup::clawshield().start();
    must_do_what_it_says(clawshield.address, &without_services(&clawshield), &[]);
    let refused = r#"openexec_verdicts_total{reason="approval_hash_mismatch",verdict="refused"}"#;
    assert!(clawshield.metric(refused) > 0.0);
    assert_eq!(clawshield.metric(r#"openexec_verdicts_total{reason="internal_error",verdict="refused"}"#), 0.0);
    clawshield.execute(&approved("echo", &json!({}), "innocent", &Approval::default())).must_be_executed(false);
}

#[test]
fn the_admin_listener_answers_as_its_document_says() {
    let server = Setup::demo().with("OPENEXEC_ADMIN_TOKEN", TOKEN).start();
    server.execute(r#"{"action": "echo", "nonce": "1"}"#).must_be_executed(false);
    let document = get(&server, "/openapi.json").json();
    // A wait of the length that is asked for: `sidecar` has its test.
    let more = ["--header", &format!("Authorization:Bearer {TOKEN}"), "--exclude-path", "/drained"];
    must_do_what_it_says(server.admin, &document, &more);
    server.execute(&request("echo", &json!({}), "innocent")).must_be_executed(false);
}

#[test]
fn the_documents_are_good_and_name_every_path_and_code() {
    let server = Setup::demo().with("OPENEXEC_ADMIN_TOKEN", TOKEN).start();
    let directory = tempfile::tempdir().unwrap();
    let documents = [server.client().get("/openapi.json"), get(&server, "/openapi.json")];
    for (index, document) in documents.iter().enumerate() {
        assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
        let path = directory.path().join(format!("{index}.json"));
        std::fs::write(&path, &document.body).unwrap();
        must_succeed(Command::new(tool("python/bin/openapi-spec-validator")).args(["--schema", "3.1.0"]).arg(&path));
        let document = document.json();
        let words = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
        assert!(Code::all().map(Code::as_str).eq(words.iter().map(|word| word.as_str().unwrap())));
    }
    for path in PATHS {
        let described = &documents[0].json()["paths"][path];
        let method = if described["get"].is_object() { "POST" } else { "GET" };
        assert!(described.is_object(), "{path}");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        server.client().send(request).unwrap().must_be(405, "method_not_allowed", "");
    }
    let mut client = server.client();
    let _ = std::io::Write::write_all(&mut client.stream, b"HEAD /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.read_head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, documents[0].header("content-length")));
    // Without the token it is nobody's business.
    let mut admin = Client::connect(server.admin);
    admin.get("/openapi.json").must_be(401, "caller_unauthenticated", "");
    Client::connect(Setup::demo().start().admin).get("/openapi.json").must_be(404, "not_found", "");
}
