//! A replica that is stopped (SIGSTOP), as a machine is that sleeps or a process that gets no time, and wakes when the
//! others have taken it for dead. What stops it at the right instant is in front of it: the proxy, or the service.

use super::{
    CLAIM, RECORD, actions, ask, must_work, must_work_again, replica, service, start, through, until, until_not, wish,
};
use crate::database::{Postgres, Proxy};
use crate::support::PATIENCE;

/// What a stopped process waits for has time until it wakes: not the database's answer is what is late.
const STATEMENTS: &str = "  statement_timeout: 30s\nreplay: {wait: 100ms}\n";

fn ledger_with_long_statements(yaml: &str) -> String {
    yaml.replace("ledger: {lease: 3s}\n", "ledger:\n  lease: 3s\n") + STATEMENTS
}

#[test]
fn a_replica_that_was_stopped_before_it_dispatched_sends_nothing_when_it_wakes() {
    let (service, door) = service();
    door.open();
    let server = Postgres::shared();
    let url = server.new_database();
    let proxy = Proxy::start(server.port());
    let yaml = ledger_with_long_statements(&actions(service.address, "1s", "3s"));
    let stopped = replica(&through(&proxy, server, &url), &yaml).spawn();
    let other = start(&replica(&url, &yaml));
    let (plain, keyed) = (wish("plain", "plain", "p"), wish("keyed", "keyed", "k"));
    std::thread::scope(|scope| {
        let fresh = [&plain, &keyed].map(|body| {
            let held = proxy.held();
            proxy.hold(CLAIM);
            let address = stopped.address;
            let fresh = scope.spawn(move || ask(address, body));
            until("the claim is held", || proxy.held() > held);
            fresh
        });
        stopped.signal("STOP");
        // They are stored, and it does not hear of it.
        proxy.release();
        until("they are stored", || server.sql_on(&url, "SELECT count(*) FROM openexec_executions") == "2");
        until_not(&["execution_in_flight", "not_executed"], other.address, &plain);
        other.execute(&plain).must_be(409, "outcome_unknown", "");
        let recovered = until_not(&["outcome_unknown", "execution_in_flight"], other.address, &keyed);
        recovered.must_be_executed(true);
        stopped.signal("CONT");
        let [plain_answer, keyed_answer] = fresh.map(|fresh| fresh.join().unwrap());
        plain_answer.must_be(409, "not_executed", "");
        keyed_answer.must_be(504, "outcome_unknown", "");
        // What is certain is said by everybody, and what was found out stays.
        other.execute(&plain).must_be(409, "not_executed", "");
        for address in [stopped.address, other.address] {
            assert_eq!(ask(address, &keyed).body, recovered.body);
        }
    });
    assert_eq!((service.times("plain"), service.times("keyed")), (0, 1), "only the one that lives has sent anything");
    must_work_again(stopped.address);
    must_work(other.address);
}

#[test]
fn a_replica_that_was_stopped_while_its_action_ran_keeps_the_late_answer_when_it_wakes() {
    let (service, door) = service();
    let server = Postgres::shared();
    let url = server.new_database();
    let proxy = Proxy::start(server.port());
    let yaml = actions(service.address, "1500ms", "3s") + "replay: {wait: 100ms}\n";
    let stopped = replica(&through(&proxy, server, &url), &yaml).spawn();
    let other = start(&replica(&url, &yaml));
    let (answered, running) = (wish("plain", "ok", "answered"), wish("plain", "slow", "running"));
    std::thread::scope(|scope| {
        proxy.hold(RECORD);
        let fresh = scope.spawn(|| ask(stopped.address, &answered));
        until("the record is held", || proxy.held() == 1);
        let late = scope.spawn(|| ask(stopped.address, &running));
        service.await_asked("slow");
        stopped.signal("STOP");
        for body in [&answered, &running] {
            until_not(&["execution_in_flight"], other.address, body).must_be(409, "outcome_unknown", "");
        }
        door.open();
        std::thread::sleep(PATIENCE / 100);
        stopped.signal("CONT");
        proxy.release();
        for (body, fresh) in [(&answered, fresh), (&running, late)] {
            let fresh = fresh.join().unwrap();
            fresh.must_be_executed(false);
            for address in [stopped.address, other.address] {
                assert_eq!(until_not(&["outcome_unknown"], address, body).body, fresh.body);
            }
        }
    });
    assert_eq!((service.times("ok"), service.times("slow")), (1, 1));
    must_work_again(stopped.address);
    must_work(other.address);
}
