//! A gate with everything that the dashboard shows: a service, tenants with keys, TLS, what is refused and what goes wrong.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::inject::pod;
use crate::injector::Injector;
use crate::keys::keyless;
use crate::listen::{Offer, exchange, tls};
use crate::network::Authority;
use crate::service::{After, Seen, Service, answer, json as json_answer};
use crate::support::{Approval, Client, Process, Setup, approved, free, request};

const DESK: &str = "the-secret-of-the-desk-of-2026-and-more";
const OLD_DESK: &str = "the-secret-of-the-desk-of-2025-and-more";
const BOT: &str = "the-secret-of-the-bot-that-sends-mails";

pub struct Gate {
    process: Process,
    tls: SocketAddr,
    authority: Authority,
    _service: Service,
    _setup: Setup,
}

/// It does what the payload says.
fn script(seen: &Seen, stream: &mut TcpStream) -> After {
    match seen.asked().as_str() {
        "vanish" => After::Reset,
        "refuse" => answer(stream, "503 Service Unavailable", "", ""),
        _ => json_answer(stream, "200 OK", r#"{"sent": true}"#),
    }
}

impl Gate {
    pub fn start() -> Self {
        let (service, authority, setup) = (Service::start(script), Authority::new(), keyless());
        let (plain, tls_address) = (free(), free());
        let secret = |name: &str, text: &str| {
            let path = setup.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let file = format!(
            "listen:\n  - {plain}\n{listener}\
             tenants:\n  \
               payments:\n    keys:\n      - {{id: desk-2026, form: hmac, file: {desk}}}\n      \
                 - {{id: desk-2025, form: hmac, file: {old}, not_after: 2100-01-01T00:00:00Z}}\n  \
               mail: {{keys: [{{id: bot, form: hmac, file: {bot}}}], in_flight: 8}}\n\
             upstreams:\n  \
               mail: {{addresses: ['http://{address}'], health: {{active: {{path: /healthz}}}}}}\n  \
               bank: {{addresses: ['https://localhost:{away}'], tls: {{ca: {ca}}}}}\n\
             actions:\n  add: {{builtin: add}}\n  \
               mail.send: {{upstream: mail, path: /send, not_executed_on: [503], \
                 recovery: {{idempotent: {{window: 1h}}}}}}\n  \
               bank.pay: {{upstream: bank, path: /pay}}\n\
             passthrough: [{{upstream: mail, methods: [GET], path: /docs}}]\n",
            listener = tls(&tls_address, &authority.issue("localhost", 30), ""),
            desk = secret("desk-2026", DESK),
            old = secret("desk-2025", OLD_DESK),
            bot = secret("bot", BOT),
            address = service.address,
            away = free().rsplit_once(':').unwrap().1,
            ca = authority.path("ca.pem"),
        );
        let setup = setup.file(&file).with("OPENEXEC_ADMIN_TOKEN", "admin-token-0123456789").without("OPENEXEC_LISTEN");
        let mut command = setup.command(&[]);
        let process = Process::start_at(command.env("OPENEXEC_ADMIN_LISTEN", free()), plain.parse().unwrap());
        Gate { process, tls: tls_address.parse().unwrap(), authority, _service: service, _setup: setup }
    }

    pub fn admin(&self) -> SocketAddr {
        self.process.admin
    }

    /// What is done while somebody asks all the time.
    pub fn under_load(&self, injector: &Injector, done: impl FnOnce()) {
        /// Lets the others end, also when the test fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let stop = AtomicBool::new(false);
        let until_stop = |work: &dyn Fn(usize)| {
            for round in (0..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                work(round);
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            for thread in 0..2 {
                let until_stop = &until_stop;
                scope.spawn(move || until_stop(&|round| self.ask(&format!("{thread}-{round}"))));
            }
            scope.spawn(|| until_stop(&|round| self.go_wrong(round)));
            scope.spawn(|| {
                until_stop(&|_| {
                    review(injector);
                    std::thread::sleep(Duration::from_millis(200));
                });
            });
            done();
        });
    }

    /// What works.
    fn ask(&self, nonce: &str) {
        let mut client = Client::connect(self.process.address);
        let approval = |tenant, secret, kid| Approval {
            secret,
            tenant,
            kid: Some(kid),
            approval_id: nonce,
            ..Approval::default()
        };
        let key = if nonce.ends_with('7') { ("desk-2025", OLD_DESK) } else { ("desk-2026", DESK) };
        let sum = approved("add", &json!({"a": 1, "b": 2}), nonce, &approval("payments", key.1, key.0));
        client.execute(&sum).must_be_executed(false);
        client.execute(&sum).must_be_executed(true);
        let mail = approved("mail.send", &json!({"do": "send"}), nonce, &approval("mail", BOT, "bot"));
        client.execute(&mail).must_be_executed(false);
        assert_eq!(client.get("/docs/a").status, 200);
    }

    /// What does not, a little of each.
    fn go_wrong(&self, round: usize) {
        let mut client = Client::connect(self.process.address);
        let nonce = format!("wrong-{round}");
        let approval =
            || Approval { secret: BOT, tenant: "mail", kid: Some("bot"), approval_id: &nonce, ..Approval::default() };
        let mail = |what: &str, approval: &Approval<'_>| approved("mail.send", &json!({"do": what}), &nonce, approval);
        client.execute(&request("add", &json!({"a": 1, "b": 2}), &nonce)).must_be(403, "approval_missing", "");
        let late = Approval { issued_at: "2026-01-01T00:00:00Z".to_owned(), ..approval() };
        client.execute(&mail("late", &late)).must_be(403, "approval_expired", "");
        match round % 20 {
            0 => client.execute(&mail("vanish", &approval())).must_be(504, "outcome_unknown", ""),
            5 => client.execute(&mail("refuse", &approval())).must_be(503, "not_executed", ""),
            10 => {
                let answer = exchange(&mut Offer::new(&self.authority).connect(self.tls), &nonce).unwrap();
                assert!(answer.contains("unknown_action"), "{answer}");
                // No TLS, where TLS is spoken.
                let mut stream = TcpStream::connect(self.tls).unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            }
            15 => {
                let mut admin = Client::connect(self.process.admin);
                let knock = "GET /executions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer none-of-this-gate\r\n\r\n";
                assert_eq!(admin.send(knock).unwrap().status, 401);
                self.process.signal("HUP");
            }
            _ => {}
        }
    }
}

/// A pod that gets a gate, one with a ledger of its own, and one that cannot have any.
fn review(injector: &Injector) {
    assert_eq!(injector.review("/inject", &pod(&json!({})))["allowed"], true);
    assert_eq!(injector.review("/inject", &pod(&json!({"openexec.dev/ledger": "local"})))["allowed"], true);
    let mut net = pod(&json!({}));
    net["spec"]["hostNetwork"] = true.into();
    assert_eq!(injector.review("/inject", &net)["allowed"], false);
}
