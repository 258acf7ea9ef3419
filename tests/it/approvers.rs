//! The programs of `examples/approvers/`: each must sign what the library would, and nothing that can be misread.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use openexec_protocol::approval::{self, Artifact, HmacKey, PrivateKey, Terms};
use openexec_protocol::canonical::Limits;
use openexec_protocol::request::Request;
use openexec_protocol::timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{run, text};
use crate::keys::{keyless, private};
use crate::readme::{blocks, type_in};
use crate::support::{SECRET, Setup, TENANT, tool, vectors};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/approvers");

/// Floats, integers that no double holds, characters of one, two and three UTF-16 units, names out of order.
const BODY: &str = r#"{"nonce":"NONCE","comment":[1],"action":"echo","payload":{"amount":12.50,"z":{"b":[1.0,1,-0.0,
  0.1,1e-7,1E+22,123456789012345680.0,990980839286175.25,5e-324],"a":null,"ab":{}},"n":123456789012345678901234567890,
  "😀":"é\u0000\u007f\n\ud83d\ude00","～":-18446744073709551616,"é":[true,false,{"":[]}]}}"#;

/// A program that approves, and how it is started.
struct Approver {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
}

impl Approver {
    fn approve(&self, options: &[&str], body: &[u8]) -> Output {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(options)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that does not like its options does not read.
        let _ = child.stdin.take().unwrap().write_all(body);
        child.wait_with_output().unwrap()
    }

    /// The request with its approval, as it was printed.
    fn approved(&self, key: &Key, more: &[&str], body: &str) -> String {
        let output = self.approve(&[&key.options()[..], more].concat(), body.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}: {}", self.name, text(&output.stderr));
        text(&output.stdout)
    }

    fn must_refuse(&self, code: i32, options: &[&str], body: &[u8]) {
        let output = self.approve(options, body);
        let case = format!("{} {options:?} {}", self.name, String::from_utf8_lossy(body));
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{case}");
        assert!(!output.stderr.is_empty(), "{case}");
    }
}

fn approvers() -> [Approver; 3] {
    [python(Path::new(EXAMPLES)), typescript(compiled()), rust()]
}

fn python(examples: &Path) -> Approver {
    Approver { name: "Python", program: "python3".into(), arguments: vec![examples.join("python/approve.py")] }
}

fn typescript(directory: &Path) -> Approver {
    Approver { name: "TypeScript", program: "node".into(), arguments: vec![directory.join("approve.js")] }
}

/// `cargo test` builds the examples, and `cargo test --test it` does not.
fn rust() -> Approver {
    let program = Path::new(env!("CARGO_BIN_EXE_openexec")).with_file_name("examples").join("approver");
    assert!(program.exists(), "{} is missing: run `cargo build --example approver`", program.display());
    Approver { name: "Rust", program, arguments: Vec::new() }
}

/// The TypeScript one, for versions of Node.js that do not run it as it stands.
fn compiled() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("approver");
        compile(&Path::new(EXAMPLES).join("typescript"), &directory);
        directory
    })
}

fn compile(source: &Path, directory: &Path) {
    let tools = tool("typescript");
    let output = Command::new(tools.join("node_modules/.bin/tsc"))
        .arg("--typeRoots")
        .arg(tools.join("node_modules/@types"))
        .arg("--outDir")
        .arg(directory)
        .arg("-p")
        .arg(source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
    std::fs::copy(source.join("package.json"), directory.join("package.json")).unwrap();
}

/// What an approver signs with, in a file.
struct Key {
    path: String,
    material: Material,
}

enum Material {
    Hmac(HmacKey),
    Ed25519(PrivateKey),
}

impl Key {
    fn hmac(directory: &TempDir) -> Self {
        let path = write(directory, "approver.key", &format!("{SECRET}\n"));
        Key { path, material: Material::Hmac(HmacKey::new(SECRET.as_bytes())) }
    }

    fn ed25519(directory: &TempDir, seed: u8) -> Self {
        let key = private(seed);
        Key { path: write(directory, &format!("{seed}.pem"), &key.to_pem()), material: Material::Ed25519(key) }
    }

    fn options(&self) -> [&str; 4] {
        let option = match self.material {
            Material::Hmac(_) => "--key",
            Material::Ed25519(_) => "--private-key",
        };
        ["--tenant", TENANT, option, &self.path]
    }

    /// Signatures of both forms are determined by what is signed, so the library can be asked for the same one.
    fn must_have_signed(&self, approved: &str) -> Artifact {
        let request = Request::parse(approved.as_bytes(), Limits::default()).unwrap();
        let artifact = request.artifact().unwrap();
        let terms = Terms {
            approval_id: &artifact.approval_id,
            tenant_id: TENANT,
            issued_at: &artifact.issued_at,
            kid: artifact.kid.as_deref(),
        };
        let expected = match &self.material {
            Material::Hmac(key) => approval::mint(key, request.action_hash(), &terms),
            Material::Ed25519(key) => {
                let expires_at = artifact.expires_at.as_deref().unwrap();
                approval::mint_ed25519(key, request.action_hash(), &terms, expires_at)
            }
        };
        assert_eq!(artifact, &expected.unwrap());
        let issued_at = timestamp::parse(&artifact.issued_at).unwrap();
        assert_eq!(timestamp::print(issued_at), artifact.issued_at, "microseconds and Z");
        assert_eq!(uuid::Uuid::parse_str(&artifact.approval_id).unwrap().get_version_num(), 7, "ordered by time");
        artifact.clone()
    }
}

fn write(directory: &TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// For each, by as many threads as keep two processors busy.
fn for_each<T: Sync>(items: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(item);
                }
            });
        }
    });
}

#[test]
fn each_approver_signs_both_forms_and_exactly_what_it_read() {
    // Keys as an operator makes them.
    let elsewhere = Setup::demo();
    let at = |name: &str| elsewhere.directory.path().join(name).display().to_string();
    let made = run(&mut elsewhere.command(&["keys", "generate", &at("approver")]), "");
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let key = PrivateKey::from_pem(&std::fs::read_to_string(at("approver.pem")).unwrap()).unwrap();
    let public = std::fs::read_to_string(at("approver.pub.pem")).unwrap();
    let keys = [Key::hmac(&elsewhere.directory), Key { path: at("approver.pem"), material: Material::Ed25519(key) }];
    let server = Setup::clawshield().with("CLAWSHIELD_PUBLIC_KEY", &public).start();
    for approver in approvers() {
        for key in &keys {
            let nonce = format!("{} {}", approver.name, key.path);
            let approved = approver.approved(key, &[], &BODY.replace("NONCE", &nonce));
            let artifact = key.must_have_signed(&approved);
            let forged = approved.replace(r#""amount":12.5,"#, r#""amount":12.6,"#);
            assert_ne!(forged, approved);
            server.execute(&forged).must_be(403, "approval_hash_mismatch", "Action hash mismatch");
            server.execute(&approved).must_be_executed(false);
            server.execute(&forged).must_be(403, "approval_hash_mismatch", "Action hash mismatch");
            server.execute(&approved).must_be_executed(true);
            if let Some(expires_at) = &artifact.expires_at {
                let moment = |text: &str| timestamp::parse(text).unwrap();
                assert_eq!((moment(expires_at) - moment(&artifact.issued_at)).num_seconds(), 300);
            }
        }
    }
    server.must_be_well();
}

#[test]
fn each_approver_names_its_key_and_says_how_long_its_approval_is_good() {
    let setup = keyless();
    let keys = [("secret", Key::hmac(&setup.directory)), ("desk", Key::ed25519(&setup.directory, 1))];
    let public = write(&setup.directory, "desk.pub.pem", &private(1).public().to_pem());
    let secret = &keys[0].1.path;
    let file = format!(
        "tenants:\n  {TENANT}:\n    keys:\n      - {{id: secret, form: hmac, file: {secret}}}\n      \
         - {{id: desk, form: ed25519, file: {public}}}\n"
    );
    let server = setup.file(&file).start();
    for approver in approvers() {
        for (kid, key) in &keys {
            let lifetime = if *kid == "desk" { &["--lifetime", "3600"][..] } else { &[] };
            let body = BODY.replace("NONCE", &format!("{} {kid}", approver.name));
            let approved = approver.approved(key, &[&["--kid", kid], lifetime].concat(), &body);
            let artifact = key.must_have_signed(&approved);
            assert_eq!(artifact.kid.as_deref(), Some(*kid));
            if let Some(expires_at) = &artifact.expires_at {
                let moment = |text: &str| timestamp::parse(text).unwrap();
                assert_eq!((moment(expires_at) - moment(&artifact.issued_at)).num_seconds(), 3_600);
            }
            server.execute(&approved).must_be_executed(false);
            let other = approver.approved(key, &["--kid", "other"], &body);
            server.execute(&other).must_be(403, "approval_signature_invalid", "");
        }
    }
    server.must_be_well();
}

/// Python's Ed25519 is our own, so it meets more keys than one.
#[test]
fn each_approver_signs_as_the_library_does() {
    let directory = tempfile::tempdir().unwrap();
    let keys: Vec<Key> = (0..8).map(|seed| Key::ed25519(&directory, seed * 31)).collect();
    for approver in approvers() {
        for_each(&keys, |key| drop(key.must_have_signed(&approver.approved(key, &[], BODY))));
    }
}

#[test]
fn each_approver_hashes_the_vectors_as_cpython_does() {
    let directory = tempfile::tempdir().unwrap();
    let key = Key::hmac(&directory);
    let rows = vectors("canonical.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() > 20);
    for approver in approvers() {
        for_each(rows, |row| {
            let body = row["body"].as_str().unwrap();
            let output = approver.approve(&key.options(), body.as_bytes());
            assert_eq!(output.status.code(), Some(0), "{}: {}", approver.name, row["name"]);
            let approved: Value = serde_json::from_slice(&output.stdout).unwrap();
            let hash = &approved["approval_artifact"]["action_hash"];
            assert_eq!(hash, &row["action_hash"], "{}: {}", approver.name, row["name"]);
            // Whoever decides sees the very text that is hashed.
            let canonical = row["canonical"].as_str().unwrap();
            let (action, payload) =
                canonical[r#"{"action":"#.len()..canonical.len() - 1].split_once(r#","payload":"#).unwrap();
            assert_eq!(text(&output.stderr), format!("action   {action}\npayload  {payload}\n"), "{}", approver.name);
        });
    }
}

#[test]
fn each_approver_prints_floats_as_the_library_does() {
    let directory = tempfile::tempdir().unwrap();
    let key = Key::hmac(&directory);
    let mut state = 7_u64;
    let mut bits = || {
        // A linear congruential generator (Knuth's MMIX): the same floats each time.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 32
    };
    let mut floats = Vec::new();
    while floats.len() < 9_000 {
        let any = f64::from_bits(bits() << 32 | bits());
        // Between 2^49 and 2^53 the shortest digits are often halfway between two.
        let halfway = ((bits() << 20 | bits()) & ((1 << 52) - 1)) as f64 / 4.0 + 2_f64.powi(49);
        let short = bits() as f64 / 1e6;
        floats.extend([any, halfway, short].into_iter().filter(|float| float.is_finite()).map(|f| format!("{f:.17e}")));
    }
    let body = format!(r#"{{"action":"echo","nonce":"n","payload":{{"f":[{}]}}}}"#, floats.join(","));
    for approver in approvers() {
        drop(key.must_have_signed(&approver.approved(&key, &[], &body)));
    }
}

#[test]
fn no_approver_signs_what_has_two_readings() {
    let directory = tempfile::tempdir().unwrap();
    let key = Key::hmac(&directory);
    let rows = vectors("refused.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() > 20);
    for approver in approvers() {
        for_each(rows, |row| {
            let body = row["body_latin1"].as_str().unwrap().chars().map(|c| u8::try_from(u32::from(c)).unwrap());
            approver.must_refuse(2, &key.options(), &body.collect::<Vec<u8>>());
        });
        key.must_have_signed(&approver.approved(&key, &[], BODY));
    }
}

#[test]
fn no_approver_signs_what_no_server_would_accept() {
    let directory = tempfile::tempdir().unwrap();
    let (hmac, ed25519) = (Key::hmac(&directory), Key::ed25519(&directory, 1));
    let (secret, key) = (hmac.path.as_str(), ed25519.path.as_str());
    let public = write(&directory, "public.pem", &private(1).public().to_pem());
    let (empty, newline) = (write(&directory, "empty", ""), write(&directory, "newline", "\n"));
    let cut = write(&directory, "cut.pem", &private(1).to_pem()[..60]);
    let long = "a".repeat(129);
    let tenant = ["--tenant", TENANT];
    let cases: Vec<Vec<&str>> = [
        &["--key", secret][..],
        &tenant,
        &["--tenant", "a:b", "--key", secret],
        &["--tenant", "", "--key", secret],
        &["--tenant", "é", "--private-key", key],
        &["--tenant", &long, "--private-key", key],
        &["--tenant", "t\n", "--private-key", key],
        &["--tenant", TENANT, "--kid", "a b", "--private-key", key],
        &["--tenant", TENANT, "--key", secret, "--private-key", key],
        &["--tenant", TENANT, "--key", secret, "--lifetime", "300"],
        &["--tenant", TENANT, "--private-key", key, "--lifetime", "0"],
        &["--tenant", TENANT, "--private-key", key, "--lifetime=-1"],
        &["--tenant", TENANT, "--private-key", key, "--lifetime", "86401"],
        &["--tenant", TENANT, "--private-key", key, "--lifetime", "5m"],
        &["--tenant", TENANT, "--private-key", secret],
        &["--tenant", TENANT, "--private-key", &public],
        &["--tenant", TENANT, "--private-key", &cut],
        &["--tenant", TENANT, "--key", &empty],
        &["--tenant", TENANT, "--key", &newline],
        &["--tenant", TENANT, "--key", "nowhere"],
        // Whoever verifies could mint with the one, and everybody with the other.
        &["--tenant", TENANT, "--key", key],
        &["--tenant", TENANT, "--key", &public],
    ]
    .map(<[_]>::to_vec)
    .into();
    for approver in approvers() {
        for_each(&cases, |options| approver.must_refuse(2, options, BODY.as_bytes()));
        let approved = approver.approved(&ed25519, &["--lifetime", "86400"], BODY);
        ed25519.must_have_signed(&approved);
    }
}

/// In a copy whose `decide` says no. (The Rust one would have to be built a second time.)
#[test]
fn nothing_is_signed_where_the_policy_says_no() {
    let directory = tempfile::tempdir().unwrap();
    let key = Key::hmac(&directory);
    let copied = Command::new("cp").arg("-r").arg(EXAMPLES).arg(directory.path()).status().unwrap();
    assert!(copied.success());
    let examples = directory.path().join("approvers");
    for (file, approves, refuses) in [
        ("python/approve.py", "return None\n\n\ndef main", "return 'too much'\n\n\ndef main"),
        ("typescript/approve.ts", "return undefined;\n}\n\nconst USAGE", "return 'too much';\n}\n\nconst USAGE"),
    ] {
        let program = std::fs::read_to_string(examples.join(file)).unwrap();
        assert_eq!(program.matches(approves).count(), 1, "{file}");
        std::fs::write(examples.join(file), program.replace(approves, refuses)).unwrap();
    }
    let directory = examples.join("compiled");
    compile(&examples.join("typescript"), &directory);
    for approver in [python(&examples), typescript(&directory)] {
        approver.must_refuse(1, &key.options(), BODY.as_bytes());
    }
    for approver in approvers() {
        key.must_have_signed(&approver.approved(&key, &[], BODY));
    }
}

#[test]
fn the_lines_of_the_approvers_readme_do_what_they_say() {
    let directory = tempfile::tempdir().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_openexec")).parent().unwrap().display();
    std::os::unix::fs::symlink(Path::new(EXAMPLES).parent().unwrap(), directory.path().join("examples")).unwrap();
    let begin = format!("export PATH={bin}:$PATH PYTHONDONTWRITEBYTECODE=1\n");
    let blocks = [vec![begin], blocks("examples/approvers/README.md")].concat();
    let printed = type_in(directory.path(), &blocks);
    let [_, _, ed25519, hmac] = &printed[..] else { panic!("{printed:?}") };
    for verified in [ed25519, hmac] {
        assert!(verified.contains("yes  the signature is authentic") && !verified.contains("NO "), "{verified}");
    }
}
