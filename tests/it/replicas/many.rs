//! Three processes and thousands of duplicates at once.

use std::collections::{HashMap, HashSet};
use std::sync::{Barrier, Mutex};

use serde_json::json;

use super::{actions, executions, must_work, replica};
use crate::database::Postgres;
use crate::service::{Service, json as json_answer};
use crate::support::{Approval, Client, Process, approved};

const REPLICAS: usize = 3;
const APPROVALS: usize = 2_500;
/// Copies of each request, which are sent at once.
const COPIES: usize = 4;
/// Groups of clients; each sends an approval at a time.
const GROUPS: usize = 4;

/// Of every fifth approval the last copy has another nonce.
fn copies(at: usize) -> Vec<String> {
    let approval_id = format!("approval-{at}");
    let approval = Approval { approval_id: &approval_id, ..Approval::default() };
    let body = |nonce: &str| approved("plain", &json!({"at": at}), nonce, &approval);
    let mut copies = vec![body(&approval_id); COPIES];
    if at.is_multiple_of(5) {
        copies[COPIES - 1] = body(&format!("{approval_id}-again"));
    }
    copies
}

#[test]
fn of_ten_thousand_requests_at_three_replicas_each_approval_is_dispatched_once() {
    let service = Service::start(|seen, stream| {
        let key = seen.header("idempotency-key").unwrap();
        json_answer(stream, "200 OK", &json!({"key": key}).to_string())
    });
    let url = Postgres::shared().new_database();
    let yaml = actions(service.address, "20s", "60s") + "replay: {wait: 20s}\n";
    let setup = replica(&url, &yaml).with("OPENEXEC_LOG", "warn");
    let replicas: Vec<Process> = (0..REPLICAS).map(|_| setup.spawn()).collect();
    let wishes: Vec<Vec<String>> = (0..APPROVALS).map(copies).collect();
    let answers: Mutex<HashMap<usize, HashSet<Vec<u8>>>> = Mutex::default();
    let barriers: Vec<Barrier> = (0..GROUPS).map(|_| Barrier::new(COPIES)).collect();
    std::thread::scope(|scope| {
        for (group, barrier) in barriers.iter().enumerate() {
            for copy in 0..COPIES {
                let (replicas, wishes, answers) = (&replicas, &wishes, &answers);
                scope.spawn(move || {
                    let mut clients: Vec<_> = replicas.iter().map(|replica| Client::connect(replica.address)).collect();
                    for at in (group..APPROVALS).step_by(GROUPS) {
                        barrier.wait();
                        if let Some(answer) = result(&mut clients, at + copy, &wishes[at][copy]) {
                            answers.lock().unwrap().entry(at).or_default().insert(answer);
                        }
                    }
                });
            }
        }
    });
    let answers = answers.into_inner().unwrap();
    assert_eq!(answers.len(), APPROVALS, "each approval has a result");
    for (at, bytes) in &answers {
        assert_eq!(bytes.len(), 1, "approval {at} has one answer, whoever is asked");
    }
    let mut dispatched: HashMap<String, usize> = HashMap::new();
    for seen in service.seen().iter() {
        *dispatched.entry(seen.header("openexec-approval-id").unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(dispatched.len(), APPROVALS);
    assert_eq!(dispatched.values().filter(|times| **times != 1).count(), 0, "no approval was dispatched twice");
    replicas.iter().for_each(|replica| must_work(replica.address));
    assert_eq!(executions(replicas[0].admin, "?state=unknown").len(), 0);
}

/// Asks one replica after the other until there is a verdict. `None`: another nonce has the approval.
fn result(clients: &mut [Client], first: usize, body: &str) -> Option<Vec<u8>> {
    for turn in 0.. {
        let response = clients[(first + turn) % REPLICAS].execute(body);
        if response.status == 200 {
            return Some(response.body);
        }
        match response.json()["code"].as_str().unwrap() {
            "approval_already_used" => return None,
            // To be asked again.
            "execution_in_flight" | "ledger_unavailable" | "overloaded" if turn < 1_000 => {}
            _ => panic!("{}", response.text()),
        }
    }
    unreachable!("it ends with a verdict")
}
