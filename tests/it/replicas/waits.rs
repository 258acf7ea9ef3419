//! What runs at one replica, asked for at another; and what an execution asks of the database.

use serde_json::json;

use super::{CLAIM, RECORD, actions, ask, must_work, replica, service, start, through, until, until_not, wish};
use crate::database::{Postgres, Proxy};
use crate::support::{Approval, approved};

#[test]
fn a_duplicate_at_another_replica_waits_holds_no_permit_and_gets_the_same_bytes() {
    let (service, door) = service();
    let url = Postgres::shared().new_database();
    let yaml = actions(service.address, "15s", "60s");
    let first = start(&replica(&url, &yaml));
    let narrow = start(&replica(&url, &format!("{yaml}limits: {{in_flight: 1}}\nreplay: {{wait: 20s}}\n")));
    let hasty = start(&replica(&url, &format!("{yaml}replay: {{wait: 100ms}}\n")));
    let body = wish("plain", "slow", "n");
    let other = approved("plain", &json!({"do": "other"}), "n", &Approval { approval_id: "m", ..Approval::default() });
    std::thread::scope(|scope| {
        let fresh = scope.spawn(|| first.execute(&body));
        service.await_asked("slow");
        for another in [&narrow, &hasty] {
            another.execute(&other).must_be(422, "nonce_reused", "");
        }
        hasty.execute(&body).must_be(409, "execution_in_flight", "ask again");
        let waiting = scope.spawn(|| narrow.execute(&body));
        // It has the only permit until it knows that it must wait.
        until("the duplicate waits", || {
            narrow.metric("openexec_ledger_commit_seconds_count") >= 2.0 && !waiting.is_finished()
        });
        let innocent = until_not(&["overloaded"], narrow.address, &wish("plain", "ok", "innocent"));
        innocent.must_be_executed(false);
        // The permit for those who wait is taken: one at a time, as many as may run.
        assert!(!waiting.is_finished(), "it still waits");
        door.open();
        let fresh = fresh.join().unwrap();
        fresh.must_be_executed(false);
        let waited = waiting.join().unwrap();
        waited.must_be_executed(true);
        assert_eq!((&waited.body, &hasty.execute(&body).body), (&fresh.body, &fresh.body));
    });
    assert_eq!((service.times("slow"), service.times("other")), (1, 0));
    for replica in [&first, &narrow, &hasty] {
        must_work(replica.address);
    }
}

/// What a replica asks for by itself: about replicas, about unknown outcomes, and what is old.
const BY_ITSELF: [&str; 7] = [
    "openexec_replicas SET lease_until",
    "DELETE FROM openexec_replicas",
    "SET state = 'UNKNOWN', settled_at = now()",
    "count(*) FROM openexec_executions",
    "e.policy <> 'operator'",
    "SET result = NULL",
    // A connection more than it had.
    "SHOW transaction_read_only",
];

#[test]
fn a_builtin_action_is_one_round_trip_and_a_services_two() {
    let (service, _door) = service();
    let server = Postgres::shared();
    let proxy = Proxy::start(server.port());
    let url = through(&proxy, server, &server.new_database());
    let replica = start(&replica(&url, &actions(service.address, "15s", "60s")));
    must_work(replica.address);
    let (builtin, of_service) = ([CLAIM].as_slice(), [CLAIM, RECORD].as_slice());
    for (at, (action, expected)) in
        [("echo", builtin), ("plain", of_service), ("echo", builtin), ("plain", of_service)].iter().enumerate()
    {
        let before = proxy.statements().len();
        ask(replica.address, &wish(action, "ok", &at.to_string())).must_be_executed(false);
        let mut asked = proxy.statements().split_off(before);
        asked.retain(|statement| !BY_ITSELF.iter().any(|own| statement.contains(own)));
        assert_eq!(asked.len(), expected.len(), "{action}: {asked:?}");
        for (statement, expected) in asked.iter().zip(*expected) {
            assert!(statement.contains(expected), "{action}: {statement}");
        }
        // What a service answered it gives without asking; what had no effects, once it was asked for again.
        let again = if *action == "echo" { [1, 0] } else { [0, 0] };
        for expected in again {
            let before = proxy.statements().len();
            ask(replica.address, &wish(action, "ok", &at.to_string())).must_be_executed(true);
            let mut asked = proxy.statements().split_off(before);
            asked.retain(|statement| !BY_ITSELF.iter().any(|own| statement.contains(own)));
            assert_eq!(asked.len(), expected, "{action}, again: {asked:?}");
        }
    }
    assert_eq!(proxy.statements().len(), proxy.round_trips(), "each statement is a round trip");
}
