//! A service whose record of effects is the judge of gates that are killed, and what their clients were told.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use openexec_protocol::{receipt, timestamp};
use serde_json::{Value, json};

use crate::support::{Approval, Client, PATIENCE, Response, Setup, approved};

const TOKEN: &str = "operator-token-of-a-test";

/// One effect, as the service wrote it down.
#[derive(serde::Deserialize)]
pub struct Effect {
    pub path: String,
    pub approval: String,
    pub key: String,
}

pub struct Service {
    pub address: String,
    child: Child,
    record: PathBuf,
}

impl Service {
    /// Goes on with the record, if there is one. Before and after an effect it takes up to so long.
    pub fn start(address: String, record: &Path, slow: Duration) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/effects.py");
        let port = address.rsplit_once(':').unwrap().1;
        let mut command = Command::new("python3");
        command.arg(script).arg(port).arg(record).arg(slow.as_secs_f64().to_string());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let service = Service { child, address, record: record.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&service.address).is_err() {
            assert!(Instant::now() < deadline, "the service does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        service
    }

    /// SIGKILL
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP: connections stay, and nothing comes.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn effects(&self) -> Vec<Effect> {
        let text = std::fs::read_to_string(&self.record).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A gate before the service, with an action of each kind and this beside them.
pub fn gate(address: &str, more: &str) -> Setup {
    Setup::clawshield().with("OPENEXEC_ADMIN_TOKEN", TOKEN).file(&format!(
        "upstreams: {{service: {{addresses: [\"http://{address}\"]}}}}
actions:
  plain: {{upstream: service, path: /plain, timeout: 1500ms}}
  keyed: {{upstream: service, path: /keyed, timeout: 1500ms, recovery: {{idempotent: {{window: 1h}}}}}}
{more}"
    ))
}

#[derive(Clone)]
pub struct Sent {
    pub body: String,
    pub keyed: bool,
}

impl Sent {
    /// One of two nonces that want the same approval.
    pub fn new(keyed: bool, approval_id: &str, side: usize, at: usize) -> Self {
        // Far enough ahead that a late retry is still in time, and within the allowed skew.
        let issued_at = timestamp::print(Utc::now() + TimeDelta::seconds(20));
        let approval = Approval { approval_id, issued_at, ..Approval::default() };
        let action = if keyed { "keyed" } else { "plain" };
        let body = approved(action, &json!({"at": at}), &format!("{approval_id}-{side}"), &approval);
        Sent { body, keyed }
    }
}

#[derive(Default)]
pub struct Seen {
    pub sent: Vec<Sent>,
    /// The first result that was returned for each body.
    pub answers: HashMap<String, Vec<u8>>,
    /// How often each code was said.
    pub codes: HashMap<String, usize>,
    /// Executions of which somebody was told that they had no effect.
    not_executed: HashSet<String>,
}

/// What says nothing of an execution that may have been answered already: it is asked again.
const PASSING: [&str; 2] = ["ledger_unavailable", "execution_in_flight"];

/// A refusal's code.
pub fn code(response: &Response) -> Option<String> {
    (response.status != 200).then(|| response.json()["code"].as_str().unwrap().to_owned())
}

pub fn is_passing(response: &Response) -> bool {
    code(response).is_some_and(|code| PASSING.contains(&code.as_str()))
}

impl Seen {
    pub fn note(&mut self, sent: &Sent, response: &Response) {
        let Some(code) = code(response) else {
            let answer: Value = serde_json::from_slice(&response.body).unwrap();
            let id = answer["id"].as_str().unwrap();
            assert_eq!(answer["result"]["key"], json!(id), "the result of another execution");
            let first = self.answers.entry(sent.body.clone()).or_insert_with(|| response.body.clone());
            assert!(*first == response.body, "a returned answer changed");
            return;
        };
        let known =
            ["outcome_unknown", "not_executed", "upstream_unreachable", "approval_already_used", "approval_expired"];
        if !PASSING.contains(&code.as_str()) {
            assert!(!self.answers.contains_key(&sent.body), "a returned answer was lost: {}", response.text());
            assert!(known.contains(&code.as_str()), "{}", response.text());
        }
        if code == "not_executed" {
            self.not_executed.insert(response.json()["execution_id"].as_str().unwrap().to_owned());
        }
        *self.codes.entry(code).or_default() += 1;
    }

    /// Everybody gets a verdict at last, from each of these gates the same, and what was returned is what is returned.
    pub fn ask_all_again(self, gates: &[SocketAddr]) -> Self {
        let sent = self.sent.clone();
        let seen = Mutex::new(self);
        // A connection has a number of requests.
        for part in sent.chunks(4 * 5_000) {
            std::thread::scope(|scope| {
                for share in part.chunks(part.len().div_ceil(4)) {
                    let seen = &seen;
                    scope.spawn(move || gates.iter().for_each(|gate| ask_for_verdicts(*gate, share, seen)));
                }
            });
        }
        seen.into_inner().unwrap()
    }

    pub fn keyed(&self) -> usize {
        self.sent.iter().filter(|sent| sent.keyed).count()
    }

    /// Never two effects for one approval; for an idempotent service never two keys, either; no result without effect, none
    /// without its receipt, and no effect that somebody was told had not happened.
    pub fn judge(&self, effects: &[Effect]) {
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
            assert!(!self.not_executed.contains(*key), "{key} was said not to be executed, and was");
        }
        for body in self.answers.values() {
            let answer: Value = serde_json::from_slice(body).unwrap();
            let (id, shown) = (answer["id"].as_str().unwrap(), answer["receipt"].as_str().unwrap());
            assert!(times.contains_key(id), "{id} was answered and never happened");
            let text = std::str::from_utf8(body).unwrap();
            let result = text.split_once(r#","result":"#).unwrap().1.rsplit_once(r#","approved":"#).unwrap().0;
            assert!(receipt::verify(id, result, shown), "{id} has a receipt of something else");
        }
    }
}

fn ask_for_verdicts(gate: SocketAddr, sent: &[Sent], seen: &Mutex<Seen>) {
    let deadline = Instant::now() + 20 * PATIENCE;
    let mut client = Client::connect(gate);
    for sent in sent {
        let mut response = client.execute(&sent.body);
        // One that is executed only now, on a busy machine: nothing was sent or stored, so it is asked again.
        while (response.status == 502 || is_passing(&response)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            response = client.execute(&sent.body);
        }
        seen.lock().unwrap().note(sent, &response);
        if let Some(code) = code(&response) {
            // An approval's other nonce, or one whose approval has expired before it could be used.
            let settled = ["not_executed", "approval_already_used", "approval_expired"];
            assert!(settled.contains(&code.as_str()), "{}", response.text());
        }
    }
}

/// Recovery settles what is idempotent by itself; the rest is an operator's, who looks into the service's record.
pub fn settle(admin: SocketAddr, service: &Service) -> usize {
    let admin = |method: &str, path: &str, body: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = Client::connect(admin).send(request).unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    };
    let listed = |state: &str| {
        let listed = admin("GET", &format!("/executions?state={state}&limit=500"), "")["executions"].clone();
        listed.as_array().unwrap().clone()
    };
    let deadline = Instant::now() + 6 * PATIENCE;
    let mut settled = 0;
    loop {
        // What another replica left running becomes unknown when its lease has ended.
        let (running, unknown) = (listed("intent"), listed("unknown"));
        if running.is_empty() && unknown.is_empty() {
            return settled;
        }
        assert!(Instant::now() < deadline, "{} run, and {} are still unknown", running.len(), unknown.len());
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
