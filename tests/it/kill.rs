//! The gate and the service behind it, killed at random instants under load: one, the other, or both. The service's own
//! record of effects is the judge.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use openexec_protocol::{receipt, timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Approval, Client, PATIENCE, Response, Setup, approved, free};

/// `make evidence` asks for more.
const CYCLES: &str = "OPENEXEC_TEST_KILL_CYCLES";
const CLIENTS: usize = 8;
const TOKEN: &str = "operator-token-of-a-test";

/// One effect, as the service wrote it down.
#[derive(serde::Deserialize)]
struct Effect {
    path: String,
    approval: String,
    key: String,
}

struct Service {
    child: Child,
    address: String,
    record: PathBuf,
}

impl Service {
    fn start(address: String, record: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/effects.py");
        let port = address.rsplit_once(':').unwrap().1;
        let child = Command::new("python3").arg(script).arg(port).arg(record).stderr(Stdio::null()).spawn().unwrap();
        let service = Service { child, address, record: record.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&service.address).is_err() {
            assert!(Instant::now() < deadline, "the service does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        service
    }

    fn effects(&self) -> Vec<Effect> {
        let text = std::fs::read_to_string(&self.record).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill(); // SIGKILL
        let _ = self.child.wait();
    }
}

#[derive(Clone)]
struct Sent {
    body: String,
    keyed: bool,
}

#[derive(Default)]
struct Seen {
    sent: Vec<Sent>,
    /// The first result that was returned for each body.
    answers: HashMap<String, Vec<u8>>,
    /// How often each code was said.
    codes: HashMap<String, usize>,
}

impl Seen {
    fn note(&mut self, sent: &Sent, response: &Response) {
        if response.status == 200 {
            let answer: Value = serde_json::from_slice(&response.body).unwrap();
            let id = answer["id"].as_str().unwrap();
            assert_eq!(answer["result"]["key"], json!(id), "the result of another execution");
            let first = self.answers.entry(sent.body.clone()).or_insert_with(|| response.body.clone());
            assert!(*first == response.body, "a returned answer changed");
            return;
        }
        let code = response.json()["code"].as_str().unwrap().to_owned();
        assert!(!self.answers.contains_key(&sent.body), "a returned answer was lost: {code}");
        let known =
            ["outcome_unknown", "not_executed", "upstream_unreachable", "approval_already_used", "approval_expired"];
        assert!(known.contains(&code.as_str()), "{}", response.text());
        *self.codes.entry(code).or_default() += 1;
    }
}

#[test]
fn no_effect_is_doubled_and_no_result_lost_whoever_is_killed() {
    let cycles: usize = std::env::var(CYCLES).map_or(50, |cycles| cycles.parse().unwrap());
    let address = free();
    let setup = Setup::clawshield().with("OPENEXEC_ADMIN_TOKEN", TOKEN).file(&format!(
        "upstreams: {{service: {{addresses: [\"http://{address}\"]}}}}
actions:
  plain: {{upstream: service, path: /plain, timeout: 2s}}
  keyed: {{upstream: service, path: /keyed, timeout: 2s, recovery: {{idempotent: {{window: 1h}}}}}}"
    ));
    let record = setup.directory.path().join("effects.jsonl");
    let mut service = Service::start(address.clone(), &record);
    let mut gate = setup.spawn();
    let seen = Mutex::new(Seen::default());
    for cycle in 0..cycles {
        let delay = 5 + Uuid::new_v4().as_u64_pair().0 % 95;
        let stop = AtomicBool::new(false);
        let from = seen.lock().unwrap().sent.len();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (seen, stop, address) = (&seen, &stop, gate.address);
                scope.spawn(move || load(seen, stop, address, &format!("{cycle}-{}", client / 2), client));
            }
            std::thread::sleep(Duration::from_millis(delay));
            // The gate, the service, or both.
            if cycle % 3 != 1 {
                let _ = gate.child.kill();
                let _ = gate.child.wait();
            }
            if cycle % 3 != 0 {
                let _ = service.child.kill();
                let _ = service.child.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
        });
        if cycle % 3 != 0 {
            service = Service::start(address.clone(), &record);
        }
        if cycle % 3 != 1 {
            gate = setup.spawn();
        }
        let again: Vec<Sent> = seen.lock().unwrap().sent[from..].to_vec();
        let mut client = Client::connect(gate.address);
        for sent in again {
            let response = client.execute(&sent.body);
            seen.lock().unwrap().note(&sent, &response);
        }
    }
    let mut seen = seen.into_inner().unwrap();
    let left = settle(&gate, &service);
    // Now everybody gets a verdict, and what was returned is what is returned.
    let deadline = Instant::now() + 20 * PATIENCE;
    let mut client = Client::connect(gate.address);
    for (at, sent) in seen.sent.clone().into_iter().enumerate() {
        // A connection has a number of requests.
        if at % 5_000 == 0 {
            client = Client::connect(gate.address);
        }
        let mut response = client.execute(&sent.body);
        // One that is executed only now, on a busy machine: nothing was sent or stored, so it is asked again.
        while response.status == 502 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            response = client.execute(&sent.body);
        }
        seen.note(&sent, &response);
        if response.status != 200 {
            let code = response.json()["code"].as_str().unwrap().to_owned();
            // An approval's other nonce, or one whose approval has expired before it could be used.
            let settled = ["not_executed", "approval_already_used", "approval_expired"];
            assert!(settled.contains(&code.as_str()), "{}", response.text());
        }
    }
    judge(&service.effects(), &seen);
    let keyed = seen.sent.iter().filter(|sent| sent.keyed).count();
    println!(
        "{cycles} kills, {} requests ({keyed} of them idempotent), {} answered, {} effects, {left} leftovers settled, \
         refusals {:?}",
        seen.sent.len(),
        seen.answers.len(),
        service.effects().len(),
        seen.codes
    );
}

/// Never two effects for one approval; for an idempotent service never two keys, either; and no result without effect.
fn judge(effects: &[Effect], seen: &Seen) {
    let mut keys: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
    let mut times: HashMap<&str, usize> = HashMap::new();
    for effect in effects {
        keys.entry((&effect.path, &effect.approval)).or_default().insert(&effect.key);
        *times.entry(&effect.key).or_default() += 1;
    }
    for ((path, approval), keys) in &keys {
        assert_eq!(keys.len(), 1, "{path}: approval {approval} had effects under more than one key");
    }
    for (key, times) in &times {
        assert_eq!(*times, 1, "{key} had its effect more than once");
    }
    for answer in seen.answers.values() {
        let answer: Value = serde_json::from_slice(answer).unwrap();
        let id = answer["id"].as_str().unwrap();
        assert!(times.contains_key(id), "{id} was answered and never happened");
    }
}

/// Recovery settles what is idempotent by itself; the rest is an operator's, who looks into the service's record.
fn settle(gate: &crate::support::Process, service: &Service) -> usize {
    let admin = |method: &str, path: &str, body: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = Client::connect(gate.admin).send(request).unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    };
    let deadline = Instant::now() + 6 * PATIENCE;
    let mut settled = 0;
    loop {
        let unknown = admin("GET", "/executions?state=unknown&limit=500", "")["executions"].clone();
        let unknown = unknown.as_array().unwrap().clone();
        if unknown.is_empty() {
            return settled;
        }
        assert!(Instant::now() < deadline, "{} are still unknown", unknown.len());
        let happened: HashSet<String> = service.effects().into_iter().map(|effect| effect.key).collect();
        for execution in unknown.iter().filter(|execution| execution["recovery"] == json!("operator")) {
            let id = execution["id"].as_str().unwrap();
            let payload = admin("GET", &format!("/executions/{id}"), "")["payload"].as_str().unwrap().to_owned();
            let payload: Value = serde_json::from_str(&payload).unwrap();
            let verdict = if happened.contains(id) {
                json!({"outcome": "done", "result": {"key": id, "at": payload["at"]}, "by": "the test"})
            } else {
                json!({"outcome": "not_executed", "by": "the test"})
            };
            let resolved = admin("POST", &format!("/executions/{id}/resolve"), &verdict.to_string());
            if let Some(result) = resolved["result"].as_str() {
                assert!(receipt::verify(id, result, resolved["receipt"].as_str().unwrap()));
            }
            settled += 1;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
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
        let keyed = (client / 2).is_multiple_of(2);
        let approval_id = format!("{pair}-{at}");
        // Far enough ahead that a retry of the last cycle is still in time, and within the allowed skew.
        let issued_at = timestamp::print(Utc::now() + TimeDelta::seconds(20));
        let approval = Approval { approval_id: &approval_id, issued_at, ..Approval::default() };
        let action = if keyed { "keyed" } else { "plain" };
        let body = approved(action, &json!({"at": at}), &format!("{approval_id}-{}", client % 2), &approval);
        let sent = Sent { body, keyed };
        seen.lock().unwrap().sent.push(sent.clone());
        match connection.try_execute(&sent.body) {
            Some(response) => seen.lock().unwrap().note(&sent, &response),
            None => return,
        }
    }
}
