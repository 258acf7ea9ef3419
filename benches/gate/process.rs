//! Servers as processes of their own, and what the system says they used.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::{SECRET, TENANT};

pub(crate) struct Server {
    pub(crate) address: String,
    admin: Option<String>,
    process: Child,
    _directory: tempfile::TempDir,
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
    pub(crate) fn lean() -> Self {
        let address = free_address();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["lean", &address]);
        Server::start(command, address, None)
    }

    /// `ledger` is `memory:` or `sqlite`, a new file.
    pub(crate) fn openexec(ledger: &str, log: &str) -> Self {
        let (address, admin) = (free_address(), free_address());
        let url = if ledger == "sqlite" { "sqlite:///bench.db" } else { ledger };
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
        Server::start(command, address, Some(admin))
    }

    fn start(mut command: Command, address: String, admin: Option<String>) -> Self {
        // Beside the build, not in a temporary file system that may be memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::write(directory.path().join("bench.yaml"), "ledger: {memory_bytes: 4294967296}\n").unwrap();
        let process = command.current_dir(directory.path()).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "the server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Server { address, admin, process, _directory: directory }
    }

    pub(crate) fn usage(&self) -> Usage {
        let proc = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap();
        let stat = proc("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms.
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        let status = proc("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        let metrics = self.admin.as_deref().map(metrics).unwrap_or_default();
        let metric = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse().ok()).unwrap_or(0.0)
        };
        Usage {
            cpu_seconds: ticks / 100.0,
            peak_mib: peak / 1024.0,
            commits: metric("openexec_ledger_commits_total"),
            rows: metric("openexec_ledger_batch_size_sum"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
