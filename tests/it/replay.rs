//! Once, and the same answer ever after.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use openexec::registry::{Handler, Registry};
use openexec_protocol::timestamp;
use serde_json::json;

use crate::support::{Approval, Response, Setup, answered, approved, effect, request};

/// Counts what it does.
fn counting(count: &Arc<AtomicUsize>) -> Handler {
    let count = count.clone();
    effect(move |_| {
        let count = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            answered(&json!({"count": count}))
        }
    })
}

fn at_once(times: usize, send: impl Fn(usize) -> Response + Sync) -> Vec<Response> {
    let barrier = std::sync::Barrier::new(times);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..times)
            .map(|at| {
                let (barrier, send) = (&barrier, &send);
                scope.spawn(move || {
                    barrier.wait();
                    send(at)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn must_be_one(responses: &[Response]) {
    let first = responses.iter().filter(|r| r.header("openexec-replayed") == Some("false")).count();
    assert_eq!(first, 1, "one executes, the others are told");
    for response in responses {
        assert_eq!((response.status, &response.body), (200, &responses[0].body));
    }
}

#[test]
fn of_64_duplicates_one_is_executed_and_all_get_its_bytes() {
    let count = Arc::new(AtomicUsize::new(0));
    let registry = Registry::builtin().with("count", counting(&count));
    for ledger in [None, Some("memory:")] {
        let mut setup = Setup::demo().registry(registry.clone());
        if let Some(url) = ledger {
            setup = setup.with("OPENEXEC_DB_URL", url);
        }
        let server = setup.start();
        let before = count.load(Ordering::SeqCst);
        must_be_one(&at_once(64, |_| server.execute(&request("count", &json!({}), "n"))));
        assert_eq!(count.load(Ordering::SeqCst), before + 1);
        // A built-in is claimed and recorded in one commit.
        must_be_one(&at_once(64, |_| server.execute(&request("echo", &json!({"a": 1}), "m"))));
        assert_eq!(server.metric(r#"openexec_verdicts_total{reason="",verdict="executed"}"#), 2.0);
        assert_eq!(server.metric(r#"openexec_verdicts_total{reason="",verdict="replayed"}"#), 126.0);
    }
}

#[test]
fn of_64_nonces_with_one_approval_one_is_executed() {
    let server = Setup::clawshield().start();
    let approval = Approval::default();
    let responses = at_once(64, |at| server.execute(&approved("echo", &json!({}), &format!("n{at}"), &approval)));
    let executed = responses.iter().filter(|response| response.status == 200).count();
    assert_eq!(executed, 1);
    for response in responses.iter().filter(|response| response.status != 200) {
        response.must_be(403, "approval_already_used", "");
    }
}

#[test]
fn a_duplicate_of_a_refused_leader_shares_its_refusal_only_when_it_is_the_same_bytes() {
    let server = Setup::clawshield().start();
    let old = || Approval { issued_at: timestamp::print(Utc::now() - TimeDelta::seconds(400)), ..Approval::default() };
    let (stale, fresh) = (
        approved("echo", &json!({}), "n", &old()),
        approved("echo", &json!({}), "n", &Approval { approval_id: "approval-2", ..Approval::default() }),
    );
    for (at, response) in at_once(32, |at| server.execute(if at % 2 == 0 { &stale } else { &fresh })).iter().enumerate()
    {
        match (response.status, at % 2 == 0) {
            (200, true) => drop(response.must_be_executed(true)),
            (200, false) => {}
            (403, true) => response.must_be(403, "approval_expired", ""),
            _ => response.must_be(409, "execution_in_flight", ""),
        }
    }
    // Whatever came first, the fresh one is or was executed once, and even the stale one gets its answer now.
    let answer = server.execute(&fresh);
    assert_eq!(answer.status, 200);
    assert_eq!(server.execute(&stale).must_be_executed(true)["id"], answer.json()["id"]);
}

#[test]
fn a_replay_after_a_restart_gives_the_same_bytes() {
    let setup = Setup::clawshield();
    let body = approved("echo", &json!({"msg": "Zoë 😀", "f": 1.50}), "n", &Approval::default());
    let server = setup.start();
    let first = server.execute(&body);
    first.must_be_executed(false);
    server.stop();
    let server = setup.start();
    let again = server.execute(&body);
    again.must_be_executed(true);
    assert_eq!(again.body, first.body);
}

#[test]
fn a_late_retry_works_and_an_unauthentic_one_does_not() {
    let issued = Utc::now() - TimeDelta::seconds(200);
    let approval = Approval { issued_at: timestamp::print(issued), ..Approval::default() };
    let body = approved("echo", &json!({}), "n", &approval);
    let setup = Setup::clawshield();
    let server = setup.start();
    server.execute(&body).must_be_executed(false);
    server.stop();
    // Long after the approval; not so long that the result is forgotten.
    let tomorrow = timestamp::print(Utc::now() + TimeDelta::days(1));
    let later = Setup { clock: Setup::demo().at(&tomorrow).clock, ..setup };
    let server = later.start();
    server.execute(&body).must_be_executed(true);
    let forged = approved("echo", &json!({}), "n", &Approval { secret: "wrong", ..Approval::default() });
    server.execute(&forged).must_be(403, "approval_signature_invalid", "");
    server.execute(&request("echo", &json!({}), "n")).must_be(403, "approval_missing", "");
}

#[test]
fn another_payload_gets_the_first_result_in_demo_mode_unless_configured() {
    let (first, second) = (request("echo", &json!({"a": 1}), "n"), request("echo", &json!({"a": 2}), "n"));
    let server = Setup::demo().start();
    let answer = server.execute(&first);
    assert_eq!(server.execute(&second).body, answer.body);
    // Even one that would be refused now.
    assert_eq!(server.execute(&request("add", &json!({"a": "x"}), "n")).body, answer.body);
    let server = Setup::demo().file("replay: {on_mismatch: reject}").start();
    server.execute(&first).must_be_executed(false);
    server.execute(&second).must_be(422, "nonce_reused", "");
}

#[test]
fn an_action_that_was_removed_still_answers_its_retries() {
    let counting = Registry::builtin().with("count", counting(&Arc::default()));
    let setup = Setup::clawshield().registry(counting);
    let body = approved("count", &json!({}), "n", &Approval::default());
    let server = setup.start();
    let answer = server.execute(&body);
    answer.must_be_executed(false);
    server.stop();
    let setup = setup.registry(Registry::builtin()).with("OPENEXEC_ALLOWED_ACTIONS", "");
    let server = setup.start();
    assert_eq!(server.execute(&body).body, answer.body);
    let forged = approved("count", &json!({}), "n", &Approval { secret: "wrong", ..Approval::default() });
    server.execute(&forged).must_be(400, "unknown_action", "Unknown action: count");
}

#[test]
fn approvals_from_before_a_rollback_are_refused() {
    let setup = Setup::clawshield();
    let body = approved("echo", &json!({}), "n", &Approval::default());
    let server = setup.start();
    let empty = {
        server.must_be_well();
        server.stop();
        std::fs::read(setup.ledger()).unwrap()
    };
    let server = setup.start();
    server.execute(&body).must_be_executed(false);
    server.stop();
    std::fs::write(setup.ledger(), empty).unwrap();
    let server = setup.start();
    server.execute(&body).must_be(403, "approval_predates_ledger", "approve again");
    // An approval of tomorrow is no help against it today, but one behind the fence is good.
    let ahead =
        Approval { issued_at: timestamp::print(Utc::now() + TimeDelta::milliseconds(29_900)), ..Approval::default() };
    server.execute(&approved("echo", &json!({}), "m", &ahead)).must_be(403, "approval_predates_ledger", "");
    std::thread::sleep(Duration::from_millis(1_500));
    let behind =
        Approval { issued_at: timestamp::print(Utc::now() + TimeDelta::milliseconds(29_900)), ..Approval::default() };
    server.execute(&approved("echo", &json!({}), "m", &behind)).must_be_executed(false);
}

#[test]
fn memory_in_clawshield_mode_is_fenced() {
    let server = Setup::clawshield().with("OPENEXEC_DB_URL", "memory:").start();
    let body = approved("echo", &json!({}), "n", &Approval::default());
    server.execute(&body).must_be(403, "approval_predates_ledger", "");
}
