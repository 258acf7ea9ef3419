//! Servers as processes of their own, and what the system says they used.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load::{SECRET, TENANT};
use crate::shared::is_ready;

pub(crate) struct Server {
    pub(crate) address: String,
    admin: Option<String>,
    process: Child,
    /// What it cannot work without: its use counts.
    helper: Option<Box<Server>>,
    _directory: TempDir,
}

/// What a process has used since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_mib: f64,
    pub(crate) commits: f64,
    pub(crate) rows: f64,
}

impl Server {
    /// This program, as something else.
    pub(crate) fn role(name: &str, arguments: &[&str]) -> Self {
        let address = free_address();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([name, &address]).args(arguments);
        Server::start(command, directory(), address, None)
    }

    /// `ledger` is `memory:`, `sqlite`, a new file, or a URL.
    pub(crate) fn openexec(ledger: &str, log: &str) -> Self {
        Server::gate(ledger, log, "")
    }

    /// The action `echo` is done by a service.
    pub(crate) fn forwarding(ledger: &str, upstream: &str) -> Self {
        let file = format!(
            "upstreams: {{service: {{addresses: [\"http://{upstream}\"]}}}}\n\
             actions: {{echo: {{upstream: service, path: /echo}}}}\n"
        );
        Server::gate(ledger, "info", &file)
    }

    fn gate(ledger: &str, log: &str, file: &str) -> Self {
        let (address, admin) = (free_address(), free_address());
        let url = if ledger == "sqlite" { "sqlite:///bench.db" } else { ledger };
        let directory = directory();
        let file = format!("ledger: {{memory_bytes: 4294967296}}\n{file}");
        std::fs::write(directory.path().join("bench.yaml"), file).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_openexec"));
        command
            .env("OPENEXEC_MODE", "clawshield")
            .env("CLAWSHIELD_SECRET_KEY", SECRET)
            .env("CLAWSHIELD_TENANT_ID", TENANT)
            .env("OPENEXEC_DB_URL", url)
            .env("OPENEXEC_LISTEN", &address)
            .env("OPENEXEC_ADMIN_LISTEN", &admin)
            .env("OPENEXEC_CONFIG", "bench.yaml")
            .env("OPENEXEC_LOG", log);
        Server::start(command, directory, address, Some(admin))
    }

    pub(crate) fn nginx(program: &str, peers: &str, file: &str, upstream: &str) -> Self {
        let (address, directory) = (free_address(), directory());
        for lua in ["approval.lua", "canonical.lua"] {
            std::fs::copy(format!("{peers}/{lua}"), directory.path().join(lua)).unwrap();
        }
        let path = fill_in(&directory, &format!("{peers}/{file}"), &address, upstream, None);
        let mut command = Command::new(program);
        command.arg("-p").arg(directory.path()).args(["-e", "stderr", "-c", &path]);
        Server::start(command, directory, address, None)
    }

    pub(crate) fn envoy(program: &str, peers: &str, file: &str, upstream: &str, verifier: Option<Server>) -> Self {
        let (address, directory) = (free_address(), directory());
        let path = fill_in(&directory, &format!("{peers}/{file}"), &address, upstream, verifier.as_ref());
        let mut command = Command::new(program);
        command.args(["-c", &path, "--concurrency", "2", "--disable-hot-restart", "--log-level", "error"]);
        let mut server = Server::start(command, directory, address, None);
        server.helper = verifier.map(Box::new);
        server
    }

    fn start(mut command: Command, directory: TempDir, address: String, admin: Option<String>) -> Self {
        let process = command.current_dir(directory.path()).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "the server did not start: {command:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        while admin.as_deref().is_some_and(|admin| !is_ready(admin)) {
            assert!(Instant::now() < deadline, "the server is not ready: {command:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Server { address, admin, process, helper: None, _directory: directory }
    }

    /// Its own processor time, and that of its workers and its helper.
    fn cpu_seconds(&self) -> f64 {
        let helper = self.helper.as_ref().map_or(0.0, |helper| helper.cpu_seconds());
        self.processes().iter().map(|pid| cpu_seconds(*pid)).sum::<f64>() + helper
    }

    fn processes(&self) -> Vec<u32> {
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([pid]).collect()
    }

    pub(crate) fn usage(&self) -> Usage {
        let peak = self.processes().iter().map(|pid| peak_mib(*pid)).sum();
        let metrics = self.admin.as_deref().map(metrics).unwrap_or_default();
        let metric = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse().ok()).unwrap_or(0.0)
        };
        Usage {
            cpu_seconds: self.cpu_seconds(),
            peak_mib: peak,
            commits: metric("openexec_ledger_commits_total"),
            rows: metric("openexec_ledger_batch_size_sum"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not SIGKILL: nginx's workers would go on and keep the port.
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn peak_mib(pid: u32) -> f64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return 0.0 };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Sees to it that the system has this memory at hand. Where the host of a virtual machine takes back what is free, the
/// first touch of it costs ten to twenty times as much as elsewhere, and only those who keep something would pay for it.
pub(crate) fn have_memory(bytes: usize) {
    let status = Command::new(std::env::current_exe().unwrap()).args(["touch", &bytes.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Beside the build, not in a temporary file system that may be memory.
fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A peer's configuration with our ports; the path of the copy.
fn fill_in(directory: &TempDir, template: &str, address: &str, upstream: &str, verifier: Option<&Server>) -> String {
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    let text = std::fs::read_to_string(template)
        .unwrap()
        .replace("@LISTEN@", &port(address))
        .replace("@UPSTREAM@", &port(upstream))
        .replace("@VERIFIER@", &verifier.map(|verifier| port(&verifier.address)).unwrap_or_default())
        .replace("@DIR@", directory.path().to_str().unwrap())
        .replace("@SECRET@", SECRET)
        .replace("@TENANT@", TENANT);
    let path = directory.path().join(std::path::Path::new(template).file_name().unwrap());
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn metrics(admin: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
