//! Replicas that are killed and come back at the same addresses, and clients that go from one to the other.

use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::database::wait_until;
use crate::judge::{Seen, Sent, is_passing};
use crate::support::{Client, PATIENCE, Process, Response, Setup, free};

/// Of one request, before its client leaves it for the end.
const ATTEMPTS: usize = 8;

/// Processes of one configuration on one ledger.
pub struct Fleet {
    setup: Setup,
    places: Vec<(String, String)>,
    processes: Vec<Process>,
}

impl Fleet {
    pub fn start(setup: Setup, count: usize) -> Self {
        let places: Vec<_> = (0..count).map(|_| (free(), free())).collect();
        let processes = places.iter().map(|place| spawn(&setup, place)).collect();
        Fleet { setup, places, processes }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.processes.iter().map(|process| process.address).collect()
    }

    pub fn admin(&self, at: usize) -> SocketAddr {
        self.processes[at].admin
    }

    /// Also those whose ledger was away just now.
    pub fn await_ready(&self) {
        let is_ready = |process: &Process| Client::connect(process.admin).get("/readyz").status == 200;
        wait_until("all replicas serve", || self.processes.iter().all(is_ready));
    }

    /// SIGKILL
    pub fn kill(&mut self, at: usize) {
        let child = &mut self.processes[at].child;
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Where it was. Its ledger must be there.
    pub fn restart(&mut self, at: usize) {
        self.processes[at] = spawn(&self.setup, &self.places[at]);
    }
}

fn spawn(setup: &Setup, place: &(String, String)) -> Process {
    Process::start(setup.command(&[]).env("OPENEXEC_LISTEN", &place.0).env("OPENEXEC_ADMIN_LISTEN", &place.1))
}

/// Clients that go on until they are told to stop.
#[derive(Default)]
pub struct Load {
    pub seen: Mutex<Seen>,
    stop: AtomicBool,
}

impl Load {
    /// They come in pairs that want the same approvals under different nonces.
    pub fn client(&self, replicas: &[SocketAddr], client: usize) {
        let mut answered: Vec<Sent> = Vec::new();
        for at in 0.. {
            let (keyed, approval_id) = ((client / 2).is_multiple_of(2), format!("{}-{at}", client / 2));
            let sent = Sent::new(keyed, &approval_id, client % 2, at);
            self.seen.lock().unwrap().sent.push(sent.clone());
            if self.ask(replicas, &sent).is_some_and(|response| response.status == 200) {
                answered.push(sent);
            }
            if !answered.is_empty() && at % 4 == 0 {
                self.ask(replicas, &answered[random(answered.len())].clone());
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Until somebody says something definite, however long that takes.
    pub fn insist(&self, replicas: &[SocketAddr], sent: &Sent) -> Response {
        self.seen.lock().unwrap().sent.push(sent.clone());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(response) = self.ask(replicas, sent) {
                return response;
            }
            assert!(Instant::now() < deadline, "nobody has an answer");
        }
    }

    /// At any of them, until one says something definite.
    fn ask(&self, replicas: &[SocketAddr], sent: &Sent) -> Option<Response> {
        for _ in 0..ATTEMPTS {
            if let Some(response) = ask(replicas[random(replicas.len())], sent) {
                self.seen.lock().unwrap().note(sent, &response);
                if !is_passing(&response) {
                    return Some(response);
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

/// `None`: it is not there, or was killed meanwhile.
fn ask(replica: SocketAddr, sent: &Sent) -> Option<Response> {
    Client::new(TcpStream::connect(replica).ok()?).try_execute(&sent.body)
}

pub fn random(below: usize) -> usize {
    (Uuid::new_v4().as_u64_pair().0 % below as u64) as usize
}

/// So many milliseconds or less.
pub fn sleep_up_to(milliseconds: usize) {
    std::thread::sleep(Duration::from_millis(random(milliseconds + 1) as u64));
}
