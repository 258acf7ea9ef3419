//! The gate and the service behind it, killed at random instants under load: one, the other, or both. The service's own
//! record of effects is the judge.

use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::judge::{Seen, Sent, Service, gate, is_passing, settle};
use crate::support::{Client, PATIENCE, Response, free};

/// `make evidence` asks for more.
const CYCLES: &str = "OPENEXEC_TEST_KILL_CYCLES";
const CLIENTS: usize = 8;

#[test]
fn no_effect_is_doubled_and_no_result_lost_whoever_is_killed() {
    let cycles: usize = std::env::var(CYCLES).map_or(50, |cycles| cycles.parse().unwrap());
    let address = free();
    let setup = gate(&address, "");
    let record = setup.directory.path().join("effects.jsonl");
    let mut service = Service::start(address.clone(), &record, Duration::ZERO);
    let mut gate = setup.spawn();
    let seen = Mutex::new(Seen::default());
    for cycle in 0..cycles {
        let answers_before = seen.lock().unwrap().answers.len();
        let delay = 5 + Uuid::new_v4().as_u64_pair().0 % 95;
        let stop = AtomicBool::new(false);
        let from = seen.lock().unwrap().sent.len();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (seen, stop, address) = (&seen, &stop, gate.address);
                scope.spawn(move || load(seen, stop, address, &format!("{cycle}-{}", client / 2), client));
            }
            // Under load, however busy the machine is; each fourth whatever it has come to.
            let deadline = Instant::now() + PATIENCE;
            while cycle % 4 != 3 && seen.lock().unwrap().answers.len() == answers_before {
                assert!(Instant::now() < deadline, "nothing is answered");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(delay));
            // The gate, the service, or both.
            if cycle % 3 != 1 {
                let _ = gate.child.kill();
                let _ = gate.child.wait();
            }
            if cycle % 3 != 0 {
                service.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
        });
        if cycle % 3 != 0 {
            service = Service::start(address.clone(), &record, Duration::ZERO);
        }
        if cycle % 3 != 1 {
            gate = setup.spawn();
        }
        let again: Vec<Sent> = seen.lock().unwrap().sent[from..].to_vec();
        let mut client = Client::connect(gate.address);
        for sent in again {
            note(&seen, &sent, &client.execute(&sent.body));
        }
    }
    let left = settle(gate.admin, &service);
    let seen = seen.into_inner().unwrap().ask_all_again(&[gate.address]);
    let effects = service.effects();
    seen.judge(&effects);
    // The kills met what they are for: executions that were under way, of which nobody could know.
    assert!(left > 0 && seen.codes.contains_key("outcome_unknown"), "{left} leftovers, {:?}", seen.codes);
    println!(
        "{cycles} kills, {} requests ({} of them idempotent), {} answered, {} effects, {left} leftovers settled, \
         refusals {:?}",
        seen.sent.len(),
        seen.keyed(),
        seen.answers.len(),
        effects.len(),
        seen.codes
    );
}

/// The ledger is a file here, which is always there, and nobody else runs anything.
fn note(seen: &Mutex<Seen>, sent: &Sent, response: &Response) {
    assert!(!is_passing(response), "{}", response.text());
    seen.lock().unwrap().note(sent, response);
}

/// Sends until the gate is gone. Clients come in pairs that want the same approvals under different nonces.
fn load(seen: &Mutex<Seen>, stop: &AtomicBool, address: SocketAddr, pair: &str, client: usize) {
    if TcpStream::connect(address).is_err() {
        return;
    }
    let mut connection = Client::connect(address);
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let sent = Sent::new((client / 2).is_multiple_of(2), &format!("{pair}-{at}"), client % 2, at);
        seen.lock().unwrap().sent.push(sent.clone());
        match connection.try_execute(&sent.body) {
            Some(response) => note(seen, &sent, &response),
            None => return,
        }
    }
}
