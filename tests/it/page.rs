//! The status page, in a browser: Debian's Chromium, which Playwright drives (tests/page/), with axe-core's rules. What
//! there is to see is made here.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use openexec_protocol::timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::text;
use crate::keys::{keyless, private, public_file};
use crate::recovery::{READ_TOKEN, TOKEN, with_tokens};
use crate::service::{After, Seen, Service, answer, json as json_answer};
use crate::support::{Approval, Client, Process, Response, SECRET, Server, Setup, approved, free, request, tool};

/// `test(` in tests/page/modules.mjs, and in what tests/page/browser.mjs imports.
const MODULE_TESTS: usize = 13;
const BROWSER_TESTS: usize = 48;
/// Where the pictures of the README are taken anew: then there is traffic for as long as a plot is wide.
const SCREENSHOTS: &str = "OPENEXEC_TEST_SCREENSHOTS";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All of them ran, and none of them was skipped.
#[track_caller]
fn must_have_passed(output: &Output, count: usize) {
    let said = text(&output.stdout);
    let number = |what: &str| said.lines().find_map(|line| line.strip_prefix(&format!("# {what} "))?.parse().ok());
    let counted = ["tests", "pass", "skipped", "todo"].map(number);
    let expected = [Some(count), Some(count), Some(0), Some(0)];
    assert!(output.status.success() && counted == expected, "{counted:?}\n{said}\n{}", text(&output.stderr));
}

#[test]
fn the_page_computes_what_the_terminals_view_does() {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(here("src/admin/assets")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    // To Node.js a `.js` is a module where this says so; to browsers, where a module imports it.
    std::fs::write(directory.path().join("package.json"), r#"{"type": "module"}"#).unwrap();
    let output = Command::new("node")
        .args(["--test-reporter=tap", "tests/page/modules.mjs"])
        .current_dir(here(""))
        .env("OPENEXEC_PAGE_ASSETS", directory.path())
        .env("OPENEXEC_PAGE_VECTORS", here("tests/vectors"))
        .output()
        .unwrap();
    must_have_passed(&output, MODULE_TESTS);
}

#[test]
fn a_browser_shows_what_the_gate_does_and_nothing_that_clients_send_does_harm() {
    let tools = tool("page/node_modules/playwright-core").ancestors().nth(3).unwrap().to_owned();
    let service = Service::start(script);
    let gate = Arc::new(Gate::start(&service, TimeDelta::days(9)));
    gate.make_what_there_is_to_see();
    let pictured = Gate::start(&service, TimeDelta::days(200));
    let directory = std::env::var_os(SCREENSHOTS).map(|directory| here("").join(directory));
    let empty = with_tokens(Setup::demo()).start();
    let closed = Setup::demo().start();
    let control = Control::start(gate.clone());
    let ended = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| pictured.work_until(&ended));
        let output = Command::new("node")
            .args(["--test-reporter=tap", "tests/page/browser.mjs"])
            .current_dir(here(""))
            .env(
                "OPENEXEC_PAGE",
                json!({
                    "tools": tools,
                    "operator": TOKEN,
                    "reader": READ_TOKEN,
                    "gate": url(gate.server.admin),
                    "empty": url(empty.admin),
                    "closed": url(closed.admin),
                    "restarted": url(control.admin),
                    "control": url(control.service.address),
                    "hostile": HOSTILE.map(|(action, nonce)| json!({"action": action, "nonce": nonce})),
                    "hostileUnknown": {"action": HOSTILE_UNKNOWN.0, "nonce": HOSTILE_UNKNOWN.1},
                    "pictures": {
                        "url": url(pictured.server.admin),
                        "seconds": if directory.is_some() { 310 } else { 5 },
                        "directory": directory.clone().unwrap_or_else(|| here("target/page")),
                    },
                })
                .to_string(),
            )
            .output()
            .unwrap();
        ended.store(true, Ordering::SeqCst);
        traffic.join().unwrap();
        output
    });
    must_have_passed(&output, BROWSER_TESTS);
    gate.server.must_be_well();
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Actions and nonces that mean harm to whoever shows them.
const HOSTILE: [(&str, &str); 7] = [
    ("<img src=x onerror=alert(1)>", "<img src=x onerror=marked=1>"),
    ("\"><script>marked=1</script>", "'\"><svg onload=marked=1>"),
    ("javascript:alert(1)", "javascript:marked=1//"),
    ("\u{202e}gnp.dnes", "\u{202e}gpj.exe\u{200b}"),
    ("mail\u{1b}[31m", "\u{1}\u{1b}[31m\r\n"),
    (
        "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm",
        "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
    ),
    ("{{constructor.constructor('alert(1)')()}}", "${marked=1}&amp;%3Cb%3E+1"),
];
const HOSTILE_UNKNOWN: (&str, &str) = ("<b onmouseover=marked=1>bold</b>", "<svg onload=marked=1> unknown");

/// What the service does is in the payload; everything takes it a little while, and not always the same.
fn script(seen: &Seen, stream: &mut TcpStream) -> After {
    let sum: u64 = seen.body.iter().map(|byte| u64::from(*byte)).sum();
    std::thread::sleep(Duration::from_millis((sum % 13).pow(2) / 5));
    let payload = seen.json();
    match (seen.asked().as_str(), payload["reason"].as_str()) {
        ("vanish", _) | (_, Some("delivery lost")) => After::Reset,
        ("refuse", _) | (_, Some("legal hold")) => answer(stream, "503 Service Unavailable", "", ""),
        ("hostile", _) => json_answer(
            stream,
            "200 OK",
            r#"{"<img src=x onerror=marked=1>": "</pre><script>marked=1</script>", "r": "\u202egnp", "n": 1.50}"#,
        ),
        _ => {
            let key = seen.header("idempotency-key").unwrap_or_default();
            let body = json!({"accepted": true, "order": payload["order"], "reference": &key[key.len().min(24)..]});
            json_answer(stream, "200 OK", &body.to_string())
        }
    }
}

/// A gateway for two tenants, with keys of several ages.
struct Gate {
    server: Server,
    made: AtomicUsize,
    _setup: Setup,
}

impl Gate {
    fn start(service: &Service, key_left: TimeDelta) -> Self {
        let setup = with_tokens(keyless());
        let secret = setup.directory.path().join("mail.key");
        std::fs::write(&secret, SECRET).unwrap();
        let day = |days: i64| timestamp::print(Utc::now() + TimeDelta::days(days));
        let file = json!({
            "mode": "clawshield",
            "tenants": {
                "payments": {"keys": [
                    {"id": "desk-2026", "form": "ed25519", "file": public_file(&setup, 1),
                     "not_before": timestamp::print(Utc::now() - TimeDelta::hours(40 * 24 + 12)),
                     "not_after": timestamp::print(Utc::now() + key_left + TimeDelta::hours(12))},
                    {"id": "desk-2025", "form": "ed25519", "file": public_file(&setup, 2), "not_after": day(-30)},
                    {"id": "batch", "form": "hmac", "file": secret, "not_after": day(120)},
                ]},
                "mail": {
                    "keys": [{"id": "bot", "form": "hmac", "file": secret}],
                    "allowed_actions": ["mail.send"],
                },
            },
            "upstreams": {
                "mail": {"addresses": [url(service.address)]},
                "payments": {"addresses": [url(service.address)]},
            },
            "actions": actions(),
        });
        // JSON is YAML.
        let setup = setup.file(&file.to_string());
        Gate { server: setup.start(), made: AtomicUsize::new(0), _setup: setup }
    }

    /// With an approval of its tenant's desk, or of its bot.
    fn ask(&self, action: &str, payload: &Value, nonce: &str) -> Response {
        self.ask_with(action, payload, nonce, &Uuid::new_v4().to_string())
    }

    fn ask_with(&self, action: &str, payload: &Value, nonce: &str, approval_id: &str) -> Response {
        self.server.execute(&signed(action, payload, nonce, approval_id))
    }

    /// More than two pages of executions; some that are unknown, refused, or mean harm.
    fn make_what_there_is_to_see(&self) {
        std::thread::scope(|scope| {
            for part in 0..4 {
                scope.spawn(move || {
                    for number in (0..120).filter(|number| number % 4 == part) {
                        let action = ["mail.send", "payments.refund", "records.delete"][number % 3];
                        let answer = self.ask(action, &json!({"order": number}), &format!("made-{number}"));
                        assert_eq!(answer.status, 200, "{}", answer.text());
                    }
                });
            }
        });
        for nonce in ["not-1", "not-2"] {
            self.ask("records.delete", &json!({"do": "refuse"}), nonce).must_be(503, "not_executed", "");
        }
        for nonce in ["shown-unknown", "resolve-done", "resolve-not", "resolve-twice", "cross-origin"] {
            let payload = json!({"do": "vanish", "order": nonce, "amount": 12.5});
            self.ask("payments.refund", &payload, nonce).must_be(504, "outcome_unknown", "");
        }
        for (action, nonce) in HOSTILE {
            let payload = json!({"do": "hostile", "<img src=x onerror=marked=1>": "\u{202e}"});
            assert_eq!(self.ask(action, &payload, nonce).status, 200, "{action}");
        }
        let (action, nonce) = HOSTILE_UNKNOWN;
        let payload = json!({"do": "vanish", "x": "<img src=x onerror=marked=1>"});
        self.ask(action, &payload, nonce).must_be(504, "outcome_unknown", "");
        // Authentic, and refused.
        for action in ["mail.send", "payments.refund"] {
            let id = Uuid::new_v4().to_string();
            assert_eq!(self.ask_with(action, &json!({}), &format!("first-{action}"), &id).status, 200);
            let again = self.ask_with(action, &json!({}), &format!("second-{action}"), &id);
            again.must_be(403, "approval_already_used", "");
        }
        let bot = Approval { tenant: "mail", kid: Some("bot"), ..Approval::default() };
        let body = approved("payments.refund", &json!({}), "<img src=x onerror=marked=1>", &bot);
        self.server.execute(&body).must_be(403, "action_not_allowed", "");
    }

    /// A few of each verdict.
    fn traffic(&self) {
        let nonce = |kind: &str| format!("{kind}-{}", self.made.fetch_add(1, Ordering::SeqCst));
        for _ in 0..4 {
            let nonce = nonce("live");
            assert_eq!(self.ask("payments.refund", &json!({"order": nonce}), &nonce).status, 200);
            self.ask("mail.retry", &json!({}), &format!("{nonce}-again")).must_be(400, "unknown_action", "");
        }
        let nonce = nonce("twice");
        let body = signed("records.delete", &json!({"order": nonce}), &nonce, &Uuid::new_v4().to_string());
        assert_eq!([self.server.execute(&body).status, self.server.execute(&body).status], [200, 200]);
    }

    /// A morning's work of a few programs: what the pictures show.
    fn work_until(&self, ended: &AtomicBool) {
        let lost = json!({"order": "A-2291", "amount": "40.00", "currency": "EUR", "reason": "delivery lost"});
        self.ask("payments.refund", &lost, "refund-A-2291").must_be(504, "outcome_unknown", "");
        let held = json!({"table": "customers", "id": 7781, "reason": "legal hold"});
        self.ask("records.delete", &held, "erase-7781").must_be(503, "not_executed", "");
        let mut client = Client::connect(self.server.address);
        for number in 0_u32.. {
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let (action, nonce) = match number % 7 {
                0 | 2 | 5 => ("mail.send", format!("invoice-{}", 88_200 + number)),
                1 | 4 => ("payments.refund", format!("refund-A-{}", 2_300 + number)),
                3 => ("records.delete", format!("erase-{}", 7_800 + number)),
                _ => ("calendar.book", format!("visit-{}", 410 + number)),
            };
            let approval_id = Uuid::new_v4().to_string();
            // In a build without optimisation an Ed25519 signature takes longer than all else together.
            let (tenant, kid) = if action == "mail.send" { ("mail", "bot") } else { ("payments", "batch") };
            let approval = Approval { tenant, kid: Some(kid), approval_id: &approval_id, ..Approval::default() };
            let body = approved(action, &json!({"order": nonce}), &nonce, &approval);
            client.execute(&body).must_be_executed(false);
            if number % 11 == 0 {
                client.execute(&body).must_be_executed(true);
            }
            if number % 19 == 0 {
                client.execute(&request(action, &json!({}), "n")).must_be(403, "approval_missing", "");
            }
            // It comes and goes, in minutes.
            let wave = (f64::from(number) / 90.0).sin() + (f64::from(number) / 23.0).sin() / 2.0;
            std::thread::sleep(Duration::from_millis((60.0 + 30.0 * wave) as u64));
        }
    }
}

/// By the bot, or by the desk.
fn signed(action: &str, payload: &Value, nonce: &str, approval_id: &str) -> String {
    let key = private(1);
    let approval = match action {
        "mail.send" => Approval { tenant: "mail", kid: Some("bot"), approval_id, ..Approval::default() },
        _ => Approval {
            tenant: "payments",
            kid: Some("desk-2026"),
            private_key: Some(&key),
            approval_id,
            ..Approval::default()
        },
    };
    approved(action, payload, nonce, &approval)
}

fn actions() -> Value {
    let mut actions = json!({
        "mail.send": {"upstream": "mail", "path": "/mail/send"},
        "payments.refund": {"upstream": "payments", "path": "/refunds", "timeout": "10s"},
        "records.delete": {"upstream": "payments", "path": "/records/delete", "not_executed_on": [503]},
        "calendar.book": {"upstream": "mail", "path": "/calendar", "recovery": {"idempotent": {"window": "1h"}}},
    });
    for name in HOSTILE.map(|(action, _)| action).into_iter().chain([HOSTILE_UNKNOWN.0]) {
        actions[name] = json!({"upstream": "payments", "path": "/hostile"});
    }
    actions
}

/// What the browser's tests have done: a server that ends and starts again, and traffic.
struct Control {
    service: Service,
    admin: SocketAddr,
}

impl Control {
    fn start(gate: Arc<Gate>) -> Self {
        let setup = with_tokens(Setup::demo());
        let (listen, admin) = (free(), free());
        let start = move || {
            let mut command = setup.command(&[]);
            Process::start(command.env("OPENEXEC_LISTEN", &listen).env("OPENEXEC_ADMIN_LISTEN", &admin))
        };
        let process = start();
        let admin = process.admin;
        let mut client = Client::connect(process.address);
        for nonce in ["1", "2", "3"] {
            client.execute(&request("echo", &json!({}), nonce)).must_be_executed(false);
        }
        let process = Mutex::new(Some(process));
        let service = Service::start(move |seen, stream| {
            match seen.line.split(' ').nth(1).unwrap() {
                "/stop" => drop(process.lock().unwrap().take()),
                "/start" => *process.lock().unwrap() = Some(start()),
                "/traffic" => gate.traffic(),
                other => panic!("{other}"),
            }
            answer(stream, "200 OK", "", "")
        });
        Control { service, admin }
    }
}
