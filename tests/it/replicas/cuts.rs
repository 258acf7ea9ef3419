//! Connections that end between a commit and its acknowledgement, or before the statement arrives.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::{
    CLAIM, CONFIRM, RECORD, actions, ask, must_work, must_work_again, replica, start, through, until, until_not, wish,
};
use crate::database::{Postgres, Proxy};
use crate::service::{Service, json as json_answer};
use crate::support::Server;

/// A replica whose statements pass a proxy. The service notes how often each claim had been confirmed when it was asked.
struct Cut {
    proxy: Arc<Proxy>,
    service: Service,
    confirmed: Arc<Mutex<Vec<usize>>>,
    url: String,
    replica: Server,
}

impl Cut {
    fn start() -> Self {
        let server = Postgres::shared();
        let (proxy, confirmed) = (Arc::new(Proxy::start(server.port())), Arc::new(Mutex::new(Vec::new())));
        let (seen_by, note) = (proxy.clone(), confirmed.clone());
        let service = Service::start(move |seen, stream| {
            note.lock().unwrap().push(count(&seen_by, CONFIRM));
            let key = seen.header("idempotency-key").unwrap();
            json_answer(stream, "200 OK", &json!({"key": key}).to_string())
        });
        let url = server.new_database();
        let yaml = actions(service.address, "15s", "60s") + "replay: {wait: 1s}\n";
        let replica = start(&replica(&through(&proxy, server, &url), &yaml));
        Cut { proxy, service, confirmed, url, replica }
    }

    fn rows(&self, of: &str) -> String {
        Postgres::shared()
            .sql_on(&self.url, &format!("SELECT state, confirmations FROM openexec_executions WHERE nonce = '{of}'"))
    }
}

/// How often it was run.
fn count(proxy: &Proxy, statement: &str) -> usize {
    proxy.statements().iter().filter(|ran| ran.contains(statement)).count()
}

#[test]
fn a_claim_whose_acknowledgement_was_lost_is_made_again_and_confirmed_before_anything_is_sent() {
    let cut = Cut::start();
    for (at, (action, after)) in
        [("echo", true), ("plain", true), ("echo", false), ("plain", false)].into_iter().enumerate()
    {
        let nonce = format!("n-{at}");
        let (claims, confirms, sent) = (count(&cut.proxy, CLAIM), count(&cut.proxy, CONFIRM), cut.service.seen().len());
        if after {
            cut.proxy.cut_after(CLAIM)
        } else {
            cut.proxy.cut_before(CLAIM)
        }
        let body = wish(action, "ok", &nonce);
        let first = cut.replica.execute(&body);
        first.must_be_executed(false);
        assert_eq!(cut.proxy.cuts(), at + 1);
        assert_eq!(count(&cut.proxy, CLAIM), claims + 2, "the same claim once more");
        // One that did not arrive is stored by the second, which says so.
        let confirmations = usize::from(after);
        assert_eq!(count(&cut.proxy, CONFIRM), confirms + confirmations);
        assert_eq!(cut.rows(&nonce), format!("DONE|{confirmations}"));
        let dispatches = usize::from(action == "plain");
        assert_eq!(cut.service.seen().len(), sent + dispatches, "{nonce}");
        if dispatches == 1 {
            assert_eq!(cut.confirmed.lock().unwrap().last(), Some(&(confirms + confirmations)), "confirmed before it");
        }
        assert_eq!(until_not(&["ledger_unavailable"], cut.replica.address, &body).body, first.body);
        must_work_again(cut.replica.address);
    }
}

#[test]
fn a_record_whose_acknowledgement_was_lost_is_made_again_and_found() {
    let cut = Cut::start();
    for (at, after) in [true, false].into_iter().enumerate() {
        if after {
            cut.proxy.cut_after(RECORD)
        } else {
            cut.proxy.cut_before(RECORD)
        }
        let (body, confirms) = (wish("plain", "ok", &at.to_string()), count(&cut.proxy, CONFIRM));
        let first = cut.replica.execute(&body);
        first.must_be_executed(false);
        assert_eq!((cut.proxy.cuts(), count(&cut.proxy, CONFIRM) - confirms), (at + 1, usize::from(after)));
        assert_eq!(until_not(&["ledger_unavailable"], cut.replica.address, &body).body, first.body);
        assert_eq!(cut.service.times("ok"), 2 * at + 1);
        must_work_again(cut.replica.address);
    }
}

#[test]
fn a_claim_that_cannot_be_confirmed_is_withdrawn_and_executed_when_it_is_asked_for_again() {
    let cut = Cut::start();
    let body = wish("plain", "ok", "n");
    // The next beat, which would find out before, is five seconds away.
    until("it has looked", || count(&cut.proxy, "openexec_replicas SET lease_until") >= 1);
    // Of the claim nobody hears, and of nothing that comes after it.
    cut.proxy.cut_each_after("", 1);
    cut.replica.execute(&body).must_be(503, "ledger_unavailable", "");
    assert_eq!((cut.rows("n").as_str(), cut.service.seen().len()), ("INTENT|0", 0), "stored, and not sent");
    cut.replica.execute(&wish("plain", "ok", "m")).must_be(503, "ledger_unavailable", "");
    cut.proxy.cut_each_after("", 0);
    let first = until_not(&["ledger_unavailable", "execution_in_flight"], cut.replica.address, &body);
    first.must_be_executed(false);
    assert_eq!(cut.service.times("ok"), 1);
    assert!(count(&cut.proxy, "DELETE FROM openexec_executions e USING") > 0, "it was withdrawn");
    must_work_again(cut.replica.address);
}

/// The service closes what was kept open, while the database takes its time with the claim.
#[test]
fn a_connection_that_ends_between_the_claim_and_the_first_byte_has_certainly_carried_nothing() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let service = Service::start(move |_, stream| {
        keep.lock().unwrap().push(stream.try_clone().unwrap());
        json_answer(stream, "200 OK", "{}")
    });
    let server = Postgres::shared();
    let url = server.new_database();
    let proxy = Proxy::start(server.port());
    let replica = start(&replica(&through(&proxy, server, &url), &actions(service.address, "1s", "60s")));
    for (at, action) in ["plain", "keyed"].into_iter().enumerate() {
        // On one connection, and so on the thread that also hears of the end of what is kept open.
        let mut client = replica.client();
        client.execute(&wish("plain", "ok", &format!("before-{at}"))).must_be_executed(false);
        let opened = service.connections.load(Ordering::SeqCst);
        let body = wish(action, "lost", &format!("n-{at}"));
        let refused = std::thread::scope(|scope| {
            let held = proxy.held();
            proxy.hold(CLAIM);
            let fresh = scope.spawn(|| client.execute(&body));
            until("the claim is held", || proxy.held() > held);
            kept.lock().unwrap().drain(..).for_each(|stream| stream.shutdown(Shutdown::Both).unwrap_or(()));
            // It arrives.
            std::thread::sleep(Duration::from_millis(100));
            proxy.release();
            fresh.join().unwrap()
        });
        refused.must_be(409, "not_executed", "certain");
        assert_eq!(service.connections.load(Ordering::SeqCst), opened, "it is not sent on another connection, either");
        assert_eq!(replica.execute(&body).json(), refused.json(), "and that is the end of it");
        must_work(replica.address);
    }
    assert_eq!(service.times("lost"), 0);
}

#[test]
fn with_one_in_five_statements_cut_off_each_approval_is_dispatched_once_and_every_result_stays() {
    const APPROVALS: usize = 200;
    const CLIENTS: usize = 8;
    let cut = Cut::start();
    let wishes: Vec<String> = (0..APPROVALS).map(|at| wish("plain", &at.to_string(), &format!("n-{at}"))).collect();
    // A verdict is what stays; until there is one, everybody is told to ask again.
    let verdict = |body: &str| until_not(&["ledger_unavailable", "execution_in_flight"], cut.replica.address, body);
    cut.proxy.cut_each_after("openexec_", 5);
    let answers: Mutex<HashMap<usize, Vec<u8>>> = Mutex::default();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (answers, wishes, verdict) = (&answers, &wishes, &verdict);
            scope.spawn(move || {
                for at in (client..APPROVALS).step_by(CLIENTS) {
                    let answer = verdict(&wishes[at]);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answers.lock().unwrap().insert(at, answer.body);
                }
            });
        }
    });
    cut.proxy.cut_each_after("", 0);
    assert!(cut.proxy.cuts() > APPROVALS / 5, "{} were cut off", cut.proxy.cuts());
    must_work_again(cut.replica.address);
    let answers = answers.into_inner().unwrap();
    for (at, body) in wishes.iter().enumerate() {
        assert_eq!(cut.service.times(&at.to_string()), 1, "n-{at}");
        assert_eq!(ask(cut.replica.address, body).body, answers[&at]);
    }
    let stored = "SELECT count(*), count(DISTINCT approval_id) FROM openexec_executions WHERE state = 'DONE'";
    let all = APPROVALS + 1;
    assert_eq!(Postgres::shared().sql_on(&cut.url, stored), format!("{all}|{all}"));
}
