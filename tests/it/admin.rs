//! What probes, Prometheus and whoever reads the log see.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Approval, Client, Response, SECRET, Setup, approved, request, tool};

/// An upstream that nobody answers for, and a rule that lets requests through to it.
const SERVICE: &str = "upstreams: {away: {addresses: [\"http://127.0.0.1:9\"]}}
passthrough: [{upstream: away, methods: [GET], path: /docs}]
";

#[test]
fn probes_and_metrics_and_nothing_else() {
    let server = Setup::demo().start();
    for nonce in ["1", "2", "2"] {
        server.execute(&request("echo", &json!({}), nonce));
    }
    server.execute(&request("nope", &json!({}), "3"));
    server.client().get("/nowhere");
    let mut admin = Client::connect(server.admin);
    assert_eq!(admin.get("/livez").text(), "ok\n");
    assert_eq!(admin.get("/readyz").text(), "ok\n");
    admin.get("/executions").must_be(404, "not_found", "");
    admin.post("/metrics", "{}").unwrap().must_be(405, "method_not_allowed", "");
    for (line, value) in [
        (r#"openexec_verdicts_total{reason="",verdict="executed"}"#, 2.0),
        (r#"openexec_verdicts_total{reason="",verdict="replayed"}"#, 1.0),
        (r#"openexec_verdicts_total{reason="unknown_action",verdict="refused"}"#, 1.0),
        (r#"openexec_verdicts_total{reason="not_found",verdict="refused"}"#, 1.0),
        ("openexec_ledger_commits_total", 2.0),
        ("openexec_ledger_batch_size_sum", 2.0),
        ("openexec_enforcement_seconds_count", 2.0),
        ("openexec_ledger_seconds_count", 2.0),
        ("openexec_upstream_seconds_count", 0.0),
        ("openexec_in_flight_executions", 0.0),
    ] {
        assert_eq!(server.metric(line), value, "{line}");
    }
}

#[test]
fn an_execution_is_one_line_without_anything_that_is_nobodys_business() {
    let setup = Setup::clawshield();
    let process = setup.spawn();
    let payload = json!({"card": "4000-0000-0000-0002"});
    let mut client = Client::connect(process.address);
    let answer = client.execute(&approved("echo", &payload, "nonce-of-a-client", &Approval::default()));
    let id = answer.must_be_executed(false)["id"].clone();
    client.execute(&approved("echo", &payload, "nonce-of-a-client", &Approval::default()));
    client.execute(&request("echo", &payload, "another"));
    client.execute(&request("never\nheard of", &payload, "another"));
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    for secret in ["4000-0000", "nonce-of-a-client", SECRET, "never", "approval-1", "localhost"] {
        assert!(!log.contains(secret), "{secret:?} is in {log}");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let executions: Vec<&Value> = lines.iter().filter(|line| line["target"] == "openexec::execution").collect();
    let seen: Vec<_> = executions.iter().map(|line| (&line["verdict"], &line["reason"], &line["action"])).collect();
    assert_eq!(
        seen,
        [
            (&json!("executed"), &json!(""), &json!("echo")),
            (&json!("replayed"), &json!(""), &json!("echo")),
            (&json!("refused"), &json!("approval_missing"), &json!("echo")),
            (&json!("refused"), &json!("unknown_action"), &json!("")),
        ]
    );
    assert_eq!((&executions[0]["id"], &executions[1]["id"]), (&id, &id));
    assert!(executions[0]["ledger_us"].as_u64().unwrap() > 0);
    for line in &executions {
        must_have_the_documented_fields(line);
    }
    for word in ["serving", "stopping", "stopped"] {
        assert!(lines.iter().any(|line| line["message"] == word), "{word}");
    }
}

/// Those of its section in docs/logs.md, and no others.
pub fn must_have_the_documented_fields(line: &Value) {
    let page = include_str!("../../docs/logs.md");
    let section = page.split_once(&format!("\n## `{}`\n", line["target"].as_str().unwrap())).unwrap().1;
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let rows = section.lines().filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0));
    let documented: BTreeSet<_> = rows.chain(["timestamp", "level", "target"]).collect();
    let found: BTreeSet<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, documented);
    let example = section.lines().find(|example| example.starts_with('{')).unwrap();
    let example: Value = serde_json::from_str(example).unwrap();
    assert!(example.as_object().unwrap().keys().eq(line.as_object().unwrap().keys()), "{example}");
}

#[test]
fn a_request_that_is_let_through_is_one_line_without_its_own_path() {
    let setup = Setup::demo().file(SERVICE);
    let process = setup.spawn();
    Client::connect(process.address).get("/docs/of-a-client?secret=1").must_be(502, "upstream_unreachable", "");
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("of-a-client") && !log.contains("secret=1"), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let passed: Vec<Value> = lines.filter(|line| line["target"] == "openexec::passthrough").collect();
    assert_eq!(passed.len(), 1, "{log}");
    must_have_the_documented_fields(&passed[0]);
    let expected = json!({"upstream": "away", "rule": "/docs", "method": "GET", "status": 502});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&passed[0][name], value, "{name}");
    }
}

/// A page of metrics.
pub fn must_please_prometheus(metrics: &Response) {
    let mut check = Command::new(tool("promtool"));
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(&metrics.body).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let server = Setup::demo().file(SERVICE).start();
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    server.client().get("/docs").must_be(502, "upstream_unreachable", "");
    let metrics = Client::connect(server.admin).get("/metrics");
    must_please_prometheus(&metrics);
    let build = format!(r#"openexec_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));
    assert_eq!(server.metric(&build), 1.0);
}

/// `openexec schema metrics > docs/metrics.md` makes it anew.
#[test]
fn the_page_of_metrics_is_this_programs_and_names_what_is_served() {
    let page = include_str!("../../docs/metrics.md");
    assert!(
        openexec::metrics::reference::page() == page,
        "make it anew: cargo run -- schema metrics > docs/metrics.md"
    );
    let server = Setup::clawshield().file(SERVICE).start();
    let metrics = Client::connect(server.admin).get("/metrics").text();
    let served = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let documented = page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`'));
    // Those of an injector, and of certificates and keys that end, have their own tests.
    let others = ["openexec_injector_", "openexec_certificate_", "openexec_key_"];
    let documented = documented.filter(|name| !others.iter().any(|prefix| name.starts_with(prefix)));
    assert!(served.eq(documented), "{metrics}");
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let process = Setup::demo().with("OPENEXEC_DB_URL", "memory:").spawn();
    let mut client = Client::connect(process.address);
    // Several times what a pipe holds.
    for nonce in 0..1_500 {
        client.execute(&request("echo", &json!({}), &nonce.to_string())).must_be_executed(false);
    }
    process.signal("TERM");
    let (code, log) = process.end();
    assert_eq!(code, Some(0));
    assert!(log.len() < 300_000, "the rest was dropped");
}
