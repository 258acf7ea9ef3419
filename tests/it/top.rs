//! What people on a machine's or a pod's shell look at: `openexec top`, in a real terminal (tmux), and `executions tail`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::service::{After, Service};
use crate::support::{PATIENCE, Server, Setup, free, request};

const TOKEN: &str = "an-operators-token-of-a-test";

/// A terminal with one program in it.
struct Terminal {
    directory: TempDir,
}

impl Terminal {
    fn start(size: (u16, u16), environment: &[(&str, &str)], admin: &str) -> Self {
        let terminal = Terminal { directory: tempfile::tempdir().unwrap() };
        let binary = env!("CARGO_BIN_EXE_openexec");
        let mut tmux = terminal.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-x", &size.0.to_string(), "-y", &size.1.to_string()]);
        // The server of tmux gives it its own environment.
        let variables = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let script = "\"$@\"; echo \"ended with $?\"; exec sleep 60";
        tmux.arg("env").args(variables).args(["sh", "-c", script, "sh", binary, "top", "--admin", admin]);
        assert!(tmux.status().unwrap().success());
        terminal
    }

    fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color").arg("-S").arg(self.directory.path().join("socket"));
        tmux
    }

    fn screen(&self) -> String {
        let output = self.tmux().args(["capture-pane", "-p"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is_there(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what}:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn shows(&self, words: &str) -> String {
        self.until(words, |screen| screen.contains(words))
    }

    fn press(&self, key: &str) {
        assert!(self.tmux().args(["send-keys", key]).status().unwrap().success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").status();
    }
}

/// A service that answers, and one action of it that nobody hears of again.
fn service() -> Service {
    Service::start(|seen, stream| {
        if seen.asked() == "vanish" {
            return After::Reset;
        }
        use std::io::Write;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        After::Keep
    })
}

fn start(service: &Service) -> Server {
    Setup::demo()
        .with("OPENEXEC_ADMIN_TOKEN", TOKEN)
        .with("OPENEXEC_UPSTREAM", &format!("http://{}", service.address))
        .file("actions: {mail.send: {upstream: app, path: /}, echo: {builtin: echo}}")
        .start()
}

#[test]
fn a_terminal_shows_what_the_server_does() {
    let service = service();
    let server = start(&service);
    let terminal = Terminal::start((100, 34), &[("OPENEXEC_ADMIN_TOKEN", TOKEN)], &server.admin.to_string());
    terminal.shows("none");
    for nonce in ["1", "1", "2"] {
        server.execute(&request("mail.send", &json!({}), nonce));
    }
    server.execute(&request("echo\u{1b}[31m", &json!({}), "3")).must_be(400, "unknown_action", "");
    server.execute(&request("mail.send", &json!({"do": "vanish"}), "4")).must_be(504, "outcome_unknown", "");
    let screen =
        terminal.until("all of it", |screen| screen.contains("1 unknown") && screen.matches("mail.send").count() == 3);
    for words in ["ready", "unknown_action", "0 of 1024", "UNKNOWN", "DONE"] {
        assert!(screen.contains(words), "{words}:\n{screen}");
    }
    for verdict in ["executed", "replayed", "refused "] {
        assert!(!screen.contains(&format!("{verdict} 0.0 ")), "{verdict}:\n{screen}");
    }
    let service_time = screen.lines().find(|line| line.contains("service")).unwrap();
    assert!(service_time.contains("ms") || service_time.contains("µs"), "{service_time}");
    terminal.press("u");
    let screen = terminal.shows("unknown executions");
    assert!(screen.matches("mail.send").count() == 1 && !screen.contains("DONE"), "{screen}");
    terminal.press("u");
    terminal.press("p");
    terminal.shows("paused");
    server.execute(&request("mail.send", &json!({}), "5")).must_be_executed(false);
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert_eq!(terminal.screen().matches("mail.send").count(), 3, "nothing moves");
    terminal.press("p");
    terminal.until("the fourth", |screen| screen.matches("mail.send").count() == 4);
    // A server that ends is said, and the terminal is given back as it was.
    let admin = server.admin;
    server.stop();
    terminal.shows(&format!("the admin listener at {admin} cannot be asked"));
    terminal.press("q");
    let screen = terminal.shows("ended with 0");
    assert!(!screen.contains("verdicts per second"), "{screen}");
}

#[test]
fn a_small_terminal_and_one_without_a_token_are_served_too() {
    let service = service();
    let server = start(&service);
    server.execute(&request("echo", &json!({}), "1")).must_be_executed(false);
    let terminal = Terminal::start((60, 24), &[], &server.admin.to_string());
    let screen = terminal.until("no token", |screen| screen.contains("no admin token") && screen.contains("0 of 1024"));
    assert!(screen.contains("ready") && !screen.contains("echo"), "{screen}");
    terminal.press("C-c");
    terminal.shows("ended with 0");
    let mut elsewhere = Command::new(env!("CARGO_BIN_EXE_openexec"));
    let output = elsewhere.args(["top", "--admin", &free()]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("needs a terminal"));
}

#[test]
fn a_tail_follows_what_comes_and_what_changes() {
    let service = service();
    let server = start(&service);
    for nonce in ["1", "2", "3"] {
        server.execute(&request("echo", &json!({"secret": nonce}), nonce)).must_be_executed(false);
    }
    let tail = |arguments: &[&str], token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
        command.env_clear().args(["executions", "--admin", &server.admin.to_string()]).args(arguments);
        command.env("OPENEXEC_ADMIN_TOKEN", token).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = tail(&["--json", "tail", "-n", "2"], TOKEN);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let before = [next(), next()];
    assert!(before[0]["claimed_at"].as_str() < before[1]["claimed_at"].as_str(), "the oldest first");
    server.execute(&request("mail.send", &json!({"do": "vanish"}), "4")).must_be(504, "outcome_unknown", "");
    let unknown = next();
    assert_eq!((&unknown["state"], &unknown["action"]), (&json!("UNKNOWN"), &json!("mail.send")));
    let id = unknown["id"].as_str().unwrap();
    let mut resolve = Command::new(env!("CARGO_BIN_EXE_openexec"));
    resolve.env_clear().env("OPENEXEC_ADMIN_TOKEN", TOKEN).args(["executions", "--admin", &server.admin.to_string()]);
    assert!(resolve.args(["resolve", id, "--as", "ada", "--not-executed"]).output().unwrap().status.success());
    let settled = next();
    assert_eq!((&settled["id"], &settled["state"]), (&unknown["id"], &json!("NOT_EXECUTED")));
    assert!(settled.get("payload").is_none() && settled.get("result").is_none());
    let _ = child.kill();
    let _ = child.wait();
    let output = tail(&["tail"], "another-token-of-a-test").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", String::from_utf8_lossy(&output.stderr));
}
