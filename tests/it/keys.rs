//! Keys: made, named, rotated, retired, revoked.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::time::{Duration, Instant};

use openexec::registry::Registry;
use openexec_protocol::approval::{PrivateKey, PublicKey};
use openexec_protocol::timestamp;
use serde_json::{Value, json};

use crate::cli::{run, text};
use crate::recovery::with_tokens;
use crate::reload::{APPLIED, REFUSED, reload, replace};
use crate::service::{After, Service, json as json_answer};
use crate::support::{
    Approval, Client, PATIENCE, Response, SECRET, Setup, TENANT, answered, approved, effect, metric, request,
};

const IDS: [&str; 3] = [
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-000000000002",
    "00000000-0000-4000-8000-000000000003",
];

pub fn private(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

/// Writes the public key of this seed beside the configuration.
pub fn public_file(setup: &Setup, seed: u8) -> String {
    let path = setup.directory.path().join(format!("{seed}.pub.pem"));
    std::fs::write(&path, private(seed).public().to_pem()).unwrap();
    path.display().to_string()
}

/// ClawShield mode without a key in the environment.
pub fn keyless() -> Setup {
    Setup::clawshield().without("CLAWSHIELD_SECRET_KEY").without("CLAWSHIELD_TENANT_ID")
}

fn echo(nonce: &str, approval: &Approval<'_>) -> String {
    approved("echo", &json!({"nonce": nonce}), nonce, approval)
}

fn signed(key: &PrivateKey, kid: Option<&'static str>, nonce: &str) -> String {
    let approval_id = uuid_of(nonce);
    echo(nonce, &Approval { private_key: Some(key), kid, approval_id: &approval_id, ..Approval::default() })
}

fn uuid_of(nonce: &str) -> String {
    let mut hex: String = nonce.bytes().map(|b| format!("{b:02x}")).collect();
    hex.push_str(&"0".repeat(32));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

fn not_authentic(response: &Response) {
    response.must_be(403, "approval_signature_invalid", "Invalid signature");
}

#[test]
fn a_pair_is_made_that_signs_and_verifies() {
    let setup = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY");
    let directory = setup.directory.clone();
    let path = |name: &str| directory.path().join(name);
    let at = |name: &str| path(name).display().to_string();
    let elsewhere = Setup::demo();
    let generate = |arguments: &[&str]| run(&mut elsewhere.command(&[&["keys", "generate"], arguments].concat()), "");
    let made = generate(&[&at("approver")]);
    assert_eq!((made.status.code(), text(&made.stderr).as_str()), (Some(0), ""));
    assert_eq!(text(&made.stdout), format!("{}\n{}\n", at("approver.pem"), at("approver.pub.pem")));
    let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("approver.pem"), mode("approver.pub.pem")), (0o600, 0o644));
    let again = generate(&[&at("approver")]);
    assert_eq!((again.status.code(), text(&again.stderr).contains("approver.pem")), (Some(2), true));
    // Half of a pair is not left behind.
    std::fs::write(path("other.pub.pem"), "mine").unwrap();
    assert_eq!(generate(&[&at("other")]).status.code(), Some(2));
    assert!(!path("other.pem").exists());
    assert_eq!(std::fs::read_to_string(path("other.pub.pem")).unwrap(), "mine");

    let fingerprints = ["approver.pem", "approver.pub.pem"]
        .map(|name| text(&run(&mut elsewhere.command(&["keys", "fingerprint", &at(name)]), "").stdout));
    let pem = std::fs::read_to_string(path("approver.pub.pem")).unwrap();
    let expected = PublicKey::from_pem(&pem).unwrap().fingerprint() + "\n";
    assert_eq!(fingerprints, [expected.clone(), expected]);
    let nothing = run(&mut elsewhere.command(&["keys", "fingerprint", "/dev/null"]), "");
    assert_eq!((nothing.status.code(), text(&nothing.stderr).contains("holds no PEM text")), (Some(2), true));

    let setup = setup.with("CLAWSHIELD_PUBLIC_KEY_FILE", &at("approver.pub.pem")).file("approval: {max_lifetime: 1h}");
    let server = setup.start();
    let key = at("approver.pem");
    let mint = |more: &[&str]| {
        let arguments = [&["mint", "--private-key", key.as_str()], more, &["-"]].concat();
        let minted = run(&mut setup.command(&arguments), &request("echo", &json!({}), &more.join("")));
        (minted.status.code(), text(&minted.stdout), text(&minted.stderr))
    };
    let (code, body, said) = mint(&["--lifetime", "1h"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let artifact = serde_json::from_str::<Value>(&body).unwrap()["approval_artifact"].clone();
    let moment = |name: &str| timestamp::parse(artifact[name].as_str().unwrap()).unwrap();
    assert_eq!((moment("expires_at") - moment("issued_at")).num_minutes(), 60);
    server.execute(&body).must_be_executed(false);
    server.execute(&body).must_be_executed(true);
    let verified = run(&mut setup.command(&["verify", "approval", "-"]), &body);
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stdout));
    server.execute(&mint(&["--lifetime", "61m"]).1).must_be(
        403,
        "approval_lifetime_too_long",
        "longer than is allowed",
    );
    not_authentic(&server.execute(&mint(&["--kid", "approver"]).1));
    for (arguments, said) in [
        (&["--approval-id", "short"][..], "must be a UUID"),
        (&["--lifetime", "0s"], "`expires_at` must be later"),
        (&["--lifetime", "25h"], "at most 24h"),
        (&["--issued-at", "now"], "name no time"),
    ] {
        let (code, _, problem) = mint(arguments);
        assert_eq!((code, problem.contains(said)), (Some(2), true), "{problem}");
    }
    let wrong = run(&mut setup.command(&["mint", "--private-key", &at("approver.pub.pem"), "-"]), &body);
    assert_eq!(
        (wrong.status.code(), text(&wrong.stderr).contains("no PEM text of an Ed25519 private key")),
        (Some(2), true)
    );

    let pem = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY").with("CLAWSHIELD_SECRET_KEY_FILE", &key);
    let wrong = run(&mut pem.command(&["mint", "-"]), &request("echo", &json!({}), "n"));
    assert_eq!((wrong.status.code(), text(&wrong.stderr).contains("sign with --private-key")), (Some(2), true));

    let made = generate(&["--form", "hmac", &at("shared")]);
    assert_eq!((made.status.code(), mode("shared.key")), (Some(0), 0o600));
    let secret = std::fs::read_to_string(path("shared.key")).unwrap();
    let setup =
        Setup::clawshield().without("CLAWSHIELD_SECRET_KEY").with("CLAWSHIELD_SECRET_KEY_FILE", &at("shared.key"));
    let approval = Approval { secret: secret.trim(), ..Approval::default() };
    assert_eq!(secret.len(), 65);
    setup.start().execute(&echo("n", &approval)).must_be_executed(false);
}

#[test]
fn one_tenant_may_have_keys_of_both_forms() {
    let setup = Setup::clawshield().with("CLAWSHIELD_PUBLIC_KEY", &private(1).public().to_pem());
    let server = setup.start();
    server.execute(&signed(&private(1), None, "a")).must_be_executed(false);
    server.execute(&echo("b", &Approval::default())).must_be_executed(false);
    not_authentic(&server.execute(&signed(&private(2), None, "c")));
    // Members of both forms are neither, and a public key is nobody's secret.
    let mut both: Value = serde_json::from_str(&signed(&private(1), None, "d")).unwrap();
    both["approval_artifact"]["issued_by"] = json!("clawshield");
    not_authentic(&server.execute(&both.to_string()));
    let pem = private(1).public().to_pem();
    not_authentic(&server.execute(&echo("e", &Approval { secret: &pem, ..Approval::default() })));
    // In this form the approval's name is a UUID: with nothing between the fields another could move their borders.
    let mut short: Value = serde_json::from_str(&signed(&private(1), None, "f")).unwrap();
    short["approval_artifact"]["approval_id"] = json!("a");
    not_authentic(&server.execute(&short.to_string()));
    // One approval in two forms is used once all the same.
    let id = Approval { approval_id: IDS[0], ..Approval::default() };
    server.execute(&echo("g", &id)).must_be_executed(false);
    let key = private(1);
    let again = echo("h", &Approval { approval_id: IDS[0], private_key: Some(&key), ..Approval::default() });
    server.execute(&again).must_be(403, "approval_already_used", "");
    server.must_be_well();
}

/// `tenants:` with one tenant and these keys: id, seed, and more members.
fn rotation(setup: &Setup, keys: &[(&str, u8, &str)]) -> String {
    let keys = keys.iter().map(|(id, seed, more)| {
        format!("      - {{id: {id}, form: ed25519, file: {}{more}}}\n", public_file(setup, *seed))
    });
    format!("tenants:\n  {TENANT}:\n    keys:\n{}", keys.collect::<String>())
}

#[test]
fn a_retired_key_is_told_what_it_approved_and_approves_nothing_new() {
    let (old, new) = (private(1), private(2));
    let setup = keyless();
    let file = rotation(&setup, &[("old", 1, ""), ("new", 2, "")]);
    let setup = setup.file(&file);
    let server = setup.start();
    let first = signed(&old, Some("old"), "a");
    let answer = server.execute(&first);
    answer.must_be_executed(false);
    let of_new = signed(&new, Some("new"), "b");
    server.execute(&of_new).must_be_executed(false);
    server.stop();
    let file = rotation(&setup, &[("old", 1, ", not_after: 2026-02-17T10:00:00Z"), ("new", 2, "")]);
    let setup = setup.file(&file);
    let server = setup.start();
    for replay in [&first, &signed(&old, None, "a")] {
        assert_eq!(server.execute(replay).body, answer.body);
    }
    let end = r#"openexec_key_not_after_timestamp_seconds{key="old",tenant="tenant-001"}"#;
    assert_eq!(server.metric(end), 1_771_322_400.0);
    server.execute(&signed(&old, None, "c")).must_be(403, "approval_signature_invalid", "its key is retired");
    // Whoever has the old key cannot read what the new one approved, nor find out that it exists.
    not_authentic(&server.execute(&signed(&old, Some("old"), "b")));
    server.execute(&of_new).must_be_executed(true);
    // The new one may ask for everything.
    assert_eq!(server.execute(&signed(&new, None, "a")).body, answer.body);
    server.stop();
    // Revoked: nothing at all.
    let file = rotation(&setup, &[("new", 2, "")]);
    let setup = setup.file(&file);
    let server = setup.start();
    not_authentic(&server.execute(&first));
    not_authentic(&server.execute(&signed(&old, None, "a")));
    server.stop();
    // And one that has not begun.
    let file = rotation(&setup, &[("new", 2, ", not_before: 2999-01-01T00:00:00Z"), ("old", 1, "")]);
    let server = setup.file(&file).start();
    not_authentic(&server.execute(&of_new));
    server.execute(&signed(&old, None, "d")).must_be_executed(false);
}

#[test]
fn a_retired_key_meets_nothing_that_runs_for_another() {
    let setup = keyless();
    let file = rotation(&setup, &[("old", 1, ", not_after: 2026-02-17T10:00:00Z"), ("new", 2, "")]);
    let slow = effect(|_| async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        answered(&json!({}))
    });
    let server = setup.registry(Registry::default().with("slow", slow)).file(&file).start();
    let body = |seed: u8| {
        let key = private(seed);
        let approval = Approval { private_key: Some(&key), approval_id: IDS[0], ..Approval::default() };
        approved("slow", &json!({}), "n", &approval)
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.execute(&body(2)));
        std::thread::sleep(Duration::from_millis(300));
        // At once, and as if there were nothing.
        server.execute(&body(1)).must_be(403, "approval_signature_invalid", "its key is retired");
        assert!(!running.is_finished());
        running.join().unwrap().must_be_executed(false);
    });
    server.execute(&body(1)).must_be(403, "approval_signature_invalid", "its key is retired");
    server.execute(&body(2)).must_be_executed(true);
}

/// What a key approved that was revoked is not sent again, though nobody knows whether it arrived.
#[test]
fn recovery_does_not_send_what_a_revoked_key_approved() {
    let service = Service::start(|seen, stream| {
        let first = seen.asked() == "lost" && seen.header("x-again").is_none();
        if first { After::Reset } else { json_answer(stream, "200 OK", "{}") }
    });
    let setup = with_tokens(keyless());
    let forward = format!(
        "upstreams: {{service: {{addresses: [\"http://{}\"]}}}}
actions: {{send: {{upstream: service, path: /send, timeout: 500ms, recovery: {{idempotent: {{window: 1h}}}}}}}}
",
        service.address
    );
    let with = |setup: &Setup, keys: &[(&str, u8, &str)]| forward.clone() + &rotation(setup, keys);
    let text = with(&setup, &[("stolen", 1, ""), ("new", 2, "")]);
    let setup = setup.file(&text);
    let server = setup.spawn();
    let path = setup.directory.path().join("openexec.yaml");
    let body = |seed: u8, nonce: &str| {
        let (key, approval_id) = (private(seed), uuid_of(nonce));
        let approval = Approval { private_key: Some(&key), approval_id: &approval_id, ..Approval::default() };
        approved("send", &json!({"do": "lost"}), nonce, &approval)
    };
    let mut client = Client::connect(server.address);
    client.execute(&body(1, "a")).must_be(504, "outcome_unknown", "");
    replace(&path, &with(&setup, &[("new", 2, "")]));
    reload(&server, APPLIED);
    let sent = service.seen().len();
    client.execute(&body(2, "b")).must_be(504, "outcome_unknown", "");
    // The other key's is sent again and again; the stolen one's is left to an operator.
    let deadline = Instant::now() + PATIENCE;
    while service.seen().len() < sent + 3 {
        assert!(Instant::now() < deadline, "recovery does not recover");
        std::thread::sleep(Duration::from_millis(20));
    }
    let keys = |from: usize| -> Vec<String> {
        service.seen()[from..].iter().map(|seen| seen.header("idempotency-key").unwrap().to_owned()).collect()
    };
    let stolen = keys(0)[0].clone();
    assert!(!keys(sent).contains(&stolen), "it was sent again after the reload");
    // Once its key is back, so is its recovery, without a restart.
    replace(&path, &with(&setup, &[("stolen", 1, ""), ("new", 2, "")]));
    reload(&server, APPLIED);
    let deadline = Instant::now() + PATIENCE;
    while !keys(sent).contains(&stolen) {
        assert!(Instant::now() < deadline, "it is never looked at again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Each key is added before its approver uses it, and taken away when the next one is in use.
#[test]
fn keys_are_rotated_under_load_without_a_gap() {
    const ROUNDS: u8 = 10;
    let ids: Vec<&'static str> = (0..=ROUNDS).map(|round| &*format!("key-{round}").leak()).collect();
    let setup = keyless();
    let file = |setup: &Setup, from: u8, to: u8| {
        let keys: Vec<_> = (from..=to).map(|round| (ids[usize::from(round)], round + 1, "")).collect();
        rotation(setup, &keys)
    };
    let text = file(&setup, 0, 0);
    let setup = setup.file(&text);
    let server = setup.spawn();
    let path = setup.directory.path().join("openexec.yaml");
    let (stop, done, current) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (server, stop, done, current, ids) = (&server, &stop, &done, &current, &ids);
                scope.spawn(move || {
                    let mut client = Client::connect(server.address);
                    for at in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        // The key may be replaced between here and the answer, but not taken away: see below.
                        let seed = current.load(Ordering::SeqCst);
                        let kid = (at % 2 == 0).then_some(ids[seed]);
                        let key = private(u8::try_from(seed).unwrap() + 1);
                        client.execute(&signed(&key, kid, &format!("{thread}-{at}"))).must_be_executed(false);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for round in 1..=ROUNDS {
            replace(&path, &file(&setup, round - 1, round));
            reload(&server, APPLIED);
            current.store(usize::from(round), Ordering::SeqCst);
            // Until every approver has signed with the new one: then nothing signed with the old one is on its way.
            let seen = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) < seen + 30 && !threads.iter().any(|thread| thread.is_finished()) {
                std::thread::yield_now();
            }
            let old = private(round);
            let nonce = format!("old-{round}");
            Client::connect(server.address).execute(&signed(&old, None, &nonce)).must_be_executed(false);
            replace(&path, &file(&setup, round, round));
            reload(&server, APPLIED);
            for kid in [None, Some(ids[usize::from(round) - 1])] {
                let mut client = Client::connect(server.address);
                not_authentic(&client.execute(&signed(&old, kid, &format!("late-{round}"))));
                not_authentic(&client.execute(&signed(&old, kid, &nonce)));
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(done.load(Ordering::SeqCst) > 300);
    assert_eq!(metric(server.admin, REFUSED), 0.0);
}

#[test]
fn a_broken_new_key_leaves_the_old_ones_in_use() {
    let setup = keyless();
    let text = rotation(&setup, &[("one", 1, "")]);
    let setup = setup.file(&text);
    let server = setup.spawn();
    let key = setup.directory.path().join("1.pub.pem");
    replace(&key, "rubbish");
    reload(&server, REFUSED);
    let mut client = Client::connect(server.address);
    client.execute(&signed(&private(1), None, "a")).must_be_executed(false);
    // The file of the key is watched, too.
    let before = metric(server.admin, APPLIED);
    replace(&key, &private(2).public().to_pem());
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while metric(server.admin, APPLIED) == before {
        assert!(std::time::Instant::now() < deadline, "nobody looked at the key");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    client.execute(&signed(&private(2), Some("one"), "b")).must_be_executed(false);
    not_authentic(&client.execute(&signed(&private(1), None, "c")));
    server.signal("TERM");
    let (_, log) = server.end();
    assert!(log.contains("tenants.tenant-001.keys[0].file") && log.contains("no PEM text"), "{log}");
    assert!(!log.contains("rubbish"), "{log}");
    // Which keys approve is said at the start, and at the reload.
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let announced: Vec<_> = lines.iter().filter(|line| line["message"] == "a tenant's key").collect();
    let fingerprints: Vec<_> = announced.iter().map(|line| line["fingerprint"].as_str().unwrap()).collect();
    assert_eq!(fingerprints, [private(1), private(2)].map(|key| key.public().fingerprint()));
    assert_eq!((&announced[0]["key"], &announced[0]["state"]), (&json!("one"), &json!("active")));
}

/// Somebody is writing it, or an accident emptied it: the other tenants have nothing to do with that.
#[test]
fn an_emptied_key_of_the_environment_leaves_everything_as_it_was() {
    let setup = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY");
    let (of_environment, of_file) = (public_file(&setup, 1), public_file(&setup, 2));
    let file = format!("tenants: {{a: {{keys: [{{id: one, form: ed25519, file: {of_file}}}]}}}}");
    let setup = setup.with("CLAWSHIELD_PUBLIC_KEY_FILE", &of_environment).file(&file);
    let server = setup.spawn();
    std::fs::write(&of_environment, "").unwrap();
    reload(&server, REFUSED);
    let mut client = Client::connect(server.address);
    client.execute(&signed(&private(1), None, "n")).must_be_executed(false);
    let key = private(2);
    let of_a = Approval { private_key: Some(&key), tenant: "a", approval_id: IDS[0], ..Approval::default() };
    client.execute(&echo("n", &of_a)).must_be_executed(false);
    // Half of a tenant in the environment is a mistake, too.
    for half in ["CLAWSHIELD_TENANT_ID", "CLAWSHIELD_SECRET_KEY"] {
        let setup = Setup::clawshield().without(half).file(&file);
        let said = text(&run(&mut setup.command(&["validate"]), "").stderr);
        assert!(said.contains("the environment's tenant lacks CLAWSHIELD_"), "{said}");
    }
}

#[test]
fn every_mistake_with_keys_is_listed() {
    let setup = keyless();
    let path = |name: &str, text: &str| {
        let path = setup.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = public_file(&setup, 1);
    let (short, private_file) = (path("short.key", "hunter2"), path("private.pem", &private(1).to_pem()));
    let rubbish = path("rubbish.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let file = format!(
        "mode: clawshield
approval: {{max_lifetime: 25h}}
tenants:
  empty: {{}}
  'with blank': {{keys: [{{id: 'a b', form: ed25519, file: {good}}}]}}
  wrong:
    keys:
      - {{id: short, form: hmac, file: {short}}}
      - {{id: pem, form: hmac, file: {good}}}
      - {{id: private, form: ed25519, file: {private_file}}}
      - {{id: rubbish, form: ed25519, file: {rubbish}}}
      - {{id: missing, form: ed25519, file: /nowhere}}
      - {{id: missing, form: ed25519, file: {good}, not_before: 2026-01-02T00:00:00Z, not_after: 2026-01-01T00:00:00Z}}
      - {{id: never, form: ed25519, file: {good}, not_after: later}}
      - {{id: nowhere, form: ed25519, file: {good}, not_after: 2026-12-01 00:00:00}}
  twice:
    keys:
      - {{id: old, form: ed25519, file: {good}, not_after: 2026-01-01T00:00:00Z}}
      - {{id: new, form: ed25519, file: {good}}}
"
    );
    let setup = setup.file(&file).with("CLAWSHIELD_PUBLIC_KEY", "rubbish").with("CLAWSHIELD_TENANT_ID", "wrong");
    let output = run(&mut setup.command(&["validate"]), "");
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    for problem in [
        "approval.max_lifetime must be between",
        "tenants.empty.keys must have at least one",
        "tenants.with blank must be named by",
        "tenants.with blank.keys[0].id must be 1 to 128",
        "tenants.wrong is the tenant of CLAWSHIELD_TENANT_ID too",
        "tenants.wrong.keys[0].file",
        "must have at least 32 bytes",
        "tenants.wrong.keys[1].file",
        "is a PEM text, and an HMAC key is none",
        "tenants.wrong.keys[2].file",
        "holds a private key",
        "tenants.wrong.keys[3].file",
        "holds no PEM text of an Ed25519 public key",
        "tenants.wrong.keys[4].file: /nowhere",
        "tenants.wrong.keys[5].id is another key's too: missing",
        "tenants.wrong.keys[5].not_after must be later",
        "tenants.wrong.keys[6].not_after must be a time with its zone",
        "tenants.wrong.keys[7].not_after must be a time with its zone",
        "CLAWSHIELD_PUBLIC_KEY holds no PEM text",
        "tenants.twice.keys[1].file holds a key that is another one's too",
    ] {
        assert!(said.contains(problem), "{problem:?} is not in {said}");
    }
    assert!(!said.contains("hunter2") && !said.contains("AAAA"), "{said}");
    let demo = Setup::demo().file(&format!("tenants: {{t: {{keys: [{{id: a, form: ed25519, file: {good}}}]}}}}"));
    let said = text(&run(&mut demo.command(&["validate"]), "").stderr);
    assert!(said.contains("tenants have a meaning in ClawShield mode only"), "{said}");
    let private = Setup::clawshield().with("CLAWSHIELD_PUBLIC_KEY_FILE", &private_file);
    let said = text(&run(&mut private.command(&["validate"]), "").stderr);
    assert!(said.contains("CLAWSHIELD_PUBLIC_KEY holds a private key"), "{said}");
    let retired =
        format!("tenants: {{t: {{keys: [{{id: a, form: ed25519, file: {good}, not_after: 2020-01-01T00:00:00Z}}]}}}}");
    let output = run(&mut keyless().file(&retired).command(&["validate"]), "");
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(
        output.status.code() == Some(0) && said.contains("tenants.t has no key that approves anything now"),
        "{said}"
    );
    // Whoever knows a public key could mint with it.
    let public = Setup::clawshield().without("CLAWSHIELD_SECRET_KEY").with("CLAWSHIELD_SECRET_KEY_FILE", &good);
    let said = text(&run(&mut public.command(&["validate"]), "").stderr);
    assert!(said.contains("CLAWSHIELD_SECRET_KEY is a PEM text"), "{said}");
    // Weak, and the 0.2.0 service took it.
    let weak = Setup::clawshield().with("CLAWSHIELD_SECRET_KEY", "short");
    let output = run(&mut weak.command(&["validate"]), "");
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(
        output.status.code() == Some(0) && said.contains("shorter than 32 bytes") && !said.contains(SECRET),
        "{said}"
    );
}
