//! Several tenants behind one gate: none of them can read, block or use another.

use std::time::Duration;

use openexec::registry::Registry;
use serde_json::json;

use crate::cli::{run, text};
use crate::keys::{keyless, private, public_file};
use crate::reload::{APPLIED, reload};
use crate::support::{Approval, Client, Server, Setup, answered, approved, effect};

const ID: &str = "00000000-0000-4000-8000-000000000001";

/// `a` may do everything, `b` may only `add`.
fn gateway() -> (Setup, Server) {
    let setup = keyless();
    let file = format!(
        "tenants:
  a: {{keys: [{{id: one, form: ed25519, file: {}}}]}}
  b: {{keys: [{{id: one, form: ed25519, file: {}}}], allowed_actions: [add]}}
",
        public_file(&setup, 1),
        public_file(&setup, 2)
    );
    let setup = setup.file(&file);
    let server = setup.start();
    (setup, server)
}

/// Signed for the tenant with the key of this seed.
fn by(seed: u8, tenant: &str, action: &str, nonce: &str, approval_id: &str) -> String {
    let key = private(seed);
    let approval = Approval { private_key: Some(&key), tenant, approval_id, ..Approval::default() };
    approved(action, &json!({"a": 1}), nonce, &approval)
}

#[test]
fn tenants_have_keys_nonces_and_approvals_of_their_own() {
    let (_setup, server) = gateway();
    let of_a = server.execute(&by(1, "a", "add", "n", ID));
    let of_b = server.execute(&by(2, "b", "add", "n", ID));
    of_a.must_be_executed(false);
    of_b.must_be_executed(false);
    assert_ne!(of_a.header("openexec-execution-id"), of_b.header("openexec-execution-id"));
    assert_eq!(server.execute(&by(1, "a", "add", "n", ID)).body, of_a.body);
    // With the other's key there is nothing: not even a replay.
    for (seed, tenant) in [(1, "b"), (2, "a"), (3, "a")] {
        let refused = server.execute(&by(seed, tenant, "add", "n", ID));
        refused.must_be(403, "approval_signature_invalid", "approval artifact is not authentic");
    }
    server.must_be_well();
}

#[test]
fn nobody_is_told_which_tenants_there_are() {
    let (_setup, server) = gateway();
    let known = server.execute(&by(3, "a", "add", "n", ID));
    let unknown = server.execute(&by(3, "c", "add", "n", ID));
    known.must_be(403, "approval_signature_invalid", "");
    assert_eq!(known.body, unknown.body);
    // Even with a key that is good for another one.
    assert_eq!(server.execute(&by(1, "c", "add", "n", ID)).body, unknown.body);
    // Nor by what is wrong beside the tenant: another payload, a form that it has no key for.
    let probe = |tenant: &str, approval: Approval<'_>| {
        let body = approved("add", &json!({"a": 1}), "n", &Approval { tenant, ..approval });
        let other_payload = server.execute(&body.replace(r#""a":1"#, r#""a":2"#));
        other_payload.must_be(403, "approval_hash_mismatch", "");
        (other_payload.body, server.execute(&body).body)
    };
    let key = private(3);
    for approval in [|| Approval::default(), || Approval { approval_id: ID, ..Approval::default() }] {
        assert_eq!(probe("a", approval()), probe("c", approval()));
        let signed = || Approval { private_key: Some(&key), approval_id: ID, ..Approval::default() };
        assert_eq!(probe("a", signed()), probe("c", signed()));
    }
}

#[test]
fn an_approval_of_nobody_is_explained() {
    let (setup, server) = gateway();
    let verify = |body: &str| {
        let output = run(&mut setup.command(&["verify", "approval", "-"]), body);
        (output.status.code(), text(&output.stdout))
    };
    let (code, said) = verify(&by(1, "c", "add", "n", ID));
    assert!(code == Some(1) && said.contains("NO   the tenant is one of the server's"), "{said}");
    let key = private(1);
    let named =
        Approval { private_key: Some(&key), tenant: "a", approval_id: ID, kid: Some("two"), ..Approval::default() };
    let (code, said) = verify(&approved("add", &json!({}), "n", &named));
    assert!(code == Some(1) && said.contains("no key \"two\" is configured"), "{said}");
    let (code, said) = verify(&by(1, "a", "add", "n", ID));
    assert!(code == Some(0) && said.contains("by the key one"), "{said}");
    server.must_be_well();
}

#[test]
fn a_tenants_own_allow_list_narrows_the_common_one() {
    let (_setup, server) = gateway();
    server.execute(&by(1, "a", "echo", "1", ID)).must_be_executed(false);
    let refused = server.execute(&by(2, "b", "echo", "1", ID));
    refused.must_be(403, "action_not_allowed", "Action 'echo' is not in the execution allow-list");
    server.execute(&by(2, "b", "add", "1", ID)).must_be_executed(false);
    let (setup, server) = gateway();
    server.stop();
    let server = setup.with("OPENEXEC_ALLOWED_ACTIONS", "echo").start();
    server.execute(&by(1, "a", "echo", "1", ID)).must_be_executed(false);
    server.execute(&by(2, "b", "add", "1", ID)).must_be(403, "action_not_allowed", "'add'");
}

#[test]
fn the_environments_tenant_is_one_of_them() {
    let setup = Setup::clawshield();
    let key = public_file(&setup, 1);
    let server = setup.file(&format!("tenants: {{a: {{keys: [{{id: one, form: ed25519, file: {key}}}]}}}}")).start();
    server.execute(&by(1, "a", "add", "n", ID)).must_be_executed(false);
    server.execute(&approved("add", &json!({"a": 1}), "n", &Approval::default())).must_be_executed(false);
}

#[test]
fn one_tenant_cannot_use_up_what_another_needs() {
    let setup = keyless();
    let slow = effect(|_| async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        answered(&json!({}))
    });
    let file = format!(
        "limits: {{in_flight: 3}}
tenants:
  a: {{keys: [{{id: one, form: ed25519, file: {}}}]}}
  b: {{keys: [{{id: one, form: ed25519, file: {}}}], in_flight: 1}}
",
        public_file(&setup, 1),
        public_file(&setup, 2)
    );
    let server = setup.registry(Registry::default().with("slow", slow)).file(&file).start();
    let limit =
        |tenant: &str| server.metric(&format!("openexec_tenant_in_flight_executions_limit{{tenant=\"{tenant}\"}}"));
    assert_eq!((limit("a"), limit("b")), (2.0, 1.0), "what is left, unless it is said");
    std::thread::scope(|scope| {
        let ask = |seed, tenant: &'static str, nonce: &'static str| {
            let server = &server;
            scope.spawn(move || server.execute(&by(seed, tenant, "slow", nonce, &format!("{}{nonce}", &ID[..35]))))
        };
        let running = [ask(1, "a", "1"), ask(1, "a", "2"), ask(2, "b", "3")];
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(server.metric("openexec_tenant_in_flight_executions{tenant=\"a\"}"), 2.0);
        server.execute(&by(1, "a", "add", "4", &format!("{}4", &ID[..35]))).must_be(503, "overloaded", "");
        server.execute(&by(2, "b", "add", "5", &format!("{}5", &ID[..35]))).must_be(503, "overloaded", "");
        for run in running {
            run.join().unwrap().must_be_executed(false);
        }
    });
    server.execute(&by(1, "a", "add", "4", &format!("{}4", &ID[..35]))).must_be_executed(false);
    assert_eq!(server.metric("openexec_tenant_requests_total{tenant=\"a\",verdict=\"executed\"}"), 3.0);
    assert_eq!(server.metric("openexec_tenant_requests_total{tenant=\"b\",verdict=\"refused\"}"), 1.0);
    assert_eq!(server.metric("openexec_approvals_total{key=\"one\",tenant=\"a\"}"), 4.0);
}

#[test]
fn what_tenants_are_given_is_no_more_than_there_is() {
    let setup = keyless();
    let key = public_file(&setup, 1);
    let file = |in_flight: &str| {
        format!(
            "limits: {{in_flight: 10}}
tenants:
  a: {{keys: [{{id: one, form: ed25519, file: {key}}}]{in_flight}}}
  b: {{keys: [{{id: one, form: ed25519, file: {key}}}]}}
  c: {{keys: [{{id: one, form: ed25519, file: {key}}}]}}
"
        )
    };
    for too_much in ["9", "10", "1000"] {
        let setup = keyless().file(&file(&format!(", in_flight: {too_much}")));
        let said = text(&run(&mut setup.command(&["validate"]), "").stderr);
        assert!(said.contains("together, of limits.in_flight (10): too much"), "{said}");
    }
    for (a, shares) in [("", [3.0, 3.0, 3.0]), (", in_flight: 5", [5.0, 2.0, 2.0])] {
        let server = keyless().file(&file(a)).start();
        let limit =
            |tenant| server.metric(&format!("openexec_tenant_in_flight_executions_limit{{tenant=\"{tenant}\"}}"));
        assert_eq!(["a", "b", "c"].map(limit), shares);
    }
}

#[test]
fn a_tenant_over_its_rate_is_told_when_to_come_again() {
    let setup = keyless();
    let file = format!(
        "tenants:
  a: {{keys: [{{id: one, form: ed25519, file: {}}}], rate: {{per_second: 1, burst: 5}}}}
  b: {{keys: [{{id: one, form: ed25519, file: {}}}]}}
",
        public_file(&setup, 1),
        public_file(&setup, 2)
    );
    let server = setup.file(&file).start();
    let mut refused = 0;
    // Forged ones cost it nothing.
    for _ in 0..20 {
        server.execute(&by(3, "a", "add", "n", ID)).must_be(403, "approval_signature_invalid", "");
    }
    for at in 0..20 {
        let answer = server.execute(&by(1, "a", "add", "n", ID));
        if answer.status == 429 {
            answer.must_be(429, "rate_limited", "More requests than this tenant may make");
            assert_eq!(answer.header("retry-after"), Some("1"));
            refused += 1;
        } else {
            answer.must_be_executed(at > 0);
        }
    }
    assert!(refused > 0, "20 requests in a few seconds are more than 5 and 1 a second");
    server.execute(&by(2, "b", "add", "n", ID)).must_be_executed(false);
    std::thread::sleep(Duration::from_millis(1_100));
    server.execute(&by(1, "a", "add", "n", ID)).must_be_executed(true);
}

#[test]
fn no_label_is_of_a_tenant_or_a_key_that_is_not_configured() {
    let setup = keyless();
    let key = |seed| public_file(&setup, seed);
    let file = |tenants: &[(&str, &str)]| {
        let tenants = tenants
            .iter()
            .map(|(tenant, id)| format!("  {tenant}: {{keys: [{{id: {id}, form: ed25519, file: {}}}]}}\n", key(1)));
        format!("tenants:\n{}", tenants.collect::<String>())
    };
    let (before, after) = (file(&[("first", "old"), ("second", "old")]), file(&[("second", "new")]));
    let setup = setup.file(&before);
    let server = setup.spawn();
    let metrics = || Client::connect(server.admin).get("/metrics").text();
    let mut client = Client::connect(server.address);
    client.execute(&by(1, "first", "add", "n", ID)).must_be_executed(false);
    client.execute(&by(1, "second", "add", "n", ID)).must_be_executed(false);
    client.execute(&by(1, "made-up", "add", "n", ID)).must_be(403, "approval_signature_invalid", "");
    let text = metrics();
    assert!(text.contains("tenant=\"first\"") && text.contains("key=\"old\"") && !text.contains("made-up"), "{text}");
    std::fs::write(setup.directory.path().join("openexec.yaml"), &after).unwrap();
    reload(&server, APPLIED);
    let text = metrics();
    assert!(!text.contains("tenant=\"first\"") && !text.contains("key=\"old\""), "{text}");
    assert!(text.contains("openexec_tenant_requests_total{tenant=\"second\",verdict=\"executed\"} 1"), "{text}");
    assert!(text.contains("openexec_approvals_total{key=\"new\",tenant=\"second\"} 0"), "{text}");
}
