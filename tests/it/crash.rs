//! The real server, killed at random instants under load, again and again. What its clients saw is the judge.

use std::collections::{HashMap, HashSet};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use openexec_protocol::timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Approval, Client, Setup, approved};

/// Kills that had answers before them; others do not count, of which a busy machine has many.
const CYCLES: usize = 50;
const MOST_CYCLES: usize = 4 * CYCLES;
const CLIENTS: usize = 8;

/// One request: two nonces compete for each approval.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Sent {
    approval: String,
    body: String,
}

#[derive(Default)]
struct Seen {
    /// The first answer to each body.
    answers: HashMap<String, Vec<u8>>,
    /// Execution ids that were returned for an approval.
    executions: HashMap<String, HashSet<String>>,
    sent: Vec<Sent>,
}

impl Seen {
    fn ask_again(&mut self, client: &mut Client, all: &[Sent]) {
        for sent in all {
            let response = client.execute(&sent.body);
            let answered = self.answers.contains_key(&sent.body);
            assert!(!answered || response.status == 200, "an answer was lost: {}", response.text());
            self.note(sent, response.status, &response.body);
        }
    }

    fn note(&mut self, sent: &Sent, status: u16, body: &[u8]) {
        if status != 200 {
            let text = String::from_utf8_lossy(body).into_owned();
            // The second: of what nobody was answered, and which is sent again when five minutes are over.
            let is_right = ["approval_already_used", "approval_expired"].iter().any(|code| text.contains(code));
            assert!(is_right, "{status}: {text}");
            return;
        }
        let first = self.answers.entry(sent.body.clone()).or_insert_with(|| body.to_vec());
        assert_eq!(first, body, "a returned answer changed");
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap();
        let ids = self.executions.entry(sent.approval.clone()).or_default();
        ids.insert(answer["id"].as_str().unwrap().to_owned());
        assert_eq!(ids.len(), 1, "an approval was used twice");
    }
}

#[test]
fn nothing_is_lost_changed_or_doubled_by_kill_9() {
    let setup = Setup::clawshield();
    let seen = Mutex::new(Seen::default());
    let mut killed_under_load = 0;
    let mut cycle = 0;
    while killed_under_load < CYCLES {
        cycle += 1;
        assert!(cycle <= MOST_CYCLES, "{killed_under_load} cycles had answers before the kill");
        let process = setup.spawn();
        let delay = 3 + Uuid::new_v4().as_u64_pair().0 % 77;
        let stop = AtomicBool::new(false);
        let before = seen.lock().unwrap().answers.len();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (seen, stop, address) = (&seen, &stop, process.address);
                scope.spawn(move || load(seen, stop, address, &format!("{cycle}-{}", client / 2), client % 2));
            }
            std::thread::sleep(Duration::from_millis(delay));
            drop(process); // SIGKILL
            stop.store(true, Ordering::Relaxed);
        });
        killed_under_load += usize::from(seen.lock().unwrap().answers.len() > before);
        // Every request of this cycle again, and some of all the others.
        let server = setup.spawn();
        let mut client = Client::connect(server.address);
        let mut seen = seen.lock().unwrap();
        let from = seen.sent.len().saturating_sub(2_000);
        let again: Vec<Sent> = seen.sent[from..].to_vec();
        seen.ask_again(&mut client, &again);
    }
    // All of them once more: what was answered before many kills, too.
    let mut seen = seen.into_inner().unwrap();
    let server = setup.spawn();
    let mut client = Client::connect(server.address);
    seen.ask_again(&mut client, &seen.sent.clone());
    drop(server);
    // The file's own word, by a program that is not the server.
    let ledger = rusqlite::Connection::open(setup.ledger()).unwrap();
    let (rows, approvals): (i64, i64) = ledger
        .query_row("SELECT count(*), count(DISTINCT approval_id) FROM executions", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap();
    let executions = i64::try_from(seen.executions.len()).unwrap();
    assert_eq!((rows, approvals), (executions, executions));
    println!("{cycle} kills, {} requests, {} approvals, {rows} executions", seen.sent.len(), approvals);
}

/// Sends until the server dies. Clients come in pairs that want the same approvals under different nonces.
fn load(seen: &Mutex<Seen>, stop: &AtomicBool, address: std::net::SocketAddr, pair: &str, side: usize) {
    if TcpStream::connect(address).is_err() {
        return;
    }
    let mut client = Client::connect(address);
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let approval_id = format!("{pair}-{at}");
        // As far ahead as the allowed skew lets it be, so that retries are in time for as long as they can be.
        let issued_at = timestamp::print(Utc::now() + TimeDelta::seconds(20));
        let approval = Approval { approval_id: &approval_id, issued_at, ..Approval::default() };
        let body = approved("echo", &json!({"at": at}), &format!("{approval_id}-{side}"), &approval);
        let sent = Sent { approval: approval_id.clone(), body };
        seen.lock().unwrap().sent.push(sent.clone());
        match client.try_execute(&sent.body) {
            Some(response) => seen.lock().unwrap().note(&sent, response.status, &response.body),
            None => return,
        }
    }
}
