//! The README's lines, as they stand there, in the order of the page. A newcomer's terminal, so to say.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::Setup;

/// The `sh` blocks of a page.
pub fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, block)) = rest.split_once("```sh\n") {
        let (block, after) = block.split_once("```").unwrap();
        blocks.push(block.to_owned());
        rest = after;
    }
    blocks
}

/// A directory of its own that looks like the checkout, since the lines leave files behind.
fn checkout() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name != "examples" && !name.to_string_lossy().contains(".db") {
            symlink(entry.path(), directory.path().join(name)).unwrap();
        }
    }
    let copied = Command::new("cp").arg("-r").arg(root.join("examples")).arg(directory.path()).status().unwrap();
    assert!(copied.success());
    // What somebody left who tried them out.
    for left in [
        "action-service/data",
        "action-service-rust/data",
        "action-service/token.txt",
        "tool-loop/clawshield.key",
        "tool-loop/conversation.json",
    ] {
        let path = directory.path().join("examples").join(left);
        let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
    }
    directory
}

/// One script, in the shell that a person would type it into; what each block printed.
pub fn type_in(directory: &Path, blocks: &[String]) -> Vec<String> {
    // Whatever happens, nothing stays behind on the ports.
    let begin = "set -eo pipefail -m\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";
    let script = format!("{begin}{}", blocks.join("\necho; echo ---\n"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(directory).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    printed.split("\n---\n").map(|block| block.trim().to_owned()).collect()
}

/// Ends the whole group: `make`, and what it started.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn the_lines_of_the_readme_do_what_it_says() {
    let directory = checkout();
    let blocks = blocks("README.md");
    let (first, others) = blocks.split_first().unwrap();
    assert_eq!(first, "make run\n");
    let mut first = Command::new("bash");
    std::os::unix::process::CommandExt::process_group(&mut first, 0);
    let terminal = first
        .args(["-ec", "make run"])
        .current_dir(directory.path())
        .env_remove("CARGO_TARGET_DIR")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut terminal = Terminal(terminal);
    // It builds first.
    let deadline = Instant::now() + Duration::from_secs(1_800);
    while std::net::TcpStream::connect("127.0.0.1:5000").is_err() {
        assert!(terminal.0.try_wait().unwrap().is_none(), "make run ended");
        assert!(Instant::now() < deadline, "make run does not serve");
        std::thread::sleep(Duration::from_millis(200));
    }
    let printed = type_in(directory.path(), others);
    let printed: Vec<&str> = printed.iter().map(String::as_str).collect();
    let [executed, replayed, started, added, forged, explained, receipt, _killed, ref forwarded @ ..] = printed[..]
    else {
        panic!("{printed:?}");
    };
    let executed: Value = serde_json::from_str(executed).unwrap();
    assert_eq!(executed["result"]["echo"]["msg"], "hello");
    assert!(directory.path().join("openexec.db").is_file(), "the ledger is a file, where it is said to be");
    for line in [
        format!("OpenExec-Execution-Id: {}", executed["id"].as_str().unwrap()),
        format!("OpenExec-Receipt: {}", executed["receipt"].as_str().unwrap()),
        "OpenExec-Replayed: true".to_owned(),
    ] {
        assert!(replayed.lines().any(|found| found.trim() == line), "{line:?} is not in {replayed}");
    }
    assert_eq!(started, "ok");
    let added: Value = serde_json::from_str(added).unwrap();
    assert_eq!((&added["result"]["sum"], &added["approved"]), (&5.into(), &true.into()));
    let forged: Value = serde_json::from_str(forged).unwrap();
    assert_eq!((&forged["status"], &forged["code"]), (&403.into(), &"approval_hash_mismatch".into()));
    assert!(explained.contains("NO   the action hash is this request's"), "{explained}");
    assert!(explained.contains("yes  the signature is authentic"), "{explained}");
    assert_eq!(receipt, "valid: this is the result of that execution");
    let forwarded = forwarded.join("\n");
    let sent = forwarded.lines().find(|line| line.starts_with("{\"id\"")).expect("the forwarded action is answered");
    let sent: Value = serde_json::from_str(sent).unwrap();
    assert_eq!((&sent["action"], sent["result"]["message_id"].is_string()), (&"mail.send".into(), true));
    let outbox: Vec<&str> = forwarded.lines().filter(|line| line.contains("Your invoice")).collect();
    assert_eq!(outbox.len(), 1, "sent once: {forwarded}");
    drop(terminal);
    // In the same place: what is built is built.
    the_lines_of_the_examples(directory.path());
}

fn the_lines_of_the_examples(directory: &Path) {
    let printed = type_in(directory, &blocks("examples/README.md"));
    let all = printed.join("\n");
    let block =
        |words: &str| printed.iter().find(|block| block.contains(words)).unwrap_or_else(|| panic!("{words}: {all}"));
    let mails = block("OpenExec-Upstream-Status: 202\r\nContent-Length").to_lowercase();
    assert!(mails.contains("http/1.1 202") && mails.contains("openexec-replayed: false"), "{mails}");
    assert_eq!(mails.lines().filter(|line| line.contains("it is paid.")).count(), 1, "one mail left: {mails}");
    let transfers = block("invalid_payload");
    let (transfer, refused) = transfers.split_once('\n').unwrap();
    let transfer: Value = serde_json::from_str(transfer).unwrap();
    assert_eq!((&transfer["action"], &transfer["approved"]), (&"payments.transfer".into(), &true.into()));
    assert!(transfer["result"]["transfer_id"].is_string(), "{transfer}");
    assert!(refused.contains("/amount"), "{refused}");
    // Two answers, which are the same, and one line of the outbox.
    let under_one_key: Vec<&str> = block("Under one key").lines().collect();
    let [first, second, ref outbox @ ..] = under_one_key[..] else { panic!("{under_one_key:?}") };
    assert!(first.contains("message_id"), "{first}");
    assert_eq!((first, outbox.len()), (second, 1), "{under_one_key:?}");
    let in_rust = printed.iter().skip_while(|block| !block.contains("action-service-rust/data")).nth(1).unwrap();
    let in_rust: Vec<Value> = in_rust.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [sent, known, first, second] = &in_rust[..] else { panic!("{in_rust:?}") };
    assert_eq!((&sent["approved"], &sent["result"]), (&true.into(), known));
    assert!(known["message_id"].is_string() && first["message_id"].is_string(), "{in_rust:?}");
    assert_eq!(first, second);
    let conversation = block("(checked)");
    for words in ["proposes mail.send", "signs, approval", "executed it, status 202", "The receipt is"] {
        assert!(conversation.contains(words), "{words}: {conversation}");
    }
}

#[test]
fn the_example_configuration_is_the_default() {
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openexec.yaml")).unwrap();
    let setup = Setup::demo();
    let path = setup.directory.path().join("example.yaml");
    std::fs::write(&path, example).unwrap();
    let nothing = std::collections::HashMap::<&str, String>::new();
    let example = openexec::config::Config::load(Some(&path), &nothing).unwrap();
    let default = openexec::config::Config::load(None, &nothing).unwrap();
    assert_eq!(format!("{example:?}"), format!("{default:?}"));
    let clawshield = std::collections::HashMap::from([("OPENEXEC_MODE", "clawshield".to_owned())]);
    assert!(openexec::config::Config::load(Some(&path), &clawshield).is_ok());
}

/// The part that describes services is an example: without its `# ` it must be one that works.
#[test]
fn the_example_of_services_is_accepted() {
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openexec.yaml")).unwrap();
    let (before, rest) = example.split_once("# --- example: services ---\n").unwrap();
    let (services, after) = rest.split_once("# --- end of the example ---\n").unwrap();
    let services: Vec<&str> = services.lines().map(|line| line.strip_prefix("# ").unwrap_or("")).collect();
    let setup = Setup::demo();
    let path = setup.directory.path().join("example.yaml");
    std::fs::write(&path, format!("{before}{}\n{after}", services.join("\n"))).unwrap();
    let nothing = std::collections::HashMap::<&str, String>::new();
    let config = openexec::config::Config::load(Some(&path), &nothing).unwrap();
    assert!(!config.upstreams.is_empty() && !config.actions.is_empty() && !config.passthrough.is_empty());
    assert_eq!(config.warnings, Vec::<String>::new());
}
