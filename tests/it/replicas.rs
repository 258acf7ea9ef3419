//! Many replicas on one database: servers of this process, or processes where one is to be killed or stopped, on a real
//! PostgreSQL, with what stands in between. The service's own record says how often something was done.

mod access;
mod cuts;
mod lives;
mod many;
mod outages;
mod pooler;
mod refusals;
mod stops;
mod waits;

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::database::{Postgres, Proxy};
use crate::recovery::{READ_TOKEN, admin, with_tokens};
use crate::service::{Service, json as json_answer};
use crate::support::{Approval, Client, PATIENCE, Response, Server, Setup, approved};

/// The claim, what confirms it, the record of an outcome: as the proxy sees them.
const CLAIM: &str = "FROM openexec_claim(";
const CONFIRM: &str = "SET confirmations = confirmations + 1";
const RECORD: &str =
    "SET state = $3, settled_at = $4, status = $5, receipt = $6, result = $7, headers = $8,\n    payload";

/// ClawShield mode on that database, for operators too.
fn replica(url: &str, yaml: &str) -> Setup {
    with_tokens(Setup::clawshield()).with("OPENEXEC_DB_URL", url).file(yaml)
}

/// A replica in this process, which has reached the database.
fn start(setup: &Setup) -> Server {
    let server = setup.start();
    until("it is ready", || Client::connect(server.admin).get("/readyz").status == 200);
    server
}

/// A service's actions, `plain` and `keyed`, which has a key and may be sent again; with leases of that length.
fn actions(service: SocketAddr, timeout: &str, lease: &str) -> String {
    format!(
        "upstreams: {{service: {{addresses: [\"http://{service}\"]}}}}
actions:
  echo: {{builtin: echo}}
  plain: {{upstream: service, path: /plain, timeout: {timeout}}}
  keyed: {{upstream: service, path: /keyed, timeout: {timeout}, recovery: {{idempotent: {{window: 1h}}}}}}
ledger: {{lease: {lease}}}
"
    )
}

/// The URL of a database of the server, by way of the proxy.
fn through(proxy: &Proxy, server: &Postgres, url: &str) -> String {
    url.replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()))
}

/// An approved request, with an approval of its own, which has the nonce's name.
fn wish(action: &str, what: &str, nonce: &str) -> String {
    approved(action, &json!({"do": what}), nonce, &Approval { approval_id: nonce, ..Approval::default() })
}

fn ask(address: SocketAddr, body: &str) -> Response {
    Client::connect(address).execute(body)
}

/// Whatever happened: the next one works.
#[track_caller]
fn must_work(address: SocketAddr) {
    let nonce = uuid::Uuid::new_v4().to_string();
    ask(address, &wish("plain", "ok", &nonce)).must_be_executed(false);
}

/// The same of a replica that may not have noticed yet that all is well.
#[track_caller]
fn must_work_again(address: SocketAddr) {
    let nonce = uuid::Uuid::new_v4().to_string();
    until_not(&["ledger_unavailable"], address, &wish("plain", "ok", &nonce)).must_be_executed(false);
}

/// Asks again until the answer is another one than these.
#[track_caller]
fn until_not(codes: &[&str], address: SocketAddr, body: &str) -> Response {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = ask(address, body);
        let code = response.json()["code"].as_str().unwrap_or_default().to_owned();
        if !codes.contains(&code.as_str()) {
            return response;
        }
        assert!(Instant::now() < deadline, "still {code}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn executions(address: SocketAddr, query: &str) -> Vec<Value> {
    let listed = admin(address, "GET", &format!("/executions{query}"), READ_TOKEN, "");
    assert_eq!(listed.status, 200, "{}", listed.text());
    listed.json()["executions"].as_array().unwrap().clone()
}

/// What something waits behind.
#[derive(Default)]
struct Door {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Door {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.is_open.lock().unwrap();
        let _ = self.opened.wait_timeout_while(closed, PATIENCE, |open| !*open).unwrap();
    }
}

/// A service that answers with the key it was given: at once if it is asked for `ok`, else when the door is open.
fn service() -> (Service, Arc<Door>) {
    let door = Arc::new(Door::default());
    let behind = door.clone();
    let service = Service::start(move |seen, stream| {
        if seen.asked() != "ok" {
            behind.pass();
        }
        let key = seen.header("idempotency-key").unwrap_or_default();
        json_answer(stream, "200 OK", &json!({"key": key}).to_string())
    });
    (service, door)
}

impl Service {
    /// The keys with which it was asked to do this.
    fn keys(&self, what: &str) -> Vec<String> {
        let seen = self.seen();
        let asked = seen.iter().filter(|seen| seen.asked() == what);
        asked.map(|seen| seen.header("idempotency-key").unwrap().to_owned()).collect()
    }
}
