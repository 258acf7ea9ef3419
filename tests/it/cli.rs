//! The commands, as a person runs them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Approval, SECRET, Setup, approved, request};

pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn what_is_minted_is_executed() {
    let setup = Setup::clawshield();
    let server = setup.start();
    let minted = run(&mut setup.command(&["mint", "-"]), r#"{"nonce":"n","action":"add","payload":{"b":1,"a":2}}"#);
    assert!(minted.status.success(), "{}", text(&minted.stderr));
    let answer = server.execute(&text(&minted.stdout));
    assert_eq!(answer.must_be_executed(false)["result"], json!({"sum": 3}));
    let approved: Value = serde_json::from_slice(&minted.stdout).unwrap();
    let approval_id = approved["approval_artifact"]["approval_id"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(approval_id).unwrap().get_version_num(), 7, "ordered by time");
    let artifact = run(
        &mut setup.command(&["mint", "-", "--artifact-only", "--approval-id", "a-1", "--tenant", "t-2"]),
        &request("echo", &json!({}), "n"),
    );
    let artifact: Value = serde_json::from_slice(&artifact.stdout).unwrap();
    assert_eq!((&artifact["approval_id"], &artifact["tenant_id"]), (&json!("a-1"), &json!("t-2")));
    let bad = run(&mut setup.command(&["mint", "-", "--approval-id", "a:b"]), &request("echo", &json!({}), "n"));
    assert_eq!((bad.status.code(), text(&bad.stderr).contains("`approval_id` must be")), (Some(2), true));
}

#[test]
fn an_approval_is_explained_step_by_step() {
    let setup = Setup::clawshield();
    let verify = |body: &str| {
        let output = run(&mut setup.command(&["verify", "approval", "-"]), body);
        (output.status.code(), text(&output.stdout))
    };
    let (code, said) = verify(&approved("echo", &json!({}), "n", &Approval::default()));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("yes  ").count(), 9, "{said}");
    let forged = Approval { secret: "wrong", tenant: "tenant-002", ..Approval::default() };
    let (code, said) = verify(&approved("echo", &json!({"a": 1}), "n", &forged).replace("\"a\":1", "\"a\":2"));
    assert_eq!(code, Some(1));
    for line in [
        "NO   the action hash is this request's: Action hash mismatch",
        "NO   the signature is authentic: Invalid signature",
        "NO   the tenant is this server's: Tenant mismatch",
        "yes  the issuer is known",
        "---  it is fresh now",
    ] {
        assert!(said.contains(line), "{line:?} is not in {said}");
    }
    let old = Approval { issued_at: "2026-02-17T10:00:00Z".to_owned(), ..Approval::default() };
    let (code, said) = verify(&approved("echo", &json!({}), "n", &old));
    assert_eq!((code, said.contains("NO   it is fresh now: Approval artifact expired")), (Some(1), true), "{said}");
    let (code, said) = verify(&request("echo", &json!({}), "n"));
    assert_eq!((code, said.contains("requires an approval artifact")), (Some(1), true), "{said}");
    assert_eq!(verify("{").0, Some(1));
    // The actions are the configuration's.
    let setup = setup.file(
        "upstreams: {mail: {addresses: [\"http://127.0.0.1:9\"]}}\nactions: {send: {upstream: mail, path: /send}}\n",
    );
    let verify = |action: &str| {
        let body = approved(action, &json!({}), "n", &Approval::default());
        text(&run(&mut setup.command(&["verify", "approval", "-"]), &body).stdout)
    };
    assert!(verify("send").contains("yes  the action is registered"));
    assert!(verify("echo").contains("NO   the action is registered: Unknown action"));
}

#[test]
fn a_receipt_is_checked_offline() {
    let setup = Setup::demo();
    let server = setup.start();
    let answer = server.execute(&request("echo", &json!({"b": [1, 2.50], "a": "Zoë: 1, 2"}), "n")).text();
    let verify = |answer: &str| run(&mut setup.command(&["verify", "receipt", "-"]), answer).status.code();
    assert_eq!(verify(&answer), Some(0));
    assert_eq!(verify(&answer.replace("Zo", "Jo")), Some(1));
    // Re-printed by another program it is still the same result.
    let reprinted = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&answer).unwrap()).unwrap();
    assert_eq!(verify(&reprinted), Some(0));
    assert_eq!(verify("{}"), Some(2));
}

/// Unknown members and wrong kinds are found together, each with its line, and without its value.
#[test]
fn what_does_not_fit_is_listed_with_its_line() {
    let file = "mode: demo
limts: {a: 1}
limits:
  body_bytes: \"hunter2\"
  header_time: 5
upstreams:
  mail:
    addresses: [\"http://a:1\"]
    bogus: 1
actions:
  x: {upstream: mail, path: /x, recovery: {probe: {pat: 1}}, headers: {A: 5}, body: nothing}
";
    let setup = Setup::demo().file(file);
    let output = run(&mut setup.command(&["validate"]), "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for problem in [
        "openexec.yaml:2: limts is unknown",
        "openexec.yaml:4: limits.body_bytes: value is not",
        "openexec.yaml:5: limits.header_time is of the wrong kind",
        "openexec.yaml:9: upstreams.mail.bogus is unknown",
        "openexec.yaml:11: actions.x.recovery.probe.pat is unknown",
        "openexec.yaml:11: actions.x.headers.A is of the wrong kind",
        "openexec.yaml:11: actions.x.body must be one of: payload, request",
    ] {
        assert!(said.contains(problem), "{problem:?} is not in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let meant =
        Setup::demo().file("limits:\n  body_bytes: 0\n\nallowed_actions: [echo]\nactions:\n  x:\n    path: /\n");
    let said = text(&run(&mut meant.command(&["validate"]), "").stderr);
    for problem in ["openexec.yaml:2: limits.body_bytes must be", "openexec.yaml:6: actions.x must have either"] {
        assert!(said.contains(problem), "{problem:?} is not in {said}");
    }
    let empty = Setup::demo().file("# nothing\n");
    assert_eq!(run(&mut empty.command(&["validate"]), "").status.code(), Some(0));
}

/// `openexec schema > config/openexec.schema.json` makes it anew.
#[test]
fn the_schema_in_the_repository_is_this_programs() {
    let printed = text(&run(&mut Setup::demo().command(&["schema"]), "").stdout);
    let kept = include_str!("../../config/openexec.schema.json");
    assert!(printed == kept, "make it anew: cargo run -- schema > config/openexec.schema.json");
    let schema: Value = serde_json::from_str(kept).unwrap();
    let accepts = |file: Value| jsonschema::validator_for(&schema).unwrap().is_valid(&file);
    assert!(accepts(json!({"limits": {"body_time": "1h 30m"}, "replay": {"on_mismatch": "reject"}})));
    assert!(!accepts(json!({"limits": {"body_tme": "1s"}})) && !accepts(json!({"replay": {"on_mismatch": "x"}})));
}

#[test]
fn every_interface_is_described_without_a_server() {
    let schema = |interface: &str| text(&run(&mut Setup::demo().command(&["schema", interface]), "").stdout);
    assert_eq!(schema("config"), text(&run(&mut Setup::demo().command(&["schema"]), "").stdout));
    assert_eq!(schema("openapi"), Setup::demo().start().client().get("/openapi.json").text());
    assert!(schema("openapi-admin").contains("/executions/{id}/resolve"));
    assert!(schema("metrics").contains("## `openexec_verdicts_total`"));
}

#[test]
fn shells_are_told_how_to_complete() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef openexec"), ("fish", "complete -c openexec")] {
        let output = run(&mut Setup::demo().command(&["completions", shell]), "");
        assert!(output.status.success() && text(&output.stdout).contains(word), "{shell}");
    }
    assert_eq!(run(&mut Setup::demo().command(&["completions", "cmd.exe"]), "").status.code(), Some(2));
}

#[test]
fn everything_that_is_wrong_is_listed_at_once() {
    let setup = Setup::clawshield()
        .with("OPENEXEC_LISTEN", "everywhere")
        .with("OPENEXEC_DB_URL", "mysql://root:hunter2@db/x")
        .with("CLAWSHIELD_TENANT_ID", "not a tenant")
        .with("CLAWSHIELD_SECRET_KEY_FILE", "/nowhere");
    for arguments in [&["validate"][..], &[]] {
        let output = run(&mut setup.command(arguments), "");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for word in ["OPENEXEC_LISTEN must be", "OPENEXEC_DB_URL must be", "CLAWSHIELD_TENANT_ID must be", "both set"] {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        assert!(!said.contains("hunter2") && !said.contains(SECRET), "{said}");
    }
    let file = Setup::clawshield().file("mode: clawshield\nreplay:\n  on_mismatch: original\n");
    let output = run(&mut file.command(&["validate"]), "");
    assert!(text(&output.stderr).contains("replay.on_mismatch may be `original` in demo mode only"));
    let nothing = Setup::demo().with("OPENEXEC_LOG_FORMAT", "jsno").file(
        "limits: {connection_requests: 0, in_flight: 0, header_time: 900000h}\nshutdown: {timeout: 2days}\n\
               retention: {results: 5s, tombstones: 24h}",
    );
    let said = text(&run(&mut nothing.command(&["validate"]), "").stderr);
    let words = ["connection_requests", "in_flight", "header_time", "shutdown.timeout", "OPENEXEC_LOG_FORMAT"];
    let ages = ["retention.results must be at least 1m", "retention.tombstones must be at least 1day 1m"];
    for word in words.into_iter().chain(ages) {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let unknown = Setup::demo().file("limits:\n  in_fligth: 5\n");
    let said = text(&run(&mut unknown.command(&["validate"]), "").stderr);
    assert!(said.contains("openexec.yaml") && said.contains("in_fligth") && said.contains('2'), "{said}");
    let good = run(&mut Setup::clawshield().command(&["validate"]), "");
    assert_eq!((good.status.code(), text(&good.stdout).contains("is good: clawshield mode")), (Some(0), true));
}

/// What an image sets cannot be taken away by whoever runs it, as in Kubernetes.
#[test]
fn an_emptied_address_leaves_the_word_to_the_file() {
    let setup = Setup::demo().with("OPENEXEC_LISTEN", "").file("listen: 127.0.0.1:5017\n");
    let output = run(&mut setup.command(&["validate"]), "");
    assert!(output.status.success() && text(&output.stdout).contains("127.0.0.1:5017"), "{}", text(&output.stderr));
}

#[test]
fn what_is_wrong_with_services_is_listed_too() {
    let file = r#"
upstreams:
  "bad name": {addresses: ["http://a:1"]}
  nowhere: {}
  forms: {addresses: ["ftp://a", "http://user:hunter2@a"]}
  plain: {addresses: ["http://127.0.0.1:1"], tls: {ca: /nowhere.pem}}
  secure: {addresses: ["https://a"], tls: {ca: /nowhere.pem}}
  good: {addresses: ["http://127.0.0.1:80"]}
  alias: {addresses: ["http://localhost:80"]}
actions:
  ok: {upstream: good, path: /ok}
  neither: {}
  both: {builtin: echo, upstream: good}
  strange: {builtin: shell}
  pathless: {upstream: good}
  lost: {upstream: nobody, path: /x}
  paths: {upstream: good, path: "/a/../b"}
  method: {upstream: good, path: /x, method: GET}
  sizes: {upstream: good, path: /x, result: {read_bytes: 1000, kept_bytes: 2000}}
  fine: {upstream: good, path: /x, not_executed_on: [200]}
  window: {upstream: good, path: /x, recovery: {idempotent: {window: 1s}}}
  probe: {upstream: good, path: /x, recovery: {probe: {path: /status}}}
  headers: {upstream: good, path: /x, headers: {Host: a, OpenExec-Tenant: b, Authorization: {file: /nowhere.txt}}}
  answers: {upstream: good, path: /x, response_headers: [Transfer-Encoding]}
  schema: {upstream: good, path: /x, schema: {type: nonsense}}
  remote: {upstream: good, path: /x, schema: {$ref: "https://example.com/schema.json"}}
passthrough:
  - {upstream: alias, methods: [POST], path: /docs}
  - {upstream: good, methods: [get], path: docs}
  - {upstream: good, methods: [], path: /docs?x=1}
"#;
    let said = text(&run(&mut Setup::demo().file(file).command(&["validate"]), "").stderr);
    for words in [
        "upstreams.bad name: a name has",
        "upstreams.nowhere.addresses must name",
        "upstreams.forms.addresses[0] must be",
        "upstreams.forms.addresses[1] must be",
        "upstreams.plain.tls: no address begins with https://",
        "upstreams.secure.tls: /nowhere.pem",
        "actions.neither must have either",
        "actions.both must have either",
        "actions.strange.builtin must be one of: echo, add",
        "actions.pathless.path is missing",
        r#"actions.lost.upstream: there is no usable upstream "nobody""#,
        "actions.paths.path must be a path",
        "actions.method.method must be POST",
        "actions.sizes.result.kept_bytes must be between 256 and 1000",
        "actions.fine.not_executed_on: 200",
        "actions.window.recovery: the window must be longer",
        "actions.probe.recovery.probe.path must have {key}",
        "actions.headers.headers.Host is set by OpenExec itself",
        "actions.headers.headers.OpenExec-Tenant is set by OpenExec itself",
        "actions.headers.headers.Authorization: /nowhere.txt",
        r#"actions.answers.response_headers: "Transfer-Encoding""#,
        "actions.schema.schema:",
        "actions.remote.schema:",
        "passthrough[0].methods: actions use this upstream",
        r#"passthrough[1].methods: "get""#,
        "passthrough[1].path must be a path",
        "passthrough[2].methods must name",
        "passthrough[2].path has no query",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let duplicate = Setup::demo().file("actions:\n  a: {builtin: echo}\n  a: {builtin: add}\n");
    assert_eq!(run(&mut duplicate.command(&["validate"]), "").status.code(), Some(78));
    let allowed = Setup::demo().file("actions: {a: {builtin: echo}}\nallowed_actions: [a, b]\n");
    let output = run(&mut allowed.command(&["validate"]), "");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains(r#"the allow-list names "b""#));
    let hidden = "upstreams: {u: {addresses: [\"http://127.0.0.1:9\"]}}\n\
                  passthrough: [{upstream: u, methods: [GET], path: /openapi.json}]\n";
    let said = text(&run(&mut Setup::demo().file(hidden).command(&["validate"]), "").stderr);
    assert!(said.contains("passthrough[0].path: /openapi.json itself is answered by OpenExec"), "{said}");
    let weak = Setup::demo().with("OPENEXEC_ADMIN_TOKEN", "short");
    assert!(text(&run(&mut weak.command(&["validate"]), "").stderr).contains("OPENEXEC_ADMIN_TOKEN must have"));
}

#[test]
fn demo_mode_is_not_got_by_accident() {
    let accident = |setup: Setup| {
        let output = run(&mut setup.without("OPENEXEC_MODE").command(&[]), "");
        assert_eq!(output.status.code(), Some(78));
        text(&output.stderr)
    };
    assert!(accident(Setup::demo().with("OPENEXEC_LISTEN", "0.0.0.0:0")).contains("can be reached by others"));
    for key in ["CLAWSHIELD_SECRET_KEY", "CLAWSHIELD_PUBLIC_KEY_FILE", "CLAWSHIELD_API_KEY"] {
        assert!(accident(Setup::demo().with(key, "x")).contains(&format!("{key} is set but OPENEXEC_MODE is not")));
    }
}

#[test]
fn secrets_come_from_files_too() {
    let setup = Setup::clawshield();
    let path = setup.directory.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let setup = setup.without("CLAWSHIELD_SECRET_KEY").with("CLAWSHIELD_SECRET_KEY_FILE", path.to_str().unwrap());
    let server = setup.start();
    server.execute(&approved("echo", &json!({}), "n", &Approval::default())).must_be_executed(false);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&mut Setup::demo().with("OPENEXEC_LISTEN", &address).command(&["serve"]), "");
    assert_eq!(output.status.code(), Some(69));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("{address} cannot be listened on")) && said.contains("OPENEXEC_LISTEN"), "{said}");
}

#[test]
fn help_names_the_commands_and_the_exit_codes() {
    let help = text(&run(&mut Setup::demo().command(&["--help"]), "").stdout);
    for word in ["serve", "validate", "mint", "verify", "Exit codes", "OPENEXEC_CONFIG"] {
        assert!(help.contains(word), "{word:?} is not in {help}");
    }
}

#[test]
fn whoever_has_read_enough_may_close_the_pipe() {
    let setup = Setup::clawshield();
    let path = setup.directory.path().join("request.json");
    std::fs::write(&path, approved("echo", &json!({}), "n", &Approval::default())).unwrap();
    let mut command = setup.command(&["verify", "approval", path.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
