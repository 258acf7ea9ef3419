//! Replicas that die, and what others make of what they left.

use serde_json::json;

use super::{actions, ask, executions, must_work, replica, service, start, through, until, until_not, wish};
use crate::database::{Postgres, Proxy};
use crate::recovery::{READ_TOKEN, TOKEN, admin};
use crate::service::{After, Service, json as json_answer};
use crate::support::{Approval, Client, approved};

const ABANDON: &str = "SET state = 'UNKNOWN', settled_at = now()";

#[test]
fn what_a_killed_replica_left_is_unknown_and_recovered_once_where_that_is_allowed() {
    let (service, door) = service();
    let url = Postgres::shared().new_database();
    let setup = replica(&url, &(actions(service.address, "1s", "3s") + "replay: {wait: 100ms}\n"));
    let mut killed = setup.spawn();
    let others = [start(&setup), start(&setup)];
    let (plain, keyed) = (wish("plain", "plain", "p"), wish("keyed", "keyed", "k"));
    std::thread::scope(|scope| {
        for body in [&plain, &keyed] {
            scope.spawn(|| Client::connect(killed.address).try_execute(body));
        }
        service.await_asked("plain");
        service.await_asked("keyed");
        // SIGKILL
        std::process::Command::new("kill").args(["-KILL", &killed.child.id().to_string()]).status().unwrap();
    });
    let _ = killed.child.wait();
    for other in &others {
        other.execute(&plain).must_be(409, "execution_in_flight", "");
    }
    door.open();
    for other in &others {
        until_not(&["execution_in_flight"], other.address, &plain).must_be(409, "outcome_unknown", "");
    }
    let recovered = until_not(&["execution_in_flight", "outcome_unknown"], others[0].address, &keyed);
    let answer = recovered.must_be_executed(true);
    assert_eq!(others[1].execute(&keyed).body, recovered.body);
    let keys = service.keys("keyed");
    assert_eq!(keys, [answer["id"].as_str().unwrap(), answer["id"].as_str().unwrap()], "once more, with the same key");
    assert_eq!(service.times("plain"), 1);
    others.iter().for_each(|other| must_work(other.address));
}

#[test]
fn a_replica_that_starts_does_not_touch_what_another_runs() {
    let (service, door) = service();
    let server = Postgres::shared();
    let url = server.new_database();
    let yaml = actions(service.address, "4s", "8s") + "replay: {wait: 20s}\n";
    let first = start(&replica(&url, &yaml));
    let proxy = Proxy::start(server.port());
    let second = start(&replica(&through(&proxy, server, &url), &yaml));
    must_work(second.address);
    // It looks for what dead ones left when it has seen the database for a third of the lease.
    let looks = || proxy.statements().iter().filter(|statement| statement.contains(ABANDON)).count();
    let body = wish("plain", "slow", "n");
    std::thread::scope(|scope| {
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        let fresh = scope.spawn(|| first.execute(&body));
        service.await_asked("slow");
        let (before, third) = (looks(), start(&replica(&url, &yaml)));
        until("it has looked", || looks() > before);
        let running = executions(third.admin, "?state=INTENT");
        assert_eq!((running.len(), &running[0]["nonce"]), (1, &json!("n")));
        let waiting = [&second, &third].map(|other| other.address).map(|address| {
            let body = &body;
            scope.spawn(move || ask(address, body))
        });
        door.open();
        let fresh = fresh.join().unwrap();
        fresh.must_be_executed(false);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap().body, fresh.body);
        }
        must_work(third.address);
    });
    assert_eq!(service.times("slow"), 1);
}

#[test]
fn what_an_unheard_of_replica_claimed_is_unknown() {
    let (service, _door) = service();
    let server = Postgres::shared();
    let url = server.new_database();
    let yaml = actions(service.address, "1s", "3s") + "replay: {wait: 20s}\n";
    let (first, second) = (start(&replica(&url, &yaml)), start(&replica(&url, &yaml)));
    let body = wish("plain", "ok", "left");
    first.execute(&body).must_be_executed(false);
    // It would notice that what was acknowledged to it is gone.
    first.stop();
    server.sql_on(
        &url,
        "UPDATE openexec_executions SET state = 'INTENT', settled_at = NULL, result = NULL, receipt = NULL,
             status = NULL, replica = gen_random_uuid()
         WHERE nonce = 'left'",
    );
    second.execute(&body).must_be(409, "outcome_unknown", "");
    assert_eq!(executions(second.admin, "?state=unknown").len(), 1);
    must_work(second.address);
}

#[test]
fn what_replicas_refuse_is_in_one_list() {
    let (service, _door) = service();
    let url = Postgres::shared().new_database();
    let setup = replica(&url, &actions(service.address, "15s", "60s"));
    let replicas = [start(&setup), start(&setup)];
    for (at, one) in replicas.iter().enumerate() {
        let id = format!("late-{at}");
        let issued_at = "2026-01-01T00:00:00Z".to_owned();
        let late = Approval { approval_id: &id, issued_at, ..Approval::default() };
        one.execute(&approved("plain", &json!({"do": "ok"}), &id, &late)).must_be(403, "approval_expired", "");
    }
    for one in &replicas {
        let listed =
            || admin(one.admin, "GET", "/denials", READ_TOKEN, "").json()["denials"].as_array().unwrap().clone();
        until("both are listed", || listed().len() == 2);
        let mut found: Vec<_> = listed().iter().map(|denial| denial["approval_id"].clone()).collect();
        found.sort_by_key(ToString::to_string);
        assert_eq!(found, ["late-0", "late-1"]);
        must_work(one.address);
    }
}

#[test]
fn an_operator_waits_for_another_replicas_turn() {
    let (door, behind) = {
        let door = std::sync::Arc::new(super::Door::default());
        (door.clone(), door)
    };
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let service = Service::start(move |seen, stream| {
        if seen.asked() == "lost" {
            match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => return After::Reset,
                _ => behind.pass(),
            }
        }
        json_answer(stream, "200 OK", r#"{"found":true}"#)
    });
    let server = Postgres::shared();
    let url = server.new_database();
    let setup = replica(&url, &actions(service.address, "15s", "60s"));
    let (tries, asks) = (start(&setup), start(&setup));
    let body = wish("keyed", "lost", "n");
    let id = tries.execute(&body).json()["execution_id"].as_str().unwrap().to_owned();
    until("recovery has sent it again", || service.times("lost") == 2);
    let resolve = |at, verdict: &str| admin(at, "POST", &format!("/executions/{id}/resolve"), TOKEN, verdict);
    let nothing = r#"{"outcome":"not_executed","by":"ada"}"#;
    for at in [tries.admin, asks.admin] {
        let refused = resolve(at, nothing);
        assert_eq!(refused.status, 409, "{}", refused.text());
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("A recovery is trying to find out"), "{detail}");
    }
    door.open();
    let answer = until_not(&["outcome_unknown"], asks.address, &body).must_be_executed(true);
    assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &json!({"found": true})));
    assert!(resolve(asks.admin, nothing).text().contains("only an UNKNOWN one"));
    assert_eq!(service.times("lost"), 2);
    must_work(asks.address);
}
