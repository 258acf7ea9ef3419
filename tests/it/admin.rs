//! What probes, Prometheus and whoever reads the log see.

use serde_json::{Value, json};

use crate::support::{Approval, Client, SECRET, Setup, approved, request};

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
    for word in ["serving", "stopping", "stopped"] {
        assert!(lines.iter().any(|line| line["message"] == word), "{word}");
    }
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
